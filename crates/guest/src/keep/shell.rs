//! The login shell of a session that is kept: its start, what it is told when it is to end, and how it has ended.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use portway_proto::guest::{Environment, Exit, Signal};
use portway_sys::process::program::{Image, Input, Program, ProgramError, spawn};
use rustix::process::{Pid, Signal as Told, WaitId, WaitIdOptions};

use super::{NAME, UMASK};
use crate::environment;

/// What is told to a shell that is to end, each with the time since.
const FAREWELL: [(Told, Duration); 3] =
    [(Told::HUP, Duration::ZERO), (Told::TERM, Duration::from_secs(3)), (Told::KILL, Duration::from_secs(8))];

/// One that runs.
#[derive(Debug)]
pub(super) struct Shell {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Shell {
    /// Starts the user's, as a login shell, on its terminal.
    ///
    /// # Errors
    /// With which status a shell that cannot be run ends, and a line that says why.
    pub(super) fn start(session: &str, slave: &OwnedFd, tty: &CStr) -> Result<Self, (u8, String)> {
        let variable = |name: &str| std::env::var_os(name).map(|value| value.as_bytes().to_vec());
        let path = variable("SHELL").filter(|path| !path.is_empty()).unwrap_or_else(|| b"/bin/sh".to_vec());
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let args = [CString::new([b"-", name].concat()).unwrap_or_default()];
        let own = [[b"SSH_TTY=", tty.to_bytes()].concat(), format!("{NAME}={session}").into_bytes()];
        let env = environment::build(Environment::Instance, own.to_vec());
        let cwd = CString::new(variable("HOME").unwrap_or_else(|| b"/".to_vec())).unwrap_or_default();
        let path = CString::new(path).unwrap_or_default();
        let running = spawn(&Program {
            image: Image::Path(&path),
            args: &args,
            env: &env,
            cwd: &cwd,
            ids: None,
            umask: UMASK,
            stdio: [slave.as_fd(); 3],
            input: Input::Terminal,
        })
        .map_err(|error| {
            let (status, source) = refusal(error);
            (status, format!("cannot run {}: {source}", path.to_string_lossy()))
        })?;
        let pid = Pid::from_raw(running.child.pid).ok_or((255, "there is no process".to_owned()))?;
        Ok(Self { pid, pidfd: running.child.pidfd })
    }

    /// As the instance sees it.
    pub(super) const fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Readable when it has ended.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How it ended, if it has. Takes it in.
    pub(super) fn ended(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::Pid(self.pid), options).ok()??;
        let signal = status.terminating_signal().and_then(|number| u8::try_from(number).ok());
        Some(match signal.and_then(Signal::new) {
            Some(signal) => Exit::Signal { signal, core: status.dumped() },
            None => {
                Exit::Code(u8::try_from(status.exit_status().unwrap_or_default() & 0xff).unwrap_or(u8::MAX))
            }
        })
    }

    /// A signal to it and to what runs in front.
    fn tell(&self, master: BorrowedFd<'_>, signal: Told) {
        let in_front = rustix::termios::tcgetpgrp(master).ok();
        for group in in_front.into_iter().chain([self.pid]) {
            // A group without processes is no fault; what is stopped would not hear it.
            let _none = rustix::process::kill_process_group(group, signal);
            let _none = rustix::process::kill_process_group(group, Told::CONT);
        }
    }
}

/// The end of a session that was asked for: since when, and how much of the farewell was told.
#[derive(Debug, Default)]
pub(super) struct Farewell(Option<(Instant, usize)>);

impl Farewell {
    pub(super) fn begin(&mut self, now: Instant) {
        self.0.get_or_insert((now, 0));
    }

    /// When there is something to be told.
    pub(super) fn next(&self) -> Option<Instant> {
        let (since, told) = self.0?;
        FAREWELL.get(told).map(|(_, after)| since + *after)
    }

    /// Tells the shell to end, when it is time.
    pub(super) fn press(&mut self, shell: &Shell, master: BorrowedFd<'_>, now: Instant) {
        if self.next().is_some_and(|then| then <= now)
            && let Some((_, told)) = &mut self.0
            && let Some((signal, _)) = FAREWELL.get(*told)
        {
            *told += 1;
            shell.tell(master, *signal);
        }
    }
}

fn refusal(error: ProgramError) -> (u8, io::Error) {
    match error {
        ProgramError::Exec(source) if source.kind() == io::ErrorKind::NotFound => (127, source),
        ProgramError::Exec(source) => (126, source),
        ProgramError::Process(source) | ProgramError::Streams(source) | ProgramError::Ids(source) => {
            (255, source)
        }
    }
}
