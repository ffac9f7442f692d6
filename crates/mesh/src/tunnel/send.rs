//! From the stack to the peers: a packet is cut, sealed where it is sent from, and sent in rows.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Instant;

use portway_sys::mmsg::BATCH;

use super::load::Load;
use super::path::Path;
use super::{Rows, Shared, calm, wait_for, wake};
use crate::engine::{FRAME_BYTES, Frame};
use crate::segment::{Cut, Fragments, Offload, Segment, clamp};
use crate::wg::message::{ENVELOPE_BYTES, OVERHEAD_BYTES, THROUGH_BYTES, write_envelope};
use crate::wg::{Activity, Dropped, PeerId, Reach, Routes, Sealer, Update, inner};

/// Packets that wait for a session of one peer.
const WAITING: usize = 16;

/// Packets are padded to a multiple of this, so that their lengths say less (section 5.4.6 of the paper).
const PADDING: usize = 16;

/// The way to one peer.
struct Outlet {
    keys: Option<Arc<Sealer>>,
    /// As the socket wants it.
    endpoint: Option<Reach>,
    /// The hub that messages to it go through instead, and the address by which that knows it.
    through: Option<(PeerId, Ipv4Addr)>,
    activity: Arc<Activity>,
    waiting: VecDeque<(Offload, Vec<u8>)>,
    path: Path,
}

impl Outlet {
    fn new(activity: Arc<Activity>, mtu: usize) -> Outlet {
        let path = Path::new(mtu, Arc::clone(&activity));
        Outlet { keys: None, endpoint: None, through: None, activity, waiting: VecDeque::new(), path }
    }

    fn is_at(&self, to: SocketAddr) -> bool {
        self.endpoint.is_some_and(|endpoint| endpoint.to == to)
    }
}

/// The sending thread.
pub(super) struct Sender {
    shared: Arc<Shared>,
    /// By place; nobody's have nothing.
    outlets: Vec<Option<Outlet>>,
    routes: Arc<Routes>,
    updates: mpsc::Receiver<Update>,
    load: Load,
    mtu: usize,
    /// A packet that is divided, and the number of the last one that was.
    whole: Box<[u8]>,
    divided: u32,
}

impl Sender {
    /// With what there is of each peer, in order.
    pub(super) fn new(
        shared: Arc<Shared>,
        updates: mpsc::Receiver<Update>,
        mtu: usize,
        rows: Rows,
    ) -> Sender {
        let whole = vec![0; mtu].into_boxed_slice();
        Sender {
            shared,
            outlets: Vec::new(),
            routes: Arc::default(),
            updates,
            load: Load::new(rows),
            mtu,
            whole,
            divided: 0,
        }
    }

    /// Until the tunnel ends, or its device does.
    pub(super) fn run(mut self) {
        let mut frame: Box<[u8; FRAME_BYTES]> = Box::new([0; FRAME_BYTES]);
        while !self.shared.stop.load(Ordering::Acquire) {
            let (_, told) = wait_for(&self.shared.frames, &self.shared.sender, None);
            if told {
                calm(&self.shared.sender);
                self.learn();
            }
            if !self.drain(&mut frame) {
                return;
            }
        }
    }

    /// Sends all there is; false: there will be no more.
    fn drain(&mut self, frame: &mut [u8; FRAME_BYTES]) -> bool {
        let now = Instant::now();
        let mut goes_on = true;
        // What the other thread has to say waits for so many packets at most.
        for _ in 0..BATCH {
            match self.shared.frames.read(frame) {
                Ok(Some(Frame { offload, packet })) => {
                    self.pack(now, offload, frame.get(packet).unwrap_or_default());
                }
                Ok(None) => self.shared.counters.count(Dropped::Outsize),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    goes_on = false;
                    break;
                }
            }
        }
        self.load.send(&self.shared);
        goes_on
    }

    /// What the receiving thread has decided.
    fn learn(&mut self) {
        while let Ok(update) = self.updates.try_recv() {
            match update {
                Update::Routes(routes) => self.routes = routes,
                Update::Peer(id, activity) => {
                    let place = usize::from(id.0);
                    let outlet = Outlet::new(activity, self.mtu);
                    if self.outlets.len() <= place {
                        self.outlets.resize_with(place + 1, || None);
                    }
                    if let Some(place) = self.outlets.get_mut(place) {
                        *place = Some(outlet);
                    }
                }
                Update::Gone(id, _) => {
                    if let Some(place) = self.outlets.get_mut(usize::from(id.0)) {
                        *place = None;
                    }
                }
                Update::Endpoint(id, endpoint) => {
                    let to = self.shared.udp.to_wire(endpoint.to);
                    if let Some(outlet) = self.outlet(id)
                        && let before = outlet.endpoint.replace(Reach { to, ..endpoint })
                        && before.is_none_or(|before| before.to.ip() != to.ip())
                    {
                        outlet.path.lead_to(to.ip());
                    }
                }
                Update::Through(id, through) => {
                    if let Some(outlet) = self.outlet(id) {
                        outlet.through = through;
                    }
                    self.pack_waiting(id);
                }
                Update::Keys(id, keys) => {
                    let Some(outlet) = self.outlet(id) else { continue };
                    outlet.keys = keys;
                    if outlet.keys.is_some() {
                        self.pack_waiting(id);
                        self.pack_through(id);
                    }
                }
            }
        }
    }

    fn outlet(&mut self, id: PeerId) -> Option<&mut Outlet> {
        self.outlets.get_mut(usize::from(id.0))?.as_mut()
    }

    fn pack_waiting(&mut self, id: PeerId) {
        let now = Instant::now();
        let waiting = self.outlet(id).map(|outlet| std::mem::take(&mut outlet.waiting));
        for (offload, packet) in waiting.unwrap_or_default() {
            self.pack(now, offload, &packet);
        }
        self.load.send(&self.shared);
    }

    /// What waits to go through `hub` goes.
    fn pack_through(&mut self, hub: PeerId) {
        for id in (0..u16::try_from(self.outlets.len()).unwrap_or(u16::MAX)).map(PeerId) {
            let waits = |outlet: &&mut Outlet| {
                outlet.through.is_some_and(|(through, _)| through == hub) && !outlet.waiting.is_empty()
            };
            if self.outlet(id).filter(waits).is_some() {
                self.pack_waiting(id);
            }
        }
    }

    /// How messages get through `hub`; `None`: there is no session with it, which is asked for.
    fn hub(&self, now: Instant, hub: PeerId, member: Ipv4Addr) -> Option<Hub> {
        let outlet = self.outlets.get(usize::from(hub.0))?.as_ref()?;
        // What was enclosed once is not enclosed again.
        if outlet.through.is_some() {
            return None;
        }
        let usable = outlet.keys.as_ref().filter(|keys| keys.is_usable(now));
        let (Some(keys), Some(to)) = (usable.cloned(), outlet.endpoint) else {
            if outlet.activity.want_session() {
                wake(&self.shared.receiver);
            }
            return None;
        };
        let limit = outlet.path.limit().saturating_sub(THROUGH_BYTES);
        Some(Hub { keys, to, limit, member, activity: Arc::clone(&outlet.activity) })
    }

    /// Seals a packet for whoever it is for, in as many messages as it takes.
    fn pack(&mut self, now: Instant, offload: Offload, packet: &[u8]) {
        if let Err(why) = self.try_pack(now, offload, packet) {
            self.shared.counters.count(why);
        }
    }

    fn try_pack(&mut self, now: Instant, offload: Offload, packet: &[u8]) -> Result<(), Dropped> {
        self.narrow(now);
        let header = inner::read(packet).ok_or(Dropped::Outsize)?;
        let id = self.routes.owner(header.destination).ok_or(Dropped::NoRoute)?;
        let through = self.outlet(id).ok_or(Dropped::NoRoute)?.through;
        let hub = through.map(|(hub, member)| self.hub(now, hub, member));
        if matches!(hub, Some(None)) {
            return self.keep(id, offload, packet);
        }
        let hub = hub.flatten();
        let place = self.outlets.get_mut(usize::from(id.0)).and_then(Option::as_mut);
        let outlet = place.ok_or(Dropped::NoRoute)?;
        let cut = Cut::new(offload, packet).map_err(|_| Dropped::Outsize)?;
        if cut.longest() > self.mtu {
            return Err(Dropped::Outsize);
        }
        let usable = outlet.keys.as_ref().filter(|keys| keys.is_usable(now));
        let to = hub.as_ref().map(|hub| hub.to).or(outlet.endpoint);
        let (Some(keys), Some(to)) = (usable.cloned(), to) else {
            return self.keep(id, offload, packet);
        };
        if outlet.path.widens(now) {
            self.load.try_rows();
        }
        let room = hub.as_ref().map_or(usize::MAX, |hub| hub.limit);
        if let Some(segment) = Segment::read(packet).filter(|segment| segment.length > 0) {
            outlet.path.sends(now, &segment, cut.longest().min(outlet.path.limit().min(room)));
        }
        let limit = outlet.path.limit().min(room);
        let cut = cut.within(limit);
        let (load, shared) = (&mut self.load, &*self.shared);
        let mut sealed =
            Sealed { load, shared, keys: &keys, to, hub: hub.as_ref(), limit, count: 0, bytes: 0 };
        let done = if cut.longest() <= limit {
            sealed.pieces(&cut, self.mtu)
        } else {
            sealed.fragments(&cut, &mut self.whole, &mut self.divided)
        };
        let (count, bytes) = (sealed.count, sealed.bytes);
        if count > 0 {
            let millis = crate::wg::millis(self.shared.epoch, now);
            outlet.activity.sent_packets(millis, count, bytes);
            if let Some(hub) = &hub {
                hub.activity.sent_packets(millis, count, bytes);
            }
        }
        self.shared.totals.frames_out.fetch_add(1, Ordering::Relaxed);
        self.shared.totals.messages_out.fetch_add(count, Ordering::Relaxed);
        if self.load.is_enough() {
            self.load.send(&self.shared);
        }
        // Its keys have had as many messages as they may.
        if done == Err(Dropped::Waiting) { self.keep(id, offload, packet) } else { done }
    }

    /// Lets a packet wait for a session, which is asked for.
    fn keep(&mut self, id: PeerId, offload: Offload, packet: &[u8]) -> Result<(), Dropped> {
        let outlet = self.outlet(id).ok_or(Dropped::NoRoute)?;
        let is_first = outlet.activity.want_session();
        let full = outlet.waiting.len() >= WAITING;
        if full {
            outlet.waiting.pop_front();
        }
        outlet.waiting.push_back((offload, packet.to_vec()));
        if is_first {
            wake(&self.shared.receiver);
        }
        if full { Err(Dropped::Waiting) } else { Ok(()) }
    }

    /// Takes notice of ways that take less than was sent, and of addresses that are this host's no more.
    fn narrow(&mut self, now: Instant) {
        while let Some((to, mtu)) = self.load.too_long() {
            for outlet in self.outlets.iter_mut().flatten().filter(|outlet| outlet.is_at(to)) {
                outlet.path.told(now, mtu);
            }
        }
        while let Some(gone) = self.load.gone() {
            for endpoint in self.outlets.iter_mut().flatten().filter_map(|outlet| outlet.endpoint.as_mut()) {
                endpoint.from.take_if(|from| *from == gone);
            }
        }
    }
}

/// What messages go through on their way to a member.
struct Hub {
    keys: Arc<Sealer>,
    to: Reach,
    /// Longest packet for a member.
    limit: usize,
    member: Ipv4Addr,
    activity: Arc<Activity>,
}

/// A packet on its way into messages.
struct Sealed<'a> {
    load: &'a mut Load,
    shared: &'a Shared,
    keys: &'a Sealer,
    to: Reach,
    hub: Option<&'a Hub>,
    /// Longest packet of a message.
    limit: usize,
    /// Messages so far, and their bytes.
    count: u64,
    bytes: u64,
}

impl Sealed<'_> {
    /// Seals what `write` puts into the room it is given.
    fn seal(&mut self, counter: u64, write: impl FnOnce(&mut [u8]) -> usize) -> Result<(), Dropped> {
        let hub = self.hub.map(|hub| hub.keys.reserve(1).ok_or(Dropped::Waiting).map(|number| (hub, number)));
        let hub = hub.transpose()?;
        let before = if hub.is_some() { Sealer::HEADER_BYTES + ENVELOPE_BYTES } else { 0 };
        let whole = self.load.room(self.shared);
        let room = whole.get_mut(before..).unwrap_or_default();
        let length = write(room.get_mut(Sealer::HEADER_BYTES..).unwrap_or_default());
        let padded = length.next_multiple_of(PADDING).min(self.limit.max(length));
        let total = padded + OVERHEAD_BYTES;
        let message = room.get_mut(..total).ok_or(Dropped::Outsize)?;
        let padding = Sealer::HEADER_BYTES + length..Sealer::HEADER_BYTES + padded;
        message.get_mut(padding).unwrap_or_default().fill(0);
        self.keys.seal(counter, message);
        let total = match hub {
            None => total,
            Some((hub, number)) => {
                let message = whole.get_mut(..total + THROUGH_BYTES).ok_or(Dropped::Outsize)?;
                write_envelope(message.get_mut(Sealer::HEADER_BYTES..).unwrap_or_default(), hub.member);
                hub.keys.seal(number, message);
                message.len()
            }
        };
        self.load.add(self.to, total);
        self.count += 1;
        self.bytes += total as u64;
        Ok(())
    }

    /// Each piece is a message.
    fn pieces(&mut self, cut: &Cut<'_>, mtu: usize) -> Result<(), Dropped> {
        let count = cut.count();
        let first = self.keys.reserve(count as u64).ok_or(Dropped::Waiting)?;
        let limit = self.limit;
        for (number, counter) in (0..count).zip(first..) {
            self.seal(counter, |room| {
                let length = cut.write(number, room);
                if limit < mtu {
                    clamp(room.get_mut(..length).unwrap_or_default(), limit);
                }
                length
            })?;
        }
        Ok(())
    }

    /// Each piece is divided.
    fn fragments(&mut self, cut: &Cut<'_>, whole: &mut [u8], divided: &mut u32) -> Result<(), Dropped> {
        for number in 0..cut.count() {
            let length = cut.write(number, whole);
            let piece = whole.get(..length).unwrap_or_default();
            *divided = divided.wrapping_add(1);
            let fragments = Fragments::new(piece, self.limit, *divided).ok_or(Dropped::Outsize)?;
            let first = self.keys.reserve(fragments.count() as u64).ok_or(Dropped::Waiting)?;
            for (place, counter) in (0..fragments.count()).zip(first..) {
                self.seal(counter, |room| fragments.write(place, room))?;
            }
        }
        Ok(())
    }
}
