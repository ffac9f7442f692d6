//! A relay worker, one instruction at a time.
//!
//! The worker is the one of the product, with its whole sandbox: it is traced from outside by ptrace(2), as a
//! debugger would; of its threads the first one. It is held wherever it is about to wait for events, so that whoever plays client and service
//! can lay out what it will find there; then it takes a turn, up to where it would wait again. What it finds in a
//! turn does not depend on how fast anybody is, and so neither does what it does.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::libc::user_regs_struct as Registers;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Longest time for one instruction: a wait that does not end is a fault.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two bytes of `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// System calls of x86-64 that wait for events, and those that read a clock: they are no calls of the kernel
/// where the kernel lends its clock to processes, and differ from machine to machine.
const EPOLL_WAIT: u64 = 232;
const EPOLL_PWAIT: u64 = 281;
const EPOLL_PWAIT2: u64 = 441;
const CLOCK_GETTIME: u64 = 228;

/// What the worker has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Instructions in user space.
    pub(crate) instructions: u64,
    pub(crate) syscalls: u64,
}

/// A worker that is held before a wait. Drop lets it go.
pub(crate) struct Tracer {
    pid: Pid,
    memory: File,
    registers: Registers,
    /// By address: whether a system call stands there.
    calls: BTreeMap<u64, bool>,
    /// A duplicate of the worker's event queue.
    events: OwnedFd,
}

impl Tracer {
    /// Takes hold of a worker that waits for events. All that follows has to come from the same thread.
    ///
    /// # Errors
    /// When this process may not trace it, or it does not wait.
    pub(crate) fn attach(pid: i32) -> Result<Self> {
        share_a_processor(pid)?;
        let memory = File::open(format!("/proc/{pid}/mem")).context("cannot open the worker's memory")?;
        let (pid, raw) = (Pid::from_raw(pid), rustix::process::Pid::from_raw(pid));
        ptrace::seize(pid, ptrace::Options::empty()).context("cannot trace the worker")?;
        ptrace::interrupt(pid).context("cannot stop the worker")?;
        waitpid(pid, None).context("cannot wait for the worker")?;
        let registers = ptrace::getregs(pid).context("cannot read the worker's registers")?;
        let process = pidfd_open(raw.context("no pid")?, PidfdFlags::empty())?;
        let mut calls = BTreeMap::new();
        let mut hold = Hold { pid, memory: &memory, registers, calls: &mut calls };
        // It was stopped inside of a wait, which ends at that.
        while !hold.waits()? {
            hold.step()?;
        }
        let registers = hold.registers;
        let queue = i32::try_from(registers.rdi).context("no descriptor of an event queue")?;
        let events = pidfd_getfd(&process, queue, PidfdGetfdFlags::empty())
            .context("cannot look at the worker's event queue")?;
        Ok(Self { pid, memory, registers, calls, events })
    }

    /// Whether the worker would find something to do: an event, within this time, or what it has left over.
    ///
    /// # Errors
    /// When its event queue or its memory cannot be looked at.
    pub(crate) fn has_work(&self, within: Duration) -> Result<bool> {
        if self.leaves_work()? {
            return Ok(true);
        }
        let limit = Timespec::try_from(within).context("a time")?;
        let mut queue = [PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN)];
        Ok(poll(&mut queue, Some(&limit)).context("cannot look at the worker's event queue")? > 0)
    }

    /// Whether it only looks for events, because it has other work left.
    fn leaves_work(&self) -> Result<bool> {
        Ok(match self.registers.rax {
            // The fourth argument: milliseconds, of which only 32 bits count.
            EPOLL_WAIT | EPOLL_PWAIT => self.registers.r10 & 0xffff_ffff == 0,
            _ if self.registers.r10 == 0 => false,
            _ => {
                let mut time = [0xff; 16];
                self.memory.read_exact_at(&mut time, self.registers.r10).context("cannot read a time")?;
                time == [0; 16]
            }
        })
    }

    /// Lets it take a turn, from one wait to the next.
    ///
    /// # Errors
    /// When it ends, or does not come to its next wait.
    pub(crate) fn turn(&mut self) -> Result<Counted> {
        let mut counted = Counted::default();
        let registers = self.registers;
        let mut hold = Hold { pid: self.pid, memory: &self.memory, registers, calls: &mut self.calls };
        loop {
            let (at, number) = (hold.registers.rip, hold.registers.rax);
            counted.syscalls += u64::from(number != CLOCK_GETTIME && hold.is_call()?);
            hold.step()?;
            // An instruction that repeats itself is stopped at each time.
            counted.instructions += u64::from(hold.registers.rip != at);
            if hold.waits()? {
                self.registers = hold.registers;
                return Ok(counted);
            }
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = ptrace::detach(self.pid, None);
    }
}

/// The parts of a tracer that move.
struct Hold<'a> {
    pid: Pid,
    memory: &'a File,
    registers: Registers,
    calls: &'a mut BTreeMap<u64, bool>,
}

impl Hold<'_> {
    /// Whether the next instruction is a system call.
    fn is_call(&mut self) -> Result<bool> {
        let at = self.registers.rip;
        if let Some(known) = self.calls.get(&at) {
            return Ok(*known);
        }
        let mut code = [0; 2];
        self.memory.read_exact_at(&mut code, at).context("cannot read the worker's code")?;
        self.calls.insert(at, code == SYSCALL);
        Ok(code == SYSCALL)
    }

    /// Whether the next instruction waits for events.
    fn waits(&mut self) -> Result<bool> {
        Ok(matches!(self.registers.rax, EPOLL_WAIT | EPOLL_PWAIT | EPOLL_PWAIT2) && self.is_call()?)
    }

    /// One instruction.
    fn step(&mut self) -> Result<()> {
        let may_wait = self.waits()?;
        ptrace::step(self.pid, None).context("cannot let the worker go on")?;
        let begin = Instant::now();
        loop {
            let flags = may_wait.then_some(WaitPidFlag::WNOHANG);
            match waitpid(self.pid, flags).context("cannot wait for the worker")? {
                WaitStatus::StillAlive if begin.elapsed() > PATIENCE => {
                    bail!("the worker waits for what does not come")
                }
                WaitStatus::StillAlive => std::thread::sleep(Duration::from_micros(50)),
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                WaitStatus::Stopped(_, signal) => ptrace::step(self.pid, signal)?,
                WaitStatus::PtraceEvent(..) => ptrace::step(self.pid, None)?,
                other => bail!("the worker has ended: {other:?}"),
            }
        }
        self.registers = ptrace::getregs(self.pid).context("cannot read the worker's registers")?;
        Ok(())
    }
}

/// Puts this thread and the worker on one processor: who hands over to another on the same one is fastest.
fn share_a_processor(pid: i32) -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot ask for processors")?;
    let first = (0..CpuSet::count()).find(|number| allowed.is_set(*number).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(first.context("no processor")?)?;
    for pid in [gettid(), Pid::from_raw(pid)] {
        sched_setaffinity(pid, &one).context("cannot choose a processor")?;
        // Before others that want the processor, where that is allowed: it saves time and changes no count.
        let mut chrt = Command::new("chrt");
        chrt.args(["--fifo", "--pid", "1", &pid.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
        let _ = chrt.status();
    }
    Ok(())
}
