use proptest::prelude::*;

use super::super::{Endpoints, MAX_BYTES, encode};
use super::*;
use portway_model::ProxyProtocol;

fn header(announced: Announced, length: usize) -> Decoded {
    Decoded::Header { announced, length }
}

fn tcp(client: &str, local: &str) -> Announced {
    Announced::Tcp { client: client.parse().expect(client), local: local.parse().expect(local) }
}

fn refused(bytes: &[u8]) -> Malformed {
    match decode(bytes) {
        Decoded::Malformed(malformed) => malformed,
        other @ (Decoded::More | Decoded::Header { .. }) => panic!("{other:?} of {}", bytes.escape_ascii()),
    }
}

/// A binary header: command, family, what follows the length.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a short body");
    [&V2_SIGNATURE[..], &[command, family], &length.to_be_bytes(), body].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a short value");
    [&[kind][..], &length.to_be_bytes(), value].concat()
}

/// 192.0.2.1:4660 to 198.51.100.2:443.
const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb];

/// Of the header in `checksums`.
const CHECKSUM: [u8; 4] = [0x28, 0x76, 0xd2, 0x18];

/// A TCP4 header with TLVs.
fn with(tlvs: &[Vec<u8>]) -> Vec<u8> {
    v2(0x21, 0x11, &[&V4[..], &tlvs.concat()].concat())
}

#[test]
fn text_headers_are_read() {
    for (text, announced) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", tcp("192.0.2.1:56324", "198.51.100.2:443")),
        ("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", tcp("[2001:db8::1]:0", "[::1]:65535")),
        ("PROXY TCP6 ::ffff:10.0.0.1 2001:db8::1 1 2\r\n", tcp("10.0.0.1:1", "[2001:db8::1]:2")),
    ] {
        assert_eq!(decode(text.as_bytes()), header(announced, text.len()));
        let more = [text.as_bytes(), b"PROXY and more"].concat();
        assert_eq!(decode(&more), header(announced, text.len()), "what follows is not looked at");
    }
}

/// Longer than 107 bytes, lower case, two spaces, something at the end, LF alone.
#[test]
fn malformed_text_headers() {
    let long = [b"PROXY TCP6 ", &[b'f'; 120][..], b"\r\n"].concat();
    assert_eq!(refused(&long), Malformed::LineTooLong);
    assert_eq!(refused(&long[..107]), Malformed::LineTooLong);
    assert_eq!(decode(&long[..106]), Decoded::More);
    let unknown = [b"PROXY UNKNOWN ", &[b'x'; 91][..], b"\r\n"].concat();
    assert_eq!((unknown.len(), decode(&unknown)), (107, header(Announced::Socket, 107)));
    let unknown = [b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat();
    assert_eq!(refused(&unknown), Malformed::LineTooLong);
    for (text, expected) in [
        ("proxy tcp4 1.2.3.4 1.2.3.4 1 2\r\n", Malformed::Start),
        ("PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", Malformed::Protocol),
        ("PROXY unknown\r\n", Malformed::Protocol),
        ("PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Malformed::Protocol),
        ("PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n", Malformed::Start),
        ("PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", Malformed::Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1  2\r\n", Malformed::Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", Malformed::Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 x\r\n", Malformed::Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Malformed::Fields),
        ("PROXY TCP4\r\n", Malformed::Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2x\r\n", Malformed::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", Malformed::LineEnd),
        ("PROXY UNKNOWN\n", Malformed::LineEnd),
        ("PROXY UNKNOWN\rX", Malformed::LineEnd),
        ("PROXY UNKNOWNX\r\n", Malformed::Protocol),
        ("PROXY \r\n", Malformed::Protocol),
        ("GET / HTTP/1.1\r\n", Malformed::Start),
        ("\r\n\r\n\0\r\nQUIX", Malformed::Start),
    ] {
        assert_eq!(refused(text.as_bytes()), expected, "{text:?}");
    }
    assert_eq!(refused(b"PROXY TCP4 \xff\xfe\r\n"), Malformed::Protocol);
}

/// Ports and addresses that are none.
#[test]
fn ports_and_families() {
    for port in ["65536", "-1", "+80", "080", "00", "", "0x50", "80 ", "٨", "99999999999999999999"] {
        let text = format!("PROXY TCP4 1.2.3.4 1.2.3.4 1 {port}\r\n");
        assert!(matches!(refused(text.as_bytes()), Malformed::Port | Malformed::Fields), "{text:?}");
    }
    for text in [
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 256.2.3.4 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
    ] {
        assert_eq!(refused(text.as_bytes()), Malformed::Address, "{text:?}");
    }
}

/// `UNKNOWN`, with or without addresses, is the socket's own address.
#[test]
fn unknown_clients() {
    for text in
        ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN 1.2.3.4 1.2.3.4 1 2\r\n", "PROXY UNKNOWN \x01 anything \r\n"]
    {
        assert_eq!(decode(text.as_bytes()), header(Announced::Socket, text.len()), "{text:?}");
    }
    assert_eq!(decode(b"PROXY UNKNOWN \xff\xfe\r\n"), header(Announced::Socket, 18));
}

/// Lengths, versions, commands, families that do not exist.
#[test]
fn malformed_binary_headers() {
    let mut long = v2(0x21, 0x11, &V4);
    long[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    assert_eq!(refused(&long), Malformed::Length);
    for command in [0x00, 0x01, 0x11, 0x22, 0x2f, 0x31, 0xff] {
        assert_eq!(refused(&v2(command, 0x11, &V4)), Malformed::Command, "{command:#x}");
    }
    for family in [0x41, 0x13, 0x1f, 0xf1, 0x43, 0x40, 0x03] {
        assert_eq!(refused(&v2(0x21, family, &V4)), Malformed::Family, "{family:#x}");
    }
    for (family, short) in [(0x11, 11), (0x21, 35), (0x31, 215), (0x12, 0)] {
        assert_eq!(refused(&v2(0x21, family, &vec![0; short])), Malformed::Length, "{family:#x}");
    }
    // Known by its first bytes: nothing more is waited for.
    assert_eq!(refused(&long[..16]), Malformed::Length);
    assert_eq!(refused(&v2(0x31, 0x11, &V4)[..13]), Malformed::Command);
    assert_eq!(refused(&v2(0x21, 0x43, &V4)[..14]), Malformed::Family);
}

/// LOCAL with whatever, unix addresses, no family: the socket's own address.
#[test]
fn headers_without_a_tcp_client() {
    for (command, family, body) in [
        (0x20, 0x00, &[][..]),
        (0x20, 0xff, &[0xaa; 300]),
        (0x20, 0x11, &[1]),
        (0x21, 0x31, &[b'/'; 216]),
        (0x21, 0x32, &[0; 216]),
        (0x21, 0x00, &[]),
        (0x21, 0x00, &[0xee; 77]),
        (0x21, 0x12, &V4),
        (0x21, 0x10, &V4),
        (0x21, 0x01, &V4),
    ] {
        let bytes = v2(command, family, body);
        assert_eq!(decode(&bytes), header(Announced::Socket, bytes.len()), "{command:#x} {family:#x}");
    }
}

/// TLVs that do not fit, that nest, and a checksum that is wrong.
#[test]
fn tlvs() {
    let client = tcp("192.0.2.1:4660", "198.51.100.2:443");
    let good = [
        vec![],
        vec![tlv(0x04, &[])],
        vec![tlv(0x01, b"h2"), tlv(0x02, b"example.org"), tlv(0xee, &[0; 300])],
        vec![tlv(0x20, &[7, 0, 0, 0, 0])],
        vec![tlv(0x20, &[&[7, 0, 0, 0, 0][..], &tlv(0x21, b"TLSv1.3"), &tlv(0x22, b"me")].concat())],
    ];
    for tlvs in good {
        let bytes = with(&tlvs);
        assert_eq!(decode(&bytes), header(client, bytes.len()), "{tlvs:x?}");
    }
    let ssl = |inner: &[u8]| tlv(0x20, &[&[7, 0, 0, 0, 0][..], inner].concat());
    let bad = [
        vec![vec![0x04, 0, 1]],
        vec![vec![0x04, 0]],
        vec![vec![0x04]],
        vec![tlv(0x01, b"h2"), vec![0x02, 0xff, 0xff]],
        vec![tlv(0x20, &[7, 0, 0, 0])],
        vec![ssl(&[0x21, 0, 1])],
        vec![ssl(&[0x21, 0xff, 0xff, 1])],
        vec![ssl(&ssl(&[]))],
        vec![ssl(&ssl(&ssl(&ssl(&[]))))],
        vec![tlv(0x03, &[0; 3])],
        vec![tlv(0x03, &[0; 4]), tlv(0x03, &[0; 4])],
    ];
    for tlvs in bad {
        assert_eq!(refused(&with(&tlvs)), Malformed::Tlv, "{tlvs:x?}");
    }
}

/// A checksum counts where there is one. The right one was computed by another program.
#[test]
fn checksums() {
    let mut bytes = with(&[tlv(0x03, &[0; 4]), tlv(0x04, b"after")]);
    assert_eq!(refused(&bytes), Malformed::Checksum);
    bytes[31..35].copy_from_slice(&CHECKSUM);
    assert_eq!(decode(&bytes), header(tcp("192.0.2.1:4660", "198.51.100.2:443"), bytes.len()));
    for at in [13, 16, 30, 34, bytes.len() - 1] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert!(matches!(decode(&other), Decoded::Malformed(_)), "byte {at}");
    }
}

/// A second header is not ours.
#[test]
fn the_second_header_is_payload() {
    let text = b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n";
    let twice = [&text[..], text].concat();
    assert_eq!(decode(&twice), header(tcp("192.0.2.1:1", "198.51.100.2:2"), text.len()));
    let binary = v2(0x21, 0x11, &V4);
    let twice = [&binary[..], &binary].concat();
    assert!(matches!(decode(&twice), Decoded::Header { length: 28, .. }));
}

#[test]
fn the_longest_header_is_read_whole() {
    let bytes = v2(0x20, 0, &[0; DECODE_MAX_BYTES - 16]);
    assert_eq!(decode(&bytes), header(Announced::Socket, DECODE_MAX_BYTES));
    assert_eq!(refused(&v2(0x20, 0, &[0; DECODE_MAX_BYTES - 15])), Malformed::Length);
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|ip| IpAddr::V4(Ipv4Addr::from(ip))),
        any::<u128>().prop_map(|ip| IpAddr::V6(Ipv6Addr::from(ip))),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

/// Bytes that are near a header.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let words: &[&[u8]] = &[
        b"PROXY ",
        b"TCP4 ",
        b"TCP6 ",
        b"UNKNOWN",
        b"1.2.3.4 ",
        b"::1 ",
        b"80 ",
        b"\r\n",
        &V2_SIGNATURE,
        b"\x21\x11\0\x0c",
        b"\x20\0\0\0",
        b"\x03\0\x04",
        b"\x20\0\x05",
    ];
    let word = proptest::sample::select(words.iter().map(|word| word.to_vec()).collect::<Vec<_>>());
    let part = prop_oneof![
        4 => word,
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    proptest::collection::vec(part, 0..9).prop_map(|parts| parts.concat())
}

proptest! {
    /// What is sent is read back, whatever follows, and no part of it is anything but a beginning.
    #[test]
    fn what_is_encoded_is_decoded(client in socket(), local in socket(), v2: bool, after: Vec<u8>) {
        let version = if v2 { ProxyProtocol::V2 } else { ProxyProtocol::V1 };
        let mut out = [0; MAX_BYTES];
        let header = encode(version, Endpoints::Tcp { client, local }, &mut out);
        let all = [header, &after].concat();
        let announced = Announced::Tcp { client, local };
        prop_assert_eq!(decode(&all), Decoded::Header { announced, length: header.len() });
        for end in 0..header.len() {
            prop_assert_eq!(decode(&all[..end]), Decoded::More, "{} bytes", end);
        }
    }

    /// Whatever comes: once it is decided it stays decided, and within the limit it is decided.
    #[test]
    fn a_decision_stands(bytes in nearly()) {
        let mut decided = None;
        for end in 0..=bytes.len() {
            match (decode(&bytes[..end]), decided) {
                (Decoded::More, None) => {}
                (Decoded::Header { length, .. }, None) if length > end => {
                    prop_assert!(false, "{} of {}", length, end);
                }
                (now, None) => decided = Some(now),
                (now, Some(before)) => prop_assert_eq!(now, before),
            }
        }
        let filled = [&bytes[..], &[b'x'; DECODE_MAX_BYTES]].concat();
        prop_assert_ne!(decode(&filled), Decoded::More);
    }
}
