//! What each step of a plan does to the server.
//!
//! Every step may be carried out again: what is there already, gone already or in that state already is no failure. So
//! a plan that was cut short anywhere is taken up by the next one.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use portway_control::ClientError;
use portway_control::api::AddDevice;
use portway_incus::{
    Client, Image, ImageProtocol, IncusError, InstanceSource, NewInstance, Refusal, RemoteImage, ResourceId,
    StateChange,
};
use portway_model::{DeviceKey, InstanceKey, Provider};
use tokio::sync::watch;

use crate::difference::Difference;
use crate::label;
use crate::plan::Action;
use crate::render::Rendered;
use crate::want::{ComposeProject, ImageSource, Keys};

use files::Part;

mod awaiting;
pub(crate) mod fence;
mod files;
mod replace;

pub use awaiting::{exit_code, probe};

/// Between two tries of a change that another one is in the way of.
const AGAIN: Duration = Duration::from_millis(250);

/// Tries of it: another change of one instance takes seconds, a stop as long as it is given.
const TRIES: u32 = 80;

/// Tries of a start that comes before its network: five seconds, of which the server needs a tenth.
const EARLY: u32 = 20;

/// Tries of a change that somebody else's change has overtaken.
const OVERTAKEN: u32 = 10;

/// Looks at what has come since it was planned, until it has keys or is gone: a server with much to do takes seconds for it.
const SETTLING: u32 = 40;

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
    pub portway: Option<&'a portway_control::Client>,
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
    /// Waiting was ended.
    #[error("waiting was ended")]
    Halted,
}

fn server(what: &'static str) -> impl FnOnce(IncusError) -> ApplyError {
    move |source| ApplyError::Server { what, source }
}

/// Whether a failure is a certain refusal.
fn refused(error: &IncusError, refusal: Refusal) -> bool {
    error.refusal() == Some(refusal)
}

/// Whether a network that is listed has no bridge yet: whoever makes it was killed, and the server is still at it. Its
/// words in Incus 6.0 and 7.0.
fn is_early(error: &IncusError) -> bool {
    matches!(error, IncusError::Operation { message, .. } | IncusError::Status { message, .. }
        if message.contains("Parent device") && message.contains("doesn't exist"))
}

/// Whether the server has only run out of time, as one that is short of processors does in a few seconds.
fn is_slow(error: &IncusError) -> bool {
    matches!(error, IncusError::Operation { message, .. } if message.contains("context deadline exceeded"))
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
            Action::Start { instance, paused } => {
                let change = if *paused { StateChange::Unfreeze } else { StateChange::Start };
                self.state(instance, change, "it cannot be started").await
            }
            Action::Await { condition, instances, health, .. } => {
                self.reached(*condition, instances, health.as_ref()).await
            }
            Action::Publish { instance, set, gone } => self.publish(instance, set, gone).await,
            Action::Stop { instance, grace } => self.stop(instance, *grace).await,
            Action::Hold { instance } => self.state(instance, StateChange::Freeze, "it cannot be held").await,
            Action::Remove { instance } => self.remove(instance).await,
            Action::RemoveNetwork { name } => {
                self.remove_resource(&self.network(name)).await?;
                self.remove_fence(name).await
            }
            Action::RemoveVolume { pool, name } => self.remove_resource(&self.volume(pool, name)).await,
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
                    Err(error) if refused(&error, Refusal::Busy) && tries < SETTLING => {
                        tokio::time::sleep(AGAIN).await;
                    }
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
                    if there.is_half && !planned {
                        self.remove_resource(id).await?;
                        continue;
                    }
                    there.config.extend(set.clone());
                    match self.client.put(&there).await {
                        Err(error) if error.is_outdated() => {}
                        Err(error) if refused(&error, Refusal::Busy) => tokio::time::sleep(AGAIN).await,
                        put => return put.map_err(server("it cannot be changed")),
                    }
                }
            }
        }
        Err(ApplyError::Overtaken)
    }

    async fn remove_resource(&self, id: &ResourceId) -> Result<(), ApplyError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.client.remove(id).await {
                Err(error) if refused(&error, Refusal::Busy) && tries < TRIES => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) if is_slow(&error) && tries < OVERTAKEN => tokio::time::sleep(AGAIN).await,
                done => return done.map(|_| ()).map_err(server("it cannot be removed")),
            }
        }
    }

    async fn image(&self, name: &str) -> Result<(), ApplyError> {
        let image = self.want.and_then(|want| want.images.get(name));
        let image = image.ok_or_else(|| ApplyError::UnknownImage(name.to_owned()))?;
        let remote = match &image.source {
            ImageSource::Local(alias) | ImageSource::Built(alias) => {
                let found = self.client.image(self.project, alias).await;
                let found = found.map_err(server("it cannot be looked for"))?;
                let Image { fingerprint, .. } = found.ok_or_else(|| ApplyError::NoImage(alias.clone()))?;
                self.know(name, fingerprint);
                return Ok(());
            }
            ImageSource::Simplestreams { url, alias } => {
                RemoteImage::new(ImageProtocol::Simplestreams, url, alias)
            }
            ImageSource::Oci { url, name } => RemoteImage::new(ImageProtocol::Oci, url, name),
        };
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
            source: InstanceSource::Fingerprint(fingerprint),
            description: String::new(),
            config: without_files(one),
            devices: one.devices.clone(),
            profiles: None,
        };
        let mut tries = 0;
        loop {
            let made = match self.client.create_instance(self.project, &new).await {
                Ok(operation) => self.client.finish(&operation, None, |_| ()).await.map(|_| ()),
                Err(error) => Err(error),
            };
            tries += 1;
            match made {
                Err(error) if refused(&error, Refusal::Exists) => return self.adopt(one).await,
                Err(error) if is_slow(&error) && tries < OVERTAKEN => tokio::time::sleep(AGAIN).await,
                made => return made.map_err(server("it cannot be made")),
            }
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
        for _ in 0..TRIES {
            let there = self.client.definition(self.project, &one.name).await;
            let there = there.map_err(server("it cannot be read"))?;
            let mut definition = there.ok_or_else(|| ApplyError::Gone(one.name.clone()))?;
            if !edit(&mut definition) {
                return Ok(());
            }
            match self.client.replace(&definition).await {
                Err(error) if error.is_outdated() => {}
                Err(error) if refused(&error, Refusal::Busy) => tokio::time::sleep(AGAIN).await,
                done => return done.map_err(server("it cannot be changed")),
            }
        }
        Err(ApplyError::Overtaken)
    }

    /// Brings about a state; one that is there already is no failure.
    async fn state(&self, instance: &str, change: StateChange, what: &'static str) -> Result<(), ApplyError> {
        let mut tries = 0;
        loop {
            let done = match self.client.change_state(self.project, instance, change).await {
                Ok(operation) => self.client.finish(&operation, None, |_| ()).await.map(|_| ()),
                Err(error) => Err(error),
            };
            tries += 1;
            match done {
                Err(error) if refused(&error, Refusal::State) => return Ok(()),
                Err(error) if refused(&error, Refusal::Busy) && tries < TRIES => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) if is_early(&error) && tries < EARLY => tokio::time::sleep(AGAIN).await,
                // The server has given up waiting for its own work, which goes on.
                Err(error) if is_slow(&error) && tries < OVERTAKEN => tokio::time::sleep(AGAIN).await,
                done => return done.map_err(server(what)),
            }
        }
    }

    /// Stops one: by its signal, and when that does not end it in time, by force.
    async fn stop(&self, instance: &str, grace: Duration) -> Result<(), ApplyError> {
        if !grace.is_zero() {
            let gone = |error: &IncusError| refused(error, Refusal::State) || refused(error, Refusal::Absent);
            let asked = self.client.change_state(self.project, instance, StateChange::Stop { grace }).await;
            let ended = match asked {
                Ok(operation) => {
                    let limit = grace + Duration::from_secs(5);
                    self.client.finish(&operation, Some(limit), |_| ()).await.map(|_| ())
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(error) if gone(&error) => return Ok(()),
                Err(_) => {}
            }
        }
        match self.state(instance, StateChange::Kill, "it cannot be stopped").await {
            Err(ApplyError::Server { source, .. }) if refused(&source, Refusal::Absent) => Ok(()),
            done => done,
        }
    }

    async fn remove(&self, instance: &str) -> Result<(), ApplyError> {
        let mut tries = 0;
        loop {
            let done = match self.client.remove_instance(self.project, instance).await {
                Ok(None) => return Ok(()),
                Ok(Some(operation)) => self.client.finish(&operation, None, |_| ()).await.map(|_| ()),
                Err(error) => Err(error),
            };
            tries += 1;
            match done {
                Err(error) if refused(&error, Refusal::Absent) => return Ok(()),
                Err(error) if refused(&error, Refusal::Busy) && tries < TRIES => {
                    tokio::time::sleep(AGAIN).await;
                }
                // One that has just ended counts as running for a moment still.
                Err(error) if refused(&error, Refusal::State) && tries < EARLY => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) if is_slow(&error) && tries < OVERTAKEN => tokio::time::sleep(AGAIN).await,
                done => return done.map_err(server("it cannot be removed")),
            }
        }
    }

    async fn publish(
        &self,
        instance: &str,
        set: &BTreeMap<String, Keys>,
        gone: &[String],
    ) -> Result<(), ApplyError> {
        let daemon = self.portway.ok_or(ApplyError::NoDaemon)?;
        let key = InstanceKey::new(Provider::Incus, Some(self.project), instance)
            .map_err(|error| ApplyError::Name(error.to_string()))?;
        let device = |name: &str| {
            let name = name.parse().map_err(|_| ApplyError::Name(format!("device {name}")))?;
            Ok::<_, ApplyError>(DeviceKey { instance: key.clone(), device: name })
        };
        // Those that are made anew go first: another may take the port of one that goes.
        let there = daemon.devices(Some(&key)).await;
        let there = match there {
            Err(error) if error.kind() == portway_control::api::FailureKind::Missing => Vec::new(),
            there => there.map_err(|source| ApplyError::Portway {
                what: "its devices cannot be read".to_owned(),
                source,
            })?,
        };
        let there = |name: &str| there.iter().any(|device| device.name.as_str() == name);
        for name in gone.iter().chain(set.keys()).filter(|name| there(name)) {
            let removed = daemon.remove(&device(name)?).await;
            removed.map_err(|source| ApplyError::Portway {
                what: format!("{name} cannot be withdrawn"),
                source,
            })?;
        }
        for (name, keys) in set {
            let device = device(name)?;
            let add = AddDevice { instance: device.instance, name: device.device, keys: keys.clone() };
            let added = daemon.add(&add).await;
            added.map_err(|source| ApplyError::Portway {
                what: format!("{name} cannot be published"),
                source,
            })?;
        }
        Ok(())
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
