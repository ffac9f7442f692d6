//! Which worker a device belongs to, and what that worker needs to dial its upstream.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use portway_model::{Address, DeviceName, DeviceSpec, GroupIds, UnixKind, UnixName};
use portway_relay::wire::{Ids, UnixBase};
use portway_sys::unix_path;
use portway_sys::userns::Extents;
use serde::{Deserialize, Serialize};

use super::Instance;
use super::device::Device;
use super::plan::{Group, Side, connect_side, listen_side};
use crate::listeners;
use crate::provider::Run;

/// Share of a process' descriptors that listeners may take; the rest is for connections.
const LISTENER_SHARE: u64 = 2;

/// A [`Group`] as a worker carries it through the daemon's restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupText {
    instance_side: bool,
    ids: Option<Ids>,
    sibling: u32,
}

impl From<Group> for GroupText {
    fn from(group: Group) -> GroupText {
        let Group { connect_side, ids, sibling } = group;
        GroupText { instance_side: connect_side == Side::Instance, ids, sibling }
    }
}

impl From<GroupText> for Group {
    fn from(text: GroupText) -> Group {
        let GroupText { instance_side, ids, sibling } = text;
        Group { connect_side: if instance_side { Side::Instance } else { Side::Host }, ids, sibling }
    }
}

/// What a dialled path is resolved from.
pub(crate) struct Base {
    /// The descriptor.
    pub(crate) descriptor: OwnedFd,
    /// Its meaning.
    pub(crate) kind: UnixBase,
    /// Component to look up in it, when the path's own is a symlink.
    pub(crate) name: Option<String>,
}

/// The ids a worker for `spec` runs as.
///
/// tcp and udp upstreams run as the dedicated user, so that instances with the same id map do not
/// share kernel quotas; a path upstream needs the instance's own root. Host root only by an
/// explicit `security.uid=0` of a device that dials on the host.
///
/// # Errors
/// One line: the key and the id that does not exist inside the instance.
pub(crate) fn ids(spec: &DeviceSpec, run: &Run, default: Option<Ids>) -> Result<Option<Ids>, String> {
    let Some(default) = default else { return Ok(None) };
    let map = match connect_side(spec.bind) {
        Side::Instance => run.ids.as_ref(),
        Side::Host => None,
    };
    let mapped = |key: &str, id: u32, extents: Option<&Extents>| match extents {
        Some(extents) => {
            extents.to_host(id).ok_or_else(|| format!("{key} {id} is outside the id map of the instance"))
        }
        None => Ok(id),
    };
    let (uids, gids) = (map.map(|map| &map.uids), map.map(|map| &map.gids));
    let own = if dials_path(spec) && map.is_some() { unprivileged_root(uids, gids) } else { None };
    let base = own.unwrap_or(default);
    let uid = match spec.run_as.uid {
        Some(uid) => mapped("security.uid", uid, uids)?,
        None => base.uid,
    };
    let gid = match spec.run_as.gid {
        Some(gid) => mapped("security.gid", gid, gids)?,
        None => base.gid,
    };
    let mut groups = Vec::new();
    for group in spec.run_as.groups.as_slice() {
        groups.push(mapped("security.groups", *group, gids)?);
    }
    // As many as the device has: each id is mapped to one.
    let groups = GroupIds::new(&groups).unwrap_or_default();
    Ok(Some(Ids { uid, gid, groups }))
}

/// Host ids of the instance's root, unless they are the host's root.
fn unprivileged_root(uids: Option<&Extents>, gids: Option<&Extents>) -> Option<Ids> {
    let ids = Ids { uid: uids?.to_host(0)?, gid: gids?.to_host(0)?, groups: GroupIds::NONE };
    (ids.uid != 0).then_some(ids)
}

fn dials_path(spec: &DeviceSpec) -> bool {
    matches!(spec.connect.address(), Address::Unix(_, UnixName::Path(_)))
}

/// Whether the folder a dialled path was resolved from can be replaced under us: only on the host,
/// where it is held by descriptor.
pub(crate) fn base_may_be_stale(spec: &DeviceSpec) -> bool {
    dials_path(spec) && connect_side(spec.bind) == Side::Host
}

/// What a dialled path is resolved from; `None` for every other upstream. Blocks shortly on the
/// host's file system, never on the instance's.
///
/// # Errors
/// One line.
pub(crate) fn base(spec: &DeviceSpec, run: &Run) -> Result<Option<Base>, String> {
    let Address::Unix(_, UnixName::Path(path)) = spec.connect.address() else { return Ok(None) };
    match (connect_side(spec.bind), &run.ids) {
        (Side::Instance, Some(_)) => {
            let descriptor = run.root().map_err(|_| "the instance has ended".to_owned())?;
            Ok(Some(Base { descriptor, kind: UnixBase::Root, name: None }))
        }
        // The host's paths: only the folder of the socket leaves the daemon.
        _ => host_folder(path.as_path()).map(Some),
    }
}

/// What the paths of unix datagram clients are resolved from, so that they can be answered: the instance's root, or on
/// the host the folder of the socket they send to. `None` where there are no such clients.
///
/// # Errors
/// One line.
pub(crate) fn reply_base(spec: &DeviceSpec, run: &Run) -> Result<Option<Base>, String> {
    let Address::Unix(UnixKind::Datagram, name) = spec.listen.address() else { return Ok(None) };
    match (listen_side(spec.bind), &run.ids, name) {
        (Side::Instance, Some(_), _) => {
            let descriptor = run.root().map_err(|_| "the instance has ended".to_owned())?;
            Ok(Some(Base { descriptor, kind: UnixBase::Root, name: None }))
        }
        (_, _, UnixName::Path(path)) => host_folder(path.as_path()).map(Some),
        (_, _, UnixName::Abstract(_)) => Ok(None),
    }
}

/// The same for a device that dials on the host, which needs no run; `None` for every other one.
///
/// # Errors
/// One line.
pub(crate) fn host_base(spec: &DeviceSpec) -> Result<Option<Base>, String> {
    match (connect_side(spec.bind), spec.connect.address()) {
        (Side::Host, Address::Unix(_, UnixName::Path(path))) => host_folder(path.as_path()).map(Some),
        _ => Ok(None),
    }
}

/// The folder of a socket on the host, as a descriptor that leads nowhere else.
fn host_folder(path: &Path) -> Result<Base, String> {
    let root = unix_path::host_root().map_err(|failure| format!("cannot open /: {failure}"))?;
    let (folder, name) = unix_path::open_target_parent(root.as_fd(), path).map_err(|failure| {
        if failure.kind() == std::io::ErrorKind::NotFound {
            format!("the folder of {} does not exist on this host", path.display())
        } else {
            format!("cannot open the folder of {}: {failure}", path.display())
        }
    })?;
    let name =
        name.into_string().map_err(|_| format!("{} leads to a name that is not UTF-8", path.display()))?;
    let own_name = path.file_name().is_some_and(|own| own == name.as_str());
    // Without privilege there is no jail; the worker then has no more rights than its caller.
    let descriptor = unix_path::jail(folder.as_fd()).unwrap_or(folder);
    Ok(Base { descriptor, kind: UnixBase::Parent, name: (!own_name).then_some(name) })
}

impl Instance {
    /// The group of a device in the present run, with room for its listeners.
    pub(super) fn group_of(&self, name: &DeviceName) -> Result<Option<Group>, String> {
        self.devices.get(name).map_or(Ok(None), |device| self.group_for(device))
    }

    /// The same of one of its devices.
    pub(super) fn group_for(&self, device: &Device) -> Result<Option<Group>, String> {
        let Some(run) = &self.run else { return Ok(None) };
        run.dialled(&device.spec)?;
        let ids = ids(&device.spec, run, self.hub.settings.worker_ids)?;
        let connect_side = if run.is_machine() { Side::Host } else { connect_side(device.spec.bind) };
        if let Some(placed) = &device.placed
            && placed.group.ids == ids
            && placed.group.connect_side == connect_side
        {
            return Ok(Some(placed.group));
        }
        let need = u64::from(listeners::count(&device.spec));
        let budget = self.hub.settings.nofile / LISTENER_SHARE;
        let free = |sibling: u32| {
            let group = Group { connect_side, ids, sibling };
            let full = self.workers.get(&group).is_some_and(|serving| serving.slots.is_full());
            !full && self.listeners_in(group) + need <= budget
        };
        let sibling = (0..u32::from(u16::MAX)).find(|sibling| free(*sibling));
        match sibling {
            Some(sibling) => Ok(Some(Group { connect_side, ids, sibling })),
            None => Err(format!("{need} listeners are more than the {budget} that one process may have")),
        }
    }

    fn listeners_in(&self, group: Group) -> u64 {
        let inside = |device: &&Device| device.placed.as_ref().is_some_and(|placed| placed.group == group);
        self.devices.values().filter(inside).map(|device| u64::from(listeners::count(&device.spec))).sum()
    }

    /// Devices that cannot be grouped, or whose worker cannot be started, and why.
    pub(super) fn group_errors(&self) -> BTreeMap<DeviceName, String> {
        let mut errors = BTreeMap::new();
        for (name, device) in &self.devices {
            match self.group_for(device) {
                Err(text) => drop(errors.insert(name.clone(), text)),
                Ok(Some(group)) => {
                    let setback = self.crashes.get(&group).and_then(|crashes| crashes.setback.as_ref());
                    if let Some(setback) = setback.filter(|_| !self.workers.contains_key(&group)) {
                        errors.insert(name.clone(), setback.text.clone());
                    }
                }
                Ok(None) => {}
            }
        }
        errors
    }
}
