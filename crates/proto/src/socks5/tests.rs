use proptest::prelude::*;

use super::*;

/// What a whole message says.
type Whole = Result<Option<String>, Malformed>;

/// Feeds a message in pieces of `step` bytes; what comes of it, and how many bytes were taken.
fn hear(expected: Expected, mut bytes: &[u8], step: usize) -> (Result<Option<String>, Malformed>, usize) {
    let mut hearing = Hearing::of(expected);
    let all = bytes.len();
    loop {
        let room = hearing.room();
        let count = room.len().min(bytes.len()).min(step);
        assert!(!room.is_empty(), "a message that is not whole has room");
        let (now, rest) = bytes.split_at(count);
        room[..count].copy_from_slice(now);
        bytes = rest;
        let heard = hearing.filled(count).map(|heard| heard.map(|heard| format!("{heard:?}")));
        match heard {
            Ok(None) if count > 0 => {}
            done => return (done, all - bytes.len()),
        }
    }
}

fn target(text: &str) -> Target {
    let (host, port) = text.rsplit_once(':').unwrap();
    Target { host: TargetHost::read(host).unwrap(), port: port.parse().unwrap() }
}

fn shown(heard: &Heard<'_>) -> Result<Option<String>, Malformed> {
    Ok(Some(format!("{heard:?}")))
}

fn request(request: Request) -> Result<Option<String>, Malformed> {
    shown(&Heard::Request(request))
}

/// Every message whole, in one piece and byte by byte, with payload right behind it.
///
/// Fails when: a length is read from the wrong place, or bytes behind the message are taken.
#[test]
fn messages() {
    let name = |user: &'static [u8], password: &'static [u8]| shown(&Heard::Login { user, password });
    let greeting = |none, login| shown(&Heard::Greeting { none, login });
    let v6 = [5, 1, 0, 4, 0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 80];
    let mapped = [5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1, 0, 80];
    let table: &[(Expected, &[u8], Whole)] = &[
        (Expected::Greeting, &[5, 1, 0], greeting(true, false)),
        (Expected::Greeting, &[5, 3, 1, 2, 0x80], greeting(false, true)),
        (Expected::Greeting, &[5, 0], greeting(false, false)),
        (Expected::Login, b"\x01\x02ab\x03xyz", name(b"ab", b"xyz")),
        (Expected::Login, b"\x01\x00\x00", name(b"", b"")),
        (
            Expected::Request,
            &[5, 1, 0, 1, 10, 9, 0, 2, 0x1f, 0x90],
            request(Request::Connect(target("10.9.0.2:8080"))),
        ),
        (Expected::Request, &v6, request(Request::Connect(target("fd09::2:80")))),
        (Expected::Request, &mapped, request(Request::Connect(target("127.0.0.1:80")))),
        (Expected::Request, b"\x05\x01\x00\x03\x02Db\x00\x50", request(Request::Connect(target("db:80")))),
        (
            Expected::Request,
            b"\x05\x01\x00\x03\x0810.9.0.2\x00\x50",
            request(Request::Connect(target("10.9.0.2:80"))),
        ),
        (Expected::Request, &[5, 2, 0, 1, 10, 9, 0, 2, 0, 80], request(Request::Bind(target("10.9.0.2:80")))),
        (
            Expected::Request,
            &[5, 3, 0, 1, 0, 0, 0, 0, 0, 0],
            request(Request::Associate(target("0.0.0.0:0"))),
        ),
        (Expected::Request, b"\x05\x01\x00\x03\x00\x00\x50", Err(Malformed::Name)),
        (Expected::Request, b"\x05\x01\x00\x03\x03a\x00b\x00\x50", Err(Malformed::Name)),
        (Expected::Request, b"\x05\x01\x00\x03\x02\xff\xff\x00\x50", Err(Malformed::Name)),
    ];
    for (expected, bytes, wanted) in table {
        let with_payload = [*bytes, b"GET / HTTP/1.0"].concat();
        for step in [1, 2, 1000] {
            assert_eq!(
                hear(*expected, &with_payload, step),
                (wanted.clone(), bytes.len()),
                "{bytes:?} by {step}"
            );
        }
        for length in 0..bytes.len() {
            let (heard, _) = hear(*expected, &bytes[..length], 1000);
            assert_eq!(heard, Ok(None), "{length} of {bytes:?}");
        }
    }
}

/// What cannot be right is known by the byte that is wrong.
#[test]
fn what_is_no_message() {
    let table: &[(Expected, &[u8], Malformed, usize)] = &[
        (Expected::Greeting, b"GET / HTTP/1.1\r\n", Malformed::Version, 1),
        (Expected::Greeting, &[4, 1, 0, 80], Malformed::Version, 1),
        (Expected::Greeting, &[0x16, 3, 1], Malformed::Version, 1),
        (Expected::Login, &[5, 1, b'a', 1, b'b'], Malformed::LoginVersion, 1),
        (Expected::Request, &[4, 1, 0, 1], Malformed::Version, 1),
        (Expected::Request, &[5, 0, 0, 1], Malformed::Command(0), 4),
        (Expected::Request, &[5, 9, 0, 2], Malformed::Command(9), 4),
        (Expected::Request, &[5, 1, 0, 2, 1], Malformed::AddressType(2), 4),
    ];
    for (expected, bytes, wanted, taken) in table {
        assert_eq!(hear(*expected, bytes, 1), (Err(*wanted), *taken), "{bytes:?}");
    }
    assert_eq!(Malformed::Command(9).reply(), Some(Reply::CommandNotSupported));
    assert_eq!(Malformed::AddressType(2).reply(), Some(Reply::AddressTypeNotSupported));
    assert_eq!(Malformed::Version.reply(), None);
}

#[test]
fn answers() {
    assert_eq!(method(Some(Expected::Request)), [5, 0]);
    assert_eq!(method(Some(Expected::Login)), [5, 2]);
    assert_eq!(method(None), [5, 0xff]);
    assert_eq!((login(true), login(false)), ([1, 0], [1, 1]));
    assert_eq!(reply(Reply::NotAllowed, None), [5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    let bound = "[::1]:258".parse().unwrap();
    assert_eq!(reply(Reply::Succeeded, Some(bound))[..4], [5, 0, 0, 4]);
    assert_eq!(reply(Reply::Succeeded, Some(bound))[19..], [1, 1, 2]);
}

#[test]
fn datagrams() {
    let whole = b"\0\0\0\x01\x0a\x09\x00\x02\x00\x35question";
    let wrapped = unwrap(whole).unwrap();
    assert_eq!((wrapped.target, wrapped.payload), (target("10.9.0.2:53"), &b"question"[..]));
    assert_eq!(unwrap(b"\0\0\0\x03\x01a\x00\x35").unwrap().payload, b"");
    assert_eq!(unwrap(b"\0\0\x01\x01\x0a\x09\x00\x02\x00\x35q"), Err(Malformed::Fragment));
    assert_eq!(unwrap(b"\0\0\x80\x01\x0a\x09\x00\x02\x00\x35q"), Err(Malformed::Fragment));
    assert_eq!(unwrap(b"\0\x01\0\x01\x0a\x09\x00\x02\x00\x35q"), Err(Malformed::Datagram));
    assert_eq!(unwrap(b"\0\0\0\x05\x0a\x09\x00\x02\x00\x35q"), Err(Malformed::AddressType(5)));
    for length in 0..10 {
        assert_eq!(unwrap(&whole[..length]), Err(Malformed::Datagram), "{length}");
    }
    for address in ["10.9.0.2:53", "[fd09::2]:65535"] {
        let from: SocketAddr = address.parse().unwrap();
        let bytes = [wrap(from), b"answer".to_vec()].concat();
        let wrapped = unwrap(&bytes).unwrap();
        assert_eq!((wrapped.target, wrapped.payload), (from.into(), &b"answer"[..]));
    }
}

proptest! {
    /// Whatever comes, in whatever pieces: the same is heard as in one piece, and no byte behind it is taken.
    #[test]
    fn pieces_make_no_difference(bytes in prop::collection::vec(any::<u8>(), 0..600), step in 1_usize..9, which in 0_usize..3) {
        let expected = [Expected::Greeting, Expected::Login, Expected::Request][which];
        // The first byte is right more often than by chance.
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() && *first < 200 {
            *first = if expected == Expected::Login { 1 } else { 5 };
        }
        let (whole, taken) = hear(expected, &bytes, 1000);
        let (pieces, taken_in_pieces) = hear(expected, &bytes, step);
        prop_assert_eq!(&whole, &pieces);
        if whole.is_ok() {
            prop_assert_eq!(taken, taken_in_pieces);
        }
        prop_assert!(taken <= MESSAGE_MAX_BYTES);
    }
}
