//! What a process that reads a stranger's bytes gives up before the first of them.

use portway_sys::process;
use portway_sys::process::program::Ids;
use portway_sys::sandbox::{self, Files, Refused, Role};

/// Gives up everything that is not needed from here on: ids, capabilities, every path and most system calls. With a
/// user to become, all of it has to work.
pub(crate) fn confine(role: Role, name: &str, ids: Option<(u32, u32)>) -> Result<(), Refused> {
    process::set_name(name);
    let files = if ids.is_some() { Files::Gone } else { Files::GoneIfPermitted };
    let ids = ids.map(|(uid, gid)| Ids { uid, gid, groups: &[] });
    sandbox::enter(role, ids, files)?.seal()
}
