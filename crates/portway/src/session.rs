//! What a command needs to talk to the daemon.

use std::env;
use std::future::Future;
use std::io;

use portway_config::{Caller, Paths, PathsError};
use portway_control::Client;
use portway_control::api::FailureKind;
use tokio::runtime::{Builder, Runtime};

use crate::failure::{Outcome, Stop, chain};
use crate::progress;

/// One command's talk with the daemon.
pub(crate) struct Session {
    /// The daemon.
    pub(crate) client: Client,
    runtime: Runtime,
}

impl Session {
    /// Finds the daemon's socket; does not connect yet.
    pub(crate) fn open() -> Outcome<Session> {
        let paths = paths()?;
        paths.check(Caller::Client).map_err(|error| wrong_paths(&error))?;
        Ok(Session { client: Client::new(paths.socket), runtime: runtime()? })
    }

    /// Runs `work` to its end, with a sign of life on a terminal when it takes long.
    pub(crate) fn run<T, E: Into<Stop>>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Outcome<T> {
        self.runtime.block_on(progress::show(what, work)).map_err(Into::into)
    }

    /// Runs `work` as it is.
    pub(crate) fn follow<T>(&self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        self.runtime.block_on(work)
    }
}

/// The paths that the environment asks for, unchecked.
pub(crate) fn paths() -> Outcome<Paths> {
    Paths::from_env(|name| env::var_os(name)).map_err(|error| wrong_paths(&error))
}

/// A runtime on this thread.
pub(crate) fn runtime() -> Outcome<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::refused(format!("cannot start: {error}")))
}

/// How a command ends that cannot use `PORTWAY_DIR`.
pub(crate) fn wrong_paths(error: &PathsError) -> Stop {
    let kind = match error {
        PathsError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            FailureKind::Unreachable
        }
        PathsError::Relative { .. } | PathsError::NotAFolder { .. } | PathsError::TooLong { .. } => {
            FailureKind::Usage
        }
        PathsError::Unreadable { .. }
        | PathsError::Owner { .. }
        | PathsError::WorldWritable { .. }
        | PathsError::GroupWritable { .. }
        | PathsError::Make { .. }
        | PathsError::Lock { .. }
        | PathsError::Busy { .. } => FailureKind::Refused,
    };
    let stop = Stop::of(kind, chain(error));
    match error.hint() {
        Some(hint) => stop.hint(hint),
        None => stop,
    }
}
