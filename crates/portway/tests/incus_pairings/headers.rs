//! PROXY protocol as the target sees it. Layouts: The PROXY protocol, version 1 & 2 (HAProxy, 2020).

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use portway_testkit::{Addr, Rig, Stream, check};

use crate::PORTWAY;
use crate::place::{Bind, Kind, Pair};

/// First bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

fn tcp(stream: &Stream) -> &std::net::TcpStream {
    match stream {
        Stream::Tcp(stream) => stream,
        Stream::Unix(_) => panic!("a tcp stream"),
    }
}

/// What the target gets of a client that sends `after`, and the client.
fn seen(pair: &Pair, client: &Addr, after: &[u8], length: usize) -> (Vec<u8>, Stream) {
    let target = pair.target();
    let client = check::dial(&pair.listen.site, client).unwrap();
    let service = target.accept().unwrap();
    // The header is there before the client has said a word: a target that speaks first needs it.
    let mut header = vec![0; length];
    (&service).read_exact(&mut header).unwrap();
    (&client).write_all(after).unwrap();
    let mut rest = vec![0; after.len()];
    (&service).read_exact(&mut rest).unwrap();
    assert_eq!(rest, after);
    // Both directions work.
    (&service).write_all(b"hello").unwrap();
    let mut hello = [0; 5];
    (&client).read_exact(&mut hello).unwrap();
    (header, client)
}

/// A header of version 1 has no length: what it is has to be known beforehand.
fn v1(pair: &Pair, client: &Addr, expected: impl Fn(SocketAddr, SocketAddr) -> String) {
    let target = pair.target();
    let client = check::dial(&pair.listen.site, client).unwrap();
    let service = target.accept().unwrap();
    let expected = match &client {
        Stream::Tcp(stream) => expected(stream.local_addr().unwrap(), stream.peer_addr().unwrap()),
        Stream::Unix(_) => {
            let none = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
            expected(none, none)
        }
    };
    let mut header = vec![0; expected.len()];
    (&service).read_exact(&mut header).unwrap();
    assert_eq!(String::from_utf8_lossy(&header), expected);
    (&client).write_all(b"after").unwrap();
    let mut after = [0; 5];
    (&service).read_exact(&mut after).unwrap();
    assert_eq!(&after, b"after");
}

fn line(family: &str, from: SocketAddr, to: SocketAddr) -> String {
    format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
}

/// Version 1 by every family, with the addresses of the client's own connection; `UNKNOWN` for a unix
/// client; every truthy spelling is version 1.
///
/// Fails when: the header waits for the client's first bytes; its destination is the target's address.
#[test]
fn version_1() {
    let Some(rig) = Rig::start(PORTWAY, "v1").unwrap() else { return };
    for (number, bind) in (0..).zip([Bind::Host, Bind::Instance]) {
        let pair = Pair::new(&rig, bind, Kind::Tcp, Kind::Tcp, number).unwrap();
        pair.add(&rig, "tcp", &["proxy_protocol=yes"]).unwrap();
        v1(&pair, &pair.listen.addr, |from, to| line("TCP4", from, to));
        rig.device_ok("remove", &["tcp"]).unwrap();
        let pair = Pair::new(&rig, bind, Kind::Path, Kind::Tcp, number + 10).unwrap();
        pair.add(&rig, "unix", &["proxy_protocol=true"]).unwrap();
        v1(&pair, &pair.listen.addr, |_, _| "PROXY UNKNOWN\r\n".to_owned());
        rig.device_ok("remove", &["unix"]).unwrap();
    }
}

/// On a listener for both families an IPv6 client is TCP6 and an IPv4 client TCP4. Two devices may have a port
/// by halves, `0.0.0.0` and `[::]` with `v6only`: each takes its own family, and the first alone no IPv6 at all.
///
/// Fails when: a v4-mapped address is printed as it stands; `0.0.0.0` is opened for both families, or `v6only`
/// is not set before the port is bound.
#[test]
fn version_1_by_both_families() {
    let Some(rig) = Rig::start(PORTWAY, "v1six").unwrap() else { return };
    by_halves(&rig);
    let mut pair = Pair::new(&rig, Bind::Host, Kind::Tcp, Kind::Tcp, 0).unwrap();
    let port = rig.ports.one().unwrap();
    pair.listen.key = format!("tcp:[::]:{port}");
    pair.add(&rig, "both", &["proxy_protocol=v1"]).unwrap();
    v1(&pair, &Addr::tcp(&format!("127.0.0.1:{port}")), |from, to| line("TCP4", from, to));
    v1(&pair, &Addr::tcp(&format!("[::1]:{port}")), |from, to| line("TCP6", from, to));
}

/// `0.0.0.0` and `[::]` with `v6only` on one port.
fn by_halves(rig: &Rig) {
    let port = rig.ports.one().unwrap();
    let four = Addr::tcp(&format!("127.0.0.1:{port}"));
    let six = Addr::tcp(&format!("[::1]:{port}"));
    let mut halves = Vec::new();
    for (number, (name, listen)) in (20..).zip([("four", "0.0.0.0"), ("six", "[::]")]) {
        let mut pair = Pair::new(rig, Bind::Host, Kind::Tcp, Kind::Tcp, number).unwrap();
        pair.listen.key = format!("tcp:{listen}:{port}");
        let only =
            if name == "six" { &["v6only=true", "proxy_protocol=v1"][..] } else { &["proxy_protocol=v1"] };
        pair.add(rig, name, only).unwrap();
        if name == "four" {
            v1(&pair, &four, |from, to| line("TCP4", from, to));
            let refused = rig.host().run(|| six.connect(crate::place::LIMIT)).unwrap();
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        }
        halves.push(pair);
    }
    v1(&halves[0], &four, |from, to| line("TCP4", from, to));
    v1(&halves[1], &six, |from, to| line("TCP6", from, to));
    for name in ["four", "six"] {
        rig.device_ok("remove", &[name]).unwrap();
    }
}

/// The fixed part of a version 2 header: family and length.
fn v2_head(header: &[u8], family: u8, length: u16) {
    assert_eq!(header[..12], SIGNATURE);
    // Version 2, command PROXY.
    assert_eq!(header[12], 0x21);
    assert_eq!(header[13], family);
    assert_eq!(header[14..16], length.to_be_bytes());
}

/// Version 2 to tcp and to unix targets, binary addresses of the client's own connection.
///
/// Fails when: a unix target is refused version 2, or the ports are swapped.
#[test]
fn version_2() {
    let Some(rig) = Rig::start(PORTWAY, "v2").unwrap() else { return };
    for (number, connect) in (0..).zip([Kind::Tcp, Kind::Path, Kind::Abstract]) {
        let bind = if number == 1 { Bind::Instance } else { Bind::Host };
        let pair = Pair::new(&rig, bind, Kind::Tcp, connect, number).unwrap();
        pair.add(&rig, "tcp", &["proxy_protocol=v2"]).unwrap();
        let (header, client) = seen(&pair, &pair.listen.addr, b"data", 28);
        // 0x11: AF_INET, STREAM.
        v2_head(&header, 0x11, 12);
        let (from, to) = (tcp(&client).local_addr().unwrap(), tcp(&client).peer_addr().unwrap());
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        assert_eq!(header[16..], [&[127, 0, 0, 1, 127, 0, 0, 1][..], &ports].concat());
        rig.device_ok("remove", &["tcp"]).unwrap();
    }
}

/// Version 2 of an IPv6 client, and of a unix one without a name: LOCAL, which HAProxy and nginx take.
#[test]
fn version_2_of_other_families() {
    let Some(rig) = Rig::start(PORTWAY, "v2six").unwrap() else { return };
    let mut pair = Pair::new(&rig, Bind::Host, Kind::Tcp, Kind::Tcp, 0).unwrap();
    let port = rig.ports.one().unwrap();
    pair.listen.key = format!("tcp:[::1]:{port}");
    pair.add(&rig, "six", &["proxy_protocol=v2"]).unwrap();
    let (header, _client) = seen(&pair, &Addr::tcp(&format!("[::1]:{port}")), b"data", 52);
    v2_head(&header, 0x21, 36);
    let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
    assert_eq!(header[16..48], [loopback, loopback].concat());
    assert_eq!(header[50..52], port.to_be_bytes());

    let pair = Pair::new(&rig, Bind::Instance, Kind::Path, Kind::Tcp, 1).unwrap();
    pair.add(&rig, "unix", &["proxy_protocol=v2"]).unwrap();
    let (header, _client) = seen(&pair, &pair.listen.addr, b"data", 16);
    assert_eq!(header, [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat());
}

/// The header of a client that was kept while the instance was down comes first all the same.
///
/// Fails when: a client that goes from one worker to the next, or a dial that is retried, loses its header.
#[test]
fn the_header_survives_a_wait_for_the_service() {
    let Some(rig) = Rig::start(PORTWAY, "v1wait").unwrap() else { return };
    let mut pair = Pair::new(&rig, Bind::Host, Kind::Tcp, Kind::Tcp, 0).unwrap();
    pair.add(&rig, "web", &["proxy_protocol=v1", "hold=10m"]).unwrap();
    rig.container.kill().unwrap();
    let client = check::dial(&pair.listen.site, &pair.listen.addr).unwrap();
    (&client).write_all(b"early").unwrap();
    rig.container.start().unwrap();
    rig.daemon.wait_for_state("web", "active").unwrap();
    pair.connect.site = rig.inside().unwrap();
    let target = pair.target();
    let service = target.accept().unwrap();
    let header = line("TCP4", tcp(&client).local_addr().unwrap(), tcp(&client).peer_addr().unwrap());
    let mut got = vec![0; header.len() + 5];
    (&service).read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), format!("{header}early"));
}
