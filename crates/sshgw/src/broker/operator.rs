//! What an operator has done by a command of the host, for the audit log: whether a gateway runs or not.

use std::io;
use std::path::Path;

use crate::audit::{Audit, Event};

/// What was done, and to what.
#[derive(Debug, Clone, Copy)]
pub enum Done<'a> {
    /// A connection was ended.
    Killed {
        /// Its id in the audit log.
        session: &'a str,
    },
    /// A session that stays was ended.
    KeptEnded {
        /// Name of the server; empty where none was named.
        remote: &'a str,
        /// Project of the instance.
        project: &'a str,
        /// The instance.
        instance: &'a str,
        /// Whose it was.
        instance_user: &'a str,
        /// Its name.
        keep: &'a str,
    },
}

/// Writes a line to the audit log at a path, as of the user who runs this.
///
/// # Errors
/// When it cannot be opened.
pub fn note_done(audit: &Path, done: Done<'_>) -> io::Result<()> {
    let audit = Audit::open(audit.to_owned())?;
    let uid = rustix::process::getuid().as_raw();
    let (session, event) = match done {
        Done::Killed { session } => (session, Event::Killed { uid }),
        Done::KeptEnded { remote, project, instance, instance_user, keep } => {
            ("-", Event::KeptEnded { uid, remote, project, instance, instance_user, keep })
        }
    };
    audit.write(session, "-", &event);
    // With its drop it is written.
    Ok(())
}
