//! Which live connections and flows a device has, told in parts.
//!
//! All devices of a worker share one table of connections and one of flows. For a part a bounded number of places is
//! looked at and a bounded number of entries told, so that nobody's bytes wait for it; nothing is remembered between
//! two parts. Bytes and times are kept beside what is carried anyway; addresses are asked of the kernel.

use std::os::fd::AsFd;
use std::time::Instant;

use super::device::Destination;
use super::engine::Engine;
use super::header;
use super::slab::Key;
use super::socket::{Carrier, Socket};
use super::stream::{Progress, Stream};
use super::udp::Flow;
use crate::wire::{FromWorker, LIVE_COUNT, Live, LiveState, Slot};

/// Places that are looked at for one part: each may be a miss of the cache.
const PLACE_COUNT: u32 = 1024;

/// Positions from here on are places of flows, those before places of streams.
const FLOWS: u64 = 1 << 32;

/// In numbers of flows, to tell them from those of streams.
const FLOW_BIT: u64 = 1 << 63;

impl Engine {
    /// Tells a part of what the device in `slot` has.
    pub(super) fn list_connections(&mut self, seq: u64, slot: Slot, from: u64) {
        let (listed, next) = match self.slots.device(slot) {
            Some(device) if from < FLOWS => self.live_streams(device, place_of(from)),
            Some(device) => self.live_flows(device, place_of(from - FLOWS)),
            None => (Vec::new(), None),
        };
        self.send(&FromWorker::Connections { seq, listed, next }, Vec::new());
    }

    fn live_streams(&self, device: Key, from: u32) -> (Vec<Live>, Option<u64>) {
        let (mut listed, mut lent) = (Vec::new(), Vec::new());
        let end = from.saturating_add(PLACE_COUNT);
        let mut next = u64::from(end);
        for (key, stream) in self.streams.entries_in(from..end).filter(|(_, stream)| stream.device == device)
        {
            if listed.len() == LIVE_COUNT {
                next = u64::from(key.index());
                break;
            }
            if let Some(load) = stream.lent {
                lent.push((listed.len(), (key, load)));
            }
            listed.push(self.live_stream(key, stream));
        }
        if let Some(haul) = self.haul.as_ref().filter(|_| !lent.is_empty()) {
            let keys: Vec<(Key, Key)> = lent.iter().map(|(_, keys)| *keys).collect();
            for ((at, _), progress) in lent.iter().zip(haul.progress(&keys)) {
                if let (Some(live), Some(progress)) = (listed.get_mut(*at), progress) {
                    self.note_progress(live, progress);
                }
            }
        }
        let next = if next >= u64::from(self.streams.place_count()) { FLOWS } else { next };
        (listed, Some(next))
    }

    fn live_stream(&self, key: Key, stream: &Stream) -> Live {
        let address = |socket: &Socket| {
            let has_one = matches!(socket.carrier, Carrier::Tcp | Carrier::Udp);
            if has_one { header::client(socket.as_fd()) } else { None }
        };
        let origin = stream.origin.as_ref();
        let mut live = Live {
            id: number(key),
            index: stream.index,
            client: origin.map(|origin| origin.client).or_else(|| address(&stream.down)),
            via: origin.and_then(|origin| origin.via()),
            target: stream.up.as_ref().and_then(address),
            age_ms: self.millis_since(stream.begun),
            idle_ms: 0,
            bytes_in: 0,
            bytes_out: 0,
            state: LiveState::Open,
        };
        self.note_progress(&mut live, stream.progress());
        live
    }

    fn note_progress(&self, live: &mut Live, progress: Progress) {
        let Progress { state, bytes_in, bytes_out, moved } = progress;
        let idle_ms = self.millis_since(moved);
        *live = Live { state, bytes_in, bytes_out, idle_ms, ..*live };
    }

    fn live_flows(&self, device: Key, from: u32) -> (Vec<Live>, Option<u64>) {
        let mut listed = Vec::new();
        let end = from.saturating_add(PLACE_COUNT);
        let mut next = end;
        let flows = self.udp.flows.entries_in(from..end);
        for (key, flow) in flows.filter(|(_, flow)| flow.device == device) {
            if listed.len() == LIVE_COUNT {
                next = key.index();
                break;
            }
            listed.extend(self.live_flow(key, flow));
        }
        let more = next < self.udp.flows.place_count();
        (listed, more.then(|| FLOWS + u64::from(next)))
    }

    fn live_flow(&self, key: Key, flow: &Flow) -> Option<Live> {
        let flows = &self.devices.get(flow.device)?.flows;
        let used = flows.last_use(flow.id).unwrap_or(flow.begun);
        let target = match flow.destination {
            Destination::Inet(address) => Some(address),
            Destination::Unix(_) => None,
        };
        Some(Live {
            id: number(key) | FLOW_BIT,
            index: flows.get(flow.id).map_or(0, |(key, _)| key.index()),
            client: flow.client(),
            via: None,
            target,
            age_ms: self.millis_since(flow.begun),
            idle_ms: self.millis_since(used),
            bytes_in: flow.carried[0],
            bytes_out: flow.carried[1],
            state: LiveState::Flow,
        })
    }

    fn millis_since(&self, at: Instant) -> u64 {
        u64::try_from(self.core.now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX)
    }
}

fn number(key: Key) -> u64 {
    (u64::from(key.generation()) << 32) | u64::from(key.index())
}

fn place_of(position: u64) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
