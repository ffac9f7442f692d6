//! Devices that move from Incus or LXD to Portway and back, one at a time.
//!
//! Import: the server takes the device out of the instance and writes a note of it, in one change; ours
//! is added; the note goes. When ours does not come up, the server gets back exactly what it had. Export
//! is the same the other way. See [`plan`] for what a crash in between leaves.

pub(crate) mod plan;
mod seal;
pub(crate) mod translate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portway_control::api::{self, Failure, FailureKind};
use portway_incus::{Client, Definition, Device, IncusError, is_true};
use portway_model::{DeviceKey, DeviceName, DeviceSpec, InstanceKey, Provider};
use tokio::sync::MutexGuard;
use tracing::warn;

use self::plan::{Candidate, NOTE, Note, Verdict};
use self::seal::Seals;
use self::translate::title;
use crate::http::{ask, look};
use crate::hub::{Hub, failure};
use crate::instance::{Command, edit};
use crate::provider::no_socket;
use crate::rivals;
use crate::state::{Origin, StoredDevice, with_sources};

/// Tries of a change that somebody else's change has outrun, or that the server could not carry out.
const TRIES: u32 = 5;

/// Pause between them.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the definition of an instance is not changed.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    /// The server does not do it.
    #[error(transparent)]
    Server(#[from] IncusError),
    /// Somebody has made a device of this name meanwhile.
    #[error("{instance} has another device {name} in {} meanwhile", title(instance.provider()))]
    Taken {
        /// The instance.
        instance: InstanceKey,
        /// The device's name.
        name: DeviceName,
    },
}

/// What can be imported, of one instance or of all.
///
/// # Errors
/// When a server does not answer, or has no such instance.
pub(crate) async fn importable(hub: &Arc<Hub>, of: Option<&InstanceKey>) -> Result<Vec<api::Move>, Failure> {
    let mut definitions = Vec::new();
    if let Some(key) = of {
        definitions.push((key.provider(), definition(&server(hub, key)?, key).await?));
    } else {
        for (provider, client) in servers(hub)? {
            let found = client.definitions().await.map_err(|problem| unreachable(provider, &problem))?;
            definitions.extend(found.into_iter().map(|definition| (provider, definition)));
        }
    }
    let seals = Seals::load(&hub.settings.seal_key);
    let mut moves = Vec::new();
    for (provider, definition) in definitions {
        let project = Some(definition.project.as_str());
        let Ok(key) = InstanceKey::new(provider, project, &definition.name) else { continue };
        let candidates = plan::candidates(provider, &definition, &here(hub, &key), &seals);
        moves.extend(candidates.into_iter().map(|candidate| plan::shown(&key, candidate)));
    }
    moves.sort_by(|one, other| (&one.instance, &one.name).cmp(&(&other.instance, &other.name)));
    Ok(moves)
}

/// What can be exported, of one instance or of all.
///
/// # Errors
/// When the instance is none of a server, or there is no such instance and it has no devices.
pub(crate) async fn exportable(hub: &Arc<Hub>, of: Option<&InstanceKey>) -> Result<Vec<api::Move>, Failure> {
    if let Some(key) = of {
        check_provider(key).map_err(|text| failure(FailureKind::Usage, text))?;
        if here(hub, key).is_empty() {
            hub.check_exists(key).await?;
        }
    }
    let devices = hub.desired().into_values();
    let asked = devices.filter(|device| of.is_none_or(|of| *of == device.instance));
    let shown = asked.map(|device| {
        let (progress, place, keys, reason) = match exported(&device) {
            Ok(origin) => (api::Progress::Ready, origin.place, without_type(origin.device), None),
            Err(reason) => {
                (api::Progress::Skipped, api::Place::Instance, device.keys.to_keys(), Some(reason))
            }
        };
        let (instance, name) = (device.instance, device.name.to_string());
        api::Move { instance, name, place, progress, keys, notes: Vec::new(), reason, state: None }
    });
    Ok(shown.collect())
}

fn exported(device: &StoredDevice) -> Result<Origin, String> {
    check_provider(&device.instance)?;
    plan::exportable(device)
}

fn without_type(device: Device) -> BTreeMap<String, String> {
    device.into_iter().filter(|(key, _)| key != "type").collect()
}

/// Takes one device over from its server.
///
/// # Errors
/// Why not; the server then has what it had, or the text says how it goes on.
pub(crate) async fn import(hub: &Arc<Hub>, what: &api::MoveDevice) -> Result<api::Move, Failure> {
    let (client, key) = (&server(hub, &what.instance)?, &what.instance);
    let _alone = alone(hub, key).await;
    let found = definition(client, key).await?;
    // While the server is asked, others may edit.
    let candidate = match candidate(hub, &found, what) {
        Ok(candidate) => candidate,
        Err(missing) => return moved_already(hub, what).ok_or(missing),
    };
    let Verdict::Take { spec, noted, .. } = candidate.verdict.clone() else {
        return finish_or_refuse(client, what, candidate).await;
    };
    if !noted {
        if candidate.origin.device.get("nat").is_some_and(|text| is_true(text)) {
            rivals::note(hub, key.provider()).await;
        }
        take_out(hub, client, what, &candidate).await?;
    }
    let origin = candidate.origin.clone();
    let added = bring_in(hub, what, spec, origin.clone()).await;
    match added {
        Ok(device) => {
            let mut moved = plan::shown(key, candidate);
            moved.progress = api::Progress::Moved;
            moved.state = Some(device.state);
            moved.reason = device.reason;
            forget_note(client, what, &mut moved).await;
            Ok(moved)
        }
        Err(failed) => {
            let put_back = change(client, key, |definition| put_in(definition, what, &origin)).await;
            Err(undone(key.provider(), failed, put_back))
        }
    }
}

/// Gives one device back to its server.
///
/// # Errors
/// Why not; Portway then has what it had, or the text says how it goes on.
pub(crate) async fn export(hub: &Arc<Hub>, what: &api::MoveDevice) -> Result<api::Move, Failure> {
    let (client, key) = (&server(hub, &what.instance)?, &what.instance);
    let _alone = alone(hub, key).await;
    let stored = here(hub, key)
        .remove(&what.name)
        .ok_or_else(|| failure(FailureKind::Missing, format!("{key} has no device {}", what.name)))?;
    let refused = |text: String| failure(FailureKind::Refused, format!("{key}/{}: {text}", what.name));
    let mut origin = exported(&stored).map_err(refused)?;
    let found = definition(client, key).await?;
    if !plan::belongs(&stored, &found) {
        let text = "another instance has this name now; `portway device adopt` gives it the device";
        return Err(refused(text.into()));
    }
    let name = what.name.as_str();
    if found
        .expanded_devices
        .get(name)
        .is_some_and(|device| device.get("type").is_some_and(|kind| kind != "none"))
    {
        return Err(refused(format!("{} has a device of this name for it already", title(key.provider()))));
    }
    if origin.place == api::Place::Profile
        && profiles_device(client, key, &found, name).await?.as_ref() != Some(&origin.device)
    {
        // The profile has another one meanwhile, or none: the instance gets its own.
        origin.place = api::Place::Instance;
    }
    let seals = seals(hub)?;
    change(client, key, |definition| {
        let text = Note::text(definition, name, origin.clone(), &seals);
        definition.set_config(&note_key(what), Some(&text));
        Ok(())
    })
    .await
    .map_err(|problem| unchanged(key.provider(), &problem))?;
    let mut moved = api::Move {
        instance: key.clone(),
        name: what.name.to_string(),
        place: origin.place,
        progress: api::Progress::Moved,
        keys: without_type(origin.device.clone()),
        notes: Vec::new(),
        reason: None,
        state: None,
    };
    if let Err(failed) = take_down(hub, what, &stored).await {
        forget_note(client, what, &mut moved).await;
        return Err(failed);
    }
    let put_in = change(client, key, |definition| put_in(definition, what, &origin)).await;
    let Err(problem) = put_in else { return Ok(moved) };
    let failed = refused(with_sources(&problem));
    let (spec, origin) = (Box::new(stored.keys), stored.origin.unwrap_or(origin));
    let again = bring_in(hub, what, spec, origin).await;
    if again.is_ok() {
        forget_note(client, what, &mut moved).await;
    }
    Err(undone_here(failed, again))
}

/// Adds a device that comes from elsewhere.
async fn bring_in(
    hub: &Arc<Hub>,
    what: &api::MoveDevice,
    spec: Box<DeviceSpec>,
    origin: Origin,
) -> Result<api::Device, Failure> {
    look(hub, &what.instance).await?;
    let key = DeviceKey { instance: what.instance.clone(), device: what.name.clone() };
    if let Some(endpoint) = hub.providers.endpoint(key.instance.provider()) {
        // It was one of theirs until a moment ago.
        endpoint.count_event();
    }
    rivals::check(hub, &[(&key, &*spec)]).await?;
    let _editing = hub.edits.read().await;
    ask(hub, &what.instance, |reply| Command::Import(what.name.clone(), spec, origin, reply)).await
}

/// Removes a device that goes elsewhere, if it is still what was read.
async fn take_down(hub: &Arc<Hub>, what: &api::MoveDevice, read: &StoredDevice) -> Result<(), Failure> {
    let _alone = hub.edits.write().await;
    if here(hub, &what.instance).get(&what.name).is_none_or(|present| present.keys != read.keys) {
        let text = format!("{}/{} was changed meanwhile", what.instance, what.name);
        return Err(failure(FailureKind::Refused, text));
    }
    ask(hub, &what.instance, |reply| Command::Remove(what.name.clone(), reply)).await
}

/// A device that was imported, when its server has nothing of it any more: the last change of a daemon that
/// died over it can still be on its way when the next one is asked what there is to move.
fn moved_already(hub: &Hub, what: &api::MoveDevice) -> Option<api::Move> {
    let stored = here(hub, &what.instance).remove(&what.name)?;
    let place = stored.origin?.place;
    Some(api::Move {
        instance: stored.instance,
        name: what.name.to_string(),
        place,
        progress: api::Progress::Moved,
        keys: stored.keys.to_keys(),
        notes: Vec::new(),
        reason: None,
        state: None,
    })
}

/// What becomes of a device that is not to be taken.
async fn finish_or_refuse(
    client: &Client,
    what: &api::MoveDevice,
    candidate: Candidate,
) -> Result<api::Move, Failure> {
    if let Verdict::Skip(reason) = &candidate.verdict {
        let text = format!("{}/{}: {reason}", what.instance, what.name);
        return Err(failure(FailureKind::Refused, text));
    }
    let mut moved = plan::shown(&what.instance, candidate);
    moved.progress = api::Progress::Moved;
    forget_note(client, what, &mut moved).await;
    Ok(moved)
}

/// Takes a device out of its instance and leaves a note.
async fn take_out(
    hub: &Arc<Hub>,
    client: &Client,
    what: &api::MoveDevice,
    candidate: &Candidate,
) -> Result<(), Failure> {
    let name = what.name.as_str();
    let seals = seals(hub)?;
    for attempt in 1..=TRIES {
        let mut found = definition(client, &what.instance).await?;
        if self::candidate(hub, &found, what)?.origin != candidate.origin {
            let text = format!(
                "{}/{name} was changed in {} meanwhile",
                what.instance,
                title(what.instance.provider())
            );
            return Err(failure(FailureKind::Refused, text));
        }
        let text = Note::text(&found, name, candidate.origin.clone(), &seals);
        found.set_config(&note_key(what), Some(&text));
        // What a profile has under this name would come to light.
        let hidden = profiles_device(client, &what.instance, &found, name).await?.is_some();
        let none = Device::from([("type".to_owned(), "none".to_owned())]);
        found.set_device(name, hidden.then_some(&none));
        match client.replace(&found).await {
            Ok(()) => return Ok(()),
            Err(problem) if problem.is_outdated() && attempt < TRIES => tokio::time::sleep(PAUSE).await,
            Err(problem) => return Err(unreachable(what.instance.provider(), &problem)),
        }
    }
    Ok(())
}

/// Puts a device back into the definition of its instance, and takes the note out.
///
/// # Errors
/// [`ChangeError::Taken`]; the definition is then as before.
fn put_in(definition: &mut Definition, what: &api::MoveDevice, origin: &Origin) -> Result<(), ChangeError> {
    let present = definition.devices().remove(what.name.as_str());
    // What hides the device of a profile is no device, and our own may be there by an answer that was lost.
    let is_free =
        |device: &Device| *device == origin.device || device.get("type").is_some_and(|kind| kind == "none");
    if !present.as_ref().is_none_or(is_free) {
        let (instance, name) = (what.instance.clone(), what.name.clone());
        return Err(ChangeError::Taken { instance, name });
    }
    let own = (origin.place == api::Place::Instance).then_some(&origin.device);
    definition.set_device(what.name.as_str(), own);
    definition.set_config(&note_key(what), None);
    Ok(())
}

/// Changes the definition of an instance, again when somebody was faster, unless `edit` refuses.
async fn change(
    client: &Client,
    key: &InstanceKey,
    edit: impl Fn(&mut Definition) -> Result<(), ChangeError>,
) -> Result<(), ChangeError> {
    let mut attempt = 1;
    loop {
        let changed = async {
            let found = client.definition(project(key), key.name().as_str()).await?;
            let mut found = found.ok_or_else(|| gone(key))?;
            edit(&mut found)?;
            Ok(client.replace(&found).await?)
        };
        match changed.await {
            Err(ChangeError::Server(problem))
                if attempt < TRIES && (problem.is_outdated() || problem.is_transient()) =>
            {
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

fn gone(key: &InstanceKey) -> IncusError {
    let reason = "the instance is gone".to_owned();
    IncusError::Protocol { request: key.to_string(), reason }
}

/// The device that the last profile with this name has.
async fn profiles_device(
    client: &Client,
    key: &InstanceKey,
    definition: &Definition,
    name: &str,
) -> Result<Option<Device>, Failure> {
    let mut found = None;
    for profile in definition.profiles() {
        let devices = client.profile_devices(&definition.project, &profile).await;
        let device = devices.map_err(|problem| unreachable(key.provider(), &problem))?.remove(name);
        found = device.or(found);
    }
    Ok(found)
}

/// The note goes. One that stays hurts nobody: the next import takes it away.
async fn forget_note(client: &Client, what: &api::MoveDevice, moved: &mut api::Move) {
    let key = note_key(what);
    let forget = |definition: &mut Definition| {
        definition.set_config(&key, None);
        Ok(())
    };
    if let Err(problem) = change(client, &what.instance, forget).await {
        let text = with_sources(&problem);
        warn!(instance = %what.instance, device = %what.name, error = text, "note of a move not removed");
        moved.notes.push(format!("{key} is left in the instance's configuration: {text}"));
    }
}

fn undone(provider: Provider, failed: Failure, put_back: Result<(), ChangeError>) -> Failure {
    let server = title(provider);
    match put_back {
        Ok(()) => Failure { error: format!("{}; {server} has the device back", failed.error), ..failed },
        Err(problem) => Failure {
            error: format!("{}; and {server} did not take it back: {}", failed.error, with_sources(&problem)),
            hint: Some(
                "its definition is kept in the instance's configuration; run `portway device import` again"
                    .into(),
            ),
            ..failed
        },
    }
}

fn undone_here(failed: Failure, again: Result<api::Device, Failure>) -> Failure {
    match again {
        Ok(_) => Failure { error: format!("{}; the device is here as before", failed.error), ..failed },
        Err(problem) => Failure {
            error: format!("{}; and it did not come back here: {}", failed.error, problem.error),
            hint: Some(
                "its definition is kept in the instance's configuration; run `portway device import`".into(),
            ),
            ..failed
        },
    }
}

/// What new notes are sealed with.
fn seals(hub: &Hub) -> Result<Seals, Failure> {
    let path = &hub.settings.seal_key;
    Seals::load_or_make(path).map_err(|problem| {
        failure(FailureKind::Refused, format!("cannot make {}: {problem}", path.display()))
    })
}

fn note_key(what: &api::MoveDevice) -> String {
    format!("{NOTE}{}", what.name)
}

fn candidate(hub: &Hub, definition: &Definition, what: &api::MoveDevice) -> Result<Candidate, Failure> {
    let seals = Seals::load(&hub.settings.seal_key);
    let found = plan::candidates(what.instance.provider(), definition, &here(hub, &what.instance), &seals);
    let name = what.name.as_str();
    found.into_iter().find(|candidate| candidate.name == name).ok_or_else(|| {
        let text =
            format!("{} has no proxy device {name} in {}", what.instance, title(what.instance.provider()));
        failure(FailureKind::Missing, text)
    })
}

/// Our devices of an instance.
fn here(hub: &Hub, key: &InstanceKey) -> BTreeMap<DeviceName, StoredDevice> {
    let devices = hub.desired().into_iter().filter(|(full, _)| full.instance == *key);
    devices.map(|(DeviceKey { device: name, .. }, device)| (name, device)).collect()
}

/// Waits until no other device moves to or from the instance's server.
async fn alone<'a>(hub: &'a Hub, key: &InstanceKey) -> Option<MutexGuard<'a, ()>> {
    let endpoint = hub.providers.endpoint(key.provider())?;
    Some(endpoint.moving.lock().await)
}

/// The server of an instance.
fn server(hub: &Hub, key: &InstanceKey) -> Result<Client, Failure> {
    check_provider(key).map_err(|text| failure(FailureKind::Usage, text))?;
    let provider = key.provider();
    let client = hub.providers.endpoint(provider).and_then(|endpoint| endpoint.client());
    client.ok_or_else(|| edit::unreachable(provider, &no_socket(provider)))
}

/// Every server that there is: one whose socket is not there is not installed, or has nothing running.
fn servers(hub: &Hub) -> Result<Vec<(Provider, Client)>, Failure> {
    let endpoints = [&hub.providers.incus, &hub.providers.lxd].into_iter();
    let clients = endpoints.filter_map(|endpoint| Some((endpoint.provider(), endpoint.client()?)));
    let found: Vec<_> = clients.filter(|(_, client)| client.socket().exists()).collect();
    if found.is_empty() {
        return Err(edit::not_there("no socket of Incus or LXD was found"));
    }
    Ok(found)
}

/// Whether an instance is one of a server that has proxy devices of its own.
fn check_provider(key: &InstanceKey) -> Result<(), String> {
    match key.provider() {
        Provider::Incus | Provider::Lxd => Ok(()),
        Provider::Netns | Provider::Pid => Err(format!("{key} is no instance of Incus or LXD")),
    }
}

async fn definition(client: &Client, key: &InstanceKey) -> Result<Definition, Failure> {
    let found = client.definition(project(key), key.name().as_str()).await;
    let missing = || failure(FailureKind::Missing, format!("{key} does not exist"));
    found.map_err(|problem| unreachable(key.provider(), &problem))?.ok_or_else(missing)
}

fn project(key: &InstanceKey) -> &str {
    key.project().map_or("default", |project| project.as_str())
}

/// What a change that was not made means for who asked.
fn unchanged(provider: Provider, problem: &ChangeError) -> Failure {
    match problem {
        ChangeError::Server(problem) => unreachable(provider, problem),
        ChangeError::Taken { .. } => failure(FailureKind::Refused, with_sources(problem)),
    }
}

/// What a failure of the server means for who asked.
fn unreachable(provider: Provider, problem: &IncusError) -> Failure {
    match problem {
        IncusError::Status { .. } | IncusError::Operation { .. } | IncusError::Denied { .. } => {
            failure(FailureKind::Refused, format!("{} refuses: {}", title(provider), with_sources(problem)))
        }
        _ => edit::unreachable(provider, &with_sources(problem)),
    }
}

#[cfg(test)]
mod tests;
