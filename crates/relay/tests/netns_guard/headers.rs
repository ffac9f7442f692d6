//! Headers as they come in over a socket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use portway_relay::wire::field;

use super::rig::{in_netns, until};
use super::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// 192.0.2.7:4660 to 198.51.100.2:443.
const V4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb];
const TEXT: &str = "PROXY TCP4 192.0.2.7 198.51.100.2 4660 443\r\n";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    [SIGNATURE, &[command, family], &length.to_be_bytes(), body].concat()
}

/// From 127.0.0.2 a header is owed; what arrives is told on in version 1.
const TRUSTED: &[(&str, &str)] = &[("accept_proxy", "127.0.0.2"), ("proxy_protocol", "v1")];

fn trusted() -> TcpStream {
    client("127.0.0.2", DOOR)
}

/// What the service gets from a client whose own address is announced.
fn own(client: &TcpStream, bytes: &[u8]) -> Vec<u8> {
    own_at(client, DOOR, bytes)
}

fn own_at(client: &TcpStream, to: &str, bytes: &[u8]) -> Vec<u8> {
    let (from, to) = (client.local_addr().unwrap(), to.parse::<SocketAddr>().unwrap());
    let header = format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
    [header.as_bytes(), bytes].concat()
}

/// A malformed header is a reset, is counted, and nobody is dialled.
///
/// Fails when: `refuse` begins the dial, or the header is taken out of the queue before it is judged.
#[test]
fn malformed_headers_are_reset() {
    in_netns(|| {
        let (rig, service) = guarded(TRUSTED);
        let long = [b"PROXY TCP6 ", &[b'f'; 120][..], b"\r\n"].concat();
        let crc = v2(0x21, 0x11, &[V4, &[3, 0, 4, 1, 2, 3, 4]].concat());
        let mut huge = v2(0x21, 0x11, V4);
        huge[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        let ssl = [&[0x20, 0, 8, 7, 0, 0, 0, 0][..], &[0x20, 0, 0]].concat();
        let cases: &[(&str, &[u8])] = &[
            ("too long", &long),
            ("lower case", b"proxy tcp4 1.2.3.4 1.2.3.4 1 2\r\n"),
            ("two spaces", b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n"),
            ("trailing junk", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 x\r\n"),
            ("LF alone", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n"),
            ("65536", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n"),
            ("-1", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -1\r\n"),
            ("+80", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 +80\r\n"),
            ("080", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 080\r\n"),
            ("TCP4 ::1", b"PROXY TCP4 ::1 ::1 1 2\r\n"),
            ("TCP6 1.2.3.4", b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n"),
            ("length", &huge),
            ("version 1", &v2(0x11, 0x11, V4)),
            ("command 2", &v2(0x22, 0x11, V4)),
            ("family 4", &v2(0x21, 0x41, V4)),
            ("transport 3", &v2(0x21, 0x13, V4)),
            ("TLV past the end", &v2(0x21, 0x11, &[V4, &[4, 0, 9, 0]].concat())),
            ("nested", &v2(0x21, 0x11, &[V4, &ssl].concat())),
            ("checksum", &crc),
            ("no header", b"GET / HTTP/1.1\r\n"),
        ];
        for (number, (what, bytes)) in (1..).zip(cases) {
            let mut client = trusted();
            client.write_all(bytes).unwrap();
            expect_reset(&client, what);
            until("counted", || rig.count(0, field::BAD_HEADER) == number);
        }
        // A header that ends in its middle.
        let mut client = trusted();
        client.write_all(b"PROXY TCP4 192.0.2.7").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        expect_reset(&client, "cut");
        expect_no_call(&service);
        until("over", || rig.live(0) == 0);
    });
}

/// Who announces nobody is who it is.
#[test]
fn who_announces_nobody_is_who_it_is() {
    in_netns(|| {
        let (_rig, service) = guarded(TRUSTED);
        let cases: &[(&str, Vec<u8>)] = &[
            ("bare", b"PROXY UNKNOWN\r\n".to_vec()),
            ("with addresses", b"PROXY UNKNOWN 192.0.2.7 1.2.3.4 1 2\r\n".to_vec()),
            ("LOCAL with garbage", v2(0x20, 0xff, &[0xaa; 99])),
            ("unix", v2(0x21, 0x31, &[b'/'; 216])),
            ("no family", v2(0x21, 0x00, &[])),
        ];
        for (what, header) in cases {
            let client = trusted();
            let got = delivered(&client, &service, &[&header[..], b"data"].concat());
            assert_eq!(
                got.escape_ascii().to_string(),
                own(&client, b"data").escape_ascii().to_string(),
                "{what}"
            );
        }
    });
}

/// Byte by byte, or header and payload in one segment; either way the payload is exact.
///
/// Fails when: a part of a header is taken out of the queue, or one byte too many.
#[test]
fn any_segments() {
    in_netns(|| {
        let (rig, service) = guarded(TRUSTED);
        let payload = rig::pattern(1, 100_000);
        let tlvs = v2(0x21, 0x11, &[V4, &[4, 1, 0], &[0; 256]].concat());
        for header in [TEXT.as_bytes(), &v2(0x21, 0x11, V4), &tlvs] {
            let wanted = [TEXT.as_bytes(), &payload].concat();
            let client = trusted();
            let sender = client.try_clone().unwrap();
            let all = [header, &payload].concat();
            let sending = std::thread::spawn(move || {
                (&sender).write_all(&all).unwrap();
                sender.shutdown(Shutdown::Write).unwrap();
            });
            assert!(everything(&accept(&service)) == wanted, "in one piece");
            sending.join().unwrap();

            let mut client = trusted();
            for byte in header {
                client.write_all(&[*byte]).unwrap();
                std::thread::yield_now();
            }
            assert_eq!(delivered(&client, &service, b"data"), [TEXT.as_bytes(), b"data"].concat());
        }
        assert_eq!(rig.count(0, field::BAD_HEADER), 0);
        // Only payload is counted.
        let wanted = u64::try_from(3 * (payload.len() + 4)).unwrap();
        until("counted", || rig.count(0, field::BYTES_IN) == wanted);
    });
}

/// From an address that is not trusted, and on a listener without the key, a header is bytes like any
/// others: delivered as they are, never believed.
///
/// Fails when: the header is read whoever sends it.
#[test]
fn headers_of_strangers_are_payload() {
    in_netns(|| {
        let (mut rig, service) = guarded(TRUSTED);
        rig.add(1, "tcp:127.0.0.1:1001", SERVICE, &[("proxy_protocol", "v1")]);
        for (from, to) in [("127.0.0.3", DOOR), ("127.0.0.2", "127.0.0.1:1001")] {
            for header in [TEXT.as_bytes(), &v2(0x21, 0x11, V4), b"PROXY junk"] {
                let client = client(from, to);
                assert_eq!(
                    delivered(&client, &service, header),
                    own_at(&client, to, header),
                    "{from} at {to}"
                );
            }
        }
        assert_eq!((rig.count(0, field::BAD_HEADER), rig.count(1, field::BAD_HEADER)), (0, 0));
    });
}

/// The second of two headers is payload.
#[test]
fn the_second_header_is_payload() {
    in_netns(|| {
        let (_rig, service) = guarded(TRUSTED);
        let second = b"PROXY TCP4 203.0.113.9 198.51.100.2 1 2\r\n";
        let got = delivered(&trusted(), &service, &[TEXT.as_bytes(), second].concat());
        assert_eq!(got, [TEXT.as_bytes(), second].concat());
    });
}

/// A hundred clients that send a part of a header, or nothing, are reset after three
/// seconds; meanwhile others are served.
///
/// Fails when: each byte gives another three seconds, the loop waits for a header, or `refuse` ends a client
/// without a reset.
#[test]
fn no_header_in_time() {
    in_netns(|| {
        let (rig, service) = guarded(TRUSTED);
        let start = Instant::now();
        let slow: Vec<TcpStream> = (0..100)
            .map(|number| {
                let mut client = trusted();
                client.write_all(&TEXT.as_bytes()[..number % 20]).unwrap();
                client
            })
            .collect();
        // One that drips: a byte now and then buys no time.
        let (dripping, mut told) = (trusted(), false);
        for byte in TEXT.bytes().take(8) {
            // On a slow machine its time may be over by now.
            told = told || (&dripping).write_all(&[byte]).is_err();
            let client = trusted();
            assert_eq!(delivered(&client, &service, TEXT.as_bytes()), TEXT.as_bytes());
            std::thread::sleep(Duration::from_millis(200));
        }
        for client in slow.iter().chain((!told).then_some(&dripping)) {
            expect_reset(client, "slow");
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(2900), "told after {took:?}");
        assert_eq!(rig.count(0, field::BAD_HEADER), 101);
        until("over", || rig.live(0) == 0);
    });
}

/// A check of a balancer connects and leaves: no fault of anybody.
#[test]
fn who_looks_in_and_leaves_is_not_counted() {
    in_netns(|| {
        let (rig, service) = guarded(TRUSTED);
        let mut client = trusted();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(trusted());
        until("over", || rig.live(0) == 0 && rig.count(0, field::CLOSED) >= 1);
        assert_eq!(rig.count(0, field::BAD_HEADER), 0);
        expect_no_call(&service);
    });
}
