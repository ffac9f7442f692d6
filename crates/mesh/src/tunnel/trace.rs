//! What happens to a tunnel, for whoever looks for a fault: a line of JSON each, in a file. Off unless it is asked for.
//!
//! Peers by their public keys, times in milliseconds since the tunnel began: keys that are agreed on and end, where peers
//! are, how long a packet their ways take, what is dropped and why. Never a key, and nothing of what is carried.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::spec::PublicKey;
use crate::wg::{Counters, Dropped, PeerState, Update};

/// No file is longer, bytes; its last line says so.
const MOST_BYTES: usize = 16 << 20;

/// How often counters and ways are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Trace {
    file: Arc<File>,
    begin: Instant,
    written: usize,
    looked: Option<Instant>,
    dropped: BTreeMap<Dropped, u64>,
    ways: BTreeMap<[u8; 32], Option<u16>>,
}

impl Trace {
    pub(super) fn new(file: Arc<File>, begin: Instant) -> Trace {
        Trace { file, begin, written: 0, looked: None, dropped: BTreeMap::new(), ways: BTreeMap::new() }
    }

    /// One line more. What cannot be written is lost, and the tunnel goes on.
    fn line(&mut self, event: &str, peer: Option<PublicKey>, more: &Value) {
        if self.written >= MOST_BYTES {
            return;
        }
        let millis = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut line = json!({"ms": millis, "event": event});
        if let (Some(line), Some(peer)) = (line.as_object_mut(), peer) {
            line.insert("peer".to_owned(), peer.to_string().into());
        }
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        let mut text = format!("{line}\n");
        self.written += text.len();
        if self.written >= MOST_BYTES {
            text.push_str("{\"event\":\"full\"}\n");
        }
        (&*self.file).write_all(text.as_bytes()).ok();
    }

    /// What the sending thread is told.
    pub(super) fn update(&mut self, update: &Update, peer: Option<PublicKey>) {
        match update {
            Update::Peer(..) => self.line("peer", peer, &json!({})),
            // Its place may be another's already.
            Update::Gone(_, key) => self.line("peer gone", Some(*key), &json!({})),
            Update::Endpoint(_, endpoint) => {
                self.line("endpoint", peer, &json!({"endpoint": endpoint.to.to_string()}))
            }
            // The hub's own name is in its own lines.
            Update::Through(_, hub) => {
                self.line("through a hub", peer, &json!({"is": hub.is_some()}));
            }
            Update::Keys(_, Some(_)) => self.line("keys", peer, &json!({})),
            Update::Keys(_, None) => self.line("keys ended", peer, &json!({})),
            Update::Routes(_) => {}
        }
    }

    /// Whether it is time to look at what nobody tells of.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= EVERY)
    }

    /// Looks at it.
    pub(super) fn look(&mut self, now: Instant, counters: &Counters, peers: &[PeerState]) {
        self.looked = Some(now);
        for (why, count) in counters.seen() {
            let before = self.dropped.insert(why, count).unwrap_or(0);
            if count > before {
                self.line("dropped", None, &json!({"why": format!("{why:?}"), "count": count - before}));
            }
        }
        for peer in peers {
            let before = self.ways.insert(*peer.public_key.as_bytes(), peer.longest_packet).flatten();
            if before != peer.longest_packet {
                self.line("way", Some(peer.public_key), &json!({"longest_packet": peer.longest_packet}));
            }
        }
        // Those that are gone are not kept.
        self.ways.retain(|key, _| peers.iter().any(|peer| peer.public_key.as_bytes() == key));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    /// Fails when: a file grows without bound, or its end is not said.
    #[test]
    fn a_file_has_an_end() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mut trace = Trace::new(Arc::clone(&file), Instant::now());
        let counters = Counters::default();
        counters.add(Dropped::Load, 3);
        trace.look(Instant::now(), &counters, &[]);
        trace.look(Instant::now(), &counters, &[]);
        trace.written = MOST_BYTES - 1;
        for _ in 0..3 {
            counters.add(Dropped::Load, 2);
            trace.look(Instant::now(), &counters, &[]);
        }
        let mut text = String::new();
        (&*file).rewind().unwrap();
        (&*file).read_to_string(&mut text).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let counts: Vec<_> = lines.iter().map(|line| line["count"].as_u64()).collect();
        assert_eq!(counts, [Some(3), Some(2), None]);
        assert_eq!(lines[2]["event"], "full");
    }
}
