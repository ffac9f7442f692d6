//! From what a client names to a connected socket: as this user, in this instance, by its own names.
//!
//! Addresses of a name are tried in turn. Nothing here waits.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use portway_proto::guest::{Place, Why};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::lookup::{self, Found, Lookup};
use super::own;

/// How long all of it may take.
const DIAL: Duration = Duration::from_secs(30);

/// How long one address may take when there are others.
const ADDRESS: Duration = Duration::from_secs(5);

/// Until a unix socket is tried again whose backlog is full.
const AGAIN: Duration = Duration::from_millis(20);

/// A connection that is being made.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) number: u32,
    /// What the gateway takes of it.
    pub(crate) allowance: u32,
    stage: Stage,
    port: u16,
    until: Instant,
    /// Why the last address was none.
    error: Errno,
}

#[derive(Debug)]
enum Stage {
    /// Its name is being looked up.
    Name(Box<Lookup>),
    /// An address is being tried, and these are left.
    Address { fd: OwnedFd, address: SocketAddr, left: VecDeque<SocketAddr>, until: Instant },
    /// Nobody has taken the last ones that came to this unix socket.
    Crowded { address: SocketAddrUnix, again: Instant },
    /// It has come to something.
    Over(Outcome),
}

/// What a dial comes to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A connected socket, and where it leads.
    Connected(OwnedFd, String),
    /// None, and why.
    Failed(Why, Errno),
}

impl Dial {
    /// Begins.
    pub(crate) fn begin(number: u32, to: Place, allowance: u32, now: Instant) -> Self {
        let until = now + DIAL;
        let stage = Stage::Over(Outcome::Failed(Why::Name, Errno::NOENT));
        let mut dial = Self { number, allowance, stage, port: 0, until, error: Errno::HOSTUNREACH };
        match to {
            Place::Unix(path) => match SocketAddrUnix::new(path) {
                Ok(address) => dial.try_unix(address, now),
                Err(error) => dial.fail(Why::System, error),
            },
            Place::Tcp { host, port } => {
                dial.port = port;
                dial.find(&host, now);
            }
        }
        dial
    }

    /// What it has come to, once it has.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    pub(crate) fn into_outcome(self) -> Outcome {
        match self.stage {
            Stage::Over(outcome) => outcome,
            _ => Outcome::Failed(Why::System, Errno::TIMEDOUT),
        }
    }

    /// What is waited for.
    pub(crate) fn waits(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.stage {
            Stage::Name(lookup) => lookup.waits(),
            Stage::Address { fd, .. } => Some((fd.as_fd(), PollFlags::OUT)),
            Stage::Crowded { .. } | Stage::Over(_) => None,
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) fn next(&self) -> Instant {
        let next = match &self.stage {
            Stage::Name(lookup) => lookup.next(),
            Stage::Address { until, .. } => *until,
            Stage::Crowded { again, .. } => *again,
            Stage::Over(_) => self.until,
        };
        next.min(self.until)
    }

    /// Does what can be done.
    pub(crate) fn turn(&mut self, now: Instant) {
        match &mut self.stage {
            Stage::Name(lookup) => match lookup.turn(now) {
                Found::NotYet => {}
                Found::Nothing => self.fail(Why::Name, Errno::NOENT),
                Found::Addresses(addresses) => self.try_all(addresses, now),
            },
            Stage::Address { fd, .. } => match rustix::net::sockopt::socket_error(&*fd) {
                Ok(Ok(())) => self.arrive(),
                Ok(Err(error)) | Err(error) => self.try_next(error, now),
            },
            Stage::Crowded { .. } | Stage::Over(_) => {}
        }
    }

    /// Does what it is time for.
    pub(crate) fn tick(&mut self, now: Instant) {
        if now >= self.until && !self.is_over() {
            return self.fail(Why::System, Errno::TIMEDOUT);
        }
        match &self.stage {
            Stage::Name(lookup) if lookup.next() <= now => self.turn(now),
            Stage::Address { until, .. } if *until <= now => self.try_next(Errno::TIMEDOUT, now),
            Stage::Crowded { again, address } if *again <= now => {
                let address = address.clone();
                self.try_unix(address, now);
            }
            _ => {}
        }
    }

    /// The address that was tried is the one.
    fn arrive(&mut self) {
        let over = Stage::Over(Outcome::Failed(Why::System, self.error));
        if let Stage::Address { fd, address, .. } = std::mem::replace(&mut self.stage, over) {
            self.stage = Stage::Over(Outcome::Connected(fd, address.to_string()));
        }
    }

    fn fail(&mut self, why: Why, error: Errno) {
        self.stage = Stage::Over(Outcome::Failed(why, error));
    }

    /// From what a client says to addresses.
    fn find(&mut self, host: &[u8], now: Instant) {
        let Ok(host) = str::from_utf8(host) else { return self.fail(Why::Name, Errno::NOENT) };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || own::is_name(bare) {
            return self.try_all(own::addresses(), now);
        }
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.try_all(vec![address], now);
        }
        if let Some((address, zone)) = bare.split_once('%') {
            return match address.parse().ok().zip(own::zone(zone)) {
                Some((address, zone)) => {
                    let address = SocketAddrV6::new(address, self.port, 0, zone);
                    self.try_addresses([SocketAddr::V6(address)].into(), now);
                }
                None => self.fail(Why::Name, Errno::NODEV),
            };
        }
        match lookup::begin(bare, now) {
            Ok(lookup) => self.stage = Stage::Name(Box::new(lookup)),
            Err(addresses) => self.try_all(addresses, now),
        }
    }

    fn try_all(&mut self, addresses: Vec<IpAddr>, now: Instant) {
        let port = self.port;
        // Addresses of this machine itself that no packet has: as most programs read them.
        let meant = |address| match address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        self.try_addresses(addresses.into_iter().map(|ip| SocketAddr::new(meant(ip), port)).collect(), now);
    }

    fn try_next(&mut self, error: Errno, now: Instant) {
        self.error = error;
        let stage = std::mem::replace(&mut self.stage, Stage::Over(Outcome::Failed(Why::System, error)));
        if let Stage::Address { left, .. } = stage {
            self.try_addresses(left, now);
        }
    }

    /// Tries the first that can be tried.
    fn try_addresses(&mut self, mut left: VecDeque<SocketAddr>, now: Instant) {
        while let Some(address) = left.pop_front() {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let tried = socket(family).and_then(|fd| match rustix::net::connect(&fd, &address) {
                Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
                Err(error) => Err(error),
            });
            match tried {
                Ok(fd) => {
                    let until = if left.is_empty() { self.until } else { now + ADDRESS };
                    self.stage = Stage::Address { fd, address, left, until };
                    return;
                }
                Err(error) => self.error = error,
            }
        }
        self.fail(Why::System, self.error);
    }

    fn try_unix(&mut self, address: SocketAddrUnix, now: Instant) {
        let tried =
            socket(AddressFamily::UNIX).and_then(|fd| rustix::net::connect(&fd, &address).map(|()| fd));
        match tried {
            Ok(fd) => self.stage = Stage::Over(Outcome::Connected(fd, String::new())),
            Err(Errno::AGAIN) => self.stage = Stage::Crowded { address, again: now + AGAIN },
            Err(error) => self.fail(Why::System, error),
        }
    }
}

fn socket(family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}
