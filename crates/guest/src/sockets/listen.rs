//! Listening in this instance for the gateway, as this user.
//!
//! What a listener has made in the file system goes with it; what somebody else has made there is never touched.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use portway_proto::guest::{Place, Why};
use portway_proto::names::in_hosts;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::janitor::{Janitor, Spot, Traces};
use super::{lookup, own};

/// How many may wait to be taken (as of sshd).
const BACKLOG: i32 = 128;

/// What a unix socket's mode is without (as of sshd, `StreamLocalBindMask`).
const MASK: Mode = Mode::from_raw_mode(0o177);

/// How often a port for both families is looked for.
const PORT_TRIES: usize = 16;

/// How long nobody is taken when the system has no descriptors left.
const PAUSE: Duration = Duration::from_secs(1);

/// Sockets that listen at one place.
#[derive(Debug)]
pub(crate) struct Listener {
    fds: Vec<OwnedFd>,
    pub(crate) port: u16,
    /// What goes with it.
    holding: Option<Holding>,
    paused: Option<Instant>,
}

/// Somebody who has come.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) fd: OwnedFd,
    /// Where from; empty over a unix socket.
    pub(crate) source: String,
    pub(crate) port: u16,
}

/// What a listener has made in the file system.
#[derive(Debug)]
pub(super) struct Holding {
    traces: Traces,
    /// Ends after it was removed here.
    _janitor: Janitor,
    /// What is kept open beside it.
    _beside: Option<OwnedFd>,
}

impl Holding {
    /// Goes with this, and with this process however it ends.
    ///
    /// # Errors
    /// When there can be no more processes; it has gone then.
    pub(super) fn new(traces: Traces, beside: Option<OwnedFd>) -> rustix::io::Result<Self> {
        let janitor = Janitor::start(&traces).map_err(|_| {
            traces.remove();
            Errno::NOMEM
        })?;
        Ok(Self { traces, _janitor: janitor, _beside: beside })
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.traces.remove();
    }
}

impl Listener {
    /// Listens there.
    ///
    /// # Errors
    /// What was in the way.
    pub(crate) fn open(at: Place) -> Result<Self, (Why, Errno)> {
        let opened = match at {
            Place::Unix(path) => unix(path),
            Place::Tcp { host, port } => {
                let addresses = addresses(&host).ok_or((Why::Name, Errno::NOENT))?;
                tcp(&addresses, port)
            }
        };
        opened.map_err(|error| (Why::System, error))
    }

    /// The same at all of these addresses, at one port.
    ///
    /// # Errors
    /// [`Errno::ADDRINUSE`] when somebody has it at any of them.
    pub(super) fn at_port(addresses: &[SocketAddr], port: u16) -> rustix::io::Result<Self> {
        at_port(addresses, port)
    }

    /// The same at a path that goes with something else.
    ///
    /// # Errors
    /// When the path cannot be had.
    pub(super) fn at_path(path: &Path) -> rustix::io::Result<Self> {
        let fd = bound(&SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self::new(vec![fd], 0))
    }

    const fn new(fds: Vec<OwnedFd>, port: u16) -> Self {
        Self { fds, port, holding: None, paused: None }
    }

    /// With something that goes with it.
    pub(super) fn holding(self, holding: Holding) -> Self {
        Self { holding: Some(holding), ..self }
    }

    /// Descriptors it has, at most.
    pub(crate) const fn count(&self) -> usize {
        // Of what it holds there are the janitor's, and one or two folders.
        self.fds.len() + if self.holding.is_some() { 3 } else { 0 }
    }

    /// What is waited for.
    pub(crate) fn waits(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fds.iter().filter(|_| self.paused.is_none()).map(OwnedFd::as_fd)
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) const fn next(&self) -> Option<Instant> {
        self.paused
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        self.paused = self.paused.filter(|until| *until > now);
    }

    /// Takes one for each socket who has come, if anybody has.
    pub(crate) fn take(&mut self, now: Instant) -> Vec<Guest> {
        let mut come = Vec::new();
        for fd in &self.fds {
            match rustix::net::acceptfrom_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((fd, address)) => {
                    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                    let (source, port) = address
                        .map_or_else(Default::default, |address| (address.ip().to_string(), address.port()));
                    come.push(Guest { fd, source, port });
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    self.paused = Some(now + PAUSE);
                }
                // They went again, or others were faster.
                Err(_) => {}
            }
        }
        come
    }
}

/// The addresses of a name that somebody listens at (RFC 4254, 7.1): all of both families for none, loopback for
/// `localhost`.
fn addresses(host: &[u8]) -> Option<Vec<SocketAddr>> {
    let host = str::from_utf8(host).ok()?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let of = |addresses: Vec<IpAddr>| addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
    if bare.is_empty() || bare == "*" {
        return Some(of(vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]));
    }
    if bare.eq_ignore_ascii_case("localhost") {
        return Some(of(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
    }
    if let Ok(address) = bare.parse() {
        return Some(of(vec![address]));
    }
    if let Some((address, zone)) = bare.split_once('%') {
        let address = SocketAddrV6::new(address.parse().ok()?, 0, 0, own::zone(zone)?);
        return Some(vec![address.into()]);
    }
    let found = in_hosts(&lookup::read(lookup::HOSTS), bare);
    (!found.is_empty()).then(|| of(found))
}

/// All of them at one port. A family that this instance does not have is left out; a port that somebody else has at one
/// of them is nobody's here.
fn tcp(addresses: &[SocketAddr], port: u16) -> rustix::io::Result<Listener> {
    let mut last = Errno::ADDRINUSE;
    for _ in 0..if port == 0 { PORT_TRIES } else { 1 } {
        match at_port(addresses, port) {
            Err(Errno::ADDRINUSE) if port == 0 => last = Errno::ADDRINUSE,
            other => return other,
        }
    }
    Err(last)
}

fn at_port(addresses: &[SocketAddr], mut port: u16) -> rustix::io::Result<Listener> {
    let mut fds = Vec::new();
    let mut missing = Errno::ADDRNOTAVAIL;
    for address in addresses {
        let mut address = *address;
        address.set_port(port);
        match one(address) {
            Ok(fd) => {
                let bound = rustix::net::getsockname(&fd)?;
                port = SocketAddr::try_from(bound).map_or(port, |bound| bound.port());
                fds.push(fd);
            }
            Err(error @ (Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) => missing = error,
            Err(error) => return Err(error),
        }
    }
    if fds.is_empty() { Err(missing) } else { Ok(Listener::new(fds, port)) }
}

fn one(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

fn unix(path: Vec<u8>) -> rustix::io::Result<Listener> {
    let address = SocketAddrUnix::new(path.clone())?;
    let spot = Spot::find(Path::new(OsStr::from_bytes(&path)))?;
    let fd = bound(&address)?;
    let holding = Holding::new(spot.taken()?, None)?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(Listener::new(vec![fd], 0).holding(holding))
}

fn bound(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Programs have a mask of their own.
    let before = rustix::process::umask(MASK);
    let bound = rustix::net::bind(&fd, address);
    rustix::process::umask(before);
    bound.map(|()| fd)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStringExt as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn at(host: &str, port: u16) -> Result<Listener, (Why, Errno)> {
        Listener::open(Place::Tcp { host: host.into(), port })
    }

    /// Fails when a name leads to other addresses than it should, or a port is shared with somebody else.
    #[test]
    fn places_are_those_of_rfc_4254() {
        let bound = |listener: &Listener| -> Vec<String> {
            let of = |fd: &OwnedFd| rustix::net::getsockname(fd).and_then(SocketAddr::try_from);
            listener.fds.iter().map(|fd| of(fd).expect("an address").ip().to_string()).collect()
        };
        for (host, expected) in [
            ("", &["0.0.0.0", "::"][..]),
            ("*", &["0.0.0.0", "::"]),
            ("localhost", &["127.0.0.1", "::1"]),
            ("127.0.0.1", &["127.0.0.1"]),
            ("[::1]", &["::1"]),
        ] {
            let listener = at(host, 0).expect("a port");
            assert_eq!(bound(&listener), expected, "{host}");
            assert_ne!(listener.port, 0);
            assert_eq!(
                at(host, listener.port).expect_err("in use"),
                (Why::System, Errno::ADDRINUSE),
                "{host}"
            );
        }
        assert_eq!(at("192.0.2.1", 0).expect_err("nobody's"), (Why::System, Errno::ADDRNOTAVAIL));
        assert_eq!(at("no-such-name", 0).expect_err("no name"), (Why::Name, Errno::NOENT));
    }

    /// Fails when a file of somebody else is removed, at the beginning or at the end.
    #[test]
    fn a_socket_is_removed_if_it_is_ours() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let open = || Listener::open(Place::Unix(path.clone().into_os_string().into_vec()));
        let listener = open().expect("it listens");
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o777, 0o600);
        assert_eq!(open().expect_err("in use"), (Why::System, Errno::ADDRINUSE));
        drop(listener);
        assert!(!path.exists());
        let listener = open().expect("it listens");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "mine").expect("written");
        drop(listener);
        assert_eq!(open().expect_err("in use"), (Why::System, Errno::ADDRINUSE));
        assert!(path.exists());
    }
    /// Fails when the socket is looked for where its folder was: somebody else's may be there.
    #[test]
    fn a_folder_may_be_renamed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (before, after) = (dir.path().join("before"), dir.path().join("after"));
        fs::create_dir(&before).expect("made");
        let path = before.join("s").into_os_string().into_vec();
        let listener = Listener::open(Place::Unix(path)).expect("it listens");
        fs::rename(&before, &after).expect("renamed");
        fs::create_dir(&before).expect("made");
        // As like it as can be.
        fs::hard_link(after.join("s"), before.join("s")).expect("linked");
        drop(listener);
        assert!(before.join("s").exists() && !after.join("s").exists());
    }
}
