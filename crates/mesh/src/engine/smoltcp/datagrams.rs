//! UDP: each flow is the end of a unix pair. No buffer, no state but who talks to whom and when they last did.
//!
//! A flow that begins there is one of records: whoever has the other end is woken when it is over, and gives it up. One
//! that begins here is one of datagrams, as any socket of udp(7) is.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use portway_sys::seqpacket::Channel;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::link::Link;
use super::packet::{Pair, UDP, UDP_BYTES, compose, short};
use super::shares::{Shares, Source};
use crate::engine::handed::Note;

/// A flow without a datagram for so long is over. RFC 4787, REQ-5, asks for two minutes, and recommends five.
const IDLE: Duration = Duration::from_secs(300);

/// How exactly it is known when a flow was last used.
const MOMENT: Duration = Duration::from_secs(1);

/// Room for what comes, bytes: some of the longest datagrams, or many short ones.
const ROOM_BYTES: usize = 512 << 10;

/// Longest payload of a datagram, over IPv4.
pub(super) const LONGEST_BYTES: usize = 65_507;

/// Datagrams that one flow sends before another one has its turn.
const BURST: usize = 32;

struct Flow {
    pair: Pair,
    source: Source,
    fd: OwnedFd,
    used: Instant,
    /// The other end is closed: an empty record is no datagram.
    hung: bool,
}

/// What became of a datagram that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It was passed on, or its reader has no room.
    Done,
    /// It begins a flow, which has this number.
    New(u64),
    /// Nobody has that port.
    Nobody,
}

/// See the module.
pub(super) struct Datagrams {
    flows: HashMap<u64, Flow>,
    pairs: HashMap<Pair, u64>,
    order: Shares,
    inlets: BTreeMap<u64, (SocketAddr, Channel)>,
    most: usize,
    buffer: Vec<u8>,
    pub(super) lost: u64,
}

/// A unix pair of this kind, ours not waiting.
pub(super) fn unix_pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

impl Datagrams {
    /// No more than `most` flows at a time.
    pub(super) fn new(most: usize) -> Datagrams {
        Datagrams {
            flows: HashMap::new(),
            pairs: HashMap::new(),
            order: Shares::default(),
            inlets: BTreeMap::new(),
            most: most.max(1),
            buffer: vec![0; LONGEST_BYTES + 1],
            lost: 0,
        }
    }

    pub(super) fn has(&self, pair: Pair) -> bool {
        self.pairs.contains_key(&pair)
    }

    /// Whether an inlet of this address would take another one's datagrams.
    pub(super) fn is_taken(&self, address: SocketAddr) -> bool {
        self.inlets.values().any(|(other, _)| super::overlap(*other, address))
    }

    pub(super) fn add_inlet(&mut self, id: u64, address: SocketAddr, channel: Channel) {
        self.inlets.insert(id, (address, channel));
    }

    pub(super) fn remove_inlet(&mut self, id: u64) {
        self.inlets.remove(&id);
    }

    fn inlet_for(&self, local: SocketAddr) -> Option<&Channel> {
        let found = self.inlets.values().find(|(address, _)| super::overlap(*address, local));
        found.map(|(_, channel)| channel)
    }

    /// A flow from here; its other end.
    pub(super) fn connect(&mut self, now: Instant, id: u64, pair: Pair) -> io::Result<OwnedFd> {
        self.begin(now, id, pair, Source::OWN, SocketType::DGRAM)
    }

    fn begin(
        &mut self,
        now: Instant,
        id: u64,
        pair: Pair,
        source: Source,
        kind: SocketType,
    ) -> io::Result<OwnedFd> {
        let (ours, theirs) = unix_pair(kind)?;
        for end in [&ours, &theirs] {
            sockopt::set_socket_send_buffer_size(end, ROOM_BYTES)?;
        }
        if self.flows.len() >= self.most
            && let Some(id) = self.order.gives_way(self.most)
        {
            self.end(id);
        }
        self.order.add(now, id, source);
        self.pairs.insert(pair, id);
        self.flows.insert(id, Flow { pair, source, fd: ours, used: now, hung: false });
        Ok(theirs)
    }

    /// The descriptor of a flow.
    pub(super) fn descriptor(&self, id: u64) -> Option<&OwnedFd> {
        self.flows.get(&id).map(|flow| &flow.fd)
    }

    /// The other end of a flow is closed: what it has still sent is sent.
    pub(super) fn hang_up(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.hung = true;
        }
    }

    /// Ends a flow: whoever sends to its other end is told.
    pub(super) fn end(&mut self, id: u64) {
        if let Some(flow) = self.flows.remove(&id) {
            self.order.remove(flow.used, id, flow.source);
            self.pairs.remove(&flow.pair);
        }
    }

    pub(super) fn end_pair(&mut self, pair: Pair) {
        if let Some(id) = self.pairs.get(&pair).copied() {
            self.end(id);
        }
    }

    /// Ends those that have waited too long; when the next one will have.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        while let Some((used, id)) = self.order.first() {
            if now < used + IDLE {
                return Some(used + IDLE);
            }
            self.end(id);
        }
        None
    }

    fn touch(&mut self, now: Instant, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id)
            && now.saturating_duration_since(flow.used) >= MOMENT
        {
            let source = flow.source;
            self.order.remove(flow.used, id, source);
            flow.used = now;
            self.order.add(now, id, source);
        }
    }

    /// A datagram of `source` for `pair`, which has the number `id` if it begins a flow.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        (source, pair): (Source, Pair),
        payload: &[u8],
        id: u64,
    ) -> Delivery {
        let (id, new) = match self.pairs.get(&pair).copied() {
            Some(id) => (id, false),
            None => match self.accept(now, source, pair, id) {
                Some(true) => (id, true),
                Some(false) => {
                    self.lost += 1;
                    return Delivery::Done;
                }
                None => return Delivery::Nobody,
            },
        };
        self.touch(now, id);
        let Some(flow) = self.flows.get(&id) else { return Delivery::Done };
        match rustix::net::send(&flow.fd, payload, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => self.lost += 1,
            // The other end is closed: what comes next finds the port as it is by then.
            Err(_) => {
                self.lost += 1;
                self.end(id);
                return Delivery::Done;
            }
        }
        if new { Delivery::New(id) } else { Delivery::Done }
    }

    /// Begins a flow from there; `None`: nobody has that port, false: whoever has it does not keep up.
    fn accept(&mut self, now: Instant, source: Source, pair: Pair, id: u64) -> Option<bool> {
        self.inlet_for(pair.local)?;
        let Ok(theirs) = self.begin(now, id, pair, source, SocketType::SEQPACKET) else { return Some(false) };
        let note =
            serde_json::to_vec(&Note::From { remote: pair.remote, local: pair.local }).unwrap_or_default();
        let told =
            self.inlet_for(pair.local).is_some_and(|inlet| inlet.send(&note, &[theirs.as_fd()]).is_ok());
        if !told {
            self.end(id);
        }
        Some(told)
    }

    /// Sends what a flow has written; true: there is more.
    pub(super) fn forward(&mut self, now: Instant, id: u64, link: &mut Link) -> bool {
        self.touch(now, id);
        for _ in 0..BURST {
            if !link.has_room() {
                return true;
            }
            let Some(flow) = self.flows.get(&id) else { return false };
            let received = rustix::net::recv(&flow.fd, &mut self.buffer[..], RecvFlags::TRUNC);
            let length = match received {
                Ok((_, 0)) if flow.hung => {
                    self.end(id);
                    return false;
                }
                Ok((_, length)) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return false,
            };
            let (local, remote) = (flow.pair.local, flow.pair.remote);
            match self.buffer.get(..length).filter(|_| length <= LONGEST_BYTES) {
                Some(payload) => link.put(&datagram(local, remote, payload)),
                // Too long for any packet: refused as a whole.
                None => self.lost += 1,
            }
        }
        true
    }
}

fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = short(UDP_BYTES + payload.len()).to_be_bytes();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()];
    let parts = [&ports[0][..], &ports[1], &length, &[0, 0], payload];
    compose(from.ip(), to.ip(), UDP, &parts, 6)
}

/// Whether a datagram from there may have an answer that says it was not wanted.
pub(super) fn is_answerable(whom: IpAddr) -> bool {
    !whom.is_unspecified() && !whom.is_multicast()
}
