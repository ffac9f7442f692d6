//! Programs that are asked something: no shell, no input, an environment of ours, and bounds on time and output.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// `PATH` of every program that is started here.
const PROGRAMS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a program may take, and how much it may say.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Until it is killed.
    pub time: Duration,
    /// Until it is killed.
    pub output_bytes: usize,
}

/// What a program has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its standard output.
    pub output: Vec<u8>,
    /// Its exit code; `None` when a signal has ended it.
    pub code: Option<i32>,
}

/// Why a program has not answered.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// Its path.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// Its output cannot be read.
    #[error("cannot read the output of {program}")]
    Read {
        /// Its path.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} took longer than {time:?}")]
    TooSlow {
        /// Its path.
        program: String,
        /// The bound.
        time: Duration,
    },
    /// It said too much and was killed.
    #[error("{program} said more than {bytes} bytes")]
    TooMuch {
        /// Its path.
        program: String,
        /// The bound.
        bytes: usize,
    },
}

/// Who a program runs as; `None` is this process' user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id; it has no other groups.
    pub gid: u32,
}

/// Runs a program to its end. Whatever it has started in its process group ends with it.
///
/// Cancel safe: the program is killed.
///
/// # Errors
/// Why there is no answer.
pub async fn run(
    program: &str,
    arguments: &[String],
    user: Option<RunAs>,
    bounds: Bounds,
) -> Result<Said, RunError> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PROGRAMS).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true);
    if let Some(RunAs { uid, gid }) = user {
        // Being root, this takes its supplementary groups away too.
        command.gid(gid).uid(uid);
    }
    let name = || program.to_owned();
    let mut child = command.spawn().map_err(|source| RunError::Start { program: name(), source })?;
    let group = Group::of(&child);
    let work = async {
        let mut output = Vec::new();
        let limit = u64::try_from(bounds.output_bytes).unwrap_or(u64::MAX).saturating_add(1);
        if let Some(stdout) = child.stdout.take() {
            let read = stdout.take(limit).read_to_end(&mut output).await;
            read.map_err(|source| RunError::Read { program: name(), source })?;
        }
        if output.len() > bounds.output_bytes {
            return Err(RunError::TooMuch { program: name(), bytes: bounds.output_bytes });
        }
        let status = child.wait().await.map_err(|source| RunError::Read { program: name(), source })?;
        Ok(Said { output, code: status.code() })
    };
    let answer = match tokio::time::timeout(bounds.time, work).await {
        Ok(answer) => answer,
        Err(_) => Err(RunError::TooSlow { program: name(), time: bounds.time }),
    };
    drop(group);
    answer
}

/// Kills a process group when it is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Most have ended before.
            let _nobody_left = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { time: Duration::from_secs(20), output_bytes: 100 };

    async fn sh(script: &str, bounds: Bounds) -> Result<Said, RunError> {
        run("/bin/sh", &["-c".to_owned(), script.to_owned()], None, bounds).await
    }

    /// Fails when: a program sees our environment, or its exit code is lost.
    #[tokio::test]
    async fn a_program_gets_an_environment_of_ours() {
        let said = sh("echo $LC_ALL $HOME $PWD; cat; exit 3", BOUNDS).await.unwrap();
        assert_eq!(said, Said { output: b"C /\n".to_vec(), code: Some(3) });
        assert_eq!(sh("kill -9 $$", BOUNDS).await.unwrap().code, None);
        let refusal = run("/nonexistent", &[], None, BOUNDS).await;
        assert!(matches!(refusal, Err(RunError::Start { .. })));
    }

    /// Fails when: a program that says or takes too much holds us, or leaves somebody behind.
    #[tokio::test]
    async fn a_program_has_bounds() {
        let refusal = sh("while :; do echo y; done", BOUNDS).await;
        assert!(matches!(refusal, Err(RunError::TooMuch { .. })));
        let short = Bounds { time: Duration::from_millis(100), ..BOUNDS };
        let refusal = sh("sleep 1000 & wait", short).await;
        assert!(matches!(refusal, Err(RunError::TooSlow { .. })));
    }
}
