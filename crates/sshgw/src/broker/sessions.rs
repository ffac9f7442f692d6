//! Sessions as an operator sees them, from their records.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use portway_sys::pidfd;
use serde::Serialize;

use super::{door, roll};

/// A session that has logged in, as programs get it. Stable: fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionState {
    /// Its name, as in the audit log.
    pub id: String,
    /// User of the host whose key it was.
    pub person: String,
    /// SHA-256 fingerprint of that key.
    pub key: String,
    /// Server of the instance.
    pub remote: String,
    /// Project of the instance.
    pub project: String,
    /// The instance.
    pub instance: String,
    /// User inside.
    pub instance_user: String,
    /// Address of the client.
    pub peer: String,
    /// When it logged in, as RFC 3339 has it.
    pub since: String,
    /// Its process.
    pub pid: i32,
}

/// Sessions with records in `dir`, whether a gateway runs or not; the oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn sessions(dir: &Path) -> io::Result<Vec<SessionState>> {
    let mut sessions: Vec<SessionState> = roll::living(dir)?.into_iter().map(SessionState::from).collect();
    sessions.sort_by(|one, two| (&one.since, &one.id).cmp(&(&two.since, &two.id)));
    Ok(sessions)
}

/// The process of the gateway that keeps its sessions in `dir`, if one runs.
#[must_use]
pub fn running(dir: &Path) -> Option<i32> {
    roll::gateway(dir)
}

/// What the gateway that keeps its sessions in `dir` counts, in the Prometheus text format.
///
/// # Errors
/// When none runs, or it does not answer.
pub fn metrics(dir: &Path) -> io::Result<String> {
    door::metrics(dir)
}

/// Ends a session: its connection, and what it runs. False: there is none of this name.
///
/// # Errors
/// When the folder cannot be read, or the process is not ours to end.
pub fn end_session(dir: &Path, id: &str) -> io::Result<bool> {
    let Some(listed) = roll::living(dir)?.into_iter().find(|listed| listed.session == id) else {
        return Ok(false);
    };
    let process = pidfd::open(listed.pid)?;
    // It may have ended, and another have its pid.
    if !listed.lives() {
        return Ok(false);
    }
    pidfd::send_signal(process.as_fd(), nix::libc::SIGTERM)?;
    Ok(true)
}

impl From<roll::Listed> for SessionState {
    fn from(listed: roll::Listed) -> Self {
        let roll::Listed { session, pid, since, peer, grant, .. } = listed;
        let roll::ListedGrant { person, key, remote, project, instance, instance_user } = grant;
        Self { id: session, person, key, remote, project, instance, instance_user, peer, since, pid }
    }
}
