//! How much of the registrar one source may have, and all of them together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use portway_proto::admission::{Bucket, Source, Sources};

use super::hold;

/// Connections at once; a device that follows has one.
pub(super) const CONNECTIONS_MAX: usize = 8192;

/// Of them, those that follow.
pub(super) const WATCHERS_MAX: usize = 6144;

/// Connections of one source at once: a site's devices may stand behind one address.
const SOURCE_MAX: u32 = 512;

/// Requests of one source in a second.
const SOURCE_RATE: NonZeroU32 = NonZeroU32::new(50).expect("not zero");

/// Sources that are remembered at once.
const REMEMBERED: usize = 16_384;

/// After this a bucket is full again and need not be remembered.
const FORGET: Duration = Duration::from_secs(2);

/// Who has how much.
#[derive(Debug)]
pub(super) struct Limits {
    connections: Mutex<Sources>,
    rates: Mutex<HashMap<Source, (Bucket, Instant)>>,
    rate: NonZeroU32,
}

/// A connection that counts as long as this is there.
pub(super) struct Pass<'a> {
    limits: &'a Limits,
    source: Source,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { connections: Mutex::default(), rates: Mutex::default(), rate: SOURCE_RATE }
    }
}

impl Limits {
    /// One more connection; `None` when its source has enough.
    pub(super) fn enter(&self, from: IpAddr) -> Option<Pass<'_>> {
        let source = Source::from(from);
        let mut connections = hold(&self.connections);
        (connections.count(source) < SOURCE_MAX).then(|| {
            connections.enter(source);
            Pass { limits: self, source }
        })
    }

    /// Whether one more request is answered.
    pub(super) fn may_ask(&self, from: IpAddr, now: Instant) -> bool {
        let mut rates = hold(&self.rates);
        if rates.len() >= REMEMBERED {
            rates.retain(|_, (_, last)| now.duration_since(*last) < FORGET);
        }
        let source = Source::from(from);
        if rates.len() >= REMEMBERED && !rates.contains_key(&source) {
            return false;
        }
        let (bucket, last) = rates.entry(source).or_insert_with(|| (Bucket::new(self.rate), now));
        *last = now;
        bucket.take(now)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        hold(&self.limits.connections).leave(self.source);
    }
}
