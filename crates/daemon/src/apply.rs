//! A list of devices becomes the state, as a whole or not at all.
//!
//! The pure [`plan`] says what differs. What stands in the way of something new goes first; then
//! every instance changes and adds its share; then all of it is stored with one write; what is
//! not wanted any more goes last. Until the write, a failure anywhere puts everything back.

pub(crate) mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_control::api::{self, Failure, FailureKind};
use portway_model::{DeviceKey, DeviceSpec, InstanceKey};
use tokio::sync::oneshot;

use self::plan::{Plan, Wanted};
use crate::http::ask;
use crate::hub::{Hub, failure};
use crate::instance::Command;
use crate::instance::batch::{Batch, Staged, Undo};
use crate::state::Change;

/// Plans, and carries the plan out unless it is a dry run.
///
/// # Errors
/// Nothing is changed then.
pub(crate) async fn apply(hub: &Arc<Hub>, request: api::Apply) -> Result<api::Applied, Failure> {
    let wanted = checked(request.devices)?;
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
    let plan = plan::plan(&hub.desired(), &wanted, &request.prune);
    if request.dry_run {
        return Ok(answer(hub, plan.shown, false, &BTreeMap::new()));
    }
    hub.check_changeable()?;
    let mut staged = Stages::default();
    if let Err(failed) = carry_out(hub, &plan, &mut staged).await {
        staged.undo(hub).await;
        return Err(Failure { error: format!("{}; nothing was changed", failed.error), ..failed });
    }
    finish(hub, &plan).await;
    let states = states(hub, &plan).await;
    Ok(answer(hub, plan.shown, true, &states))
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
    Ok(wanted)
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
    let late = plan.late.iter().flat_map(|(instance, names)| {
        let key = |name: &_| DeviceKey { instance: instance.clone(), device: Clone::clone(name) };
        names.iter().map(key).map(Change::Delete)
    });
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
async fn finish(hub: &Arc<Hub>, plan: &Plan) {
    for (key, names) in &plan.late {
        // An actor that is gone has nothing to remove.
        let _ = ask(hub, key, |reply| Command::Forget(names.clone(), reply)).await;
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
