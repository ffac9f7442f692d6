//! PROXY protocol headers in front of the client's bytes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper fails its test")]

mod rig;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};

use portway_testkit::Stream;
use rig::{PATIENCE, Rig, accept, addr, bound_tcp_memory, connect, in_netns, service};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket};

fn ports(stream: &Stream) -> (u16, u16) {
    let Stream::Tcp(stream) = stream else { panic!("not tcp") };
    (stream.local_addr().unwrap().port(), stream.peer_addr().unwrap().port())
}

fn everything(stream: &Stream) -> Vec<u8> {
    let mut all = Vec::new();
    (&*stream).read_to_end(&mut all).unwrap();
    all
}

/// Version 1, with and without first bytes, over IPv4, IPv6, and IPv4 through a dual-stack listener.
#[test]
fn version_1_comes_first() {
    in_netns(|| {
        for (listen, to, text) in [
            ("tcp:127.0.0.1:1000", "tcp:127.0.0.1:1000", "TCP4 127.0.0.1 127.0.0.1"),
            ("tcp:[::1]:1000", "tcp:[::1]:1000", "TCP6 ::1 ::1"),
            ("tcp:[::]:1000", "tcp:127.0.0.9:1000", "TCP4 127.0.0.1 127.0.0.9"),
        ] {
            let mut rig = Rig::start();
            let service = service("tcp:127.0.0.1:2000");
            rig.add(0, listen, "tcp:127.0.0.1:2000", &[("proxy_protocol", "yes")]);
            for bytes in [&b""[..], b"GET /"] {
                let client = connect(to);
                (&client).write_all(bytes).unwrap();
                let (from, at) = ports(&client);
                client.shutdown(Shutdown::Write).unwrap();
                let wanted = [format!("PROXY {text} {from} {at}\r\n").as_bytes(), bytes].concat();
                assert_eq!(String::from_utf8(everything(&accept(&service))), String::from_utf8(wanted));
            }
        }
    });
}

/// The header does not wait for the client: the target may speak first.
#[test]
fn the_header_waits_for_nobody() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[("proxy_protocol", "v1")]);
        let client = connect("tcp:127.0.0.1:1000");
        let server = accept(&service);
        let mut start = [0; 11];
        (&server).read_exact(&mut start).unwrap();
        assert_eq!(&start, b"PROXY TCP4 ");
        (&server).write_all(b"220 ready").unwrap();
        let mut greeting = [0; 9];
        (&client).read_exact(&mut greeting).unwrap();
    });
}

/// The payload of the first packet with any that goes to a tcp port of this namespace.
fn first_payload(capture: &OwnedFd, port: u16) -> Vec<u8> {
    let mut packet = vec![0; 1 << 16];
    loop {
        let length = recv(capture, &mut packet[..], RecvFlags::empty()).unwrap().0;
        let ip = &packet[..length];
        let tcp = &ip[usize::from(ip[0] & 15) * 4..];
        let payload = &tcp[usize::from(tcp[12] >> 4) * 4..];
        if tcp[2..4] == port.to_be_bytes() && !payload.is_empty() {
            return payload.to_vec();
        }
    }
}

/// A header and what the client had sent by then leave in one segment. Fails when: the header is written by itself.
#[test]
fn the_header_and_the_first_bytes_are_one_segment() {
    in_netns(|| {
        let mut rig = Rig::start();
        for (slot, version) in [(0, "v1"), (1, "v2")] {
            let (listen, target) = (format!("tcp:127.0.0.1:{}", 1000 + slot), 2000 + slot);
            let connect_to = format!("tcp:127.0.0.1:{target}");
            rig.add_held(slot, &listen, &connect_to, &[("proxy_protocol", version)], PATIENCE);
            // It waits for its service, so that its bytes are there first.
            let client = connect(&listen);
            (&client).write_all(b"GET / HTTP/1.1\r\n").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let kind = SocketType::DGRAM;
            let capture = socket(AddressFamily::PACKET, kind, Some(eth::IP)).unwrap();
            set_socket_timeout(&capture, Timeout::Recv, Some(PATIENCE)).unwrap();
            let all = everything(&accept(&service(&connect_to)));
            assert!(all.ends_with(b"GET / HTTP/1.1\r\n") && all.len() > 30, "{}", all.escape_ascii());
            let first = first_payload(&capture, u16::try_from(target).unwrap());
            assert_eq!(first.escape_ascii().to_string(), all.escape_ascii().to_string());
        }
    });
}

/// Targets that take nothing, neither the call nor a byte, hold up their own clients and nobody else; when they go on,
/// each client's header comes first. Fails when: a header is waited for until it is written.
#[test]
fn a_target_that_takes_no_header_delays_nobody() {
    const CLIENTS: usize = 20;
    in_netns(|| {
        bound_tcp_memory();
        let mut rig = Rig::start();
        // Not accepted, not read: its window closes, or its queue is full.
        let silent =
            addr("tcp:127.0.0.1:2000").listen_with_backlog(2 * i32::try_from(CLIENTS).unwrap()).unwrap();
        let full = addr("unix:@full").listen_with_backlog(0).unwrap();
        let alive = service("tcp:127.0.0.1:2001");
        let keys = |version| [("proxy_protocol", version), ("connect.timeout", "10m")];
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &keys("v1"));
        rig.add(1, "tcp:127.0.0.1:1001", "unix:@full", &keys("v2"));
        rig.add(2, "tcp:127.0.0.1:1002", "tcp:127.0.0.1:2001", &keys("v1"));
        let start = |address: &str| -> Vec<Stream> {
            (0..CLIENTS)
                .map(|_| {
                    let client = connect(address);
                    rustix::io::ioctl_fionbio(&client, true).unwrap();
                    // More than the queues on the way hold, as far as they take it.
                    while (&client).write(&[b'x'; 65_536]).is_ok() {}
                    client
                })
                .collect()
        };
        let stalled = [start("tcp:127.0.0.1:1000"), start("tcp:127.0.0.1:1001")];
        rig.until("all are in", |rig| [0, 1].iter().all(|slot| rig.live(*slot) == CLIENTS as u64));
        for _ in 0..100 {
            let (client, server) = (connect("tcp:127.0.0.1:1002"), accept(&alive));
            let mut header = [0; 11];
            (&server).read_exact(&mut header).unwrap();
            (&server).write_all(b"!").unwrap();
            (&client).read_exact(&mut [0]).unwrap();
        }
        assert_eq!([0, 1].map(|slot| rig.live(slot)), [CLIENTS as u64; 2]);
        for _ in 0..CLIENTS {
            let mut header = [0; 11];
            (&accept(&silent)).read_exact(&mut header).unwrap();
            assert_eq!(&header, b"PROXY TCP4 ");
            let mut header = [0; 16 + 12 + 1];
            (&accept(&full)).read_exact(&mut header).unwrap();
            assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
            assert_eq!(header[28], b'x');
        }
        drop(stalled);
    });
}

#[test]
fn version_1_of_a_unix_client_is_unknown() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service("tcp:127.0.0.1:2000");
        rig.add(0, "unix:@listen", "tcp:127.0.0.1:2000", &[("proxy_protocol", "1")]);
        let client = connect("unix:@listen");
        (&client).write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(everything(&accept(&service)), b"PROXY UNKNOWN\r\nhello");
    });
}

#[test]
fn version_2_names_both_ends() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[("proxy_protocol", "v2")]);
        let client = connect("tcp:127.0.0.1:1000");
        (&client).write_all(b"hello").unwrap();
        let (from, at) = ports(&client);
        client.shutdown(Shutdown::Write).unwrap();
        let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
        wanted.extend(from.to_be_bytes());
        wanted.extend(at.to_be_bytes());
        wanted.extend(b"hello");
        assert_eq!(everything(&accept(&target)), wanted);
    });
}

/// To a unix target, from a unix client with a name of its own, beside descriptor passing.
#[test]
fn version_2_to_a_unix_target() {
    in_netns(|| {
        let mut rig = Rig::start();
        let path = rig.path("listen");
        let target = UnixListener::bind(rig.path("target")).unwrap();
        let (listen, connect) =
            (format!("unix:{}", path.display()), format!("unix:{}", rig.path("target").display()));
        rig.add(0, &listen, &connect, &[("proxy_protocol", "v2")]);
        let name = UnixAddr::from_pathname(rig.path("client")).unwrap();
        let client = named(&name, &path);
        (&client).write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        target.accept().unwrap().0.read_to_end(&mut got).unwrap();
        assert_eq!(got[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8");
        let text = |bytes: &[u8]| bytes.iter().copied().take_while(|byte| *byte != 0).collect::<Vec<u8>>();
        assert_eq!(text(&got[16..124]), rig.path("client").to_str().unwrap().as_bytes());
        assert_eq!(text(&got[124..232]), path.to_str().unwrap().as_bytes());
        assert_eq!(got[232..], *b"hello");
    });
}

/// A client socket that has bound itself to a name.
fn named(name: &UnixAddr, to: &std::path::Path) -> UnixStream {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, socket};
    let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddrUnix::new(name.as_pathname().unwrap()).unwrap()).unwrap();
    connect(&fd, &SocketAddrUnix::new(to).unwrap()).unwrap();
    fd.into()
}
