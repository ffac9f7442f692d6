//! The greatest segment that a SYN asks for, made less where its way takes less.

use super::checksum;
use super::header::{
    Layout, SYN, TCP, TCP_BYTES, TCP_CHECKSUM, TCP_FLAGS, V4_BYTES, V6_BYTES, byte, put, word,
};

/// Kinds of options: the last one, one without a length, and the one that is looked for, with its length.
const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: [u8; 2] = [2, 4];

/// Makes a SYN ask for no packet above `longest` bytes; anything else is left as it is, and so is one that is damaged.
/// True: it was changed.
pub fn clamp(packet: &mut [u8], longest: usize) -> bool {
    let Some(layout) = Layout::plain(packet).filter(|layout| layout.protocol == TCP) else { return false };
    if byte(packet, layout.transport + TCP_FLAGS) & SYN == 0 {
        return false;
    }
    let headers = if layout.is_v4 { V4_BYTES } else { V6_BYTES } + TCP_BYTES;
    let Some(most) = longest.checked_sub(headers).and_then(|most| u16::try_from(most).ok()) else {
        return false;
    };
    let Some(at) = place(packet, layout).filter(|at| word(packet, *at) > most) else { return false };
    let transport = packet.get(layout.transport..).unwrap_or_default();
    let length = transport.len();
    if !checksum::holds(checksum::add(layout.pseudo(packet, length), transport)) {
        return false;
    }
    put(packet, at, &most.to_be_bytes());
    put(packet, layout.transport + TCP_CHECKSUM, &[0, 0]);
    let transport = packet.get(layout.transport..).unwrap_or_default();
    let sum = checksum::finish(checksum::add(layout.pseudo(packet, length), transport));
    put(packet, layout.transport + TCP_CHECKSUM, &sum);
    true
}

/// Where the number of that option stands.
fn place(packet: &[u8], layout: Layout) -> Option<usize> {
    let mut at = layout.transport + TCP_BYTES;
    while at < layout.payload {
        match [byte(packet, at), byte(packet, at + 1)] {
            [END, _] => return None,
            [NOTHING, _] => at += 1,
            MSS if at + 4 <= layout.payload => return Some(at + 2),
            [_, length] if length >= 2 => at += usize::from(length),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::header::length;

    /// A SYN with these options, sound.
    fn syn(is_v4: bool, options: &[u8], flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; if is_v4 { V4_BYTES } else { V6_BYTES }];
        let transport = bytes.len();
        bytes.extend([0x1f, 0x90, 0xc3, 0x50, 1, 2, 3, 4, 5, 6, 7, 8]);
        bytes.extend([u8::try_from((TCP_BYTES + options.len()) / 4 * 16).unwrap(), flags, 9, 9, 0, 0, 0, 0]);
        bytes.extend(options);
        let total = bytes.len();
        if is_v4 {
            bytes[0] = 0x45;
            bytes[9] = TCP;
            put(&mut bytes, 2, &length(total));
        } else {
            bytes[0] = 0x60;
            bytes[6] = TCP;
            put(&mut bytes, 4, &length(total - V6_BYTES));
        }
        let layout = Layout::plain(&bytes).unwrap();
        let sum = checksum::add(layout.pseudo(&bytes, total - transport), &bytes[transport..]);
        put(&mut bytes, transport + TCP_CHECKSUM, &checksum::finish(sum));
        bytes
    }

    fn is_sound(packet: &[u8]) -> bool {
        let layout = Layout::plain(packet).unwrap();
        let transport = &packet[layout.transport..];
        checksum::holds(checksum::add(layout.pseudo(packet, transport.len()), transport))
    }

    /// Fails when: a greater segment is let through, a smaller one raised, or anything but a SYN touched.
    #[test]
    fn a_syn_asks_for_no_more() {
        for (is_v4, most) in [(true, 1180), (false, 1160)] {
            for before in [&[1, 1, 8, 4, 0, 0][..], &[1; 8], &[]] {
                let mut options = before.to_vec();
                options.extend([2, 4, 0x05, 0x64]);
                options.resize(options.len().next_multiple_of(4), 0);
                let mut packet = syn(is_v4, &options, SYN);
                let place = packet.len() - options.len() + before.len() + 2;
                assert!(clamp(&mut packet, 1220));
                assert_eq!(usize::from(word(&packet, place)), most);
                assert!(is_sound(&packet));
                let clamped = packet.clone();
                assert!(!clamp(&mut packet, 1420) && packet == clamped);
                let mut damaged = syn(is_v4, &options, SYN);
                damaged[place + 1] ^= 1;
                assert!(!clamp(&mut damaged, 1220));
                let mut other = syn(is_v4, &options, 16);
                assert!(!clamp(&mut other, 1220));
            }
            for options in
                [&[2, 4, 5, 0x64][..2], &[0, 0, 2, 4], &[7, 0, 2, 4], &[3, 200, 2, 4], &[2, 3, 5, 0]]
            {
                let mut options = options.to_vec();
                options.resize(4, 1);
                assert!(!clamp(&mut syn(is_v4, &options, SYN), 1220), "{options:?}");
            }
        }
        assert!(!clamp(&mut [], 1220));
    }
}
