//! Engines: where the tunnel's TCP and UDP live.
//!
//! Engine K is the kernel's own, in a network namespace that belongs to this user alone ([`kernel`]). Engine S is smoltcp
//! in a process of its own, for where that namespace is refused ([`smoltcp`]). What goes between either and the crypto are
//! whole packets of up to 64 KiB: [`Frames`]. Both hand over ordinary descriptors: [`Engine`].

mod frames;
mod handed;
pub mod kernel;
mod role;
mod rtnetlink;
pub mod smoltcp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};

pub use frames::{FRAME_BYTES, Frame, Frames};
pub use handed::{Dial, Echo, Inlet, Listener, is_reset};
pub use role::{EngineError, ROLE, Way, run};

/// What both engines do.
pub trait Engine: Send + Sync + std::fmt::Debug {
    /// Its name, as `status` has it.
    fn name(&self) -> &'static str;

    /// Listens on the inside, on any port: none is privileged there. An unspecified address is every one of that family.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`; those of the channel when the stack is gone.
    fn listen_tcp(&self, address: SocketAddr) -> io::Result<Listener>;

    /// Begins to connect from the inside.
    ///
    /// # Errors
    /// Those that connect(2) has at once; those of the channel.
    fn connect_tcp(&self, to: SocketAddr) -> io::Result<Dial>;

    /// Sockets of the inside that are not connected, at most `count`, for who connects them itself; of IPv4 or of IPv6.
    ///
    /// # Errors
    /// `Unsupported` where there are none ([`Engine::gives_sockets`]); no descriptors; those of the channel.
    fn sockets(&self, v4: bool, count: usize) -> io::Result<Vec<OwnedFd>>;

    /// Whether it is the kernel that connects.
    fn gives_sockets(&self) -> bool;

    /// Receives datagrams on the inside.
    ///
    /// # Errors
    /// As [`Engine::listen_tcp`].
    fn bind_udp(&self, address: SocketAddr) -> io::Result<Inlet>;

    /// A datagram socket on the inside that is connected to `to`. Reading and writing it has the errors of udp(7).
    ///
    /// # Errors
    /// As [`Engine::connect_tcp`].
    fn connect_udp(&self, to: SocketAddr) -> io::Result<OwnedFd>;

    /// A way to ask `to` for echoes.
    ///
    /// # Errors
    /// As [`Engine::connect_tcp`].
    fn echo(&self, to: IpAddr) -> io::Result<Echo>;

    /// How many connections from the network it is well with, in a process that may have so many files.
    fn most_connections(&self, files: u64) -> usize;

    /// How many packets the stack has lost on their way to the tunnel.
    ///
    /// # Errors
    /// Those of the channel; `InvalidData` when its process cannot tell.
    fn packets_lost(&self) -> io::Result<u64>;

    /// The stack's process.
    fn pid(&self) -> i32;

    /// Readable when the process has ended.
    fn pidfd(&self) -> BorrowedFd<'_>;
}
