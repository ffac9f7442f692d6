//! What a process that reads a stranger's bytes gives up before the first of them.

use std::io;

use portway_sys::{process, sandbox};

/// A step that did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {0}")]
pub(crate) struct NotConfined(&'static str, #[source] io::Error);

/// Gives up everything that is not needed from here on: ids, capabilities, every path and most system calls. With a
/// user to become, all of it has to work.
pub(crate) fn confine(name: &str, ids: Option<(u32, u32)>) -> Result<(), NotConfined> {
    let step = |what| move |source| NotConfined(what, source);
    process::set_name(name);
    match sandbox::private_root() {
        Err(source) if ids.is_some() => return Err(NotConfined("hide the file system", source)),
        _ => {}
    }
    if let Some((uid, gid)) = ids {
        sandbox::drop_ids(uid, gid, &[]).map_err(step("become the user it runs as"))?;
    }
    sandbox::drop_all_caps().map_err(step("drop capabilities"))?;
    sandbox::no_new_privs().map_err(step("forbid new privileges"))?;
    sandbox::undumpable().map_err(step("forbid tracing"))?;
    match sandbox::landlock() {
        // A kernel without it: the ids and the private root stand alone.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        other => other.map_err(step("leave the other processes of its user"))?,
    }
    sandbox::session_seccomp().map_err(step("limit system calls"))
}
