//! The first process of a service: runs one program, keeps what it says and how it ends, and ends with it.
//!
//! It is told what to run by a file and by nobody else ([`portway_proto::service`]). Signals go on to the program; the
//! one by which an instance is asked to stop (SIGPWR) as the service's own stop signal. Processes that lost their parent
//! are reaped. When the program has ended, what is left of its output is kept, and its status. Then it is started again,
//! where the file says so and nobody has asked for the end ([`Again`](portway_proto::service::Again)); else this process
//! ends with the same status, and the instance with it.

mod beside;
mod init;
mod input;
mod log;
mod pace;
mod tail;
mod user;
mod within;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portway_proto::guest::{Environment, Size};
use portway_proto::service::{NOT_RUN, SPEC, STATE, Source, Spec, State, User};
use portway_sys::process::program::{Ids, Image, Input, Program, ProgramError, spawn};
use portway_sys::signals::Signals;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::{environment, status, terminal};
use input::Pipe;
use log::Log;
use pace::Pace;

pub(crate) use beside::beside;
pub(crate) use input::{feed, resize};
pub(crate) use tail::tail;
pub(crate) use within::within;

/// By which LXC asks an init to stop (lxc.container.conf(5), `lxc.signal.halt`).
const HALT: i32 = 30;

/// SIGCHLD and SIGTERM.
const CHILD: i32 = 17;
const TERM: u8 = 15;

/// Most bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;

/// How long what is left of the output is waited for when the program has ended and others hold it open.
const REST: Duration = Duration::from_millis(200);

/// File mode creation mask of what runs.
const UMASK: u16 = 0o022;

/// Descriptors and what they carry.
type Outputs = Vec<(OwnedFd, Source)>;

/// A program that runs.
struct Service {
    pid: Pid,
    outputs: Outputs,
    signals: Signals,
    stop: i32,
    log: Log,
    /// What it reads, where it reads anything.
    input: Option<Pipe>,
    /// Whether it runs on a terminal: its first output.
    terminal: bool,
    /// Whether the end was asked for.
    is_halted: bool,
}

/// Sends the first process of the instance a signal, which it passes on.
pub(crate) fn kill(number: &str) -> Result<(), (u8, String)> {
    let signal = number.parse().ok().and_then(Signal::from_named_raw);
    let signal = signal.ok_or_else(|| (status::USAGE, format!("{number} is no signal")))?;
    let sent = rustix::process::kill_process(Pid::INIT, signal);
    sent.map_err(|error| (status::FAILED, format!("cannot send it: {error}")))
}

/// Runs what the file in `dir` says and returns the exit status of this process.
pub(crate) fn run(dir: &Path) -> Result<u8, (u8, String)> {
    let failed = |what: &str, error: io::Error| (status::FAILED, format!("cannot {what}: {error}"));
    // Before anything can be told to end.
    let signals = Signals::take().map_err(|error| failed("take signals", error))?;
    // What an earlier run has left says nothing of this one.
    let _none = fs::remove_file(dir.join(STATE));
    let mut log = Log::open(dir).map_err(|error| failed("open the log", error))?;
    let wanted = fs::read(dir.join(SPEC)).map_err(|error| format!("cannot read what to run: {error}"));
    let spec = wanted
        .and_then(|bytes| Spec::read(&bytes).map_err(|error| format!("what to run is not said: {error}")));
    let spec = match spec {
        Ok(spec) => spec,
        Err(why) => return Ok(end(dir, &mut log, NOT_RUN[0], &why)),
    };
    if init::is_one(&spec.args[0]) {
        let why = init::become_it(dir, &spec);
        return Ok(end(dir, &mut log, NOT_RUN[0], &why));
    }
    let input = spec.input.then(|| Pipe::make(dir)).transpose();
    let input = input.map_err(|error| failed("make what the service reads", error))?;
    let (pid, outputs) = match start(dir, &spec, input.as_ref()) {
        Ok(started) => started,
        Err((exit, why)) => return Ok(end(dir, &mut log, exit, &why)),
    };
    let stop = i32::from(spec.stop.unwrap_or(TERM));
    let terminal = spec.terminal;
    let mut service = Service { pid, outputs, signals, stop, log, input, terminal, is_halted: false };
    service.run(dir, &spec).map_err(|error| failed("wait", error))
}

/// Keeps the end and returns its status.
fn end(dir: &Path, log: &mut Log, exit: u8, how: &str) -> u8 {
    log.own(how);
    keep(dir, State::Exited(exit, log.stamp()));
    exit
}

/// Keeps a state. A folder that is full costs the state and not the service.
fn keep(dir: &Path, state: State) {
    let new = dir.join(format!("{STATE}.new"));
    if fs::write(&new, state.write()).is_ok() {
        let _ = fs::rename(&new, dir.join(STATE));
    }
}

/// Starts the program. What fails has a status as of a shell.
fn start(dir: &Path, spec: &Spec, input: Option<&Pipe>) -> Result<(Pid, Outputs), (u8, String)> {
    let cannot = |why: String| (NOT_RUN[0], why);
    let (who, env) = surroundings(spec).map_err(cannot)?;
    let strings = |of: &[Vec<u8>]| -> Vec<CString> {
        of.iter().filter_map(|text| CString::new(text.clone()).ok()).collect()
    };
    let args = strings(&spec.args);
    let cwd = CString::new(if spec.cwd.is_empty() { b"/".to_vec() } else { spec.cwd.clone() });
    let path = find(&spec.args[0], &env).ok_or_else(|| {
        let name = String::from_utf8_lossy(&spec.args[0]).into_owned();
        (NOT_RUN[1], format!("{name}: not found"))
    })?;
    if !spec.cwd.is_empty() {
        // As container engines have it; what cannot be is told by the program's start.
        let _ = fs::create_dir_all(Path::new(std::ffi::OsStr::from_bytes(&spec.cwd)));
    }
    let (outputs, theirs) = streams((dir, input), spec.terminal, (who.uid, who.gid))
        .map_err(|error| cannot(format!("cannot make its streams: {error}")))?;
    if who.uid != 0 {
        // As container engines have it: a service that is not root takes port 80. Ours alone, or not ours to say.
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    }
    let keeps_ids = rustix::process::geteuid().as_raw() == who.uid && who.uid != 0;
    let [input, out, error] = &theirs;
    let running = spawn(&Program {
        image: Image::Path(&path),
        args: &args,
        env: &env,
        cwd: &cwd.unwrap_or_default(),
        ids: if keeps_ids { None } else { Some(Ids { uid: who.uid, gid: who.gid, groups: &who.groups }) },
        umask: UMASK,
        stdio: [input.as_fd(), out.as_fd(), error.as_fd()],
        input: if spec.terminal { Input::Terminal } else { Input::Stream },
    })
    .map_err(|error| refusal(&spec.args[0], &error))?;
    let pid = Pid::from_raw(running.child.pid).ok_or_else(|| cannot("it has no number".to_owned()))?;
    Ok((pid, outputs))
}

/// Who it runs as, and its variables.
fn surroundings(spec: &Spec) -> Result<(User, Vec<CString>), String> {
    let who = user::find(Path::new("/etc"), &spec.user, &spec.groups)?;
    let given = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    let env = variables(spec, &who, given.collect());
    Ok((who, env))
}

/// The variables of a service's program: what the instance gives, and over it what the file says.
fn variables(spec: &Spec, who: &User, given: Vec<Vec<u8>>) -> Vec<CString> {
    // Its folder, where neither says another.
    let home = who.home.as_ref().map(|home| [b"HOME=", &home[..]].concat());
    let entries = home.into_iter().chain(given).chain(spec.env.iter().cloned());
    environment::build(Environment::Empty, entries.collect())
}

/// What it reads from and writes to, and our sides of it.
fn streams(
    (dir, input): (&Path, Option<&Pipe>),
    on_terminal: bool,
    (uid, gid): (u32, u32),
) -> io::Result<(Outputs, [OwnedFd; 3])> {
    let (outputs, theirs): (Outputs, _) = if on_terminal {
        let size = Size { columns: 80, rows: 24, width: 0, height: 0 };
        let (master, slave, path) = terminal::open(uid, &size, &[])?;
        if input.is_some() {
            input::note_terminal(dir, path.as_bytes())?;
        }
        let theirs = [slave.try_clone()?, slave.try_clone()?, slave];
        (vec![(master, Source::Out)], theirs)
    } else {
        let input = match input {
            Some(pipe) => pipe.end(dir, uid, gid)?,
            None => rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
        };
        let (out, out_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (error, error_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        (vec![(out, Source::Out), (error, Source::Error)], [input, out_end, error_end])
    };
    for (fd, _) in &outputs {
        let flags = rustix::fs::fcntl_getfl(fd)?;
        rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
    }
    Ok((outputs, theirs))
}

fn refusal(name: &[u8], error: &ProgramError) -> (u8, String) {
    let name = String::from_utf8_lossy(name);
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let missing = matches!(error, ProgramError::Exec(error) if error.kind() == io::ErrorKind::NotFound);
    (NOT_RUN[usize::from(missing)], format!("{name}: {error}: {source}"))
}

/// The file of a program, as a shell looks for it.
fn find(name: &[u8], env: &[CString]) -> Option<CString> {
    if name.contains(&b'/') {
        return CString::new(name).ok();
    }
    let path = env.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    let path = path.unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let candidates = path.split(|byte| *byte == b':').filter(|dir| !dir.is_empty()).map(|dir| {
        let mut file = PathBuf::from(std::ffi::OsStr::from_bytes(dir));
        file.push(std::ffi::OsStr::from_bytes(name));
        file
    });
    let runs = |file: &PathBuf| {
        let access = rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
        access && fs::metadata(file).is_ok_and(|entry| entry.is_file())
    };
    candidates.into_iter().find(runs).and_then(|file| CString::new(file.as_os_str().as_bytes()).ok())
}

/// Ends what a program has left behind when it is to be started again, as the end of the instance would have.
fn clear() {
    // Anywhere else than as the first process of its own this would be everybody.
    if rustix::process::getpid().is_init() {
        let _none = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
    }
}

impl Service {
    /// Until the program has ended for good; its status. One that cannot be started is not tried again.
    fn run(&mut self, dir: &Path, spec: &Spec) -> io::Result<u8> {
        let mut pace = Pace::new(spec.delay);
        let mut times = 0;
        loop {
            let begin = Instant::now();
            keep(dir, State::Running(self.log.stamp()));
            let exit = self.serve()?;
            self.outputs.clear();
            let how = match exit {
                0..=128 => format!("exited with status {exit}"),
                _ => format!("ended with status {exit}"),
            };
            end(dir, &mut self.log, exit, &how);
            if self.is_halted || !spec.again.after(exit, times) {
                return Ok(exit);
            }
            clear();
            if self.halts_within(pace.after(begin.elapsed()))? {
                return Ok(exit);
            }
            times = times.saturating_add(1);
            match start(dir, spec, self.input.as_ref()) {
                Ok((pid, outputs)) => (self.pid, self.outputs) = (pid, outputs),
                Err((exit, why)) => return Ok(end(dir, &mut self.log, exit, &why)),
            }
        }
    }

    /// Waits so long before the next start; whether the end was asked for meanwhile.
    fn halts_within(&mut self, pause: Duration) -> io::Result<bool> {
        let begin = Instant::now();
        loop {
            while let Some(number) = self.signals.read()? {
                if number == HALT || number == self.stop || number == i32::from(TERM) {
                    return Ok(true);
                }
            }
            self.reap();
            let left = pause.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            self.wait(Some(left))?;
        }
    }

    /// Until the program has ended and its output is kept; its status.
    fn serve(&mut self) -> io::Result<u8> {
        let mut ended: Option<(u8, Instant)> = None;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let left = ended.map(|(_, at)| REST.saturating_sub(at.elapsed()));
            if let Some((exit, _)) = ended
                && (self.outputs.is_empty() || left.is_some_and(|left| left.is_zero()))
            {
                self.log.flush();
                return Ok(exit);
            }
            self.wait(left)?;
            while let Some(number) = self.signals.read()? {
                self.take(number);
            }
            self.pass();
            self.read(&mut piece);
            let before = ended.is_some();
            ended = self.reap().map(|exit| (exit, Instant::now())).or(ended);
            if !before && ended.is_some() {
                // What it has said itself is there; for others' a moment.
                self.read(&mut piece);
            }
        }
    }

    fn wait(&self, left: Option<Duration>) -> io::Result<()> {
        let outputs = self.outputs.iter().map(|(fd, _)| fd.as_fd());
        let fds = outputs.chain([self.signals.as_fd()]);
        let mut polled: Vec<PollFd<'_>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        polled.extend(self.passed().map(|(pipe, to)| pipe.polled(to)));
        let limit = left.map(|left| rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().max(1_000_000).into(),
        });
        match rustix::event::poll(&mut polled, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The pipe whose content this process passes on, and where to.
    fn passed(&self) -> Option<(&Pipe, BorrowedFd<'_>)> {
        let (master, _) = self.outputs.first().filter(|_| self.terminal)?;
        Some((self.input.as_ref()?, master.as_fd()))
    }

    /// Passes on what has come for the terminal.
    fn pass(&mut self) {
        if let (true, Some(pipe), Some((master, _))) = (self.terminal, &mut self.input, self.outputs.first())
        {
            pipe.pass(master.as_fd());
        }
    }

    /// Passes a signal on.
    fn take(&mut self, number: i32) {
        let number = match number {
            CHILD => return,
            HALT => {
                self.is_halted = true;
                self.stop
            }
            number => number,
        };
        if let Some(signal) = Signal::from_named_raw(number) {
            // It may have ended.
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Reads what is there, and closes what has come to its end.
    fn read(&mut self, piece: &mut [u8]) {
        let log = &mut self.log;
        self.outputs.retain(|(fd, source)| {
            loop {
                match rustix::io::read(fd, &mut *piece) {
                    // A terminal that nobody has open any more is an error.
                    Ok(0) | Err(Errno::IO) => {
                        log.end_line(*source);
                        return false;
                    }
                    Ok(count) => log.take(*source, &piece[..count]),
                    Err(Errno::INTR) => {}
                    Err(_) => return true,
                }
            }
        });
        if self.input.is_some() {
            log.part();
        }
        log.write();
    }

    /// Reaps whatever has ended; the status of the program when it is among them.
    fn reap(&self) -> Option<u8> {
        let mut own = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                let code = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?));
                own = Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX));
            }
        }
        own
    }
}
