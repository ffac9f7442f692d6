//! What each step of a plan does to the server.
//!
//! Every step may be carried out again: what is there already, gone already or in that state already is no failure. So
//! a plan that was cut short anywhere is taken up by the next one.

use std::collections::BTreeMap;
use std::sync::Mutex;

use portway_control::ClientError;
use portway_incus::{
    Client, Image, IncusError, InstanceKind, InstanceSource, NewInstance, Refusal, ResourceId, StateChange,
};
use tokio::sync::watch;

use crate::daemon::Daemon;
use crate::difference::Difference;
use crate::label;
use crate::look::is_half;
use crate::plan::Action;
use crate::render::Rendered;
use crate::want::{ComposeProject, ImageSource, Keys};

use files::Part;
use patience::{AGAIN, SETTLING, is_occupied, patiently, refused, to_its_end, worth};

mod awaiting;
pub(crate) mod fence;
mod files;
mod hooks;
mod life;
mod network;
mod patience;
mod publish;
mod replace;

pub use awaiting::{exit_code, probe};

/// What steps are carried out with.
#[derive(Debug)]
pub struct Hands<'a> {
    /// The server.
    pub client: &'a Client,
    /// The server's project.
    pub project: &'a str,
    /// What is wanted; to end things nothing is.
    pub want: Option<&'a ComposeProject>,
    /// Fingerprints of the images that are there.
    pub images: Mutex<BTreeMap<String, String>>,
    /// The daemon that has the published ports.
    pub portway: Option<&'a Daemon>,
    /// The daemon that asks services for their health.
    pub watcher: Option<&'a Daemon>,
    /// Turns true when waiting is to end.
    pub halt: watch::Receiver<bool>,
}

/// Why a step has failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The server refuses, or does not answer.
    #[error("{what}")]
    Server {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: IncusError,
    },
    /// The daemon refuses, or does not answer.
    #[error("{what}")]
    Portway {
        /// What was tried.
        what: String,
        /// Why not.
        source: ClientError,
    },
    /// A name of an instance or a device that Portway does not take.
    #[error("it cannot be published: {0}")]
    Name(String),
    /// Published ports and no daemon.
    #[error("it cannot be published: no daemon answers")]
    NoDaemon,
    /// An image that is nowhere.
    #[error("there is no image {0} on the server")]
    NoImage(String),
    /// An image whose program nobody understands.
    #[error("the server tells what its image runs in words that have no end")]
    NoWords,
    /// Neither the file nor the image says what runs.
    #[error("nothing is said to run: its image has no program")]
    NothingRuns,
    /// A first process of ours, and nobody has one.
    #[error("there is no program to be its first process")]
    NoProgram,
    /// An image of no known name.
    #[error("image {0} is not in the project")]
    UnknownImage(String),
    /// Changed by somebody else again and again.
    #[error("somebody else changes it all the time")]
    Overtaken,
    /// It has come since it was planned, and is somebody else's.
    #[error("it was made by somebody else meanwhile")]
    Taken,
    /// What was to become a network is an interface, and nobody is at it.
    #[error("the server has left an interface of that name behind: the same command takes another name")]
    LeftBehind,
    /// A name service that the server does not know of, as it has been killed itself.
    #[error(
        "another program has its address, such as a dnsmasq that the server has lost: `ss -lntup` on its host names it"
    )]
    Occupied {
        /// What the server says.
        source: IncusError,
    },
    /// A folder for a file cannot be had.
    #[error("{0} is no folder")]
    NoFolder(String),
    /// An instance that is gone.
    #[error("{0} is gone")]
    Gone(String),
    /// Its health says so.
    #[error("{0} is unhealthy")]
    Unhealthy(String),
    /// It was to run.
    #[error("{0} has stopped")]
    Stopped(String),
    /// It was to end well.
    #[error("{instance} has ended with exit code {code}")]
    Code {
        /// Instance.
        instance: String,
        /// Its exit code.
        code: i32,
    },
    /// It has ended, and nothing says how.
    #[error("{0} has ended, and nothing tells its exit code")]
    NoCode(String),
    /// A program of its own for a turn of its life has failed.
    #[error("its {key} command {command:?} {why}")]
    Hook {
        /// Which of them.
        key: &'static str,
        /// The program.
        command: String,
        /// What has become of it.
        why: String,
    },
    /// Waiting was ended.
    #[error("waiting was ended")]
    Halted,
}

impl ApplyError {
    /// Whether it is the server that cannot be reached, so that no other step would fare better.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, ApplyError::Server { source: IncusError::Unreachable { .. }, .. })
    }
}

fn server(what: &'static str) -> impl FnOnce(IncusError) -> ApplyError {
    move |source| ApplyError::Server { what, source }
}

impl Hands<'_> {
    /// Carries out one step.
    ///
    /// # Errors
    /// [`ApplyError`], any.
    pub async fn perform(&self, action: &Action) -> Result<(), ApplyError> {
        match action {
            Action::Project { name, set, there } => {
                self.ensure(&ResourceId::Project { name: name.clone() }, set, *there).await
            }
            Action::Image { image } => self.image(image).await,
            Action::Network { name, set, there } => Box::pin(self.make_network(name, set, *there)).await,
            Action::Volume { pool, name, config } => {
                self.ensure(&self.volume(pool, name), config, false).await
            }
            Action::Create(one) => Box::pin(self.create(one)).await,
            Action::Prepare(one) => Box::pin(self.prepare(one)).await,
            Action::Replace(one) => Box::pin(self.replace(one)).await,
            Action::Change(one, difference) => Box::pin(self.change(one, difference)).await,
            Action::Start { instance, paused: true } => {
                self.state(instance, StateChange::Unfreeze, "it cannot be started").await
            }
            Action::Start { instance, paused: false } => Box::pin(self.start_with_hooks(instance)).await,
            Action::Await { condition, instances, health, .. } => {
                self.reached(*condition, instances, health.as_ref()).await
            }
            Action::Publish { instance, set, gone } => self.publish(instance, set, gone).await,
            Action::Stop { instance, grace } => self.stop(instance, *grace).await,
            Action::Hold { instance } => self.state(instance, StateChange::Freeze, "it cannot be held").await,
            Action::Remove { instance } => self.remove(instance).await,
            Action::RemoveNetwork { name } => self.remove_network(name).await,
            Action::RemoveVolume { pool, name } => self.remove_resource(&self.volume(pool, name)).await,
            Action::RemoveProfile { name } => {
                let (project, name) = (self.project.to_owned(), name.clone());
                self.remove_resource(&ResourceId::Profile { project, name }).await
            }
            Action::RemoveImage { fingerprint } => {
                let gone = async || self.client.remove_image(self.project, fingerprint).await;
                patiently(worth, gone).await.map(|_| ()).map_err(server("it cannot be removed"))
            }
            Action::RemoveProject { name } => {
                self.remove_resource(&ResourceId::Project { name: name.clone() }).await
            }
        }
    }

    /// Networks are the default project's: a project of ours has none of its own.
    fn network(&self, name: &str) -> ResourceId {
        ResourceId::Network { project: "default".to_owned(), name: name.to_owned() }
    }

    fn volume(&self, pool: &str, name: &str) -> ResourceId {
        let (project, pool, name) = (self.project.to_owned(), pool.to_owned(), name.to_owned());
        ResourceId::Volume { project, pool, name }
    }

    /// Makes it, or gives it these keys. What was not `there` when it was planned and has come is ours by its label only.
    async fn ensure(&self, id: &ResourceId, set: &Keys, there: bool) -> Result<(), ApplyError> {
        let planned = there;
        // What is there already is only told what differs.
        let ours = set.get(label::PROJECT).or(self.want.map(|want| &want.name));
        for tries in 1..=SETTLING {
            match self.client.resource(id).await.map_err(server("it cannot be read"))? {
                None => match self.client.create(id, "", set).await {
                    Err(error) if refused(&error, Refusal::Exists) => {}
                    Err(error) if tries < SETTLING.min(worth(&error)) => tokio::time::sleep(AGAIN).await,
                    Err(source) if is_occupied(&source) => return Err(ApplyError::Occupied { source }),
                    made => return made.map_err(server("it cannot be made")),
                },
                Some(mut there) => {
                    match (there.config.get(label::PROJECT), ours) {
                        (Some(has), Some(of)) if has != of => return Err(ApplyError::Taken),
                        // Nobody is at it any more, and it has no keys that could say whose it is.
                        (None, Some(_)) if !planned && there.is_half && tries + 1 == SETTLING => {}
                        (None, Some(_)) if !planned && tries == SETTLING => {
                            return Err(if there.is_managed {
                                ApplyError::Taken
                            } else {
                                ApplyError::LeftBehind
                            });
                        }
                        // Whoever was killed while the server made it: its keys come after its name.
                        (None, Some(_)) if !planned => {
                            tokio::time::sleep(AGAIN).await;
                            continue;
                        }
                        _ => {}
                    }
                    let is_half = match id {
                        ResourceId::Network { .. } if !planned => is_half(self.client, &there).await,
                        _ => Ok(false),
                    };
                    if is_half.map_err(server("it cannot be looked at"))? {
                        if self.stays_half(id).await.map_err(server("it cannot be looked at"))? {
                            self.remove_resource(id).await?;
                        }
                        continue;
                    }
                    there.config.extend(set.clone());
                    match self.client.put(&there).await {
                        Err(error) if error.is_outdated() => {}
                        Err(error) if worth(&error) > 1 => tokio::time::sleep(AGAIN).await,
                        put => return put.map_err(server("it cannot be changed")),
                    }
                }
            }
        }
        Err(ApplyError::Overtaken)
    }

    async fn remove_resource(&self, id: &ResourceId) -> Result<(), ApplyError> {
        self.remove_while(worth, id).await
    }

    /// The same, with how often what is worth trying. Not found may be something else that the server has looked at: it looks
    /// at all networks of anybody's for who uses one, and any of them may be going.
    async fn remove_while(
        &self,
        worth: impl Fn(&IncusError) -> u32,
        id: &ResourceId,
    ) -> Result<(), ApplyError> {
        for _ in 0..SETTLING {
            let removed = patiently(&worth, async || self.client.remove(id).await).await;
            if removed.map_err(server("it cannot be removed"))?.is_some() {
                return Ok(());
            }
            let there = self.client.resource(id).await.map_err(server("it cannot be looked at"))?;
            if there.is_none_or(|there| !there.is_managed) {
                return Ok(());
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(ApplyError::Overtaken)
    }

    async fn image(&self, name: &str) -> Result<(), ApplyError> {
        let image = self.want.and_then(|want| want.images.get(name));
        let image = image.ok_or_else(|| ApplyError::UnknownImage(name.to_owned()))?;
        if let ImageSource::Local(alias) | ImageSource::Built(alias) = &image.source {
            let found = self.client.image(self.project, alias).await;
            let found = found.map_err(server("it cannot be looked for"))?;
            let Image { fingerprint, .. } = found.ok_or_else(|| ApplyError::NoImage(alias.clone()))?;
            self.know(name, fingerprint);
            return Ok(());
        }
        let remote = image.source.remote().ok_or_else(|| ApplyError::UnknownImage(name.to_owned()))?;
        let pulled = self.client.pull(self.project, &remote, &[]).await;
        let pulled = pulled.map_err(server("it cannot be fetched"))?;
        let left = self.client.finish(&pulled, None, |_| ()).await;
        let left = left.map_err(server("it cannot be fetched"))?;
        if let Some(fingerprint) = left.get("fingerprint").and_then(serde_json::Value::as_str) {
            self.know(name, fingerprint.to_owned());
        }
        Ok(())
    }

    fn know(&self, image: &str, fingerprint: String) {
        if let Ok(mut images) = self.images.lock() {
            images.insert(image.to_owned(), fingerprint);
        }
    }

    async fn create(&self, one: &Rendered) -> Result<(), ApplyError> {
        self.make(one).await?;
        self.write(one, &[Part::Program, Part::Files]).await
    }

    /// Makes it without its files.
    async fn make(&self, one: &Rendered) -> Result<(), ApplyError> {
        let known = self.images.lock().ok().and_then(|images| images.get(&one.image).cloned());
        let fingerprint = known.ok_or_else(|| ApplyError::UnknownImage(one.image.clone()))?;
        let new = NewInstance {
            name: one.name.clone(),
            kind: InstanceKind::Container,
            is_ephemeral: false,
            source: InstanceSource::Fingerprint(fingerprint),
            description: String::new(),
            config: without_files(one),
            devices: one.devices.clone(),
            profiles: None,
        };
        let made = patiently(worth, async || {
            to_its_end(self.client, self.client.create_instance(self.project, &new).await).await
        });
        match made.await {
            Err(error) if refused(&error, Refusal::Exists) => self.adopt(one).await,
            made => made.map_err(server("it cannot be made")),
        }
    }

    /// Takes one that has come since it was planned: made of the same, it gets what differs still, such as addresses.
    async fn adopt(&self, one: &Rendered) -> Result<(), ApplyError> {
        let there = self.client.definition(self.project, &one.name).await;
        let there = there.map_err(server("it cannot be read"))?;
        let there = there.ok_or_else(|| ApplyError::Gone(one.name.clone()))?;
        let same = [label::PROJECT, label::NAME, label::HASH, label::BORN];
        if same.iter().any(|key| there.config(key) != one.config.get(*key).map(String::as_str)) {
            return Err(ApplyError::Taken);
        }
        self.redefine(one, |definition| {
            without_files(one).iter().for_each(|(key, value)| definition.set_config(key, Some(value)));
            one.devices.iter().for_each(|(name, device)| definition.set_device(name, Some(device)));
            true
        })
        .await
    }

    /// A proxy that differs goes and comes again: one that is changed in place and fails is dead and looks alive.
    async fn change(&self, one: &Rendered, difference: &Difference) -> Result<(), ApplyError> {
        let proxies: Vec<&String> = difference
            .devices
            .iter()
            .filter(|(_, device)| device.get("type").is_some_and(|kind| kind == "proxy"))
            .map(|(name, _)| name)
            .collect();
        self.redefine(one, |definition| {
            let there = definition.devices();
            let before = proxies.iter().filter(|name| there.contains_key(name.as_str()));
            before.map(|name| definition.set_device(name, None)).count() > 0
        })
        .await?;
        self.redefine(one, |definition| {
            difference.set.iter().for_each(|(key, value)| definition.set_config(key, Some(value)));
            if difference.files {
                definition.set_config(label::FILES, None);
            }
            if difference.program {
                definition.set_config(label::GUEST, None);
            }
            difference.unset.iter().for_each(|key| definition.set_config(key, None));
            difference.devices.iter().for_each(|(name, device)| definition.set_device(name, Some(device)));
            difference.gone.iter().for_each(|name| definition.set_device(name, None));
            true
        })
        .await?;
        let parts = [(difference.program, Part::Program), (difference.files, Part::Files)];
        let parts: Vec<Part> = parts.into_iter().filter(|(is, _)| *is).map(|(_, part)| part).collect();
        self.write(one, &parts).await
    }

    /// Changes a definition; not when `edit` says that nothing is to be changed.
    async fn redefine(
        &self,
        one: &Rendered,
        edit: impl Fn(&mut portway_incus::Definition) -> bool,
    ) -> Result<(), ApplyError> {
        let mut tries = 0;
        loop {
            let there = self.client.definition(self.project, &one.name).await;
            let there = there.map_err(server("it cannot be read"))?;
            let mut definition = there.ok_or_else(|| ApplyError::Gone(one.name.clone()))?;
            if !edit(&mut definition) {
                return Ok(());
            }
            tries += 1;
            match self.client.replace(&definition).await {
                Err(error) if tries < worth(&error) => tokio::time::sleep(AGAIN).await,
                Err(error) if error.is_outdated() => return Err(ApplyError::Overtaken),
                done => return done.map_err(server("it cannot be changed")),
            }
        }
    }
}

/// Configuration of an instance that has none of its files yet: until it has, no label says that it does.
fn without_files(one: &Rendered) -> Keys {
    let mut config = one.config.clone();
    config.remove(label::FILES);
    config.remove(label::GUEST);
    config
}

#[cfg(test)]
mod tests;
