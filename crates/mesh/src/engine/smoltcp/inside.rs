//! Everything the stack has, and which packet belongs to what of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use ::smoltcp::time::Instant as Time;
use portway_sys::seqpacket::Channel;
use rustix::io::Errno;

use super::connection::{Connection, Phase};
use super::datagrams::{Datagrams, Delivery, is_answerable};
use super::echoes::Echoes;
use super::fragments::Fragments;
use super::late::{Answer, Late};
use super::link::{Link, echo};
use super::packet::{
    self, ACK, ICMP4, ICMP6, Ip, Pair, RST, SYN, Segment, TCP, TCP_BYTES, UDP, UDP_BYTES, byte, compose,
    ip_bytes, long, put, short, word,
};
use super::ports::Ports;
use super::shares::{PART, Shares, Source};
use crate::engine::frames::PEER_BYTES;
use crate::segment::{OFFLOAD_BYTES, Offload, Segmented};
use crate::wg::message::array;

/// Handshakes at a time that are not over: net.ipv4.tcp_max_syn_backlog is about that. Of one source an eighth.
const HALF_OPEN: usize = 1024;

/// Connections of a listener that nobody has taken yet: net.core.somaxconn was that for long.
const UNTAKEN: usize = 128;

/// All buffers of all connections, bytes. Memory is taken as far as they have been used.
const RINGS_BYTES: usize = 1 << 30;

/// Bytes of one buffer, least and most.
const RING_LEAST_BYTES: usize = 32 << 10;
const RING_MOST_BYTES: usize = 1 << 20;

/// Answers in a second that say that nobody has a port: net.ipv4.icmp_msgs_per_sec.
const ANSWERS: u32 = 1000;

/// Bytes of a packet that its answer repeats at most, so that it fits the least MTU.
const REPEATED_BYTES: usize = 500;

/// Payload of a packet when the peer does not say what it takes (RFC 9293, 3.7.1).
const MSS_V4: usize = 536;
const MSS_V6: usize = 1220;

/// The least that is believed: Linux' TCP_MIN_SND_MSS, and smoltcp's.
const MSS_LEAST: usize = 48;

/// Who waits for connections.
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    pub(super) channel: Channel,
    /// Those that are up and could not be handed over.
    pub(super) untaken: VecDeque<u64>,
}

/// See the module.
pub(super) struct Inside {
    pub(super) link: Link,
    pub(super) connections: HashMap<u64, Connection>,
    pub(super) listeners: BTreeMap<u64, Listening>,
    pub(super) datagrams: Datagrams,
    pub(super) echoes: Echoes,
    /// Connections that have a turn.
    pub(super) queue: VecDeque<u64>,
    /// Connections that will have one.
    pub(super) timers: BTreeSet<(Instant, u64)>,
    /// Flows that began, whose descriptors nobody watches yet.
    pub(super) new_flows: Vec<u64>,
    /// How often smoltcp has failed.
    pub(super) faults: u64,
    pub(super) late: Late,
    pairs: HashMap<Pair, u64>,
    ports: Ports,
    fragments: Fragments,
    /// Handshakes that are not over.
    half_open: Shares,
    rings_bytes: usize,
    last: u64,
    epoch: Instant,
    /// Answers in this second.
    answers: (u64, u32),
    /// Most connections.
    most: usize,
}

impl Inside {
    /// With at most `most` connections, and `flows` flows.
    pub(super) fn new(
        frames: OwnedFd,
        addresses: Vec<IpAddr>,
        mtu: usize,
        most: usize,
        flows: usize,
    ) -> Inside {
        Inside {
            link: Link::new(frames, addresses, mtu),
            connections: HashMap::new(),
            listeners: BTreeMap::new(),
            datagrams: Datagrams::new(flows),
            echoes: Echoes::default(),
            queue: VecDeque::new(),
            timers: BTreeSet::new(),
            new_flows: Vec::new(),
            faults: 0,
            late: Late::default(),
            pairs: HashMap::new(),
            ports: Ports::default(),
            fragments: Fragments::default(),
            half_open: Shares::default(),
            rings_bytes: 0,
            last: 0,
            epoch: Instant::now(),
            answers: (0, 0),
            most,
        }
    }

    /// A number used once.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn time(&self, now: Instant) -> Time {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        Time::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Takes what came from the tunnel: a packet behind its offload header and the number of its peer.
    pub(super) fn take(&mut self, now: Instant, frame: &mut [u8]) {
        let Some((header, rest)) = frame.split_first_chunk_mut::<OFFLOAD_BYTES>() else { return };
        let Some((number, packet)) = rest.split_first_chunk_mut::<PEER_BYTES>() else { return };
        let source = Source::peer(u16::from_ne_bytes(*number));
        self.packet(now, source, *header, packet);
    }

    /// Takes what this node has sent to itself.
    pub(super) fn take_own(&mut self, now: Instant, frame: &mut [u8]) {
        let Some((header, packet)) = frame.split_first_chunk_mut::<OFFLOAD_BYTES>() else { return };
        self.packet(now, Source::OWN, *header, packet);
    }

    fn packet(&mut self, now: Instant, source: Source, header: [u8; OFFLOAD_BYTES], packet: &mut [u8]) {
        let Some(offload) = Offload::read(header) else { return };
        let Some(ip) = Ip::read(packet) else { return };
        if !self.link.is_own(ip.destination) {
            return;
        }
        match ip.piece {
            None => self.whole(now, source, &ip, offload, packet),
            Some(piece) => {
                let whole = self.fragments.take(now, source, &ip, piece, ip.transport(packet));
                if let Some(mut packet) = whole
                    && let Some(ip) = Ip::read(&packet)
                {
                    self.whole(now, source, &ip, Offload::default(), &mut packet);
                }
            }
        }
    }

    fn whole(&mut self, now: Instant, source: Source, ip: &Ip, offload: Offload, packet: &mut [u8]) {
        // What has no sum yet was summed where it was joined, or never left this stack.
        if offload.checksum.is_none() && !ip.is_sound(packet) {
            return;
        }
        let Some(packet) = packet.get_mut(..ip.length) else { return };
        match ip.protocol {
            TCP => self.tcp(now, source, ip, packet),
            UDP => self.udp(now, source, ip, offload, packet),
            ICMP4 if ip.source.is_ipv4() => self.icmp(ip, packet),
            ICMP6 if ip.source.is_ipv6() => self.icmp(ip, packet),
            _ => {}
        }
    }

    fn tcp(&mut self, now: Instant, source: Source, ip: &Ip, packet: &mut [u8]) {
        let transport = packet.get_mut(ip.header..).unwrap_or_default();
        let (Some(segment), Some(pair)) = (Segment::read(transport), ip.pair(transport)) else { return };
        let own = self.mss(ip.source);
        let mut mss = None;
        if segment.flags & SYN != 0 {
            let said = segment.mss.map(|place| usize::from(word(transport, place)));
            let default = if ip.source.is_ipv4() { MSS_V4 } else { MSS_V6 };
            let agreed =
                said.filter(|said| *said > 0).unwrap_or(default).clamp(MSS_LEAST, own.max(MSS_LEAST));
            if let Some(place) = segment.mss {
                put(transport, place, &short(agreed).to_be_bytes());
            }
            mss = Some(agreed);
        }
        let known = self.pairs.get(&pair).copied();
        let id = match known {
            Some(id) => id,
            None => match self.late.answer(now, pair, &segment) {
                Answer::Packet(answer) => return self.link.put(&answer),
                Answer::Nothing => return,
                Answer::Unknown | Answer::Begins => {
                    match self.called(now, (source, pair), &segment, mss.unwrap_or(own)) {
                        Some(id) => id,
                        None => return,
                    }
                }
            },
        };
        let time = self.time(now);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(mss) = mss {
            connection.mss = connection.mss.min(mss);
        }
        let link = &mut self.link;
        let sound = catch_unwind(AssertUnwindSafe(|| connection.take(now, time, link, packet, &segment)));
        if sound.is_err() {
            return self.fail(id);
        }
        self.enqueue(id);
    }

    /// Most payload of a packet to `whom`.
    fn mss(&self, whom: IpAddr) -> usize {
        self.link.mtu.saturating_sub(ip_bytes(whom) + TCP_BYTES)
    }

    /// Somebody calls, or means a connection that there is not.
    fn called(
        &mut self,
        now: Instant,
        (source, pair): (Source, Pair),
        segment: &Segment,
        mss: usize,
    ) -> Option<u64> {
        let asks = segment.flags & (SYN | ACK | RST) == SYN;
        let listener = self.listeners.iter().find(|(_, it)| super::overlap(it.address, pair.local));
        let Some((listener, waiting)) = listener.filter(|_| asks) else {
            if let Some(refusal) = segment.refusal(pair) {
                self.link.put(&refusal);
            }
            return None;
        };
        if waiting.untaken.len() >= UNTAKEN {
            return None;
        }
        // It is called again, and those that are no attack are over soon.
        if self.half_open.count(source) >= HALF_OPEN / PART {
            return None;
        }
        let phase = Phase::Called(*listener);
        let id = self.connection(pair, phase, mss).ok()?;
        let connection = self.connections.get_mut(&id)?;
        if connection.listen().is_err() {
            self.forget(id);
            return None;
        }
        if self.half_open.len() >= HALF_OPEN
            && let Some(oldest) = self.half_open.gives_way(HALF_OPEN)
        {
            self.forget(oldest);
        }
        self.half_open.add(now, id, source);
        let connection = self.connections.get_mut(&id)?;
        (connection.called_at, connection.source) = (Some(now), source);
        Some(id)
    }

    /// A connection to `to`, whose end is told on `channel`.
    pub(super) fn call(&mut self, to: SocketAddr, channel: Channel) -> io::Result<u64> {
        let pair =
            self.pair_to(to, |inside, pair| inside.pairs.contains_key(&pair) || inside.late.has(pair))?;
        let mss = self.mss(to.ip());
        let id = self.connection(pair, Phase::Calling(channel), mss)?;
        let connection = self.connections.get_mut(&id).ok_or(io::ErrorKind::InvalidInput)?;
        connection.call().inspect_err(|_| self.forget(id))?;
        self.enqueue(id);
        Ok(id)
    }

    /// A flow to `to`; its number and its other end.
    pub(super) fn flow(&mut self, now: Instant, to: SocketAddr) -> io::Result<(u64, OwnedFd)> {
        let pair = self.pair_to(to, |inside, pair| {
            inside.datagrams.has(pair) || inside.datagrams.is_taken(pair.local)
        })?;
        let id = self.number();
        Ok((id, self.datagrams.connect(now, id, pair)?))
    }

    /// An address and a free port of ours, for a call to `to`.
    fn pair_to(&mut self, to: SocketAddr, is_taken: impl Fn(&Inside, Pair) -> bool) -> io::Result<Pair> {
        let source = self.link.source_for(to.ip()).ok_or(Errno::NETUNREACH)?;
        if to.port() == 0 || !is_answerable(to.ip()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let pair = |port: u16| Pair { local: SocketAddr::new(source, port), remote: to };
        let mut ports = std::mem::take(&mut self.ports);
        let port = ports.next(to, |port| pair(port).local != to && !is_taken(self, pair(port)));
        self.ports = ports;
        Ok(pair(port.ok_or(io::ErrorKind::AddrNotAvailable)?))
    }

    fn connection(&mut self, pair: Pair, phase: Phase, mss: usize) -> io::Result<u64> {
        let ring_bytes = self.ring_bytes().ok_or(Errno::NOBUFS)?;
        let seed = u64::from_ne_bytes(random()?);
        let id = self.number();
        let made = Connection::new(&mut self.link, pair, phase, mss, ring_bytes, seed);
        self.rings_bytes += 2 * ring_bytes;
        self.pairs.insert(pair, id);
        self.connections.insert(id, made);
        Ok(id)
    }

    /// What each buffer of the next connection may have; `None`: there are too many. The more there are the less, so that
    /// some thousands find room.
    fn ring_bytes(&self) -> Option<usize> {
        let left = RINGS_BYTES.saturating_sub(self.rings_bytes);
        if left < 2 * RING_LEAST_BYTES || self.connections.len() >= self.most {
            return None;
        }
        let share = left / (4 * (self.connections.len() + 64));
        let fits = 1 << share.max(1).ilog2();
        Some(usize::clamp(fits, RING_LEAST_BYTES, RING_MOST_BYTES))
    }

    /// Gives it a turn.
    pub(super) fn enqueue(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.queue.push_back(id);
        }
    }

    /// It is no half-open one any more.
    pub(super) fn settled(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && let Some(at) = connection.called_at.take()
        {
            self.half_open.remove(at, id, connection.source);
        }
    }

    /// Drops all that is known of it.
    pub(super) fn forget(&mut self, id: u64) {
        self.settled(id);
        let Some(connection) = self.connections.remove(&id) else { return };
        self.rings_bytes = self.rings_bytes.saturating_sub(2 * connection.ring_bytes);
        self.pairs.remove(&connection.pair);
        if let Some(due) = connection.due {
            self.timers.remove(&(due, id));
        }
    }

    /// smoltcp has failed in it.
    pub(super) fn fail(&mut self, id: u64) {
        self.faults += 1;
        let pair = self.connections.get(&id).map(|connection| connection.pair);
        self.forget(id);
        if let Some(pair) = pair {
            // It need not be believed, but the next packet of the peer's has a better one.
            self.link.put(&packet::bare_tcp(pair, 0, 0, RST, 0));
        }
    }

    fn udp(&mut self, now: Instant, source: Source, ip: &Ip, offload: Offload, packet: &[u8]) {
        let transport = ip.transport(packet);
        let said = usize::from(word(transport, 4));
        let (Some(pair), Some(payload)) = (ip.pair(transport), transport.get(UDP_BYTES..)) else { return };
        if pair.remote.port() == 0 {
            return;
        }
        let size = match offload.segments {
            Some((Segmented::Udp, size)) => usize::from(size).max(1),
            Some(_) => return,
            // One datagram, as long as it says itself.
            None if said < UDP_BYTES || said > transport.len() => return,
            None => {
                let payload = payload.get(..said - UDP_BYTES).unwrap_or_default();
                return self.datagram(now, ip, (source, pair), payload, packet);
            }
        };
        for payload in payload.chunks(size) {
            self.datagram(now, ip, (source, pair), payload, packet);
        }
    }

    fn datagram(&mut self, now: Instant, ip: &Ip, whose: (Source, Pair), payload: &[u8], packet: &[u8]) {
        let id = self.number();
        match self.datagrams.deliver(now, whose, payload, id) {
            Delivery::Done => {}
            Delivery::New(id) => self.new_flows.push(id),
            Delivery::Nobody => self.nobody(now, ip, packet),
        }
    }

    /// Says that nobody has that port (RFC 792; RFC 4443, 3.1).
    fn nobody(&mut self, now: Instant, ip: &Ip, packet: &[u8]) {
        let second = now.saturating_duration_since(self.epoch).as_secs();
        if self.answers.0 != second {
            self.answers = (second, 0);
        }
        self.answers.1 += 1;
        if self.answers.1 > ANSWERS || !is_answerable(ip.source) {
            return;
        }
        let (protocol, head) = if ip.source.is_ipv4() {
            (ICMP4, [3, 3, 0, 0, 0, 0, 0, 0])
        } else {
            (ICMP6, [1, 4, 0, 0, 0, 0, 0, 0])
        };
        let repeated = packet.get(..packet.len().min(REPEATED_BYTES)).unwrap_or_default();
        self.link.put(&compose(ip.destination, ip.source, protocol, &[&head, repeated], 2));
    }

    fn icmp(&mut self, ip: &Ip, packet: &[u8]) {
        if let Some(answer) = echo(ip, packet) {
            return self.link.put(&answer);
        }
        let message = ip.transport(packet);
        if self.echoes.answer(ip, message) {
            return;
        }
        let (kind, code) = (byte(message, 0), byte(message, 1));
        let quoted = message.get(8..).unwrap_or_default();
        let Some((protocol, pair)) = quoted_pair(quoted) else { return };
        let narrow = match (ip.protocol, kind, code) {
            (ICMP4, 3, 4) => Some(usize::from(word(message, 6))),
            (ICMP6, 2, _) => usize::try_from(long(message, 4)).ok(),
            _ => None,
        };
        if let Some(mtu) = narrow {
            let id = self.pairs.get(&pair).filter(|_| protocol == TCP);
            let least = if pair.local.is_ipv4() { MSS_V4 } else { MSS_V6 };
            if let Some(connection) = id.and_then(|id| self.connections.get_mut(id)) {
                let mss = mtu.saturating_sub(ip_bytes(pair.local.ip()) + TCP_BYTES).max(least);
                connection.mss = connection.mss.min(mss);
            }
            return;
        }
        let why = match (ip.protocol, kind, code) {
            (ICMP4, 3, 3) | (ICMP6, 1, 4) => Errno::CONNREFUSED,
            (ICMP4, 3, 0 | 6 | 9) | (ICMP6, 1, 0) => Errno::NETUNREACH,
            (ICMP4, 3, 1 | 7 | 10 | 13) | (ICMP6, 1, 1 | 3) => Errno::HOSTUNREACH,
            _ => return,
        };
        if protocol == UDP {
            self.datagrams.end_pair(pair);
        } else if let Some(id) = self.pairs.get(&pair).copied() {
            self.give_up_call(id, why);
        }
    }

    /// A call comes to nothing. A connection that is up outlives such news (RFC 5461).
    pub(super) fn give_up_call(&mut self, id: u64, why: Errno) {
        if let Some(Phase::Calling(channel)) = self.connections.get(&id).map(|connection| &connection.phase) {
            tell_failure(channel, why);
            self.forget(id);
        }
    }
}

/// Tells the one who asked for a connection that there is none.
pub(super) fn tell_failure(channel: &Channel, why: Errno) {
    let note = crate::engine::handed::Note::Failed(why.raw_os_error());
    // Who asked may be gone.
    serde_json::to_vec(&note).map(|note| channel.send(&note, &[]).ok()).ok();
}

/// Eight bytes that nobody knows.
fn random() -> io::Result<[u8; 8]> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// Which of our packets an error repeats the beginning of.
fn quoted_pair(quoted: &[u8]) -> Option<(u8, Pair)> {
    let (local, remote, protocol, at) = match byte(quoted, 0) >> 4 {
        4 => (
            IpAddr::from(array::<4>(quoted, 12)?),
            IpAddr::from(array::<4>(quoted, 16)?),
            byte(quoted, 9),
            usize::from(byte(quoted, 0) & 15) * 4,
        ),
        6 => (
            IpAddr::from(array::<16>(quoted, 8)?),
            IpAddr::from(array::<16>(quoted, 24)?),
            byte(quoted, 6),
            packet::V6_BYTES,
        ),
        _ => return None,
    };
    let ports = (u16::from_be_bytes(array(quoted, at)?), u16::from_be_bytes(array(quoted, at + 2)?));
    Some((
        protocol,
        Pair { local: SocketAddr::new(local, ports.0), remote: SocketAddr::new(remote, ports.1) },
    ))
}
