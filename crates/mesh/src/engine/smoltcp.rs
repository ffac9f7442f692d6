//! Engine S: smoltcp, for where a user namespace is refused. It needs nothing but a process.
//!
//! The stack's process has no namespace and no socket: packets come and go through one unix pair, each with the header
//! that says how it is to be cut ([`Offload`](crate::segment::Offload)), connections and flows through a pair each
//! (the module `handed`). It reads what peers have sent, so it confines itself before the first packet: no
//! capability, no new privilege, and no system call but those it makes. A fault in smoltcp costs the connection in which
//! it is.
//!
//! - `echoes`: those that are asked for from here;
//! - `ports`: which one a call has; `packet`, `fragments`: what is read and written without a connection;
//! - `link`: packets out; `connection`: one of TCP; `window`: how much of it is on its way; `datagrams`: all of UDP;
//! - `inside`: which packet belongs to what; `shares`: who gives way; `late`: connections that are over; `turns`: the loop.
//!
//! What the kernel's TCP has and this has not: selective acknowledgements that are heeded, buffers that grow. On a lossless
//! way that does not show; with losses it does.

mod connection;
mod datagrams;
mod echoes;
mod fragments;
mod inside;
mod late;
mod link;
mod packet;
mod ports;
mod probe;
mod shares;
mod turns;
mod window;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};

use portway_sys::sandbox::{Files, Role as Confined};
use portway_sys::seqpacket::Channel;
use portway_sys::{process, sandbox};
use rustix::net::{SocketType, sockopt};

use super::handed::{Dial, Echo, Inlet, Listener};
use super::role::{Ends, Request, Role, SetUp, Step};
use super::{Engine, EngineError, Frames, Way};
use crate::spec::{InterfaceAddr, Mtu};

pub(crate) use probe::probe;

/// Most flows at a time of a process that may have so many files: whoever carries them has two for each, and as many
/// again are for everything else.
pub(crate) fn most_flows(files: u64) -> usize {
    usize::try_from(files / 8).unwrap_or(usize::MAX).clamp(16, 1 << 14)
}

/// Most connections of a process that may have so many files: a quarter, and one more is on its way with each.
pub(crate) fn most_connections(files: u64) -> usize {
    usize::try_from(files / 4).unwrap_or(usize::MAX).clamp(16, 1 << 16)
}

/// So many from the network leave room in the stack's memory for those to it.
const FEW: usize = 4096;

/// Room for packets in each direction, bytes: a few dozen of the longest. More than the receiver of a unix pair needs to
/// be kept busy only makes what is lost behind it more.
const FRAMES_BYTES: usize = 2 << 20;

/// The running stack. The process ends when this is dropped.
#[derive(Debug)]
pub struct Stack(Role);

impl Stack {
    /// Starts it with these addresses, and returns it with where its packets pass.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn start(addresses: &[InterfaceAddr], mtu: Mtu) -> Result<(Stack, Frames), EngineError> {
        let (role, frames) = Role::start(addresses, mtu, Some(Way::Pair))?;
        Ok((Stack(role), frames))
    }

    fn channel(&self, request: &Request) -> io::Result<Channel> {
        let channel = Channel::from_fd(self.0.descriptor(request)?)?;
        channel.set_nonblocking(true)?;
        Ok(channel)
    }
}

impl Engine for Stack {
    fn name(&self) -> &'static str {
        "smoltcp"
    }

    fn listen_tcp(&self, address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener::Channel(self.channel(&Request::ListenTcp(address))?))
    }

    fn connect_tcp(&self, to: SocketAddr) -> io::Result<Dial> {
        Ok(Dial::Channel(self.channel(&Request::ConnectTcp(to))?))
    }

    fn sockets(&self, _v4: bool, _count: usize) -> io::Result<Vec<OwnedFd>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn gives_sockets(&self) -> bool {
        false
    }

    fn bind_udp(&self, address: SocketAddr) -> io::Result<Inlet> {
        Ok(Inlet::Flows(self.channel(&Request::BindUdp(address))?))
    }

    fn connect_udp(&self, to: SocketAddr) -> io::Result<OwnedFd> {
        self.0.descriptor(&Request::ConnectUdp(to))
    }

    fn echo(&self, to: IpAddr) -> io::Result<Echo> {
        Ok(Echo::Pair(self.0.descriptor(&Request::Echo(to))?))
    }

    fn most_connections(&self, files: u64) -> usize {
        most_connections(files).min(FEW)
    }

    fn packets_lost(&self) -> io::Result<u64> {
        self.0.packets_lost()
    }

    fn pid(&self) -> i32 {
        self.0.pid()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.0.pidfd()
    }
}

/// What its process is started with: buffers are mappings of their own (the tunables of glibc), so that memory is taken
/// as far as a buffer is used, and given back with it.
pub(super) fn environment() -> Vec<(String, String)> {
    vec![("GLIBC_TUNABLES".to_owned(), "glibc.malloc.mmap_threshold=16384".to_owned())]
}

/// The pair through which packets pass.
pub(super) fn set_up(_: &SetUp) -> Step<(Way, Ends)> {
    let at = |error: io::Error| ("unix pair", error);
    let (tunnel, stack) = datagrams::unix_pair(SocketType::SEQPACKET).map_err(at)?;
    for end in [&tunnel, &stack] {
        sockopt::set_socket_send_buffer_size(end, FRAMES_BYTES).map_err(|error| at(error.into()))?;
    }
    Ok((Way::Pair, Ends { tunnel, stack: Some(stack) }))
}

/// Serves until the tunnel ends.
pub(super) fn serve(channel: Channel, frames: OwnedFd, wanted: &SetUp) -> io::Result<()> {
    let files = process::raise_nofile();
    let mut turns = turns::Turns::new(channel, frames, wanted, files)?;
    let entered = sandbox::enter(Confined::Stack, None, Files::GoneIfPermitted).map_err(io::Error::other)?;
    entered.seal().map_err(io::Error::other)?;
    turns.run()
}

/// Whether two addresses with ports take from each other; an unspecified one is all of its family.
fn overlap(one: SocketAddr, two: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || two.ip().is_unspecified();
    one.port() == two.port() && one.is_ipv4() == two.is_ipv4() && (any || one.ip() == two.ip())
}
