//! A service of a Compose project whose first process is ours: what it is told to run, and what it keeps.
//!
//! All of it stands in one folder of the instance, [`DIR`]: the program itself, [`Spec`] in [`SPEC`], the latest
//! [`State`] in [`STATE`], and what the service has said in [`LOGS`], records of one line each ([`Record`]). Whoever
//! is root in the instance can write there what it likes: to a reader outside these are a stranger's bytes.

pub mod health;
mod record;
mod spec;
mod user;

pub use record::{Record, Source, Stamp};
pub use spec::{Again, Spec, SpecError};
pub use user::User;

/// Keys of an instance's configuration that say what it is.
pub mod label {
    /// Name of the Compose project.
    pub const PROJECT: &str = "user.portway.project";

    /// Its own name. A copy has the keys of what it was copied from and another name, and is nobody's.
    pub const NAME: &str = "user.portway.name";

    /// The name that it gets, of one that is made beside the one it replaces.
    pub const BESIDE: &str = "user.portway.beside";

    /// Name of the service.
    pub const SERVICE: &str = "user.portway.service";
}

/// The folder.
pub const DIR: &str = "/.portway";

/// The program, in [`DIR`].
pub const PROGRAM: &str = "init";

/// Word that has [`PROGRAM`] run a program beside the service: before [`DIR`] and the program's own words.
pub const BESIDE: &str = "beside";

/// What to run, in [`DIR`].
pub const SPEC: &str = "service";

/// The latest state, in [`DIR`].
pub const STATE: &str = "state";

/// What was said, in [`DIR`]: the newest first.
pub const LOGS: [&str; 3] = ["log.0", "log.1", "log.2"];

/// A named pipe that the service reads, in [`DIR`], where it has an input.
pub const INPUT: &str = "input";

/// The path of the service's terminal, in [`DIR`], where it has an input and a terminal.
pub const TERMINAL: &str = "terminal";

/// Longest of [`LOGS`], bytes; at this length they change places and the last one goes.
pub const LOG_MAX_BYTES: u64 = 2 << 20;

/// Longest line of a record, bytes; a longer one of the service's becomes several.
pub const TEXT_MAX_BYTES: usize = 16 << 10;

/// Exit status for a program that cannot be run, and for one that is not there, as of a shell.
pub const NOT_RUN: [u8; 2] = [126, 127];

/// What a service is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs, since then. Without its instance: it was killed.
    Running(Stamp),
    /// It has ended, then, with this status: 128 and the signal's number when a signal ended it.
    Exited(u8, Stamp),
}

impl State {
    /// As it is kept.
    #[must_use]
    pub fn write(self) -> String {
        match self {
            Self::Running(since) => format!("running {since}\n"),
            Self::Exited(status, at) => format!("exited {status} {at}\n"),
        }
    }

    /// The reverse; `None` for what is none.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        let line = str::from_utf8(text).ok()?.strip_suffix('\n')?;
        let mut words = line.split(' ');
        let state = match words.next()? {
            "running" => Self::Running(Stamp::read(words.next()?)?),
            "exited" => Self::Exited(words.next()?.parse().ok()?, Stamp::read(words.next()?)?),
            _ => return None,
        };
        words.next().is_none().then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let at = Stamp { seconds: 1_763_700_000, nanoseconds: 7 };
        for state in [State::Running(at), State::Exited(0, at), State::Exited(255, at)] {
            assert_eq!(State::read(state.write().as_bytes()), Some(state));
        }
        assert_eq!(State::Exited(3, at).write(), "exited 3 1763700000.000000007\n");
        for broken in ["", "running", "running 1.0\n", "exited 256 1.000000000\n", "exited 1 1.000000000 x\n"]
        {
            assert_eq!(State::read(broken.as_bytes()), None, "{broken:?}");
        }
    }
}
