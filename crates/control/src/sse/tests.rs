//! Fields, line ends, any cut of the stream, limits.

use super::*;

/// All events of `stream` when it arrives in pieces of `piece` bytes.
fn read(stream: &str, piece: usize) -> Vec<String> {
    let mut reader = Reader::new(1000);
    stream
        .as_bytes()
        .chunks(piece)
        .flat_map(|bytes| reader.push(bytes).unwrap())
        .map(|data| String::from_utf8(data).unwrap())
        .collect()
}

#[test]
fn only_data_counts_however_the_stream_is_cut() {
    let stream = ": keep-alive\n\ndata: {\"a\":1}\n\nevent: x\r\nid: 7\r\ndata:two\r\ndata: lines\r\n\r\n\n\
                  database: no\n\ndata\n\ndata: \u{e4}\n\ndata: unfinished\n";
    for piece in 1..=stream.len() {
        assert_eq!(read(stream, piece), ["{\"a\":1}", "two\nlines", "", "\u{e4}"], "pieces of {piece}");
    }
}

#[test]
fn an_endless_line_or_event_is_refused() {
    let mut reader = Reader::new(16);
    assert_eq!(reader.push(&[b'x'; 17]), Err(TooLong { limit_bytes: 16 }));
    let mut reader = Reader::new(16);
    let result = (0..10).try_for_each(|_| reader.push(b"data: 12345\n").map(drop));
    assert_eq!(result, Err(TooLong { limit_bytes: 16 }));
    // Comments are dropped as they come, so a quiet stream may last for ever.
    let mut reader = Reader::new(16);
    assert!((0..1000).all(|_| reader.push(b": 1234567\n").is_ok()));
}
