//! The access log: one record of each connection and flow that is over, for the daemon to write down.
//!
//! Records are made only while the daemon wants them, wait here while it is away or does not keep up, and are told in
//! batches when nothing else waits to be sent. What there is no room for is counted and told. Nothing on the way of a
//! connection's bytes knows of this.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::engine::Engine;
use super::guard::{Origin, Refusal};
use super::header;
use super::slab::Key;
use super::socket::Carrier;
use super::stream::{End, Phase, Stream};
use super::udp::Flow;
use crate::wire::{AccessRecord, FromWorker, RECORDS_KEPT_MAX, RECORDS_MAX, field};

/// What of a connection only its record wants to know. Kept while records are made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trace {
    /// How long its target took to answer.
    dialled: Option<Duration>,
    /// Why it ends, where that does not show.
    why: Option<&'static str>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Access {
    is_wanted: bool,
    /// The daemon that is there has said so.
    is_told: bool,
    number: u64,
    waiting: VecDeque<(Key, AccessRecord)>,
    lost: u64,
}

impl Access {
    /// Whether records are made.
    pub(super) const fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// A connection that begins is traced.
    pub(super) fn trace(&self) -> Option<Box<Trace>> {
        self.is_wanted.then(Box::default)
    }

    /// The daemon is gone, or another one is there.
    pub(super) fn forget_daemon(&mut self) {
        self.is_told = false;
    }

    /// Whether everything has been told, or nobody is there to be told.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_told || (self.waiting.is_empty() && self.lost == 0)
    }
}

impl Engine {
    /// The daemon wants records, or no more.
    pub(super) fn want_access(&mut self, is_wanted: bool) {
        if is_wanted && !self.access.is_wanted {
            // Those that ended before are nobody's loss.
            self.core.counters.settle();
        }
        self.access.is_wanted = is_wanted;
        self.access.is_told = true;
        if !is_wanted {
            self.access.waiting.clear();
            self.access.lost = 0;
        }
    }

    /// A target has answered.
    pub(super) fn trace_dialled(&mut self, key: Key, took: Duration) {
        if let Some(trace) = self.streams.get_mut(key).and_then(|stream| stream.trace.as_mut()) {
            trace.dialled = Some(took);
        }
    }

    /// Why a connection is about to end.
    pub(super) fn trace_why(&mut self, key: Key, why: &'static str) {
        if let Some(trace) = self.streams.get_mut(key).and_then(|stream| stream.trace.as_mut()) {
            trace.why = Some(why);
        }
    }

    /// Makes the record of a connection that is over.
    pub(super) fn record_stream(&mut self, stream: &Stream, end: End) {
        if !self.access.is_wanted {
            return;
        }
        let trace = stream.trace.as_deref().copied().unwrap_or_default();
        let is_open = stream.phase == Phase::Open;
        let why = trace.why.unwrap_or(match (is_open, end) {
            (true, End::Clean) if !stream.was_cut() => "done",
            (true, End::Clean | End::Reset) => "reset",
            (false, _) => "cancelled",
        });
        let (bytes_in, bytes_out) = stream.totals();
        let by_socket = || match stream.down.carrier {
            Carrier::Tcp => header::client(stream.down.as_fd()),
            Carrier::Unix | Carrier::Packet | Carrier::Udp | Carrier::Gram => None,
        };
        let (client, via) = match stream.origin.as_deref() {
            Some(origin) => (Some(origin.client), origin.via()),
            None => (by_socket(), None),
        };
        let lasted = self.core.now.saturating_duration_since(stream.begun);
        self.keep_record(stream.device, stream.index, |record| {
            (record.client, record.via) = (client, via);
            (record.bytes_in, record.bytes_out) = (bytes_in, bytes_out);
            record.lasted_micros = micros(lasted);
            record.dial_micros = trace.dialled.map(micros);
            record.end = why.to_owned();
        });
    }

    /// Makes the record of a flow that is over.
    pub(super) fn record_flow(&mut self, flow: &Flow, index: u32, why: &'static str) {
        if !self.access.is_wanted {
            return;
        }
        let (client, [bytes_in, bytes_out]) = (flow.client(), flow.carried);
        let lasted = self.core.now.saturating_duration_since(flow.begun);
        self.keep_record(flow.device, index, |record| {
            record.client = client;
            (record.bytes_in, record.bytes_out) = (bytes_in, bytes_out);
            record.lasted_micros = micros(lasted);
            record.end = why.to_owned();
        });
    }

    /// Makes the record of a client that was turned away at the door.
    pub(super) fn record_refused(
        &mut self,
        device: Key,
        index: u32,
        origin: Option<&Origin>,
        refusal: Refusal,
    ) {
        if self.access.is_wanted {
            let (client, via) = (origin.map(|origin| origin.client), origin.and_then(Origin::via));
            self.keep_record(device, index, |record| {
                (record.client, record.via) = (client, via);
                record.end = refusal.name().to_owned();
            });
        }
    }

    fn keep_record(&mut self, key: Key, index: u32, fill: impl FnOnce(&mut AccessRecord)) {
        self.access.number += 1;
        if self.access.waiting.len() >= RECORDS_KEPT_MAX {
            self.access.lost += 1;
            return self.core.count(key, field::SETTLED);
        }
        let Some(device) = self.devices.get(key) else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut record = AccessRecord {
            device: device.plan.wire.key.clone(),
            number: self.access.number,
            ended_millis: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            client: None,
            via: None,
            listen: device.plan.listen_text(index),
            target: device.plan.connect_text(index),
            bytes_in: 0,
            bytes_out: 0,
            lasted_micros: 0,
            dial_micros: None,
            end: String::new(),
        };
        fill(&mut record);
        self.access.waiting.push_back((key, record));
    }

    /// Tells the daemon what waits, as far as it takes it.
    pub(super) fn tell_access(&mut self) {
        while !self.access.is_quiet() && self.control.is_connected() && self.control.is_quiet() {
            let count = self.access.waiting.len().min(RECORDS_MAX);
            let (keys, records) = self.access.waiting.drain(..count).unzip::<_, _, Vec<Key>, Vec<_>>();
            let message = FromWorker::Access { records, lost: self.access.lost };
            let sent = self.send_now(&message, &[]);
            if self.is_taken(sent) {
                self.access.lost = 0;
                for key in keys {
                    self.core.count(key, field::SETTLED);
                }
                continue;
            }
            if let FromWorker::Access { records, .. } = message {
                keys.into_iter().zip(records).rev().for_each(|one| self.access.waiting.push_front(one));
            }
            return;
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
