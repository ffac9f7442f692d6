//! From the stack to the peers: a packet is cut, sealed where it is sent from, and sent in rows.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Instant;

use portway_sys::mmsg::{BATCH, ROW_MAX, ROW_MAX_BYTES, Train, TrainError, Trains};

use super::{Rows, Shared, calm, wait_for, wait_for_room, wake};
use crate::engine::{FRAME_BYTES, Frame};
use crate::segment::{Cut, Offload};
use crate::wg::message::OVERHEAD_BYTES;
use crate::wg::{Activity, Dropped, PeerId, Routes, Sealer, Update, inner};

/// Room for what is sealed and not sent yet, bytes: four of the longest packets.
const LOAD_BYTES: usize = 4 * (FRAME_BYTES + ROW_MAX_BYTES / 8);

/// More sealed than this is sent before the next packet is looked at.
const ENOUGH_BYTES: usize = LOAD_BYTES / 2;

/// Packets that wait for a session of one peer.
const WAITING: usize = 16;

/// Packets are padded to a multiple of this, so that their lengths say less (section 5.4.6 of the paper).
const PADDING: usize = 16;

/// The way to one peer.
struct Outlet {
    keys: Option<Arc<Sealer>>,
    /// As the socket wants it.
    endpoint: Option<SocketAddr>,
    activity: Arc<Activity>,
    waiting: VecDeque<(Offload, Vec<u8>)>,
}

/// What is sealed and not sent yet.
struct Load {
    bytes: Box<[u8]>,
    used: usize,
    trains: Vec<Train>,
    system: Trains,
    /// Longest messages that the kernel takes rows of. It becomes less when it refuses one (EINVAL: longer than a packet
    /// of the way may be; EIO: the way cannot cut), so that no way out is asked twice in vain.
    longest_in_row: usize,
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
}

impl Sender {
    pub(super) fn new(
        shared: Arc<Shared>,
        updates: mpsc::Receiver<Update>,
        mtu: usize,
        rows: Rows,
    ) -> Sender {
        let load = Load {
            bytes: vec![0; LOAD_BYTES].into_boxed_slice(),
            used: 0,
            trains: Vec::with_capacity(BATCH),
            system: Trains::new(),
            longest_in_row: if rows == Rows::Auto { usize::MAX } else { 0 },
        };
        Sender { shared, outlets: Vec::new(), routes: Arc::default(), updates, load, mtu }
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
                    let outlet = Outlet { keys: None, endpoint: None, activity, waiting: VecDeque::new() };
                    if self.outlets.len() <= place {
                        self.outlets.resize_with(place + 1, || None);
                    }
                    if let Some(place) = self.outlets.get_mut(place) {
                        *place = Some(outlet);
                    }
                }
                Update::Gone(id) => {
                    if let Some(place) = self.outlets.get_mut(usize::from(id.0)) {
                        *place = None;
                    }
                }
                Update::Endpoint(id, endpoint) => {
                    let endpoint = self.shared.udp.to_wire(endpoint);
                    if let Some(outlet) = self.outlet(id) {
                        outlet.endpoint = Some(endpoint);
                    }
                }
                Update::Keys(id, keys) => {
                    let Some(outlet) = self.outlet(id) else { continue };
                    outlet.keys = keys;
                    if outlet.keys.is_some() {
                        self.pack_waiting(id);
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

    /// Seals a packet for whoever it is for, in as many messages as it takes.
    fn pack(&mut self, now: Instant, offload: Offload, packet: &[u8]) {
        if let Err(why) = self.try_pack(now, offload, packet) {
            self.shared.counters.count(why);
        }
    }

    fn try_pack(&mut self, now: Instant, offload: Offload, packet: &[u8]) -> Result<(), Dropped> {
        let header = inner::read(packet).ok_or(Dropped::Outsize)?;
        let id = self.routes.owner(header.destination).ok_or(Dropped::NoRoute)?;
        let place = self.outlets.get_mut(usize::from(id.0)).and_then(Option::as_mut);
        let outlet = place.ok_or(Dropped::NoRoute)?;
        let cut = Cut::new(offload, packet).map_err(|_| Dropped::Outsize)?;
        if cut.longest() > self.mtu {
            return Err(Dropped::Outsize);
        }
        let count = cut.count();
        let usable = outlet.keys.as_ref().filter(|keys| keys.is_usable(now));
        let reserved = usable.and_then(|keys| Some((keys, keys.reserve(count as u64)?)));
        let (Some((keys, first)), Some(to)) = (reserved, outlet.endpoint) else {
            if outlet.activity.want_session() {
                wake(&self.shared.receiver);
            }
            let full = outlet.waiting.len() >= WAITING;
            if full {
                outlet.waiting.pop_front();
            }
            outlet.waiting.push_back((offload, packet.to_vec()));
            return if full { Err(Dropped::Waiting) } else { Ok(()) };
        };
        let mut bytes = 0;
        for (number, counter) in (0..count).zip(first..) {
            let room = self.load.room(&self.shared);
            let length = cut.write(number, room.get_mut(Sealer::HEADER_BYTES..).unwrap_or_default());
            let padded = length.next_multiple_of(PADDING).min(self.mtu.max(length));
            let total = padded + OVERHEAD_BYTES;
            let Some(message) = room.get_mut(..total) else { return Err(Dropped::Outsize) };
            let padding = Sealer::HEADER_BYTES + length..Sealer::HEADER_BYTES + padded;
            message.get_mut(padding).unwrap_or_default().fill(0);
            keys.seal(counter, message);
            self.load.add(to, total);
            bytes += total as u64;
        }
        let millis = crate::wg::millis(self.shared.epoch, now);
        outlet.activity.sent_packets(millis, count as u64, bytes);
        self.shared.totals.frames_out.fetch_add(1, Ordering::Relaxed);
        self.shared.totals.messages_out.fetch_add(count as u64, Ordering::Relaxed);
        if self.load.used >= ENOUGH_BYTES {
            self.load.send(&self.shared);
        }
        Ok(())
    }
}

impl Load {
    /// Where the next message goes: room for the longest there is.
    fn room(&mut self, shared: &Shared) -> &mut [u8] {
        let full = LOAD_BYTES - self.used < FRAME_BYTES + OVERHEAD_BYTES + PADDING;
        if full || self.trains.len() >= BATCH {
            self.send(shared);
        }
        self.bytes.get_mut(self.used..).unwrap_or_default()
    }

    /// What was written there is a message of so many bytes. It joins the last row if it may.
    fn add(&mut self, to: SocketAddr, bytes: usize) {
        let begin = self.used;
        self.used += bytes;
        let joins = |train: &&mut Train| {
            let length = train.place.len();
            train.size <= self.longest_in_row
                && train.to == to
                && bytes <= train.size
                && length.is_multiple_of(train.size)
                && length + bytes <= ROW_MAX_BYTES
                && length / train.size < ROW_MAX
        };
        match self.trains.last_mut().filter(joins) {
            Some(train) => train.place.end = self.used,
            None => self.trains.push(Train { to, place: begin..self.used, size: bytes }),
        }
    }

    /// Sends all of it. When there is no room it waits: nothing that was taken from the stack is dropped for that.
    fn send(&mut self, shared: &Shared) {
        let mut trains = std::mem::take(&mut self.trains);
        let mut done = 0;
        while let Some(rest) = trains.get(done..).filter(|rest| !rest.is_empty()) {
            match self.system.send(shared.udp.as_fd(), &self.bytes, rest) {
                Ok(count) => {
                    shared.totals.rows_out.fetch_add(count as u64, Ordering::Relaxed);
                    done += count.max(1);
                }
                Err(TrainError::Refused) => {
                    let refused = rest.first().map_or(0, |train| train.size);
                    self.longest_in_row = self.longest_in_row.min(refused.saturating_sub(1));
                    shared.totals.rows_refused.fetch_add(1, Ordering::Relaxed);
                    trains = rest.iter().flat_map(|train| singles(train, self.longest_in_row)).collect();
                    done = 0;
                }
                Err(TrainError::Failed(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if shared.stop.load(Ordering::Acquire) {
                        break;
                    }
                    wait_for_room(&shared.udp);
                }
                Err(TrainError::Failed(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(TrainError::Failed(_)) => {
                    let lost = rest.first().map_or(0, Train::count);
                    shared.counters.add(Dropped::Unsent, lost as u64);
                    done += 1;
                }
            }
        }
        trains.clear();
        self.trains = trains;
        self.used = 0;
    }
}

/// The datagrams of a row, each for itself if they are longer than `longest`.
fn singles(train: &Train, longest: usize) -> impl Iterator<Item = Train> + use<> {
    let (to, size, end) = (train.to, train.size.max(1), train.place.end);
    let step = if size > longest { size } else { train.place.len().max(1) };
    let begins = train.place.clone().step_by(step);
    begins.map(move |begin| Train { to, place: begin..end.min(begin + step), size })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a row is continued behind a shorter message, by a longer one, to somebody else, or past its bounds.
    #[test]
    fn rows_are_equally_long() {
        let mut load = Load {
            bytes: Box::default(),
            used: 0,
            trains: Vec::new(),
            system: Trains::new(),
            longest_in_row: usize::MAX,
        };
        let (one, two) = (SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, 2], 1)));
        let messages = [(one, 100), (one, 100), (one, 60), (one, 60), (one, 100), (two, 100), (two, 100)];
        messages.into_iter().for_each(|(to, bytes)| load.add(to, bytes));
        let rows: Vec<_> =
            load.trains.iter().map(|train| (train.to, train.place.clone(), train.size)).collect();
        let expected = [(one, 0..260, 100), (one, 260..320, 60), (one, 320..420, 100), (two, 420..620, 100)];
        assert_eq!(rows, expected);
        let single: Vec<_> =
            singles(&load.trains[0], 99).map(|train| (train.place.clone(), train.count())).collect();
        assert_eq!(single, [(0..100, 1), (100..200, 1), (200..260, 1)]);
        assert_eq!(singles(&load.trains[0], 100).collect::<Vec<_>>(), load.trains[..1]);
        load.trains.clear();
        (0..130).for_each(|_| load.add(one, 48));
        assert_eq!(load.trains.iter().map(Train::count).collect::<Vec<_>>(), [64, 64, 2]);
        load.trains.clear();
        (0..46).for_each(|_| load.add(one, 1452));
        assert_eq!(load.trains.iter().map(Train::count).collect::<Vec<_>>(), [45, 1]);
        load.longest_in_row = 47;
        load.trains.clear();
        (0..3).for_each(|_| load.add(one, 48));
        assert_eq!(load.trains.len(), 3);
    }
}
