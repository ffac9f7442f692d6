//! The process of a stack, as the tunnel sees it: started, asked, ended.
//!
//! It is the running program, started again with one argument. It hands over the descriptor through which packets pass,
//! and then one answer to each request. When the asking process ends, so does this one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portway_sys::process::{self, Child, FIRST_FD};
use portway_sys::seqpacket::Channel;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Frames, kernel, smoltcp};
use crate::spec::{InterfaceAddr, Mtu};

/// First argument of the role.
pub const ROLE: &str = "mesh-stack";

/// How long the start may take, and an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What packets go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// A TUN device, where /dev/net/tun may be opened.
    Tun,
    /// A veth pair and a packet socket.
    Veth,
    /// A pair of unix sockets: the stack is no kernel's.
    Pair,
}

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The process did not start.
    #[error("cannot start the process of the tunnel's stack")]
    Start(#[source] io::Error),
    /// It did not answer.
    #[error("the process of the tunnel's stack does not answer")]
    Silent(#[source] io::Error),
    /// It could not set itself up.
    #[error("cannot set up the tunnel's stack: {step}")]
    SetUp {
        /// At which step.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a stack is started with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SetUp {
    pub(super) mtu: u16,
    pub(super) addresses: Vec<(IpAddr, u8)>,
    /// The only way to be tried; `None`: the better one of the kernel's that works.
    pub(super) way: Option<Way>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ready {
    Way(Way),
    Failed { step: String, errno: i32 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    ListenTcp(SocketAddr),
    ConnectTcp(SocketAddr),
    BindUdp(SocketAddr),
    ConnectUdp(SocketAddr),
    Echo(IpAddr),
    PacketsLost,
    /// That are not connected.
    Sockets {
        v4: bool,
        count: usize,
    },
}

/// The running process. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Role {
    channel: Mutex<Option<Channel>>,
    child: Child,
}

impl Role {
    pub(super) fn start(
        addresses: &[InterfaceAddr],
        mtu: Mtu,
        way: Option<Way>,
    ) -> Result<(Role, Frames), EngineError> {
        let (ours, theirs) = Channel::pair().map_err(EngineError::Start)?;
        ours.set_timeout(Some(PATIENCE)).map_err(EngineError::Start)?;
        let env = if way == Some(Way::Pair) { smoltcp::environment() } else { Vec::new() };
        let child = process::spawn_role(&[ROLE], vec![theirs.into()], env).map_err(EngineError::Start)?;
        let addresses = addresses.iter().map(|address| (address.ip, address.prefix)).collect();
        let role = Role { channel: Mutex::new(Some(ours)), child };
        let set_up = SetUp { mtu: mtu.bytes(), addresses, way };
        let (ready, fds) = role.ask::<Ready>(&set_up).map_err(EngineError::Silent)?;
        match (ready, fds.into_iter().next()) {
            (Ready::Way(way), Some(fd)) => Ok((role, Frames::new(fd, way))),
            (Ready::Way(_), None) => Err(EngineError::Silent(io::ErrorKind::InvalidData.into())),
            (Ready::Failed { step, errno }, _) => {
                Err(EngineError::SetUp { step, source: io::Error::from_raw_os_error(errno) })
            }
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    pub(super) fn packets_lost(&self) -> io::Result<u64> {
        let (lost, _) = self.ask::<Option<u64>>(&Request::PacketsLost)?;
        lost.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Asks for a descriptor.
    pub(super) fn descriptor(&self, request: &Request) -> io::Result<OwnedFd> {
        let fds = self.descriptors(request)?;
        fds.into_iter().next().ok_or(io::ErrorKind::InvalidData.into())
    }

    /// Asks for several.
    pub(super) fn descriptors(&self, request: &Request) -> io::Result<Vec<OwnedFd>> {
        match self.ask::<i32>(request)? {
            (0, fds) => Ok(fds),
            (errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn ask<A: DeserializeOwned>(&self, question: &impl Serialize) -> io::Result<(A, Vec<OwnedFd>)> {
        let mut held = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = held.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let asked = serde_json::to_vec(question)?;
        let mut answer = Vec::new();
        let sent = whole(|| channel.send(&asked, &[]));
        let received = sent.and_then(|()| whole(|| channel.recv(&mut answer)));
        match received.and_then(|fds| fds.ok_or(io::ErrorKind::BrokenPipe.into())) {
            Ok(fds) => Ok((serde_json::from_slice(&answer)?, fds)),
            // It has come, and there was no room for its descriptor.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(rustix::io::Errno::MFILE.into()),
            Err(error) => {
                // An answer that comes late would be taken for that of the next question. The stack ends with the
                // channel.
                *held = None;
                Err(error)
            }
        }
    }
}

/// Again when a signal comes between: what has a timeout is not begun again by the kernel, but ends with EINTR (signal(7)),
/// and has done nothing.
fn whole<T>(mut what: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match what() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It ends with the channel; this is so that it is gone and taken in when this returns.
        let pid = rustix::process::Pid::from_raw(self.child.pid);
        if let Some(pid) = pid
            && rustix::process::pidfd_send_signal(&self.child.pidfd, rustix::process::Signal::KILL).is_ok()
        {
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).ok();
        }
    }
}

/// The role: started with the channel as its first descriptor, and with one thread.
#[must_use]
pub fn run() -> ExitCode {
    process::set_name(ROLE);
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // The other side is told what it can use, and sees the end of the channel.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let channel = Channel::from_fd(process::inherited(FIRST_FD)?)?;
    let mut packet = Vec::new();
    if channel.recv(&mut packet)?.is_none() {
        return Ok(());
    }
    let wanted: SetUp = serde_json::from_slice(&packet)?;
    let set_up = match wanted.way {
        Some(Way::Pair) => smoltcp::set_up(&wanted),
        _ => kernel::set_up(&wanted),
    };
    let way = match set_up {
        Ok((way, fd)) => {
            channel.send(&serde_json::to_vec(&Ready::Way(way))?, &[fd.tunnel.as_fd()])?;
            fd.stack
        }
        Err((step, error)) => {
            let failed = Ready::Failed { step: step.to_owned(), errno: errno(&error) };
            return channel.send(&serde_json::to_vec(&failed)?, &[]);
        }
    };
    match way {
        Some(frames) => smoltcp::serve(channel, frames, &wanted),
        None => kernel::serve(&channel),
    }
}

/// The ends of what packets go through: the tunnel's, and the stack's where it is no kernel.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) tunnel: OwnedFd,
    pub(super) stack: Option<OwnedFd>,
}

/// A step of the start that may fail.
pub(super) type Step<T> = Result<T, (&'static str, io::Error)>;

/// An error as a number; one without is told as EINVAL.
pub(super) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(rustix::io::Errno::INVAL.raw_os_error())
}

/// Answers a request for a descriptor.
pub(super) fn answer(channel: &Channel, made: io::Result<impl AsFd>) -> io::Result<()> {
    answer_all(channel, &made.map(|fd| vec![fd]))
}

/// The same for several.
pub(super) fn answer_all(channel: &Channel, made: &io::Result<Vec<impl AsFd>>) -> io::Result<()> {
    match made {
        Ok(fds) => match channel.send(b"0", &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>()) {
            // So many descriptors of this user are on their way: one connection fails, and not the network.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::TOOMANYREFS.raw_os_error()) => {
                channel.send(&serde_json::to_vec(&errno(&error))?, &[])
            }
            sent => sent,
        },
        Err(error) => channel.send(&serde_json::to_vec(&errno(error))?, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a signal between question and answer is taken for the end of the stack, or anything else for a signal.
    #[test]
    fn a_signal_ends_nothing() {
        let mut ends = vec![Err(io::ErrorKind::BrokenPipe), Ok(7), Err(io::ErrorKind::Interrupted)];
        let mut next = || ends.pop().unwrap_or(Ok(0)).map_err(io::Error::from);
        assert_eq!(whole(&mut next).unwrap(), 7);
        assert_eq!(whole(&mut next).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
