use proptest::prelude::*;

use super::*;

fn text(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("it is short").to_be_bytes(), bytes].concat()
}

fn packet(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 9], fields.concat().as_slice()].concat()
}

fn operation(packet: &[u8]) -> Operation<'_> {
    match Request::read(packet) {
        Ok(Request::Do { id: 9, operation }) => operation,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_packet_says_its_number_or_nothing() {
    assert_eq!(Request::read(b""), Err(RequestError::Headless));
    assert_eq!(Request::read(b"\x05\0\0\0"), Err(RequestError::Headless));
    assert_eq!(Request::read(b"\x01\0\0\0\x06more"), Ok(Request::Init { version: 6 }));
    assert_eq!(Request::read(b"\x05\0\0\0\x09"), Err(RequestError::Malformed { id: 9 }));
    assert_eq!(operation(b"\x63\0\0\0\x09"), Operation::Unknown);
}

#[test]
fn requests_are_read_field_by_field() {
    let read = packet(5, &[&text(b"h"), &7_u64.to_be_bytes(), &8_u32.to_be_bytes()]);
    assert_eq!(operation(&read), Operation::Read { handle: b"h", offset: 7, length: 8 });
    let flags = 0x1a_u32.to_be_bytes();
    let open = packet(3, &[&text(b"/\xff"), &flags, b"\0\0\0\x04\0\0\x01\xa4"]);
    let how =
        Open { read: false, write: true, append: false, create: true, truncate: true, exclusive: false };
    let attributes = Attributes { permissions: Some(0o644), ..Attributes::default() };
    assert_eq!(operation(&open), Operation::Open { path: b"/\xff", how, attributes });
    let link = packet(20, &[&text(b"target"), &text(b"name")]);
    assert_eq!(operation(&link), Operation::Symlink { target: b"target", path: b"name" });
    let rename = packet(200, &[&text(b"posix-rename@openssh.com"), &text(b"a"), &text(b"b")]);
    assert_eq!(operation(&rename), Operation::PosixRename { from: b"a", to: b"b" });
    assert_eq!(operation(&packet(200, &[&text(b"later@example.org"), b"x"])), Operation::Unknown);
}

/// Fails when: announced extensions of attributes are looped over without bytes for them.
#[test]
fn many_announced_pairs_are_refused_at_once() {
    let stat = packet(9, &[&text(b"f"), b"\x80\0\0\0\xff\xff\xff\xff"]);
    assert_eq!(Request::read(&stat), Err(RequestError::Malformed { id: 9 }));
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let pair = || prop::option::of(any::<(u32, u32)>());
    let all = (prop::option::of(any::<u64>()), pair(), prop::option::of(any::<u32>()), pair());
    all.prop_map(|(size, ids, permissions, times)| Attributes { size, ids, permissions, times })
}

proptest! {
    #[test]
    fn attributes_are_read_as_they_are_written(attributes in attributes(), path in prop::collection::vec(any::<u8>(), 0..9)) {
        let mut bytes = packet(9, &[&text(&path)]);
        attributes.write(&mut bytes);
        prop_assert_eq!(operation(&bytes), Operation::Setstat { path: &path, attributes });
        bytes.pop();
        prop_assert_eq!(Request::read(&bytes), Err(RequestError::Malformed { id: 9 }));
    }

    #[test]
    fn noise_does_no_harm(kind in 0..=255_u8, noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let packet = [&[kind][..], &noise].concat();
        let read = Request::read(&packet);
        prop_assert_eq!(noise.len() < 4, read == Err(RequestError::Headless));
    }
}
