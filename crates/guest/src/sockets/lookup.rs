//! Looking up a name as this instance does: its file of hosts, then the servers of its resolv.conf.
//!
//! One name after another, one server after another, both kinds of address at a time ([`super::server`]). Nothing here
//! waits.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use portway_proto::names::message::{Answer, Style};
use portway_proto::names::{Settings, in_hosts};
use rustix::event::PollFlags;
use rustix::fs::{FileType, Mode, OFlags};

use super::server::{Server, Turn};

pub(crate) const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How much of each file is read, bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// A name that is being looked up.
#[derive(Debug)]
pub(crate) struct Lookup {
    settings: Settings,
    /// What it may be called, the one that is asked for first.
    names: VecDeque<String>,
    /// How often a server was asked for that one.
    asked: usize,
    /// The one that is asked.
    server: Option<Server>,
    until: Instant,
}

/// What a lookup has come to.
#[derive(Debug)]
pub(crate) enum Found {
    /// It goes on.
    NotYet,
    /// These addresses, in the order in which they are to be tried.
    Addresses(Vec<IpAddr>),
    /// There are none.
    Nothing,
}

/// Begins to look a name up.
pub(crate) fn begin(name: &str, now: Instant) -> Result<Lookup, Vec<IpAddr>> {
    let known = in_hosts(&read(HOSTS), name);
    if !known.is_empty() {
        return Err(in_order(known));
    }
    // RFC 6761, 6.3: nobody else is asked for it.
    let name = name.to_ascii_lowercase();
    let plain = name.trim_end_matches('.');
    if plain == "localhost" || plain.ends_with(".localhost") {
        return Err(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    Ok(Lookup::begin(Settings::read(&read(RESOLV_CONF)), &name, now))
}

impl Lookup {
    fn begin(settings: Settings, name: &str, now: Instant) -> Self {
        let names = settings.candidates(name).into();
        let mut lookup = Self { settings, names, asked: 0, server: None, until: now };
        lookup.ask(now);
        lookup
    }

    /// What is waited for.
    pub(crate) fn waits(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.server.as_ref().map(Server::waits)
    }

    /// When [`turn`](Self::turn) has something to do at the latest.
    pub(crate) const fn next(&self) -> Instant {
        self.until
    }

    /// Reads what has come, and asks on.
    pub(crate) fn turn(&mut self, now: Instant) -> Found {
        match self.server.as_mut().map_or(Turn::Over, Server::turn) {
            Turn::AskedAnew => {
                self.until = now + self.settings.timeout;
                Found::NotYet
            }
            Turn::Waits if now < self.until => Found::NotYet,
            Turn::Waits | Turn::Over => self.conclude(now),
        }
    }

    /// From what one server has said to what is done about it.
    fn conclude(&mut self, now: Instant) -> Found {
        // Half an answer is better than none.
        let known = self.addresses();
        if !known.is_empty() {
            return Found::Addresses(in_order(known));
        }
        match self.server.as_ref().map(Server::answers) {
            Some(
                [Some(Answer::NoName), Some(Answer::NoName | Answer::Addresses(_))]
                | [Some(Answer::Addresses(_)), Some(Answer::NoName | Answer::Addresses(_))],
            ) => self.next_name(now),
            _ => {
                self.asked += 1;
                self.ask(now)
            }
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let of = |answer: &Answer| match answer {
            Answer::Addresses(addresses) => addresses.clone(),
            Answer::NoName | Answer::Cut | Answer::Foreign | Answer::Failed => Vec::new(),
        };
        self.server.iter().flat_map(Server::answers).flatten().flat_map(of).collect()
    }

    fn next_name(&mut self, now: Instant) -> Found {
        self.names.pop_front();
        self.asked = 0;
        self.ask(now)
    }

    /// Asks the next server that can be asked.
    fn ask(&mut self, now: Instant) -> Found {
        while let Some(name) = self.names.front() {
            let servers = &self.settings.servers;
            if self.asked >= servers.len() * self.settings.tries {
                // No server knows: it is not asked for other names either.
                break;
            }
            // What is between may drop questions of today: a second one is of yesterday.
            let style = if self.asked < servers.len() { Style::Extended } else { Style::Plain };
            let Some(server) = servers.iter().cycle().nth(self.asked) else { break };
            match Server::ask(*server, name, style) {
                Ok(server) => {
                    (self.server, self.until) = (Some(server), now + self.settings.timeout);
                    return Found::NotYet;
                }
                // No such name can be.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                    self.names.pop_front();
                    self.asked = 0;
                }
                Err(_) => self.asked += 1,
            }
        }
        (self.server, self.until) = (None, now);
        self.names.clear();
        Found::Nothing
    }
}

/// Those that a way leads to first, IPv6 before IPv4 (RFC 6724, 6, rules 1 and 6).
fn in_order(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut addresses = addresses;
    addresses.sort_by_key(|address| (!has_way(*address), address.is_ipv4()));
    addresses
}

fn has_way(address: IpAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Nothing is sent by that.
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 9))).is_ok()
}

/// What a file of settings says. Whoever waits for what is no file would keep everybody else waiting.
pub(crate) fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let mut text = Vec::new();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // One that cannot be read says nothing.
    if let Ok(fd) = rustix::fs::open(path.as_ref(), flags, Mode::empty())
        && rustix::fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file())
    {
        let _unread = File::from(fd).take(FILE_MAX_BYTES).read_to_end(&mut text);
    }
    text
}

#[cfg(test)]
mod tests;
