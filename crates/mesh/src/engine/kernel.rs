//! Engine K: the kernel's TCP and UDP in a network namespace of this user's own.
//!
//! A process of its own makes the namespaces, before it has a second thread, and stays in them: it hands over the
//! descriptor through which packets pass, and then sockets made on the inside, one for each request. It needs no
//! privilege but to make a user namespace. The descriptors are ordinary ones: whoever has them may use them in any
//! namespace, splice them too. When the asking process ends, so does this one, and with the last socket the namespace.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portway_sys::listen::V6Only;
use portway_sys::process::{self, Child, FIRST_FD};
use portway_sys::seqpacket::Channel;
use portway_sys::{device, interface, listen, netns, userns};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::frames::{Frames, STACK_ADDRESS};
use super::rtnetlink::Route;
use crate::spec::{InterfaceAddr, Mtu};

/// First argument of the role.
pub const ROLE: &str = "mesh-stack";

/// Names of the interfaces on the inside: the stack's, and of a pair the other.
const STACK: &str = "mesh0";
const OTHER: &str = "mesh1";

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

#[derive(Debug, Serialize, Deserialize)]
struct SetUp {
    mtu: u16,
    addresses: Vec<(std::net::IpAddr, u8)>,
    /// The only way to be tried; `None`: the better one that works.
    way: Option<Way>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Ready {
    Way(Way),
    Failed { step: String, errno: i32 },
}

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    ListenTcp(SocketAddr),
    ConnectTcp(SocketAddr),
    BindUdp(SocketAddr),
    PacketsLost,
}

/// The running stack. The process ends when this is dropped.
#[derive(Debug)]
pub struct Stack {
    channel: Mutex<Channel>,
    child: Child,
}

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
        let (ours, theirs) = Channel::pair().map_err(EngineError::Start)?;
        ours.set_timeout(Some(PATIENCE)).map_err(EngineError::Start)?;
        let child =
            process::spawn_role(&[ROLE], vec![theirs.into()], Vec::new()).map_err(EngineError::Start)?;
        let addresses = addresses.iter().map(|address| (address.ip, address.prefix)).collect();
        let stack = Stack { channel: Mutex::new(ours), child };
        let set_up = SetUp { mtu: mtu.bytes(), addresses, way };
        let (ready, fd) = stack.ask::<Ready>(&set_up).map_err(EngineError::Silent)?;
        match (ready, fd) {
            (Ready::Way(way), Some(fd)) => Ok((stack, Frames::new(fd, way))),
            (Ready::Way(_), None) => Err(EngineError::Silent(io::ErrorKind::InvalidData.into())),
            (Ready::Failed { step, errno }, _) => {
                Err(EngineError::SetUp { step, source: io::Error::from_raw_os_error(errno) })
            }
        }
    }

    /// Its process, by which its namespace can be found.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Readable when the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Listens on the inside, on any port: none is privileged there.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`; those of the channel when the process is gone.
    pub fn listen_tcp(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        self.socket(&Request::ListenTcp(address))
    }

    /// Begins to connect from the inside; the socket is writable when it has come to an end.
    ///
    /// # Errors
    /// Those that connect(2) has at once; those of the channel.
    pub fn connect_tcp(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        self.socket(&Request::ConnectTcp(address))
    }

    /// A UDP socket on the inside.
    ///
    /// # Errors
    /// As [`Stack::listen_tcp`].
    pub fn bind_udp(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        self.socket(&Request::BindUdp(address))
    }

    /// How many packets its interface has dropped because nobody took them in time.
    ///
    /// # Errors
    /// Those of the channel; `InvalidData` when its process cannot tell.
    pub fn packets_lost(&self) -> io::Result<u64> {
        let (lost, _) = self.ask::<Option<u64>>(&Request::PacketsLost)?;
        lost.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn socket(&self, request: &Request) -> io::Result<OwnedFd> {
        match self.ask::<i32>(request)? {
            (0, Some(fd)) => Ok(fd),
            (errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn ask<A: serde::de::DeserializeOwned>(
        &self,
        question: &impl Serialize,
    ) -> io::Result<(A, Option<OwnedFd>)> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.send(&serde_json::to_vec(question)?, &[])?;
        let mut answer = Vec::new();
        let fds = channel.recv(&mut answer)?.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((serde_json::from_slice(&answer)?, fds.into_iter().next()))
    }
}

impl Drop for Stack {
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

/// The role: started by [`Stack::start`] with the channel as its first descriptor, and with one thread.
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
    match set_up(&wanted) {
        Ok((way, fd)) => channel.send(&serde_json::to_vec(&Ready::Way(way))?, &[fd.as_fd()])?,
        Err((step, error)) => {
            let errno = error.raw_os_error().unwrap_or(libc_einval());
            let failed = Ready::Failed { step: step.to_owned(), errno };
            return channel.send(&serde_json::to_vec(&failed)?, &[]);
        }
    }
    while channel.recv(&mut packet)?.is_some() {
        let request = serde_json::from_slice::<Request>(&packet)?;
        if matches!(request, Request::PacketsLost) {
            channel.send(&serde_json::to_vec(&packets_lost())?, &[])?;
            continue;
        }
        match make(&request) {
            Ok(fd) => channel.send(b"0", &[fd.as_fd()])?,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc_einval());
                channel.send(&serde_json::to_vec(&errno)?, &[])?;
            }
        }
    }
    Ok(())
}

/// What an error without a number is told as.
fn libc_einval() -> i32 {
    rustix::io::Errno::INVAL.raw_os_error()
}

fn make(request: &Request) -> io::Result<OwnedFd> {
    match request {
        Request::ListenTcp(address) => listen::tcp(*address, V6Only::Yes),
        Request::BindUdp(address) => listen::udp(*address, V6Only::Yes),
        Request::PacketsLost => Err(io::ErrorKind::InvalidInput.into()),
        Request::ConnectTcp(address) => {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
            match rustix::net::connect(&socket, address) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// What /proc/net/dev of this namespace says the stack's interface has not sent: the fourth number of the sending side,
/// behind the eight of the receiving one.
fn packets_lost() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/self/net/dev").ok()?;
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(STACK)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().nth(11)?.parse().ok()
}

type Step<T> = Result<T, (&'static str, io::Error)>;

/// Makes the namespaces and all that is in them.
fn set_up(wanted: &SetUp) -> Step<(Way, OwnedFd)> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    userns::unshare_as_root(true, false).map_err(at("namespaces"))?;
    netns::loopback_up().map_err(at("loopback"))?;
    let route = Route::open().map_err(at("netlink"))?;
    let (way, fd) = match wanted.way {
        Some(Way::Tun) => (Way::Tun, device::tun(STACK).map_err(at("TUN device"))?),
        Some(Way::Veth) => (Way::Veth, veth(&route, wanted.mtu)?),
        None => match device::tun(STACK) {
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
    Ok((way, fd))
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
