//! Frames of a stream, cut anywhere, against the list of their payloads.

use portway_proto::len16::{Decoder, HEADER_BYTES, PAYLOAD_MAX_BYTES, header};
use proptest::prelude::*;

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let size = prop_oneof![4 => 0..6_usize, 2 => 250..260_usize, 1 => 65_530..=PAYLOAD_MAX_BYTES];
    let payload = (size, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]);
    prop::collection::vec(payload, 0..12)
}

fn encode(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = Vec::new();
    for payload in payloads {
        stream.extend(header(payload.len()).expect("at most 65,535 bytes"));
        stream.extend(payload);
    }
    stream
}

/// Reads `stream` in pieces of the given sizes, over and over.
fn decode(stream: &[u8], sizes: &[usize]) -> (Vec<Vec<u8>>, Decoder) {
    let (mut decoder, mut frames, mut rest) = (Decoder::default(), Vec::new(), stream);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut piece, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        while let Some(frame) = decoder.next(&mut piece) {
            frames.push(frame.to_vec());
        }
        assert!(piece.is_empty(), "what was read is used up");
        assert!(decoder.kept_bytes() <= 2 * (HEADER_BYTES + PAYLOAD_MAX_BYTES));
    }
    (frames, decoder)
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(
        payloads in payloads(),
        sizes in prop::collection::vec(prop_oneof![1..4_usize, 100..70_000_usize], 1..8),
    ) {
        let (frames, decoder) = decode(&encode(&payloads), &sizes);
        prop_assert_eq!(frames, payloads);
        prop_assert!(!decoder.is_amid());
    }

    /// A stream that ends anywhere gives the frames that are whole, and nothing else.
    #[test]
    fn a_cut_stream_gives_what_is_whole(
        payloads in payloads(), sizes in prop::collection::vec(1..5_000_usize, 1..4), cut in any::<prop::sample::Index>(),
    ) {
        let stream = encode(&payloads);
        let cut = cut.index(stream.len() + 1);
        let (frames, decoder) = decode(&stream[..cut], &sizes);
        let (mut whole, mut end) = (0, 0);
        while let Some(next) = payloads.get(whole).map(|payload| end + HEADER_BYTES + payload.len()).filter(|next| *next <= cut) {
            (whole, end) = (whole + 1, next);
        }
        prop_assert_eq!(&frames[..], &payloads[..whole]);
        prop_assert_eq!(decoder.is_amid(), end < cut);
    }

    /// Any bytes at all.
    #[test]
    fn noise_does_no_harm(noise in prop::collection::vec(any::<u8>(), 0..2_000), sizes in prop::collection::vec(1..300_usize, 1..4)) {
        let (frames, _) = decode(&noise, &sizes);
        prop_assert!(encode(&frames).len() <= noise.len());
    }
}
