//! What a segment of TCP says of its connection's progress. It is not believed further than that: whoever is asked knows
//! only whether something long has arrived.

use super::header::{ACK, Layout, TCP, TCP_BYTES, TCP_FLAGS, TCP_SEQUENCE, byte};
use crate::wg::message::array;

/// Kinds of options: the last one, one without a length, selective acknowledgements.
const END: u8 = 0;
const NOTHING: u8 = 1;
const SACK: u8 = 5;

/// A segment, as long as it is before it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its connection, in this direction and in the other: a number that others may have too.
    pub flow: u32,
    /// The same of what it answers.
    pub answers: u32,
    /// Number of its first byte.
    pub begin: u32,
    /// Bytes of payload.
    pub length: u32,
    /// Bytes of headers before it.
    pub headers: usize,
    /// What it acknowledges.
    pub acknowledged: Option<u32>,
    /// Bytes of the longest row that it says has come behind a gap.
    pub longest_block: usize,
}

impl Segment {
    /// `None`: it is none, or no plain one.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Segment> {
        let layout = Layout::plain(packet).filter(|layout| layout.protocol == TCP)?;
        let at = layout.transport;
        let addresses = layout.addresses(packet);
        let (source, destination) = addresses.split_at(addresses.len() / 2);
        let [from, to] = [at, at + 2].map(|at| packet.get(at..at + 2).unwrap_or_default());
        let number = |at: usize| array(packet, at).map(u32::from_be_bytes);
        let has_ack = byte(packet, at + TCP_FLAGS) & ACK != 0;
        Some(Segment {
            flow: mix([source, destination, from, to]),
            answers: mix([destination, source, to, from]),
            begin: number(at + TCP_SEQUENCE)?,
            length: u32::try_from(packet.len() - layout.payload).ok()?,
            headers: layout.payload,
            acknowledged: number(at + 8).filter(|_| has_ack),
            longest_block: longest_block(packet.get(at + TCP_BYTES..layout.payload).unwrap_or_default()),
        })
    }
}

/// FNV-1a, 32 bits.
fn mix(parts: [&[u8]; 4]) -> u32 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    parts.into_iter().flatten().fold(0x811c_9dc5, step)
}

fn longest_block(mut options: &[u8]) -> usize {
    while let Some((kind, rest)) = options.split_first() {
        match (*kind, usize::from(byte(rest, 0))) {
            (END, _) => return 0,
            (NOTHING, _) => options = rest,
            (SACK, length) => {
                let blocks = options.get(2..length).unwrap_or_default().chunks_exact(8);
                let edge = |block: &[u8], at| array(block, at).map_or(0, u32::from_be_bytes);
                let bytes = blocks.map(|block| edge(block, 4).wrapping_sub(edge(block, 0)));
                return bytes.max().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
            }
            (_, length) if length >= 2 => options = options.get(length..).unwrap_or_default(),
            _ => return 0,
        }
    }
    0
}
