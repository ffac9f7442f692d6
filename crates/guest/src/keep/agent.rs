//! The client's agent in a session that is kept: whoever came last with one has lent it, and goes before the session does.
//!
//! The session is told a name that stays, once: a link beside its socket. It leads to what the last viewer was lent, and is
//! gone while nobody with an agent looks.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Variable with the path of its socket.
const VARIABLE: &str = "SSH_AUTH_SOCK";

/// Ends the name of the link.
const ENDING: &str = "auth";

/// The link of the session that has this socket.
pub(super) fn link(socket: &Path) -> PathBuf {
    socket.with_extension(ENDING)
}

/// What a session that this viewer begins is told instead of the viewer's own; nothing where it was lent none.
pub(super) fn variable(socket: &Path) -> Option<Vec<u8>> {
    std::env::var_os(VARIABLE)?;
    Some([VARIABLE.as_bytes(), b"=", link(socket).as_os_str().as_bytes()].concat())
}

/// A link that leads to what this viewer was lent.
#[derive(Debug)]
pub(super) struct Leading {
    link: PathBuf,
    to: OsString,
}

impl Leading {
    /// Has the session use the agent of this viewer, if it was lent one.
    pub(super) fn begin(socket: &Path) -> Option<Self> {
        Self::to(socket, std::env::var_os(VARIABLE)?)
    }

    fn to(socket: &Path, to: OsString) -> Option<Self> {
        let link = link(socket);
        let draft = link.with_extension(format!("{ENDING}.{}", std::process::id()));
        let made = symlink(&to, &draft).and_then(|()| fs::rename(&draft, &link));
        // Without one the session goes on as it is.
        made.ok().map(|()| Self { link, to })
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        // Another one may have come since.
        if fs::read_link(&self.link).is_ok_and(|to| to.as_os_str() == self.to) {
            let _gone = fs::remove_file(&self.link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a session does not use the agent of who came last, or is left with one that has gone.
    #[test]
    fn who_came_last_lends_his() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("work.sock");
        let leads = || fs::read_link(dir.path().join("work.auth")).ok();
        let to = |path: &str| Leading::to(&socket, path.into()).expect("a link");
        let first = to("/tmp/ssh-a/agent.1");
        assert_eq!(leads(), Some("/tmp/ssh-a/agent.1".into()));
        let second = to("/tmp/ssh-b/agent.2");
        drop(first);
        assert_eq!(leads(), Some("/tmp/ssh-b/agent.2".into()));
        drop(second);
        assert_eq!((leads(), fs::read_dir(dir.path()).expect("a folder").count()), (None, 0));
    }
}
