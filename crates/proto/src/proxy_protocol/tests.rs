//! Exact bytes, and the `ppp` crate as an independent reader.

use std::net::{Ipv4Addr, SocketAddrV6};

use ppp::{v1, v2};
use proptest::prelude::*;

use super::*;

fn bytes(version: ProxyProtocol, endpoints: Endpoints<'_>) -> Vec<u8> {
    // What was in the buffer before does not show.
    let mut out = [0xaa; MAX_BYTES];
    encode(version, endpoints, &mut out).to_vec()
}

fn text(endpoints: Endpoints<'_>) -> String {
    String::from_utf8(bytes(ProxyProtocol::V1, endpoints)).expect("version 1 is text")
}

fn tcp(client: &str, local: &str) -> Endpoints<'static> {
    Endpoints::Tcp { client: client.parse().expect(client), local: local.parse().expect(local) }
}

/// A name of the unix listener of a device.
fn unix(address: &str) -> UnixName {
    let listen: portway_model::ListenAddr = address.parse().expect(address);
    listen.address().unix().expect("a unix address").clone()
}

#[test]
fn text_headers() {
    let cases = [
        (tcp("192.0.2.1:56324", "198.51.100.2:443"), "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"),
        (tcp("[2001:db8::1]:1", "[::1]:65535"), "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
        (tcp("[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.2]:2"), "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
        (tcp("10.0.0.1:1", "[2001:db8::1]:2"), "PROXY TCP6 ::ffff:10.0.0.1 2001:db8::1 1 2\r\n"),
        (tcp("[2001:db8::1]:2", "10.0.0.1:1"), "PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 2 1\r\n"),
        (tcp("[fe80::1%7]:1", "[fe80::2%7]:2"), "PROXY TCP6 fe80::1 fe80::2 1 2\r\n"),
        (Endpoints::Unix { client: None, local: &unix("unix:/a") }, "PROXY UNKNOWN\r\n"),
        (Endpoints::Unknown, "PROXY UNKNOWN\r\n"),
        (Endpoints::Local, "PROXY UNKNOWN\r\n"),
    ];
    for (endpoints, expected) in cases {
        assert_eq!(text(endpoints), expected);
    }
}

#[test]
fn the_longest_text_header_fits() {
    let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    let header = text(tcp(longest, longest));
    assert_eq!(header.len(), 104);
    assert!(header.len() <= V1_MAX_BYTES);
}

#[test]
fn binary_headers() {
    let head = |rest: &[u8]| [&b"\r\n\r\n\0\r\nQUIT\n"[..], rest].concat();
    assert_eq!(
        bytes(ProxyProtocol::V2, tcp("192.0.2.1:4660", "198.51.100.2:443")),
        head(&[0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb])
    );
    let mut v6 = vec![0x21, 0x21, 0, 36, 0x20, 0x01, 0x0d, 0xb8];
    v6.extend([0; 11]);
    v6.push(1);
    v6.extend([0; 10]);
    v6.extend([0xff, 0xff, 10, 0, 0, 1, 0, 1, 0xff, 0xff]);
    assert_eq!(bytes(ProxyProtocol::V2, tcp("[2001:db8::1]:1", "10.0.0.1:65535")), head(&v6));
    assert_eq!(bytes(ProxyProtocol::V2, Endpoints::Local), head(&[0x20, 0x00, 0, 0]));
    assert_eq!(bytes(ProxyProtocol::V2, Endpoints::Unknown), head(&[0x20, 0x00, 0, 0]));

    let (path, name) = (unix("unix:/run/a"), unix("unix:@b"));
    let mut expected = head(&[0x21, 0x31, 0, 216]);
    expected.extend(b"\0b");
    expected.resize(16 + 108, 0);
    expected.extend(b"/run/a");
    expected.resize(V2_MAX_BYTES, 0);
    assert_eq!(bytes(ProxyProtocol::V2, Endpoints::Unix { client: Some(&name), local: &path }), expected);
    let nameless = bytes(ProxyProtocol::V2, Endpoints::Unix { client: None, local: &path });
    assert_eq!(nameless, head(&[0x20, 0x00, 0, 0]));
}

#[test]
fn the_longest_unix_names_fit() {
    let path = unix(&format!("unix:/{}", "p".repeat(106)));
    let name = unix(&format!("unix:@{}", "n".repeat(107)));
    let header = bytes(ProxyProtocol::V2, Endpoints::Unix { client: Some(&name), local: &path });
    assert_eq!(header.len(), MAX_BYTES);
    // The path keeps its final NUL, the abstract name its leading one.
    assert_eq!((header[16], header[17], header[16 + 107]), (0, b'n', b'n'));
    assert_eq!((header[124], header[124 + 106], header[124 + 107]), (b'/', b'p', 0));
}

#[test]
fn no_header_when_off() {
    assert_eq!(bytes(ProxyProtocol::Off, Endpoints::Unknown), b"");
    assert_eq!(bytes(ProxyProtocol::Off, tcp("1.2.3.4:1", "1.2.3.4:2")), b"");
}

/// Addresses as the kernel gives them: IPv4, IPv6, or IPv4-mapped.
fn socket() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|ip| IpAddr::V4(Ipv4Addr::from(ip))),
        any::<u128>().prop_map(|ip| IpAddr::V6(Ipv6Addr::from(ip))),
        any::<u32>().prop_map(|ip| IpAddr::V6(Ipv4Addr::from(ip).to_ipv6_mapped())),
    ];
    (ip, any::<u16>(), any::<u32>()).prop_map(|(ip, port, scope)| match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, scope, scope)),
    })
}

/// Both as IPv6, an IPv4 one mapped.
fn wide(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

proptest! {
    #[test]
    fn another_reader_understands_both_versions(client in socket(), local in socket()) {
        let endpoints = Endpoints::Tcp { client, local };
        let both_v4 = client.ip().to_canonical().is_ipv4() && local.ip().to_canonical().is_ipv4();

        let header = bytes(ProxyProtocol::V1, endpoints);
        prop_assert!(header.len() <= V1_MAX_BYTES && header.is_ascii());
        let read = v1::Header::try_from(&header[..]).expect("ppp reads it");
        let (source, destination, ports) = match read.addresses {
            v1::Addresses::Tcp4(ip) => {
                prop_assert!(both_v4);
                let ips = [ip.source_address, ip.destination_address].map(|ip| ip.to_ipv6_mapped());
                (ips[0], ips[1], (ip.source_port, ip.destination_port))
            }
            v1::Addresses::Tcp6(ip) => {
                prop_assert!(!both_v4);
                (ip.source_address, ip.destination_address, (ip.source_port, ip.destination_port))
            }
            v1::Addresses::Unknown => panic!("no address in {read:?}"),
        };
        prop_assert_eq!((source, destination), (wide(client.ip()), wide(local.ip())));
        prop_assert_eq!(ports, (client.port(), local.port()));

        let header = bytes(ProxyProtocol::V2, endpoints);
        let read = v2::Header::try_from(&header[..]).expect("ppp reads it");
        prop_assert_eq!((read.version, read.command), (v2::Version::Two, v2::Command::Proxy));
        prop_assert_eq!(read.protocol, v2::Protocol::Stream);
        prop_assert_eq!((read.len(), read.tlv_bytes().len()), (header.len(), 0));
        let (source, destination, ports) = match read.addresses {
            v2::Addresses::IPv4(ip) => {
                prop_assert!(both_v4);
                let ips = [ip.source_address, ip.destination_address].map(|ip| ip.to_ipv6_mapped());
                (ips[0], ips[1], (ip.source_port, ip.destination_port))
            }
            v2::Addresses::IPv6(ip) => {
                prop_assert!(!both_v4);
                (ip.source_address, ip.destination_address, (ip.source_port, ip.destination_port))
            }
            v2::Addresses::Unspecified | v2::Addresses::Unix(_) => panic!("no address in {read:?}"),
        };
        prop_assert_eq!((source, destination), (wide(client.ip()), wide(local.ip())));
        prop_assert_eq!(ports, (client.port(), local.port()));
    }

    #[test]
    fn another_reader_understands_unix_names(path in "(/[a-z:é ]{1,9}){1,8}", name in "@[^\\x00]{1,20}", abstract_local: bool) {
        let (path, name) = (unix(&format!("unix:{path}")), unix(&format!("unix:{name}")));
        let (client, local) = if abstract_local { (&path, &name) } else { (&name, &path) };
        let raw = |name: &UnixName| match name {
            UnixName::Path(path) => path.as_str().as_bytes().to_vec(),
            UnixName::Abstract(name) => [b"\0", name.as_str().as_bytes()].concat(),
        };
        let header = bytes(ProxyProtocol::V2, Endpoints::Unix { client: Some(client), local });
        let read = v2::Header::try_from(&header[..]).expect("ppp reads it");
        let v2::Addresses::Unix(names) = read.addresses else { panic!("no names in {read:?}") };
        for (found, name) in [(names.source, raw(client)), (names.destination, raw(local))] {
            prop_assert!(found.starts_with(&name) && found[name.len()..].iter().all(|byte| *byte == 0));
        }
        prop_assert_eq!((read.command, read.protocol), (v2::Command::Proxy, v2::Protocol::Stream));
    }
}

#[test]
fn another_reader_understands_headers_without_addresses() {
    for endpoints in [Endpoints::Local, Endpoints::Unknown] {
        let command = v2::Command::Local;
        let header = bytes(ProxyProtocol::V2, endpoints);
        let read = v2::Header::try_from(&header[..]).expect("ppp reads it");
        assert_eq!((read.command, read.addresses), (command, v2::Addresses::Unspecified));
        let header = bytes(ProxyProtocol::V1, endpoints);
        let read = v1::Header::try_from(&header[..]).expect("ppp reads it");
        assert_eq!(read.addresses, v1::Addresses::Unknown);
    }
}
