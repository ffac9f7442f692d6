//! A list of devices becomes the state, as a whole or not at all.
//!
//! The pure [`plan`] says what differs. What stands in the way of something new goes first; then
//! every instance changes and adds its share; then all of it is stored with one write; what is
//! not wanted any more goes last. Until the write, a failure anywhere puts everything back.

pub(crate) mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use portway_control::api::{self, Failure, FailureKind};
use portway_model::{DeviceKey, DeviceSpec, InstanceKey, ListenIndex};
use tokio::sync::oneshot;

use self::plan::{Plan, Wanted};
use crate::http::{ask, look};
use crate::hub::{Hub, failure};
use crate::instance::Command;
use crate::instance::batch::{Batch, Staged, Undo};
use crate::loops;
use crate::rivals;
use crate::state::{Change, Desired};

/// Instances that are looked at together.
const LOOKS_AT_ONCE: usize = 16;

/// Plans, and carries the plan out unless it is a dry run.
///
/// # Errors
/// Nothing is changed then.
pub(crate) async fn apply(hub: &Arc<Hub>, request: api::Apply) -> Result<api::Applied, Failure> {
    let wanted = checked(request.devices)?;
    if !request.dry_run {
        look_ahead(hub, &wanted).await?;
    }
    let Ok(_alone) = hub.applying.try_lock() else {
        let text = format!("another apply is under way (generation {})", hub.generation());
        return Err(Failure {
            hint: Some("look at the devices and apply again".into()),
            ..failure(FailureKind::Refused, text)
        });
    };
    // From here on nobody else edits.
    let _edits = hub.edits.write().await;
    hub.check_generation(request.generation)?;
    let present = hub.desired();
    let mut plan = plan::plan(&present, &wanted, &request.prune);
    plan.drop_refused(hub.refused().into_keys(), &wanted, &request.prune);
    check_rings(&present, &wanted, &plan)?;
    if request.dry_run {
        return Ok(answer(hub, plan.shown, false, &BTreeMap::new()));
    }
    hub.check_changeable()?;
    let mut staged = Stages::default();
    if let Err(failed) = carry_out(hub, &plan, &mut staged).await {
        staged.undo(hub).await;
        return Err(Failure { error: format!("{}; nothing was changed", failed.error), ..failed });
    }
    finish(hub, &plan).await?;
    let states = states(hub, &plan).await;
    Ok(answer(hub, plan.shown, true, &states))
}

/// Asks the servers what is to be known of every device that is new or changed, before anything is locked.
async fn look_ahead(hub: &Arc<Hub>, wanted: &Wanted) -> Result<(), Failure> {
    let present = hub.desired();
    let (mut instances, mut elsewhere) = (BTreeSet::new(), Vec::new());
    for (key, spec) in wanted {
        let before = present.get(key).map(|device| &device.keys);
        if before != Some(spec) {
            instances.insert(key.instance.clone());
            if before.is_none_or(|before| before.listen != spec.listen || before.bind != spec.bind) {
                elsewhere.push((key, spec));
            }
        }
    }
    let looks = instances.into_iter().map(|key| {
        let hub = Arc::clone(hub);
        async move { look(&hub, &key).await }
    });
    let mut looks = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
    while let Some(looked) = looks.next().await {
        looked?;
    }
    rivals::check(hub, &elsewhere).await
}

/// Every device's options, each device once.
fn checked(devices: Vec<api::AddDevice>) -> Result<Wanted, Failure> {
    let mut wanted = Wanted::new();
    for device in devices {
        let key = DeviceKey { instance: device.instance, device: device.name };
        let spec = DeviceSpec::from_keys(device.keys)
            .map_err(|problem| failure(FailureKind::Usage, format!("{key}: {problem}")))?;
        if wanted.contains_key(&key) {
            return Err(failure(FailureKind::Usage, format!("{key} is listed twice")));
        }
        wanted.insert(key, spec);
    }
    check_apart(&wanted)?;
    Ok(wanted)
}

/// Whether every device can listen beside the others of the list.
fn check_apart(wanted: &Wanted) -> Result<(), Failure> {
    let index = ListenIndex::new(wanted.iter().map(|(key, spec)| (key, &key.instance, spec)));
    for (key, spec) in wanted {
        if let Some(other) = index.in_the_way_of(&key.instance, spec).find(|other| *other != key) {
            let at = wanted.get(other).map(|spec| spec.listen.to_string()).unwrap_or_default();
            let text = format!("{key} would listen at {}, and {other} at {at}", spec.listen);
            return Err(failure(FailureKind::Usage, text));
        }
    }
    Ok(())
}

/// Whether nobody who is new or changed closes a ring, among those who stay and who come.
fn check_rings(present: &Desired, wanted: &Wanted, plan: &Plan) -> Result<(), Failure> {
    let going = plan.shown.iter().filter(|planned| planned.action == api::Action::Remove);
    let going: BTreeSet<_> = going.map(|planned| (&planned.instance, &planned.name)).collect();
    let stays = |key: &DeviceKey| !going.contains(&(&key.instance, &key.device)) && !wanted.contains_key(key);
    let staying = present.iter().filter(|(key, _)| stays(key)).map(|(key, device)| (key, &device.keys));
    let is_new =
        |key: &DeviceKey, spec: &DeviceSpec| present.get(key).is_none_or(|before| before.keys != *spec);
    let (new, kept): (Vec<_>, Vec<_>) = wanted.iter().partition(|(key, spec)| is_new(key, spec));
    match loops::closing(staying.chain(kept).collect(), &new).pop_first() {
        Some((key, text)) => {
            Err(failure(FailureKind::Refused, format!("{key}: {text}; nothing was changed")))
        }
        None => Ok(()),
    }
}

/// What was done so far, by instance, to be taken back.
#[derive(Default)]
struct Stages {
    undo: Vec<(InstanceKey, Undo)>,
    changes: Vec<Change>,
}

impl Stages {
    async fn undo(self, hub: &Arc<Hub>) {
        // In reverse: what made room comes back after what took it has gone.
        for (key, undo) in self.undo.into_iter().rev() {
            let (reply, done) = oneshot::channel();
            // An actor that is gone has nothing to put back.
            if hub.handle(&key).send(Command::Unstage(undo, reply)).await.is_ok() {
                let _ = done.await;
            }
        }
    }
}

async fn carry_out(hub: &Arc<Hub>, plan: &Plan, staged: &mut Stages) -> Result<(), Failure> {
    for batches in [&plan.clear, &plan.stage] {
        for (key, batch) in batches {
            let Staged { undo, changes } = stage(hub, key, batch.clone()).await?;
            staged.undo.push((key.clone(), undo));
            staged.changes.extend(changes);
        }
    }
    let late = plan.late_keys().map(Change::Delete);
    let changes: Vec<Change> = staged.changes.drain(..).chain(late).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let committed = hub.commit(changes).await;
    committed.map(drop).map_err(|text| failure(FailureKind::Internal, format!("devices not stored: {text}")))
}

async fn stage(hub: &Arc<Hub>, key: &InstanceKey, batch: Batch) -> Result<Staged, Failure> {
    ask(hub, key, |reply| Command::Stage(Box::new(batch), reply)).await
}

/// What is not wanted any more goes; it is stored already.
///
/// # Errors
/// When the kernel leads clients of a device on that has gone.
async fn finish(hub: &Arc<Hub>, plan: &Plan) -> Result<(), Failure> {
    let mut standing = None;
    for (key, names) in &plan.late {
        // An actor that is gone has nothing to remove.
        let gone = ask(hub, key, |reply| Command::Forget(names.clone(), reply)).await;
        standing = standing.or(gone.err().filter(|failed| failed.kind == FailureKind::Refused));
    }
    for planned in &plan.shown {
        let (kind, text) = match planned.action {
            api::Action::Add => ("device-added", "added"),
            api::Action::Change => ("device-changed", "changed"),
            api::Action::Remove => ("device-removed", "removed"),
            api::Action::Keep => continue,
        };
        hub.tell(kind, &planned.instance, Some(&planned.name), text.into());
    }
    match standing {
        Some(failed) => Err(Failure { error: format!("the list is stored, but {}", failed.error), ..failed }),
        None => Ok(()),
    }
}

type States = BTreeMap<DeviceKey, (api::DeviceState, Option<String>)>;

async fn states(hub: &Arc<Hub>, plan: &Plan) -> States {
    if plan.shown.is_empty() {
        return States::new();
    }
    let devices = hub.devices(None).await.into_iter();
    let state = |device: api::Device| {
        let key = DeviceKey { instance: device.instance, device: device.name };
        (key, (device.state, device.reason))
    };
    devices.map(state).collect()
}

fn answer(hub: &Hub, mut shown: Vec<api::Planned>, applied: bool, states: &States) -> api::Applied {
    for planned in &mut shown {
        let key = DeviceKey { instance: planned.instance.clone(), device: planned.name.clone() };
        if let Some((state, reason)) = states.get(&key) {
            (planned.state, planned.reason) = (Some(*state), reason.clone());
        }
    }
    api::Applied { applied, generation: hub.generation(), plan: shown }
}
