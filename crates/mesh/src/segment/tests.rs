use proptest::prelude::*;

use super::checksum::{add, finish, holds};
use super::header::{Layout, V4_CHECKSUM, V4_ID, word};
use super::*;

/// A packet as a peer's TCP or UDP makes it, whole.
#[derive(Debug, Clone)]
struct Sent {
    v6: bool,
    tcp: bool,
    options: usize,
    payload: Vec<u8>,
    sequence: u32,
    id: u16,
    push: bool,
}

impl Sent {
    /// All its bytes but the lengths and checksums.
    fn bytes(&self) -> (Vec<u8>, usize) {
        let mut bytes = Vec::new();
        if self.v6 {
            bytes.extend([0x60, 0x0a, 0xbc, 0xde, 0, 0, if self.tcp { 6 } else { 17 }, 63]);
            bytes.extend((0..32).map(|n| if n < 16 { 0xfd } else { n }));
        } else {
            bytes.extend([0x45, 0x02, 0, 0]);
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([0x40, 0, 64, if self.tcp { 6 } else { 17 }, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let transport = bytes.len();
        bytes.extend([0x1f, 0x90, 0xc3, 0x50]);
        if self.tcp {
            bytes.extend(self.sequence.to_be_bytes());
            let words = u8::try_from(5 + self.options).unwrap();
            bytes.extend([1, 2, 3, 4, words << 4, if self.push { 0x18 } else { 0x10 }, 0x20, 0, 0, 0, 0, 0]);
            bytes.extend((0..self.options * 4).map(|n| u8::try_from(n).unwrap()));
        } else {
            bytes.extend([0; 4]);
        }
        bytes.extend(&self.payload);
        (bytes, transport)
    }

    /// With lengths, and the sum of the pseudo header where the checksum goes: as the kernel hands over a long one.
    fn long(&self, size: u16) -> (Offload, Vec<u8>) {
        let (mut bytes, transport) = self.bytes();
        let layout = Layout::new(&bytes, transport, if self.tcp { 6 } else { 17 }).unwrap();
        let total = bytes.len();
        layout.set_length(&mut bytes, total);
        let sum = checksum::fold(layout.pseudo(&bytes, total - transport));
        header::put(&mut bytes, layout.checksum(), &sum);
        let kind = match (self.tcp, self.v6) {
            (true, false) => Segmented::Tcp4,
            (true, true) => Segmented::Tcp6,
            (false, _) => Segmented::Udp,
        };
        let short = |n: usize| u16::try_from(n).unwrap();
        let checksum = Some((short(transport), short(layout.checksum_offset())));
        (Offload { checksum, segments: Some((kind, size)), headers: short(layout.payload) }, bytes)
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let payload = (1..60_000_usize, any::<u8>())
        .prop_map(|(length, salt)| (0..length).map(|n| u8::try_from(n % 253).unwrap() ^ salt).collect());
    (any::<bool>(), any::<bool>(), 0..=10_usize, payload, any::<u32>(), any::<u16>(), any::<bool>()).prop_map(
        |(v6, tcp, options, payload, sequence, id, push)| {
            let options = if tcp { options } else { 0 };
            Sent { v6, tcp, options, payload, sequence, id, push: push && tcp }
        },
    )
}

/// The packets that are sent.
fn cut(offload: Offload, bytes: &[u8]) -> Vec<Vec<u8>> {
    written(Cut::new(offload, bytes).unwrap())
}

fn written(cut: Cut<'_>) -> Vec<Vec<u8>> {
    (0..cut.count())
        .map(|number| {
            let mut room = vec![0xee; cut.longest()];
            let length = cut.write(number, &mut room);
            room.truncate(length);
            room
        })
        .collect()
}

/// Joins all that can be; each as it goes to the kernel.
fn join(packets: &[Vec<u8>]) -> Vec<(Offload, Vec<u8>)> {
    let mut rest = packets;
    let mut joined = Vec::new();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let Some(mut run) = Join::begin(first) else {
            joined.push((Offload::default(), first.clone()));
            continue;
        };
        let mut parts: Vec<&[u8]> = vec![&first[run.headers()..]];
        while let Some((next, behind)) = rest.split_first()
            && run.take(next)
        {
            parts.push(&next[run.headers()..]);
            rest = behind;
        }
        if run.count() == 1 {
            joined.push((Offload::default(), first.clone()));
            continue;
        }
        let mut headers = [0; LONGEST_HEADERS_BYTES];
        let offload = run.finish(&mut headers);
        joined.push((offload, [&headers[..run.headers()], &parts.concat()].concat()));
    }
    joined
}

/// By the definitions, and not by the code under test's own notion of what is sound.
fn is_sound(packet: &[u8]) -> bool {
    let v4 = packet[0] >> 4 == 4;
    let (transport, protocol, addresses) =
        if v4 { (20, packet[9], &packet[12..20]) } else { (40, packet[6], &packet[8..40]) };
    let length = if v4 { usize::from(word(packet, 2)) } else { usize::from(word(packet, 4)) + 40 };
    let part = &packet[transport..];
    let mut all = addresses.to_vec();
    all.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
    all.extend([0, 0, 0, protocol]);
    all.extend(part);
    let total: u64 =
        all.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum();
    let udp = protocol != 17 || usize::from(word(packet, transport + 4)) == part.len();
    length == packet.len() && udp && total.is_multiple_of(0xffff) && (!v4 || holds(add(0, &packet[..20])))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// What is cut is sound and no longer than it may be; what is joined again is what it was, and cut once more the same.
    ///
    /// Fails when: a checksum, a length, a sequence number or an identification is wrong, a flag is on the wrong piece, or
    /// something is joined that was not cut from one.
    #[test]
    fn cut_and_joined_is_the_same(sent in sent(), size in 536..1400_u16) {
        let (offload, bytes) = sent.long(size);
        let pieces = cut(offload, &bytes);
        prop_assert_eq!(pieces.len(), sent.payload.len().div_ceil(usize::from(size)));
        prop_assert!(pieces.iter().all(|piece| is_sound(piece)));
        let joined = join(&pieces);
        if pieces.len() == 1 {
            prop_assert_eq!(&joined, &vec![(Offload::default(), pieces[0].clone())]);
        } else if pieces.len() <= MOST_JOINED {
            prop_assert_eq!(&joined, &vec![(offload, bytes)]);
        }
        let again: Vec<Vec<u8>> = joined.iter().flat_map(|(offload, bytes)| cut(*offload, bytes)).collect();
        prop_assert_eq!(again, pieces);
    }

    /// Fails when: TCP that is cut smaller is not what it would have been with that size, or anything else is touched.
    #[test]
    fn tcp_is_cut_smaller_where_it_must(sent in sent(), size in 1000..1400_u16, smaller in 300..900_u16) {
        let (offload, bytes) = sent.long(size);
        let headers = usize::from(offload.headers);
        let within = Cut::new(offload, &bytes).unwrap().within(headers + usize::from(smaller));
        let (kind, _) = offload.segments.unwrap();
        let wanted = if sent.tcp { smaller } else { size };
        let expected = cut(Offload { segments: Some((kind, wanted)), ..offload }, &bytes);
        prop_assert_eq!(written(within), expected);
        // A piece that is whole is divided as well.
        let whole = cut(offload, &bytes).swap_remove(0);
        let parts = written(Cut::new(Offload::default(), &whole).unwrap().within(headers + usize::from(smaller)));
        prop_assert!(parts.iter().all(|part| is_sound(part)));
        let payload: Vec<u8> = parts.iter().flat_map(|part| part[headers..].to_vec()).collect();
        prop_assert_eq!(&payload, &whole[headers..]);
        prop_assert!(!sent.tcp || parts.iter().all(|part| part.len() <= headers + usize::from(smaller)));
    }

    /// Any change of any piece leaves the packets what they are: joined and cut again they are the same, damaged or not.
    #[test]
    fn what_is_damaged_stays_so(sent in sent(), size in 536..1400_u16, piece: prop::sample::Index, at: prop::sample::Index, bit in 0..8_u8) {
        let (offload, bytes) = sent.long(size);
        let mut pieces = cut(offload, &bytes);
        let piece = piece.index(pieces.len());
        let at = at.index(pieces[piece].len());
        pieces[piece][at] ^= 1 << bit;
        let again: Vec<Vec<u8>> =
            join(&pieces).iter().flat_map(|(offload, bytes)| cut(*offload, bytes)).collect();
        prop_assert_eq!(again, pieces);
    }

    /// Any header before any bytes: nothing panics, and no piece is longer than it was said.
    #[test]
    fn nothing_is_believed(header: [u8; OFFLOAD_BYTES], start in prop::sample::select(vec![0x45_u8, 0x46, 0x4f, 0x40, 0x60, 0x00]), mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(first) = bytes.first_mut() {
            *first = start;
        }
        check_anything(header, &bytes);
    }
}

fn check_anything(header: [u8; OFFLOAD_BYTES], bytes: &[u8]) {
    let Some(offload) = Offload::read(header) else { return };
    if let Ok(cut) = Cut::new(offload, bytes) {
        let mut room = vec![0; cut.longest()];
        for number in 0..cut.count() {
            let length = cut.write(number, &mut room);
            assert!(length > 0 || bytes.is_empty());
        }
        assert_eq!(cut.write(cut.count(), &mut room), 0);
        let within = cut.within(100);
        assert!((0..within.count()).all(|number| within.write(number, &mut room) > 0 || bytes.is_empty()));
    }
    if let Some(fragments) = Fragments::new(bytes, 100, 7) {
        let mut room = [0; 100];
        assert!((0..fragments.count()).all(|number| fragments.write(number, &mut room) > 0));
    }
    clamp(&mut bytes.to_vec(), 100);
    let half = bytes.split_at(bytes.len() / 2);
    if let Some(mut run) = Join::begin(half.0) {
        run.take(half.1);
        run.finish(&mut [0; LONGEST_HEADERS_BYTES]);
    }
}

/// A checksum that is missing is completed, and a packet without any of that stays as it is.
#[test]
fn one_packet_is_completed() {
    let sent =
        Sent { v6: false, tcp: false, options: 0, payload: vec![7; 33], sequence: 0, id: 4, push: false };
    let (offload, bytes) = sent.long(0);
    let whole = cut(Offload { segments: None, ..offload }, &bytes);
    assert!(is_sound(&whole[0]) && !is_sound(&bytes));
    assert_eq!(cut(Offload::default(), &bytes), std::slice::from_ref(&bytes));
    assert_eq!(Cut::new(offload, &bytes).unwrap_err(), Uncut, "pieces of nothing");
    let past = Offload { checksum: Some((60, 6)), ..Offload::default() };
    assert_eq!(Cut::new(past, &bytes).unwrap_err(), Uncut);
}

/// Packets that share an identification and may not be fragmented are joined: it says nothing then.
#[test]
fn the_same_identification_throughout() {
    let sent =
        Sent { v6: false, tcp: true, options: 3, payload: vec![9; 3000], sequence: 7, id: 0, push: true };
    let (offload, bytes) = sent.long(1000);
    let mut pieces = cut(offload, &bytes);
    for piece in &mut pieces {
        header::put(piece, V4_ID, &[0, 0]);
        header::put(piece, V4_CHECKSUM, &[0, 0]);
        let sum = finish(add(0, &piece[..20]));
        header::put(piece, V4_CHECKSUM, &sum);
    }
    assert_eq!(join(&pieces), [(offload, bytes)]);
    pieces.swap(1, 2);
    assert_eq!(join(&pieces).len(), 3, "out of order nothing is joined");
}

/// What starts or ends a connection is never part of anything, and packets of others do not get in between.
#[test]
fn flags_and_flows_are_kept_apart() {
    let sent = |id, sequence| Sent {
        v6: false,
        tcp: true,
        options: 0,
        payload: vec![1; 100],
        sequence,
        id,
        push: false,
    };
    let one = |sent: Sent| cut(Offload { segments: None, ..sent.long(0).0 }, &sent.long(0).1).remove(0);
    let (first, second) = (one(sent(1, 0)), one(sent(2, 100)));
    assert_eq!(join(&[first.clone(), second.clone()]).len(), 1);
    for flags in [0x11_u8, 0x12, 0x14, 0x30, 0x50, 0x00] {
        let mut other = second.clone();
        other[33] = flags;
        header::put(&mut other, 36, &[0, 0]);
        let layout = Layout::plain(&other).unwrap();
        let sum = finish(add(layout.pseudo(&other, other.len() - 20), &other[20..]));
        header::put(&mut other, 36, &sum);
        assert!(is_sound(&other));
        assert_eq!(join(&[first.clone(), other.clone()]).len(), 2, "flags {flags:x}");
        assert_eq!(join(&[other, second.clone()]).len(), 2, "flags {flags:x}");
    }
}

/// Found by the fuzzer: UDP's own length, wrong in a way that the checksum does not see, was put right by joining.
#[test]
fn a_wrong_length_of_udp_stays_wrong() {
    let sent =
        Sent { v6: false, tcp: false, options: 0, payload: vec![8; 80], sequence: 0, id: 1, push: false };
    let (offload, bytes) = sent.long(40);
    let mut pieces = cut(offload, &bytes);
    pieces[1][24] ^= 8;
    // The other way by as much: what is summed stays the same.
    pieces[1][28] ^= 8;
    assert_eq!(join(&pieces).len(), 2);
}
