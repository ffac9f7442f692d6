//! Who is let in: a client's address, the header of a proxy in front of it, and the device's caps.
//!
//! A device without any such key has no guard, and a client of it is not looked at. With one: a client that comes from
//! a trusted proxy first has its header read, within three seconds; nobody else's bytes are ever read as one. The
//! header stays in the socket's queue until the target is connected, so a client that is handed on has lost nothing.
//! Then the client's address, announced or its socket's, is judged: `deny` and `allow`, connections in all, connections
//! of its source, rate. Who is refused is reset, or its datagram dropped, before anything is dialled.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use portway_model::{DeviceSpec, Rate};
use portway_proto::admission::{Bucket, Source, Sources};
use portway_proto::proxy_protocol::{Announced, DECODE_MAX_BYTES, Decoded, Malformed, decode};
use portway_sys::sockopt;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::device::Device;
use super::engine::Engine;
use super::header;
use super::lane;
use super::slab::Key;
use super::socket::{Carrier, Socket};
use super::stream::{End, Phase};
use crate::wire::{Known, field};

/// How long a client has to send its header. The specification (section 2) asks for three seconds at least, which is
/// one retransmission.
pub(super) const HEADER_TIME: Duration = Duration::from_secs(3);

/// How a client came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// By a listener.
    Fresh,
    /// From an earlier worker, or from who accepted it; it has been let in.
    Returned,
}

/// Why a client is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// By `allow` or `deny`.
    Denied,
    /// `limits.connections`.
    Connections,
    /// `limits.rate`.
    Rate,
    /// `limits.per_source`.
    Source,
    /// No PROXY header, or a malformed one.
    Header,
}

impl Refusal {
    /// Where it is counted.
    pub(super) const fn field(self) -> usize {
        match self {
            Refusal::Denied => field::DENIED,
            Refusal::Connections => field::OVER_CONNECTIONS,
            Refusal::Rate => field::OVER_RATE,
            Refusal::Source => field::OVER_PER_SOURCE,
            Refusal::Header => field::BAD_HEADER,
        }
    }
}

impl Refusal {
    /// The word for it in a record.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Refusal::Denied => "denied",
            Refusal::Connections => "limits.connections",
            Refusal::Rate => "limits.rate",
            Refusal::Source => "limits.per_source",
            Refusal::Header => "bad-header",
        }
    }
}

/// Where a client comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// The other end of the socket.
    pub(super) peer: SocketAddr,
    /// Who it is: `peer`, or whom a header announced.
    pub(super) client: SocketAddr,
    /// Where it connected to.
    pub(super) local: SocketAddr,
    /// It counts for its source.
    counted: bool,
    /// Bytes of a header that is still in the socket's queue.
    queued_bytes: usize,
    /// A header was taken out of the queue.
    pub(super) header_taken: bool,
}

impl Origin {
    /// Of an accepted tcp socket; `None` when the client has gone already.
    fn of(client: &impl AsFd) -> Option<Box<Origin>> {
        let (peer, local) = header::ends(client.as_fd())?;
        Some(Box::new(Origin {
            peer,
            client: peer,
            local,
            counted: false,
            queued_bytes: 0,
            header_taken: false,
        }))
    }

    /// Of a client whose ends are known otherwise than by its socket.
    pub(super) fn known(known: Known) -> Option<Box<Origin>> {
        let (client, local) = known.ends?;
        let origin =
            Origin { peer: client, client, local, counted: false, queued_bytes: 0, header_taken: false };
        Some(Box::new(origin))
    }

    /// Who it came through, if somebody announced it.
    pub(super) fn via(&self) -> Option<SocketAddr> {
        (self.client != self.peer).then_some(self.peer)
    }
}

/// What a device remembers of those it let in.
#[derive(Debug)]
pub(super) struct Guard {
    rate: Option<(Rate, Bucket)>,
    /// Only while they are capped.
    sources: Option<Sources>,
}

impl Guard {
    /// The guard that `spec` asks for, if any. A rate that has not changed goes on.
    pub(super) fn new(spec: &DeviceSpec, before: Option<Box<Guard>>) -> Option<Box<Guard>> {
        let by_address = spec.accept_proxy.is_some() || !spec.allow.is_empty() || !spec.deny.is_empty();
        let limits = spec.limits;
        if !by_address && limits == portway_model::Limits::default() {
            return None;
        }
        let before = before.and_then(|guard| guard.rate);
        let rate = limits.rate.map(|rate| match before {
            Some((same, bucket)) if same == rate => (same, bucket),
            Some(_) | None => (rate, Bucket::new(rate.per_second())),
        });
        Some(Box::new(Guard { rate, sources: limits.per_source.map(|_| Sources::default()) }))
    }

    fn enter(&mut self, ip: IpAddr) -> bool {
        let Some(sources) = &mut self.sources else { return false };
        sources.enter(Source::from(ip));
        true
    }

    fn leave(&mut self, ip: IpAddr) {
        if let Some(sources) = &mut self.sources {
            sources.leave(Source::from(ip));
        }
    }
}

impl Device {
    /// Judges one more client beside `live` others; of a unix client there is no address.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn judge(&mut self, client: Option<IpAddr>, live: usize, now: Instant) -> Result<(), Refusal> {
        let Some(guard) = &mut self.guard else { return Ok(()) };
        let spec = self.plan.spec();
        if let Some(ip) = client
            && (spec.deny.contains(ip) || (!spec.allow.is_empty() && !spec.allow.contains(ip)))
        {
            return Err(Refusal::Denied);
        }
        let reached = |cap: u32, count: usize| usize::try_from(cap).is_ok_and(|cap| count >= cap);
        if spec.limits.connections.is_some_and(|cap| reached(cap.get(), live)) {
            return Err(Refusal::Connections);
        }
        if let (Some(ip), Some(cap), Some(sources)) = (client, spec.limits.per_source, &guard.sources)
            && sources.count(Source::from(ip)) >= cap.get()
        {
            return Err(Refusal::Source);
        }
        // Last: who is refused for another reason takes no token.
        let taken = guard.rate.as_mut().is_none_or(|(_, bucket)| bucket.take(now));
        if taken { Ok(()) } else { Err(Refusal::Rate) }
    }

    /// A flow of `client` has begun.
    pub(super) fn flow_begun(&mut self, client: SocketAddr) {
        if let Some(guard) = &mut self.guard {
            guard.enter(client.ip());
        }
    }

    /// A flow of `client` is over.
    pub(super) fn flow_ended(&mut self, client: SocketAddr) {
        if let Some(guard) = &mut self.guard {
            guard.leave(client.ip());
        }
    }
}

/// What is known of a client that may come in.
#[derive(Debug, Default)]
pub(super) struct Entrance {
    pub(super) origin: Option<Box<Origin>>,
    /// Its header comes first.
    pub(super) announces: bool,
}

impl Engine {
    /// Judges a client at the door; `None`: it is not to come in, and has been told.
    pub(super) fn enter(
        &mut self,
        (device_key, index): (Key, u32),
        carrier: Carrier,
        client: &OwnedFd,
        entry: Entry,
    ) -> Option<Entrance> {
        let origin = if carrier == Carrier::Tcp { Origin::of(client) } else { None };
        let ip = origin.as_ref().map(|origin| origin.client.ip());
        let device = self.devices.get_mut(device_key)?;
        if carrier == Carrier::Tcp && ip.is_none() && device.guard.is_some() {
            return None;
        }
        let spec = device.plan.spec();
        let announces = ip.is_some_and(|ip| spec.accept_proxy.as_ref().is_some_and(|from| from.contains(ip)));
        let mut entrance = Entrance { origin, announces };
        if entry == Entry::Fresh {
            let live = device.stream_count;
            let judged =
                if announces { device.has_room(live) } else { device.judge(ip, live, self.core.now) };
            if let Err(refusal) = judged {
                self.turn_away(device_key, client, carrier, refusal, ip);
                self.record_refused(device_key, index, entrance.origin.as_deref(), refusal);
                return None;
            }
        }
        if let (Some(origin), Some(device), false) =
            (&mut entrance.origin, self.devices.get_mut(device_key), announces)
        {
            device.count_source(origin);
        }
        Some(entrance)
    }

    /// Resets a client that has not come in.
    fn turn_away(
        &self,
        device: Key,
        client: &OwnedFd,
        carrier: Carrier,
        refusal: Refusal,
        ip: Option<IpAddr>,
    ) {
        self.core.count(device, refusal.field());
        tracing::debug!(client = ip.map(tracing::field::display), ?refusal, "client refused");
        if carrier == Carrier::Tcp
            && let Err(error) = sockopt::linger_reset(client.as_fd())
        {
            tracing::debug!(%error, "no reset on close");
        }
    }

    /// Something has come from a client whose header is awaited.
    pub(super) fn on_header(&mut self, key: Key, flags: EventFlags) {
        let Some(stream) = self.streams.get(key) else { return };
        let room = self.core.buffer.get_mut(..DECODE_MAX_BYTES).unwrap_or_default();
        let (seen, decoded) = match look(&stream.down, room) {
            Ok(found) => found,
            Err(_) => return self.on_early_event(key, flags | EventFlags::ERR),
        };
        match decoded {
            Decoded::Header { announced, length } => self.on_announced(key, announced, length),
            Decoded::Malformed(malformed) => self.refuse(key, Refusal::Header, Some(malformed)),
            Decoded::More if !stream.down.has_ended() => {}
            // It looked in and left, as the checks of a balancer do.
            Decoded::More if seen == 0 => self.close(key, End::Clean),
            Decoded::More => self.refuse(key, Refusal::Header, None),
        }
    }

    /// A client's header is there: from here on it is who the header says.
    fn on_announced(&mut self, key: Key, announced: Announced, length: usize) {
        self.cancel_stream_timer(key);
        let now = self.core.now;
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Some(origin) = stream.origin.as_mut() else { return };
        origin.queued_bytes = length;
        if let Announced::Tcp { client, local } = announced {
            origin.client = client;
            origin.local = local;
        }
        stream.patient_since = now;
        let ip = origin.client.ip();
        let Some(device) = self.devices.get_mut(stream.device) else { return };
        if stream.entry == Entry::Fresh {
            let others = device.stream_count.saturating_sub(1);
            if let Err(refusal) = device.judge(Some(ip), others, now) {
                return self.refuse(key, refusal, None);
            }
        }
        device.count_source(origin);
        stream.phase = Phase::Waiting;
        self.begin(key);
    }

    /// A client has had its time.
    pub(super) fn on_header_overdue(&mut self, key: Key) {
        self.refuse(key, Refusal::Header, None);
    }

    /// Ends a client that has come in and is not served.
    fn refuse(&mut self, key: Key, refusal: Refusal, malformed: Option<Malformed>) {
        let Some(stream) = self.streams.get(key) else { return };
        self.core.count(stream.device, refusal.field());
        let client = stream.origin.as_ref().map(|origin| tracing::field::display(origin.client));
        let cause = malformed.map(tracing::field::display);
        tracing::debug!(client, ?refusal, cause, "client refused");
        self.trace_why(key, refusal.name());
        self.close(key, End::Reset);
    }

    /// The target is connected: the header goes out of the way of the client's bytes. False: the client is gone.
    pub(super) fn take_header(&mut self, key: Key) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let Some(origin) = stream.origin.as_mut().filter(|origin| origin.queued_bytes > 0) else {
            return true;
        };
        let length = std::mem::take(&mut origin.queued_bytes);
        origin.header_taken = true;
        lane::take(&stream.down, self.core.buffer.get_mut(..length).unwrap_or_default()).is_ok()
    }

    /// Counts anew what each source has, after a change of the device's keys.
    pub(super) fn recount_sources(&mut self, device_key: Key) {
        let Some(device) = self.devices.get_mut(device_key) else { return };
        device.guard = Guard::new(device.plan.spec(), device.guard.take());
        if device.guard.as_ref().is_none_or(|guard| guard.sources.is_none()) {
            return;
        }
        for key in self.streams.keys() {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            if stream.device != device_key || stream.down.carrier != Carrier::Tcp {
                continue;
            }
            if stream.origin.is_none() {
                stream.origin = Origin::of(&stream.down);
            }
            if let Some(origin) = stream.origin.as_mut().filter(|_| stream.phase != Phase::Announcing) {
                device.count_source(origin);
            }
        }
        for client in self.udp.clients_of(device_key) {
            device.flow_begun(client);
        }
    }
}

impl Device {
    /// Whether there is room for one more beside `live` others.
    fn has_room(&self, live: usize) -> Result<(), Refusal> {
        let cap = self.plan.spec().limits.connections;
        let full = cap.is_some_and(|cap| usize::try_from(cap.get()).is_ok_and(|cap| live >= cap));
        if full { Err(Refusal::Connections) } else { Ok(()) }
    }

    fn count_source(&mut self, origin: &mut Origin) {
        origin.counted = self.guard.as_mut().is_some_and(|guard| guard.enter(origin.client.ip()));
    }

    /// A connection is over.
    pub(super) fn forget_source(&mut self, origin: &Origin) {
        if let Some(guard) = &mut self.guard
            && origin.counted
        {
            guard.leave(origin.client.ip());
        }
    }
}

/// Looks at what has come and leaves it where it is: how much of it there is, and what.
fn look(client: &Socket, room: &mut [u8]) -> Result<(usize, Decoded), Errno> {
    loop {
        match recv(client, &mut *room, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((seen, _)) => return Ok((seen, decode(room.get(..seen).unwrap_or_default()))),
            Err(Errno::AGAIN) => return Ok((0, Decoded::More)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
