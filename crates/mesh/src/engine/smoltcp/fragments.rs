//! Packets in pieces: put together when all of them have come, in bounded memory and time. Each peer may have as many at
//! a time as there are places left, so that nobody's pieces end another's.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::packet::{Ip, Piece, push_header};
use super::shares::Source;

/// Packets that may be incomplete at a time.
const PACKETS: usize = 32;

/// Longest that is put together, behind the header: as much as the length fields can say.
const LONGEST_V4_BYTES: usize = 65_535 - 20;
const LONGEST_V6_BYTES: usize = 65_535;

/// How long pieces are waited for: RFC 8200, 4.5, says 60 s; RFC 791 begins with 15 s, and memory is worth more here.
const PATIENCE: Duration = Duration::from_secs(15);

/// Most pieces of a packet: of the least MTU, and twice over for those that cut smaller.
const PIECES: usize = 128;

struct Incomplete {
    source: Source,
    key: (IpAddr, IpAddr, u8, u32),
    until: Instant,
    bytes: Vec<u8>,
    /// Where pieces lie, in order, apart from each other.
    have: Vec<(usize, usize)>,
    /// Where the last one ends.
    end: Option<usize>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Fragments(VecDeque<Incomplete>);

impl Fragments {
    /// Takes a piece from `source`; the whole packet, if it was the last one that lacked.
    pub(super) fn take(
        &mut self,
        now: Instant,
        source: Source,
        ip: &Ip,
        piece: Piece,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        self.0.retain(|packet| packet.until > now);
        let key = (ip.source, ip.destination, ip.protocol, piece.id);
        let at = self.0.iter().position(|packet| packet.key == key).unwrap_or_else(|| {
            self.make_room(source);
            let (bytes, have) = (Vec::new(), Vec::new());
            self.0.push_back(Incomplete { source, key, until: now + PATIENCE, bytes, have, end: None });
            self.0.len() - 1
        });
        let longest = if ip.source.is_ipv4() { LONGEST_V4_BYTES } else { LONGEST_V6_BYTES };
        match self.0.get_mut(at)?.take(piece, bytes, longest) {
            Some(true) => {
                let packet = self.0.remove(at)?;
                let mut whole = Vec::with_capacity(60 + packet.bytes.len());
                push_header(&mut whole, ip.source, ip.destination, ip.protocol, packet.bytes.len());
                whole.extend_from_slice(&packet.bytes);
                Some(whole)
            }
            Some(false) => None,
            None => {
                self.0.remove(at);
                None
            }
        }
    }
}

impl Fragments {
    /// Whoever has as many as there are places left gives up their oldest.
    fn make_room(&mut self, source: Source) {
        let own = |packet: &&Incomplete| packet.source == source;
        if self.0.iter().filter(own).count() >= PACKETS.saturating_sub(self.0.len())
            && let Some(at) = self.0.iter().position(|packet| packet.source == source)
        {
            self.0.remove(at);
        }
        // So many peers that none has another: the oldest of all.
        if self.0.len() >= PACKETS {
            self.0.pop_front();
        }
    }
}

impl Incomplete {
    /// Whether it is whole; `None`: it never will be. Pieces that overlap are no honest sender's (RFC 5722).
    fn take(&mut self, piece: Piece, bytes: &[u8], longest: usize) -> Option<bool> {
        let (begin, end) = (piece.offset, piece.offset + bytes.len());
        let odd = piece.more && !bytes.len().is_multiple_of(8);
        if bytes.is_empty() || odd || end > longest || self.have.len() >= PIECES {
            return None;
        }
        if self.have.contains(&(begin, end)) {
            return Some(false);
        }
        if self.have.iter().any(|(other, until)| begin < *until && *other < end) {
            return None;
        }
        if !piece.more && self.end.replace(end).is_some() {
            return None;
        }
        let farthest = self.have.iter().map(|(_, until)| *until).max().unwrap_or(0).max(end);
        if self.end.is_some_and(|last| farthest > last) {
            return None;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(begin..end)?.copy_from_slice(bytes);
        self.have.push((begin, end));
        let total: usize = self.have.iter().map(|(begin, end)| end - begin).sum();
        Some(self.end == Some(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: [u8; 8] = [7; 8];

    /// The first or the last of two pieces of packet `id` from `last`.
    fn give(fragments: &mut Fragments, now: Instant, last: u8, id: u32, first: bool) -> Option<Vec<u8>> {
        let ip = Ip {
            source: [10, 9, 0, last].into(),
            destination: [10, 9, 0, 1].into(),
            protocol: 17,
            header: 20,
            length: 28,
            piece: None,
        };
        let piece = Piece { id, offset: if first { 0 } else { 8 }, more: first };
        fragments.take(now, Source::peer(last.into()), &ip, piece, &PIECE)
    }

    /// Fails when: a peer that sends first pieces and nothing else ends the packets of another, or has memory without end.
    #[test]
    fn pieces_of_one_end_nobody_elses() {
        let (now, mut fragments) = (Instant::now(), Fragments::default());
        assert_eq!(give(&mut fragments, now, 2, 1, true), None);
        for id in 0..10_000 {
            assert_eq!(give(&mut fragments, now, 3, id, true), None);
        }
        assert!(give(&mut fragments, now, 2, 1, false).is_some());
        assert!((PACKETS / 2..PACKETS).contains(&fragments.0.len()), "{}", fragments.0.len());
        // Its own newest are there still, its oldest are not.
        assert!(give(&mut fragments, now, 3, 9999, false).is_some());
        assert_eq!(give(&mut fragments, now, 3, 0, false), None);
        // With more peers than there are places somebody's goes, and the newest is there.
        for last in 4..=250 {
            give(&mut fragments, now, last, 1, true);
        }
        assert!(fragments.0.len() <= PACKETS);
        assert!(give(&mut fragments, now, 250, 1, false).is_some());
        give(&mut fragments, now + PATIENCE, 2, 2, true);
        assert_eq!(fragments.0.len(), 1);
    }
}
