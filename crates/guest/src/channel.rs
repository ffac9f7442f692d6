//! One program and its streams.
//!
//! States: running, then ended (its status has been told, its output may still come), then gone. The process is not
//! reaped before the channel is gone, so that its number, which is its group's, cannot be another's.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use portway_proto::guest::{
    Allowance, Exit, Frame, Grant, Keep, Program, Pty, Signal, Size, Start, Started, Step, Stream,
};
use portway_sys::process::program::{Ids, Image, Input, Program as Wanted, ProgramError, spawn};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal as Told, WaitId, WaitIdOptions};

use crate::backlog::{Backlog, Given};
use crate::environment;
use crate::keep::{self, Mux};
use crate::outbox::Outbox;
use crate::terminal;

/// Bytes for a program's standard input that may be under way: they are kept here while it does not read.
const INPUT_WINDOW: u32 = 1024 * 1024;

/// What a program that was hung up is told after that, each with the time since.
const FAREWELL: [(Told, Duration); 2] =
    [(Told::TERM, Duration::from_secs(3)), (Told::KILL, Duration::from_secs(8))];

/// Size of the pipes of an SFTP server, bytes: a packet or two each.
const SFTP_PIPE_BYTES: usize = 512 * 1024;

/// A started program.
#[derive(Debug)]
pub(crate) struct Channel {
    number: u32,
    pid: Pid,
    pidfd: OwnedFd,
    ended: bool,
    input: Option<OwnedFd>,
    /// What the program has not read yet; at most [`INPUT_WINDOW`].
    pending: Backlog,
    /// No more input will come.
    input_ends: bool,
    grant: Grant,
    outputs: [Output; 2],
    master: Option<OwnedFd>,
    /// When it was hung up, and how much of the farewell it was told.
    hung_up: Option<(Instant, usize)>,
}

/// Standard output or error.
#[derive(Debug)]
struct Output {
    fd: Option<OwnedFd>,
    allowance: Allowance,
}

/// What of a channel is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The program's end.
    End,
    /// Room in its standard input, or that nobody reads it any more.
    Input,
    /// Bytes of an output.
    Output(Stream),
}

/// Both sides of a program's streams, in the order of standard input, output, error.
struct Streams {
    theirs: [OwnedFd; 3],
    input: OwnedFd,
    outputs: [Option<OwnedFd>; 2],
    terminal: Option<(OwnedFd, CString)>,
}

impl Channel {
    /// Starts what is wanted. `own` is this program's file, `mux` what keeps sessions in its place.
    ///
    /// # Errors
    /// What failed, and the system's number for it.
    pub(crate) fn start(
        start: Start,
        own: BorrowedFd<'_>,
        mux: Option<Mux>,
    ) -> Result<(Self, Started), (Step, u32)> {
        let streams = match &start.pty {
            Some(pty) => on_terminal(pty, start.ids.uid).map_err(|error| (Step::Terminal, number(error)))?,
            None => on_pipes(matches!(start.program, Program::Sftp))
                .map_err(|error| (Step::Prepare, number(error)))?,
        };
        let (path, args) = command(start.program, &streams, start.pty.as_ref(), mux)
            .map_err(|error| (Step::Terminal, number(error)))?;
        let args: Vec<CString> = args.into_iter().filter_map(|arg| CString::new(arg).ok()).collect();
        let mut env = start.env;
        if let (Some(pty), Some((_, tty))) = (&start.pty, &streams.terminal)
            && !pty.path_variable.is_empty()
        {
            env.push([&pty.path_variable[..], b"=", tty.as_bytes()].concat());
        }
        let env = environment::build(start.environment, env);
        let cwd = CString::new(start.cwd).unwrap_or_default();
        let keeps_ids = rustix::process::geteuid().as_raw() == start.ids.uid && start.ids.uid != 0;
        let ids = Ids { uid: start.ids.uid, gid: start.ids.gid, groups: &start.ids.groups };
        let [input, output, error] = &streams.theirs;
        let running = spawn(&Wanted {
            image: path.as_deref().map_or(Image::File(own), Image::Path),
            args: &args,
            env: &env,
            cwd: &cwd,
            // Only root may set groups, also to what they are.
            ids: if keeps_ids { None } else { Some(ids) },
            umask: start.umask,
            stdio: [input.as_fd(), output.as_fd(), error.as_fd()],
            input: if streams.terminal.is_some() { Input::Terminal } else { Input::Stream },
        })
        .map_err(|error| refusal(&error))?;
        let pid = Pid::from_raw(running.child.pid).ok_or((Step::Prepare, 0))?;
        let [stdout, stderr] = streams.outputs;
        let (master, tty) = streams.terminal.unzip();
        let started = Started {
            channel: start.channel,
            pid: running.child.pid.unsigned_abs(),
            stdin_credit: INPUT_WINDOW,
            tty: tty.map(CString::into_bytes).unwrap_or_default(),
            cwd_error: running.cwd_error.unsigned_abs(),
        };
        let channel = Self {
            number: start.channel,
            pid,
            pidfd: running.child.pidfd,
            ended: false,
            input: Some(streams.input),
            pending: Backlog::default(),
            input_ends: false,
            grant: Grant::new(INPUT_WINDOW),
            outputs: [
                Output { fd: stdout, allowance: Allowance::new(start.credits.stdout) },
                Output { fd: stderr, allowance: Allowance::new(start.credits.stderr) },
            ],
            master,
            hung_up: None,
        };
        Ok((channel, started))
    }

    /// What is waited for now; no output while `full`.
    pub(crate) fn waits(&self, full: bool) -> impl Iterator<Item = (Wait, BorrowedFd<'_>)> {
        let end = (!self.ended).then(|| (Wait::End, self.pidfd.as_fd()));
        // A pipe that nobody reads says so even when nothing is asked for.
        let input = self.input.as_ref().map(|fd| (Wait::Input, fd.as_fd()));
        let outputs = [Stream::Out, Stream::Error].into_iter().zip(&self.outputs);
        let open = outputs.filter_map(move |(stream, output)| {
            let wanted = !full && output.allowance.left() > 0;
            output.fd.as_ref().filter(|_| wanted).map(|fd| (Wait::Output(stream), fd.as_fd()))
        });
        end.into_iter().chain(input).chain(open)
    }

    /// Whether there is something for the program to read.
    pub(crate) const fn has_input(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether everything has been said.
    pub(crate) fn is_over(&self) -> bool {
        self.ended && self.outputs.iter().all(|output| output.fd.is_none())
    }

    /// Takes bytes for standard input.
    ///
    /// # Errors
    /// When the gateway was not allowed to send them.
    pub(crate) fn receive(&mut self, bytes: &[u8], outbox: &mut Outbox) -> Result<(), Fault> {
        if self.input_ends {
            return Err(Fault::AfterEof);
        }
        self.grant.receive(bytes.len()).map_err(|_| Fault::Credit)?;
        let Some(input) = &self.input else {
            // Nobody reads them; the gateway has been told.
            self.give_credit(bytes.len(), outbox);
            return Ok(());
        };
        let given = self.pending.put(bytes, |bytes| rustix::io::write(input, bytes));
        self.given(given, outbox);
        Ok(())
    }

    /// No more input.
    pub(crate) fn end_input(&mut self) {
        self.input_ends = true;
        if self.pending.is_empty() {
            self.input = None;
        }
    }

    /// The gateway takes more of an output.
    ///
    /// # Errors
    /// When that is more than anybody takes, or no output.
    pub(crate) fn add_credit(&mut self, stream: Stream, bytes: u32) -> Result<(), Fault> {
        let output = self.output(stream).ok_or(Fault::Stream)?;
        output.allowance.add(bytes).map_err(|_| Fault::Credit)
    }

    /// Writes to standard input what it takes.
    pub(crate) fn feed(&mut self, outbox: &mut Outbox) {
        let Some(input) = &self.input else { return };
        let given = self.pending.feed(|bytes| rustix::io::write(input, bytes));
        self.given(given, outbox);
    }

    /// The program has taken something.
    fn given(&mut self, given: Given, outbox: &mut Outbox) {
        self.give_credit(given.count, outbox);
        if given.is_lost {
            self.lose_input(outbox);
        } else if self.pending.is_empty() && self.input_ends {
            self.input = None;
        }
    }

    /// Nobody reads standard input any more.
    pub(crate) fn lose_input(&mut self, outbox: &mut Outbox) {
        if self.input.take().is_some() {
            let lost = self.pending.lose();
            outbox.push(&Frame::Eof { channel: self.number, stream: Stream::In });
            self.give_credit(lost, outbox);
        }
    }

    fn give_credit(&mut self, bytes: usize, outbox: &mut Outbox) {
        if let Some(bytes) = self.grant.finish(bytes)
            && !self.input_ends
        {
            outbox.push(&Frame::Credit { channel: self.number, stream: Stream::In, bytes });
        }
    }

    /// Reads an output once and sends what came.
    pub(crate) fn drain(&mut self, stream: Stream, scratch: &mut [u8], outbox: &mut Outbox) {
        let channel = self.number;
        let Some(output) = self.output(stream) else { return };
        let Some(fd) = &output.fd else { return };
        let most = output.allowance.left().min(scratch.len());
        let Some(room) = scratch.get_mut(..most) else { return };
        match rustix::io::read(fd, &mut *room) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal that nobody has open any more is EIO.
            Ok(0) | Err(_) => {
                output.fd = None;
                outbox.push(&Frame::Eof { channel, stream });
            }
            Ok(count) => {
                let bytes = room.get(..count).unwrap_or_default();
                let within = output.allowance.spend(bytes.len());
                debug_assert!(within.is_ok(), "no more was read than is allowed");
                outbox.push(&Frame::Data { channel, stream, bytes });
            }
        }
    }

    fn output(&mut self, stream: Stream) -> Option<&mut Output> {
        let [stdout, stderr] = &mut self.outputs;
        match stream {
            Stream::In => None,
            Stream::Out => Some(stdout),
            Stream::Error => Some(stderr),
        }
    }

    /// Tells how the program ended, if it has.
    pub(crate) fn look_at_end(&mut self, outbox: &mut Outbox) {
        if self.ended {
            return;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let Ok(Some(status)) = rustix::process::waitid(WaitId::Pid(self.pid), options) else { return };
        let signal = status.terminating_signal().and_then(|number| u8::try_from(number).ok());
        let exit = match signal.and_then(Signal::new) {
            Some(signal) => Exit::Signal { signal, core: status.dumped() },
            None => {
                Exit::Code(u8::try_from(status.exit_status().unwrap_or_default() & 0xff).unwrap_or(u8::MAX))
            }
        };
        self.ended = true;
        outbox.push(&Frame::Exited { channel: self.number, exit });
    }

    /// Sends a signal to what runs in the foreground of the terminal, or without one to the program's process group.
    pub(crate) fn signal(&self, signal: Signal) {
        let in_front = self.master.as_ref().and_then(|master| rustix::termios::tcgetpgrp(master).ok());
        if let Some(signal) = Told::from_named_raw(signal.number().into()) {
            // A group without processes is no fault of the gateway.
            let _ = rustix::process::kill_process_group(in_front.unwrap_or(self.pid), signal);
        }
    }

    /// Hangs up: the terminal and the pipes are closed, the group gets SIGHUP, and [`press`](Self::press) the rest.
    pub(crate) fn hang_up(&mut self) {
        if self.hung_up.is_some() {
            return;
        }
        self.hung_up = Some((Instant::now(), 0));
        let _ = rustix::process::kill_process_group(self.pid, Told::HUP);
        // What is stopped would not see it.
        let _ = rustix::process::kill_process_group(self.pid, Told::CONT);
        self.input = None;
        self.pending.lose();
        self.master = None;
        for output in &mut self.outputs {
            output.fd = None;
        }
    }

    /// When [`press`](Self::press) has something to do.
    pub(crate) fn next_signal(&self) -> Option<Instant> {
        let (since, told) = self.hung_up.filter(|_| !self.ended)?;
        FAREWELL.get(told).map(|(_, after)| since + *after)
    }

    /// Tells a program that was hung up and stays to end, when it is time.
    pub(crate) fn press(&mut self, now: Instant) {
        if let (Some(then), Some((_, told))) = (self.next_signal(), &mut self.hung_up)
            && then <= now
            && let Some((signal, _)) = FAREWELL.get(*told)
        {
            *told += 1;
            let _ = rustix::process::kill_process_group(self.pid, *signal);
        }
    }

    /// Gives the terminal, if there is one, another size.
    pub(crate) fn resize(&self, size: &Size) {
        if let Some(master) = &self.master {
            // The program may have left it.
            let _ = terminal::resize(master, size);
        }
    }

    /// Takes the process in.
    pub(crate) fn reap(self) {
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::NOHANG);
    }
}

/// What the gateway may not do to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// More bytes than were granted.
    Credit,
    /// Bytes after the end of the stream.
    AfterEof,
    /// A stream that does not go that way.
    Stream,
}

/// The file of a program, none for this one, and its arguments; the terminal is as it needs it.
fn command(
    program: Program,
    streams: &Streams,
    pty: Option<&Pty>,
    mux: Option<Mux>,
) -> rustix::io::Result<(Option<CString>, Vec<Vec<u8>>)> {
    Ok(match program {
        Program::Exec { path, args } => (CString::new(path).ok(), args),
        Program::Sftp => (None, vec![b"portway-guest".to_vec(), b"sftp".to_vec()]),
        Program::Keep { name, wish } => {
            // Another program wants the terminal as its client has it.
            if let (Keep::Attach, Some(_), None) = (wish, &streams.terminal, mux) {
                let [slave, ..] = &streams.theirs;
                terminal::make_raw(slave)?;
            }
            (None, keep::arguments(&name, wish, pty, mux))
        }
    })
}

fn on_terminal(pty: &Pty, uid: u32) -> rustix::io::Result<Streams> {
    let (master, slave, path) = terminal::open(uid, &pty.size, &pty.modes)?;
    rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK | OFlags::RDWR)?;
    let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    Ok(Streams {
        theirs: [copy(&slave)?, copy(&slave)?, slave],
        input: copy(&master)?,
        outputs: [Some(copy(&master)?), None],
        terminal: Some((master, path)),
    })
}

fn on_pipes(is_sftp: bool) -> rustix::io::Result<Streams> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let ((stdin, input), (output, stdout), (error, stderr)) = (pipe()?, pipe()?, pipe()?);
    if is_sftp {
        for fd in [&input, &output] {
            // Pipes of the usual size do as well, only slower.
            let _ = rustix::pipe::fcntl_setpipe_size(fd, SFTP_PIPE_BYTES);
        }
    }
    rustix::fs::fcntl_setfl(&input, OFlags::NONBLOCK | OFlags::WRONLY)?;
    for fd in [&output, &error] {
        rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK)?;
    }
    Ok(Streams {
        theirs: [stdin, stdout, stderr],
        input,
        outputs: [Some(output), Some(error)],
        terminal: None,
    })
}

fn refusal(error: &ProgramError) -> (Step, u32) {
    let (step, source) = match error {
        ProgramError::Process(source) => (Step::Prepare, source),
        ProgramError::Streams(source) => (Step::Terminal, source),
        ProgramError::Ids(source) => (Step::Ids, source),
        ProgramError::Exec(source) => (Step::Exec, source),
    };
    (step, source.raw_os_error().unwrap_or_default().unsigned_abs())
}

fn number(error: Errno) -> u32 {
    error.raw_os_error().unsigned_abs()
}
