//! What to do next for one instance: the pure difference between what is wanted and what is there.
//!
//! The actor observes, asks for the next steps, carries them out and asks again until nothing is
//! left. A step that failed shows in the next view as [`Listeners::Broken`] or
//! [`WorkerView::Broken`] with its retry time, so nothing is tried in a tight loop.

use std::fmt;

use portway_model::{Bind, DeviceName};
use portway_relay::wire::Ids;

/// Which run of an instance: init's pid and start time, or the namespace's device and inode.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RunId(pub(crate) String);

/// Devices of an instance that may share a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Group {
    /// Side whose network namespace the worker lives in.
    pub(crate) connect_side: Side,
    /// What it runs as; `None` when no other id is mapped.
    pub(crate) ids: Option<Ids>,
    /// Number among workers of the same kind, when one is full.
    pub(crate) sibling: u32,
}

impl fmt::Display for Group {
    /// `instance:998:998:0`: side, user, group, number; other groups stand behind the group, `998,27`. Users that are not
    /// chosen are `-`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.connect_side {
            Side::Host => "host",
            Side::Instance => "instance",
        };
        match self.ids {
            Some(Ids { uid, gid, groups }) if groups.is_empty() => {
                write!(f, "{side}:{uid}:{gid}:{}", self.sibling)
            }
            Some(Ids { uid, gid, groups }) => write!(f, "{side}:{uid}:{gid},{groups}:{}", self.sibling),
            None => write!(f, "{side}:-:-:{}", self.sibling),
        }
    }
}

/// One end of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The daemon's own namespaces.
    Host,
    /// The instance's.
    Instance,
}

/// Side that listens.
pub(crate) fn listen_side(bind: Bind) -> Side {
    match bind {
        Bind::Host => Side::Host,
        Bind::Instance => Side::Instance,
    }
}

/// Side that dials.
pub(crate) fn connect_side(bind: Bind) -> Side {
    match bind {
        Bind::Host => Side::Instance,
        Bind::Instance => Side::Host,
    }
}

/// How a listener goes out of service without being lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `shutdown(SHUT_RD)` refuses clients and keeps the address.
    Stream,
    /// What arrives is discarded.
    Datagram,
    /// It is closed and made again: the kernel cannot reopen a unix listener.
    Unix,
}

/// Listeners of a device, as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listeners {
    /// None.
    Closed,
    /// Could not be opened; `due` when it is time to try again.
    Broken {
        /// Time to try again.
        due: bool,
    },
    /// Open.
    Open {
        /// Run whose namespace they are in; `None` on the host.
        run: Option<RunId>,
        /// Clients are refused at present.
        refusing: bool,
    },
}

/// Where a device is served, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// In which worker.
    pub(crate) group: Group,
    /// The worker has the device's present options.
    pub(crate) current: bool,
}

/// A device, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceView {
    /// Name.
    pub(crate) name: DeviceName,
    /// Side that listens.
    pub(crate) bind: Bind,
    /// Kind of its listeners.
    pub(crate) kind: Kind,
    /// Listeners.
    pub(crate) listeners: Listeners,
    /// While the instance is down: clients still wait.
    pub(crate) held: bool,
    /// The instance that runs is the one this device is bound to.
    pub(crate) instance_matches: bool,
    /// Group it belongs to in the present run; `None` when its ids are not mapped there.
    pub(crate) group: Option<Group>,
    /// Where it is served.
    pub(crate) placed: Option<Placed>,
}

/// A worker, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WorkerView {
    /// It serves.
    Serving {
        /// Its group.
        group: Group,
        /// Run it belongs to.
        run: RunId,
    },
    /// It could not be started; `due` when it is time to try again.
    Broken {
        /// Its group.
        group: Group,
        /// Time to try again.
        due: bool,
    },
}

/// All that matters for the next steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// The instance's present run; `None` while it is down, absent or unknown.
    pub(crate) run: Option<RunId>,
    /// Devices.
    pub(crate) devices: Vec<DeviceView>,
    /// Workers.
    pub(crate) workers: Vec<WorkerView>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Open the listeners.
    Open(DeviceName),
    /// Close them and remove a socket file of ours.
    Close(DeviceName),
    /// Refuse clients, keep the address.
    Refuse(DeviceName),
    /// Take clients again.
    Reopen(DeviceName),
    /// Start the worker of a group.
    StartWorker(Group),
    /// Give the device to its worker; with `keep_listeners` it has them already.
    Put {
        /// Device.
        device: DeviceName,
        /// Worker.
        group: Group,
        /// Only the options change.
        keep_listeners: bool,
    },
    /// Take the device out of a worker.
    Take {
        /// Device.
        device: DeviceName,
        /// Worker.
        group: Group,
    },
    /// End a worker without devices, or of a run that is over.
    StopWorker(Group),
}

/// The steps that lead from `view` to what is wanted, in order. Empty when nothing is left to do.
pub(crate) fn plan(view: &View) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut starting: Vec<Group> = Vec::new();
    for device in &view.devices {
        device_steps(view, device, &mut starting, &mut steps);
    }
    for worker in &view.workers {
        if let WorkerView::Serving { group, run } = worker
            && (view.run.as_ref() != Some(run) || !is_needed(view, *group))
        {
            steps.push(Step::StopWorker(*group));
        }
    }
    steps
}

fn is_needed(view: &View, group: Group) -> bool {
    view.devices.iter().any(|device| {
        device.placed.as_ref().is_some_and(|placed| placed.group == group)
            || (device.instance_matches && device.group == Some(group))
    })
}

fn device_steps(view: &View, device: &DeviceView, starting: &mut Vec<Group>, steps: &mut Vec<Step>) {
    let run = view.run.as_ref().filter(|_| device.instance_matches);
    if let Some(placed) = &device.placed
        && (run.is_none() || device.group != Some(placed.group))
    {
        steps.push(Step::Take { device: device.name.clone(), group: placed.group });
        return;
    }
    if let Some(step) = listener_step(run, device) {
        steps.push(step);
        return;
    }
    let open = matches!(&device.listeners, Listeners::Open { refusing: false, .. });
    let (Some(run), true, Some(group)) = (run, open, device.group) else { return };
    match worker_of(view, group, run) {
        Found::Serving => {}
        Found::Wait => return,
        Found::Start => {
            if !starting.contains(&group) {
                starting.push(group);
                steps.push(Step::StartWorker(group));
            }
            return;
        }
    }
    match &device.placed {
        Some(placed) if placed.current => {}
        placed => {
            steps.push(Step::Put { device: device.name.clone(), group, keep_listeners: placed.is_some() })
        }
    }
}

enum Found {
    Serving,
    Wait,
    Start,
}

fn worker_of(view: &View, wanted: Group, present: &RunId) -> Found {
    for worker in &view.workers {
        match worker {
            WorkerView::Serving { group, run } if *group == wanted => {
                return if run == present { Found::Serving } else { Found::Wait };
            }
            WorkerView::Broken { group, due: false } if *group == wanted => return Found::Wait,
            WorkerView::Serving { .. } | WorkerView::Broken { .. } => {}
        }
    }
    Found::Start
}

/// The step a device's listeners need, if any.
fn listener_step(run: Option<&RunId>, device: &DeviceView) -> Option<Step> {
    let name = device.name.clone();
    match (listen_side(device.bind), &device.listeners) {
        (Side::Instance, Listeners::Open { run: opened_in, .. }) if run != opened_in.as_ref() => {
            Some(Step::Close(name))
        }
        (Side::Instance, Listeners::Closed | Listeners::Broken { due: true }) if run.is_some() => {
            Some(Step::Open(name))
        }
        (Side::Host, Listeners::Closed | Listeners::Broken { due: true }) => {
            let wanted = run.is_some() || device.held || device.kind != Kind::Unix;
            wanted.then_some(Step::Open(name))
        }
        (Side::Host, Listeners::Open { refusing, .. }) => {
            match (run.is_some() || device.held, refusing, device.kind) {
                (true, true, _) => Some(Step::Reopen(name)),
                (false, false, Kind::Stream) => Some(Step::Refuse(name)),
                (false, false, Kind::Unix) => Some(Step::Close(name)),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
