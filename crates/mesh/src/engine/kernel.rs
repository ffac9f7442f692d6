//! Engine K: the kernel's TCP and UDP in a network namespace of this user's own.
//!
//! The stack's process makes the namespaces, before it has a second thread, and stays in them: it hands over the
//! descriptor through which packets pass, and then sockets made on the inside, one for each request. It needs no
//! privilege but to make a user namespace. The descriptors are ordinary ones: whoever has them may use them in any
//! namespace, splice them too. With the last socket the namespace ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};

use portway_sys::listen::V6Only;
use portway_sys::sandbox::{Files, Role as Confined};
use portway_sys::seqpacket::{Channel, MAX_FDS};
use portway_sys::{device, interface, listen, netns, sandbox, userns};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::Engine;
use super::frames::{Frames, STACK_ADDRESS};
use super::handed::{Dial, Echo, Inlet, Listener};
use super::role::{Ends, Request, Role, SetUp, Step, answer, answer_all};
use super::rtnetlink::Route;
use crate::spec::{InterfaceAddr, Mtu};

pub use super::role::{EngineError, ROLE, Way, run};

/// Names of the interfaces on the inside: the stack's, and of a pair the other.
const STACK: &str = "mesh0";
const OTHER: &str = "mesh1";

/// The running stack. The process ends when this is dropped.
#[derive(Debug)]
pub struct Stack(Role);

impl Stack {
    /// Starts it with these addresses, and returns it with where its packets pass.
    ///
    /// # Errors
    /// [`EngineError`]; where user namespaces are not allowed, of the step "namespaces".
    pub fn start(
        addresses: &[InterfaceAddr],
        mtu: Mtu,
        way: Option<Way>,
    ) -> Result<(Stack, Frames), EngineError> {
        let (role, frames) = Role::start(addresses, mtu, way.filter(|way| *way != Way::Pair))?;
        Ok((Stack(role), frames))
    }

    /// Its process, by which its namespace can be found.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// Readable when the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.0.pidfd()
    }

    /// Listens on the inside, on any port: none is privileged there.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`; those of the channel when the process is gone.
    pub fn listen_tcp(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        self.0.descriptor(&Request::ListenTcp(address))
    }

    /// Begins to connect from the inside; the socket is writable when it has come to an end.
    ///
    /// # Errors
    /// Those that connect(2) has at once; those of the channel.
    pub fn connect_tcp(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        self.0.descriptor(&Request::ConnectTcp(address))
    }

    /// A UDP socket on the inside.
    ///
    /// # Errors
    /// As [`Stack::listen_tcp`].
    pub fn bind_udp(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        self.0.descriptor(&Request::BindUdp(address))
    }

    /// How many packets its interface has dropped because nobody took them in time.
    ///
    /// # Errors
    /// Those of the channel; `InvalidData` when its process cannot tell.
    pub fn packets_lost(&self) -> io::Result<u64> {
        self.0.packets_lost()
    }
}

impl Engine for Stack {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn listen_tcp(&self, address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener::Socket(Stack::listen_tcp(self, address)?))
    }

    fn connect_tcp(&self, to: SocketAddr) -> io::Result<Dial> {
        Ok(Dial::socket(Stack::connect_tcp(self, to)?))
    }

    fn sockets(&self, v4: bool, count: usize) -> io::Result<Vec<OwnedFd>> {
        self.0.descriptors(&Request::Sockets { v4, count })
    }

    fn gives_sockets(&self) -> bool {
        true
    }

    fn bind_udp(&self, address: SocketAddr) -> io::Result<Inlet> {
        Ok(Inlet::Socket(Stack::bind_udp(self, address)?))
    }

    fn connect_udp(&self, to: SocketAddr) -> io::Result<OwnedFd> {
        self.0.descriptor(&Request::ConnectUdp(to))
    }

    fn echo(&self, to: IpAddr) -> io::Result<Echo> {
        Ok(Echo::Raw(self.0.descriptor(&Request::Echo(to))?))
    }

    fn most_connections(&self, files: u64) -> usize {
        // Each has two in the worker, which has others too.
        usize::try_from(files / 4).unwrap_or(usize::MAX).max(16)
    }

    fn packets_lost(&self) -> io::Result<u64> {
        Stack::packets_lost(self)
    }

    fn pid(&self) -> i32 {
        Stack::pid(self)
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        Stack::pidfd(self)
    }
}

/// Answers requests until the tunnel ends.
pub(super) fn serve(channel: &Channel) -> io::Result<()> {
    // Its namespaces are those of its user: another process of that user could enter them otherwise.
    let entered = sandbox::enter(Confined::Inside, None, Files::Left).map_err(io::Error::other)?;
    entered.seal().map_err(io::Error::other)?;
    let mut packet = Vec::new();
    while channel.recv(&mut packet)?.is_some() {
        let request = serde_json::from_slice::<Request>(&packet)?;
        if matches!(request, Request::PacketsLost) {
            channel.send(&serde_json::to_vec(&packets_lost())?, &[])?;
            continue;
        }
        if let Request::Sockets { v4, count } = request {
            answer_all(channel, &sockets(v4, count))?;
            continue;
        }
        answer(channel, make(&request))?;
    }
    Ok(())
}

fn make(request: &Request) -> io::Result<OwnedFd> {
    match request {
        Request::ListenTcp(address) => listen::tcp(*address, V6Only::Yes),
        Request::BindUdp(address) => listen::udp(*address, V6Only::Yes),
        Request::PacketsLost | Request::Sockets { .. } => Err(io::ErrorKind::InvalidInput.into()),
        Request::Echo(whom) => echo(*whom),
        Request::ConnectUdp(to) => {
            let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = listen::udp(SocketAddr::new(any, 0), V6Only::Yes)?;
            rustix::net::connect(&socket, to)?;
            Ok(socket)
        }
        Request::ConnectTcp(address) => {
            let socket = tcp_socket(address.is_ipv4())?;
            match rustix::net::connect(&socket, address) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
                Err(error) => Err(error.into()),
            }
        }
    }
}

fn tcp_socket(v4: bool) -> io::Result<OwnedFd> {
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

/// So many sockets, or as many as there are descriptors for.
fn sockets(v4: bool, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut made = Vec::new();
    while made.len() < count.min(MAX_FDS) {
        match tcp_socket(v4) {
            Ok(socket) => made.push(socket),
            Err(error) if made.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(made)
}

/// A socket for echoes of `whom` and nobody else.
fn echo(whom: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match whom {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol))?;
    rustix::net::connect(&socket, &SocketAddr::new(whom, 0))?;
    Ok(socket)
}

/// What /proc/net/dev of this namespace says the stack's interface has not sent: the fourth number of the sending side,
/// behind the eight of the receiving one.
fn packets_lost() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/self/net/dev").ok()?;
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(STACK)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().nth(11)?.parse().ok()
}

/// Makes the namespaces and all that is in them.
pub(super) fn set_up(wanted: &SetUp) -> Step<(Way, Ends)> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    userns::unshare_as_root(true, false).map_err(at("namespaces"))?;
    netns::loopback_up().map_err(at("loopback"))?;
    reuse_ports();
    let route = Route::open().map_err(at("netlink"))?;
    let (way, fd) = match wanted.way {
        Some(Way::Tun) => (Way::Tun, device::tun(STACK).map_err(at("TUN device"))?),
        Some(Way::Veth) => (Way::Veth, veth(&route, wanted.mtu)?),
        Some(Way::Pair) | None => match device::tun(STACK) {
            Ok(fd) => (Way::Tun, fd),
            Err(_) => (Way::Veth, veth(&route, wanted.mtu)?),
        },
    };
    let index = interface::index(STACK).map_err(at("interface"))?;
    route.start_link(index, wanted.mtu).map_err(at("interface"))?;
    for (ip, prefix) in &wanted.addresses {
        let address = InterfaceAddr { ip: *ip, prefix: *prefix };
        route.add_address(index, address).map_err(at("address"))?;
    }
    // A family without an address has nothing to send.
    for v4 in [true, false] {
        if wanted.addresses.iter().any(|(ip, _)| ip.is_ipv4() == v4) {
            route.add_default_route(index, v4).map_err(at("route"))?;
        }
    }
    Ok((way, Ends { tunnel: fd, stack: None }))
}

/// Ports of connections that are over are used again after a second, and not after a minute: there are 28,000 for each
/// destination, which were gone at 470 connections a second (RFC 6191; a new namespace does so for the loopback alone).
fn reuse_ports() {
    // Where /proc may not be written it is as it was.
    std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1").ok();
}

/// The pair; its descriptor is at the other end.
fn veth(route: &Route, mtu: u16) -> Step<OwnedFd> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    route.add_veth(STACK, OTHER).map_err(at("veth pair"))?;
    let index = interface::index(STACK).map_err(at("veth pair"))?;
    route.set_link_address(index, STACK_ADDRESS).map_err(at("veth pair"))?;
    let other = interface::index(OTHER).map_err(at("veth pair"))?;
    route.start_link(other, mtu).map_err(at("veth pair"))?;
    device::packet_socket(other).map_err(at("packet socket"))
}
