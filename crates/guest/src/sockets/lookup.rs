//! Looking up a name as this instance does: its file of hosts, then the servers of its resolv.conf.
//!
//! One name after another, one server after another, both kinds of address at a time. Nothing here waits.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use portway_proto::names::message::{ANSWER_MAX_BYTES, Answer, Kind, answer, question};
use portway_proto::names::{Settings, in_hosts};

pub(crate) const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How much of each file is read, bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Answers that are read at a time: others have their turn after that.
const ANSWERS_MAX_COUNT: usize = 16;

/// A name that is being looked up.
#[derive(Debug)]
pub(crate) struct Lookup {
    settings: Settings,
    /// What it may be called, the one that is asked for first.
    names: VecDeque<String>,
    /// How often a server was asked for that one.
    asked: usize,
    /// To the server that is asked.
    socket: Option<UdpSocket>,
    /// One for each kind of address.
    ids: [u16; 2],
    answers: [Option<Answer>; 2],
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
    let settings = Settings::read(&read(RESOLV_CONF));
    let names = settings.candidates(&name).into();
    let answers = [None, None];
    let mut lookup = Lookup { settings, names, asked: 0, socket: None, ids: [0; 2], answers, until: now };
    lookup.ask(now);
    Ok(lookup)
}

impl Lookup {
    /// What is waited for.
    pub(crate) fn waits(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(UdpSocket::as_fd)
    }

    /// When [`turn`](Self::turn) has something to do at the latest.
    pub(crate) const fn next(&self) -> Instant {
        self.until
    }

    /// Reads what has come, and asks on.
    pub(crate) fn turn(&mut self, now: Instant) -> Found {
        let refused = self.hear();
        match &self.answers {
            [Some(one), Some(two)] => match (one, two) {
                (Answer::Addresses(one), Answer::Addresses(two)) if one.is_empty() && two.is_empty() => {
                    self.next_name(now)
                }
                (Answer::NoName, Answer::NoName | Answer::Addresses(_))
                | (Answer::Addresses(_), Answer::NoName)
                    if self.addresses().is_empty() =>
                {
                    self.next_name(now)
                }
                _ if !self.addresses().is_empty() => Found::Addresses(in_order(self.addresses())),
                _ => self.next_server(now),
            },
            _ if refused || now >= self.until => self.next_server(now),
            _ => Found::NotYet,
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let of = |answer: &Option<Answer>| match answer {
            Some(Answer::Addresses(addresses)) => addresses.clone(),
            Some(Answer::NoName | Answer::Failed) | None => Vec::new(),
        };
        self.answers.iter().flat_map(of).collect()
    }

    /// Reads answers; whether the server is not there.
    fn hear(&mut self) -> bool {
        let (Some(socket), Some(name)) = (&self.socket, self.names.front()) else { return true };
        let mut message = [0; ANSWER_MAX_BYTES];
        for _ in 0..ANSWERS_MAX_COUNT {
            let said = match socket.recv(&mut message) {
                Ok(count) => message.get(..count).unwrap_or_default(),
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            };
            for ((kind, id), place) in Kind::ALL.into_iter().zip(self.ids).zip(&mut self.answers) {
                if place.is_none() {
                    *place = answer(said, id, name, kind);
                }
            }
        }
        false
    }

    fn next_name(&mut self, now: Instant) -> Found {
        self.names.pop_front();
        self.asked = 0;
        self.ask(now)
    }

    fn next_server(&mut self, now: Instant) -> Found {
        // Half an answer is better than none.
        let known = self.addresses();
        if !known.is_empty() {
            return Found::Addresses(in_order(known));
        }
        self.asked += 1;
        self.ask(now)
    }

    /// Asks the next server that can be asked.
    fn ask(&mut self, now: Instant) -> Found {
        self.answers = [None, None];
        while let Some(name) = self.names.front() {
            if self.asked >= self.settings.servers.len() * self.settings.tries {
                // No server knows: it is not asked for other names either.
                break;
            }
            let server = self.settings.servers.iter().cycle().nth(self.asked);
            let ids =
                portway_sys::random::bytes().map(|[a, b, c, d]| [[a, b], [c, d]].map(u16::from_ne_bytes));
            let (Some(server), Ok(ids)) = (server, ids) else { break };
            let questions = Kind::ALL.into_iter().zip(ids).map(|(kind, id)| question(id, name, kind));
            let Some(questions) = questions.collect::<Option<Vec<_>>>() else {
                // No such name can be.
                self.names.pop_front();
                self.asked = 0;
                continue;
            };
            if let Ok(socket) = send(*server, &questions) {
                (self.socket, self.ids, self.until) = (Some(socket), ids, now + self.settings.timeout);
                return Found::NotYet;
            }
            self.asked += 1;
        }
        (self.socket, self.until) = (None, now);
        self.names.clear();
        Found::Nothing
    }
}

fn send(server: SocketAddr, questions: &[Vec<u8>]) -> std::io::Result<UdpSocket> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // From nobody else an answer is taken.
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    for question in questions {
        socket.send(question)?;
    }
    Ok(socket)
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

pub(crate) fn read(path: &str) -> Vec<u8> {
    let mut text = Vec::new();
    // One that cannot be read says nothing.
    let _unread = File::open(path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut text));
    text
}
