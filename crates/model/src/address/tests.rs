use super::*;
use crate::unix::UNIX_NAME_MAX_BYTES;

/// Text, canonical text where it listens, canonical text where it connects.
const GOOD: [(&str, &str, &str); 34] = [
    ("tcp:127.0.0.1:80", "tcp:127.0.0.1:80", "tcp:127.0.0.1:80"),
    ("tcp:127.0.0.1:80-90,2000", "tcp:127.0.0.1:80-90,2000", "tcp:127.0.0.1:80-90,2000"),
    ("tcp:0.0.0.0:080", "tcp:0.0.0.0:80", "tcp:0.0.0.0:80"),
    ("udp:127.0.0.1:53", "udp:127.0.0.1:53", "udp:127.0.0.1:53"),
    ("tcp::80", "tcp:[::]:80", "tcp:127.0.0.1:80"),
    ("tcp:[]:80", "tcp:[::]:80", "tcp:127.0.0.1:80"),
    ("udp::53,54", "udp:[::]:53,54", "udp:127.0.0.1:53,54"),
    ("tcp:[::]:1-65535", "tcp:[::]:1-65535", "tcp:[::]:1-65535"),
    ("tcp:[::1]:80", "tcp:[::1]:80", "tcp:[::1]:80"),
    ("tcp:[0:0:0:0:0:0:0:1]:80", "tcp:[::1]:80", "tcp:[::1]:80"),
    ("tcp:[2001:DB8::0A]:80", "tcp:[2001:db8::a]:80", "tcp:[2001:db8::a]:80"),
    ("tcp:[2001:db8:0:0:1:0:0:1]:80", "tcp:[2001:db8::1:0:0:1]:80", "tcp:[2001:db8::1:0:0:1]:80"),
    ("tcp:[1:2:3:4:5:6:7:8]:80", "tcp:[1:2:3:4:5:6:7:8]:80", "tcp:[1:2:3:4:5:6:7:8]:80"),
    ("tcp:[::ffff:1.2.3.4]:80", "tcp:1.2.3.4:80", "tcp:1.2.3.4:80"),
    ("tcp:[::ffff:102:304]:80", "tcp:1.2.3.4:80", "tcp:1.2.3.4:80"),
    ("udp:[::FFFF:0.0.0.0]:80", "udp:0.0.0.0:80", "udp:0.0.0.0:80"),
    ("tcp:[64:ff9b::1.2.3.4]:80", "tcp:[64:ff9b::102:304]:80", "tcp:[64:ff9b::102:304]:80"),
    ("tcp:[fe80::1%eth0]:80", "tcp:[fe80::1%eth0]:80", "tcp:[fe80::1%eth0]:80"),
    ("udp:[FE80::1%br-a.1_2@x]:80", "udp:[fe80::1%br-a.1_2@x]:80", "udp:[fe80::1%br-a.1_2@x]:80"),
    ("tcp:[febf::1%abcdefghijklmno]:9", "tcp:[febf::1%abcdefghijklmno]:9", "tcp:[febf::1%abcdefghijklmno]:9"),
    ("tcp:[fe80::1%7]:80", "tcp:[fe80::1%7]:80", "tcp:[fe80::1%7]:80"),
    ("unix:/run/a.sock", "unix:/run/a.sock", "unix:/run/a.sock"),
    ("unix:/a", "unix:/a", "unix:/a"),
    ("unix://run///a", "unix:/run/a", "unix:/run/a"),
    ("unix:/run/./a", "unix:/run/a", "unix:/run/a"),
    ("unix:/run/a:b c", "unix:/run/a:b c", "unix:/run/a:b c"),
    ("unix:/run/é\n", "unix:/run/é\n", "unix:/run/é\n"),
    ("unix:/run/...", "unix:/run/...", "unix:/run/..."),
    ("unix:/run/.a/..b", "unix:/run/.a/..b", "unix:/run/.a/..b"),
    ("unix:/@a", "unix:/@a", "unix:/@a"),
    ("unix:@a", "unix:@a", "unix:@a"),
    ("unix:@@", "unix:@@", "unix:@@"),
    ("unix:@/run/../a", "unix:@/run/../a", "unix:@/run/../a"),
    ("unix:@ a:b", "unix:@ a:b", "unix:@ a:b"),
];

/// Refused on both sides.
const BAD: [(&str, &str); 70] = [
    ("", "column 1: address is empty, expected tcp:HOST:PORT, udp:HOST:PORT or unix:PATH"),
    ("80", "column 1: protocol missing before `80`, expected tcp:, udp: or unix:"),
    ("/run/a", "column 1: protocol missing before `/run/a`, expected tcp:, udp: or unix:"),
    (":80", "column 1: unknown protocol ``, expected tcp, udp, unix, unixgram or unixpacket"),
    (
        "127.0.0.1:80",
        "column 1: unknown protocol `127.0.0.1`, expected tcp, udp, unix, unixgram or unixpacket",
    ),
    ("TCP:127.0.0.1:80", "column 1: unknown protocol `TCP`, expected tcp, udp, unix, unixgram or unixpacket"),
    ("tcp6:[::1]:80", "column 1: unknown protocol `tcp6`, expected tcp, udp, unix, unixgram or unixpacket"),
    (
        " tcp:127.0.0.1:80",
        "column 1: unknown protocol ` tcp`, expected tcp, udp, unix, unixgram or unixpacket",
    ),
    (
        "sctp:127.0.0.1:80",
        "column 1: unknown protocol `sctp`, expected tcp, udp, unix, unixgram or unixpacket",
    ),
    (
        "\u{1b}[2J:80",
        "column 1: unknown protocol `\\u{1b}[2J`, expected tcp, udp, unix, unixgram or unixpacket",
    ),
    ("unixgram:@", "column 11: abstract socket name is empty"),
    ("unixpacket:", "column 12: address missing after `unixpacket:`"),
    ("unixpacket:run/a", "column 12: path is not absolute"),
    ("tcp:", "column 5: address missing after `tcp:`"),
    ("udp:", "column 5: address missing after `udp:`"),
    ("unix:", "column 6: address missing after `unix:`"),
    ("tcp:80", "column 7: port missing, expected HOST:PORT"),
    ("tcp:127.0.0.1", "column 14: port missing, expected HOST:PORT"),
    ("tcp:127.0.0.1:", "column 15: port missing"),
    ("tcp::", "column 6: port missing"),
    ("tcp:[::1]", "column 10: port missing, expected HOST:PORT"),
    ("tcp:[::1]:", "column 11: port missing"),
    ("tcp:[]", "column 7: port missing, expected HOST:PORT"),
    ("tcp:[::1]80", "column 10: unexpected `8` after the address"),
    ("tcp:[::1]]:80", "column 10: unexpected `]` after the address"),
    ("tcp:[]é:80", "column 7: unexpected `é` after the address"),
    ("tcp:localhost:80", "column 5: `localhost` is not an IP address, host names are not looked up"),
    ("udp:example.com:80", "column 5: `example.com` is not an IP address, host names are not looked up"),
    ("tcp:*:80", "column 5: `*` is not an IP address, host names are not looked up"),
    ("tcp: 127.0.0.1:80", "column 5: ` 127.0.0.1` is not an IP address, host names are not looked up"),
    ("tcp:127.0.0.1/8:80", "column 5: `127.0.0.1/8` is not an IP address, host names are not looked up"),
    ("tcp:::1]:80", "column 6: unexpected `:` in a port"),
    ("tcp:1.2.3:80", "column 5: expected 4 parts in an IPv4 address, found 3"),
    ("tcp:2130706433:80", "column 5: IPv4 address part `2130706433` is above 255"),
    ("tcp:1:80", "column 5: expected 4 parts in an IPv4 address, found 1"),
    ("tcp:1.2.3.4.5:80", "column 5: expected 4 parts in an IPv4 address, found 5"),
    ("tcp:1..3.4:80", "column 7: IPv4 address has an empty part"),
    ("tcp:1.2.3.4.:80", "column 13: IPv4 address has an empty part"),
    ("tcp:127.0.0.01:80", "column 13: IPv4 address part `01` has a leading zero"),
    ("tcp:010.0.0.1:80", "column 5: IPv4 address part `010` has a leading zero"),
    ("tcp:1.2.256.4:80", "column 9: IPv4 address part `256` is above 255"),
    ("tcp:1.2.3.4%eth0:80", "column 12: only a link-local IPv6 address takes a zone"),
    ("tcp:::1:80", "column 5: IPv6 address needs brackets, as in [::1]:80"),
    ("tcp:::80", "column 5: IPv6 address needs brackets, as in [::1]:80"),
    ("tcp:2001:db8::1:80", "column 5: IPv6 address needs brackets, as in [::1]:80"),
    ("tcp:fe80::1%eth0:80", "column 5: IPv6 address needs brackets, as in [::1]:80"),
    ("tcp:1:2:3:4:5:6:7:8:80", "column 5: IPv6 address needs brackets, as in [::1]:80"),
    ("tcp:::ffff:1.2.3.4:80", "column 5: IPv6 address needs brackets, as in [::1]:80"),
    ("tcp:[::1:80", "column 5: closing bracket missing"),
    ("tcp:[1.2.3.4]:80", "column 6: brackets are for IPv6 addresses only"),
    ("tcp:[::g]:80", "column 8: `::g` is not an IPv6 address"),
    ("tcp:[localhost]:80", "column 6: `localhost` is not an IPv6 address"),
    ("tcp:[[::1]]:80", "column 6: `[::1` is not an IPv6 address"),
    ("tcp:[1:2:3]:80", "column 6: `1:2:3` is not an IPv6 address"),
    ("tcp:[1::2::3]:80", "column 6: `1::2::3` is not an IPv6 address"),
    ("tcp:[%eth0]:80", "column 6: `` is not an IPv6 address"),
    ("tcp:[::1%lo]:80", "column 9: only a link-local IPv6 address takes a zone"),
    ("tcp:[::%lo]:80", "column 8: only a link-local IPv6 address takes a zone"),
    ("tcp:[::ffff:1.2.3.4%lo]:80", "column 20: only a link-local IPv6 address takes a zone"),
    ("tcp:[fe80::1]:80", "column 13: link-local address needs a zone, as in [fe80::1%eth0]"),
    ("tcp:[fe80::1%]:80", "column 14: zone `` is not an interface name"),
    ("tcp:[fe80::1%abcdefghijklmnop]:80", "column 14: zone `abcdefghijklmnop` is not an interface name"),
    ("tcp:[fe80::1%a b]:80", "column 14: zone `a b` is not an interface name"),
    ("tcp:[fe80::1%a/b]:80", "column 14: zone `a/b` is not an interface name"),
    ("tcp:[fe80::1%a%b]:80", "column 14: zone `a%b` is not an interface name"),
    ("tcp:[fe80::1%..]:80", "column 14: zone `..` is not an interface name"),
    ("tcp:1.2.3.4:80:90", "column 15: unexpected `:` in a port"),
    ("tcp:1.2.3.4:70000", "column 13: port 70000 is above 65535"),
    ("tcp:1.2.3.4:http", "column 13: unexpected `h` in a port"),
    ("udp:[::]:1,0", "column 12: port 0 is not allowed"),
];

/// The same for unix sockets.
const BAD_UNIX: [(&str, &str); 14] = [
    ("unix:run/a", "column 6: path is not absolute"),
    ("unix:./a", "column 6: path is not absolute"),
    ("unix: /a", "column 6: path is not absolute"),
    ("unix:/", "column 6: path names a directory"),
    ("unix:///", "column 8: path names a directory"),
    ("unix:/run/", "column 10: path names a directory"),
    ("unix:/run/.", "column 11: path names a directory"),
    ("unix:/..", "column 7: path has a `..` component"),
    ("unix:/run/../a", "column 11: path has a `..` component"),
    ("unix:/é/../a", "column 9: path has a `..` component"),
    ("unix:/run/a\0b", "column 12: NUL byte in a socket name"),
    ("unix:@", "column 7: abstract socket name is empty"),
    ("unix:@a\0b", "column 8: NUL byte in a socket name"),
    ("unix:@\0", "column 7: NUL byte in a socket name"),
];

#[test]
fn good_addresses_have_one_canonical_text() {
    for (text, listen, connect) in GOOD {
        let as_listen: ListenAddr = text.parse().expect(text);
        let as_connect: ConnectAddr = text.parse().expect(text);
        assert_eq!(as_listen.to_string(), listen);
        assert_eq!(as_connect.to_string(), connect);
        // A canonical text means the same on both sides.
        assert_eq!(listen.parse::<ListenAddr>().as_ref(), Ok(&as_listen));
        assert_eq!(connect.parse::<ConnectAddr>().as_ref(), Ok(&as_connect));
        assert_eq!(listen.parse::<ConnectAddr>().expect(text).address(), as_listen.address());
    }
}

#[test]
fn bad_addresses_name_the_place() {
    for (text, message) in BAD.into_iter().chain(BAD_UNIX) {
        let listen = text.parse::<ListenAddr>().expect_err(text);
        let connect = text.parse::<ConnectAddr>().expect_err(text);
        assert_eq!(
            (listen.to_string().as_str(), connect.to_string().as_str()),
            (message, message),
            "{text:?}"
        );
        let before = text.get(..listen.position).expect("the position is between characters");
        assert_eq!(before.chars().count() + 1, listen.column, "{text:?}");
    }
}

#[test]
fn a_listen_port_stands_once() {
    let cases = [
        ("tcp:127.0.0.1:80,80", "column 18: port 80 is listed twice"),
        ("udp:[::]:80-90,85-100", "column 16: port 85 is listed twice"),
        ("tcp::85,80-90", "column 9: port 85 is listed twice"),
    ];
    for (text, message) in cases {
        assert_eq!(text.parse::<ListenAddr>().expect_err(text).to_string(), message);
        assert_eq!(text.parse::<ConnectAddr>().expect(text).to_string().replace("127.0.0.1", ""), {
            text.replace("127.0.0.1", "")
        });
    }
}

#[test]
fn unix_names_end_where_the_kernel_says() {
    let path = |bytes: usize| format!("unix:/{}", "a".repeat(bytes - 1));
    assert!(path(UNIX_NAME_MAX_BYTES).parse::<ListenAddr>().is_ok());
    let error = path(UNIX_NAME_MAX_BYTES + 1).parse::<ListenAddr>().expect_err("108 bytes");
    assert_eq!(error.to_string(), "column 113: path is longer than 107 bytes");
    // What normalisation drops does not count.
    let padded = format!("unix:/.{}", path(UNIX_NAME_MAX_BYTES).trim_start_matches("unix:"));
    assert!(padded.parse::<ListenAddr>().is_ok());
    let deep = format!("unix:{}", "/ab".repeat(36));
    assert_eq!(
        deep.parse::<ConnectAddr>().expect_err("108 bytes").to_string(),
        "column 113: path is longer than 107 bytes"
    );

    let name = |bytes: usize| format!("unix:@{}", "a".repeat(bytes));
    assert!(name(UNIX_NAME_MAX_BYTES).parse::<ListenAddr>().is_ok());
    let error = name(UNIX_NAME_MAX_BYTES + 1).parse::<ListenAddr>().expect_err("108 bytes");
    assert_eq!(error.to_string(), "column 114: abstract socket name is longer than 107 bytes");
    // The limit inside a character: the place is where that character begins.
    let wide = format!("unix:@{}", "é".repeat(54));
    let error = wide.parse::<ListenAddr>().expect_err("108 bytes");
    assert_eq!((error.position, error.column), (6 + 106, 6 + 53 + 1));
}

#[test]
fn wildcards_are_dialled_as_loopback() {
    let cases = [
        ("tcp:0.0.0.0:80", Some("127.0.0.1")),
        ("tcp:[::]:80", Some("::1")),
        ("tcp::80", Some("127.0.0.1")),
        ("udp:10.0.0.7:80", Some("10.0.0.7")),
        ("tcp:[2001:db8::1]:80", Some("2001:db8::1")),
        ("tcp:[fe80::1%eth0]:80", Some("fe80::1")),
        ("unix:/a", None),
    ];
    for (text, ip) in cases {
        let connect: ConnectAddr = text.parse().expect(text);
        assert_eq!(connect.dial_ip(), ip.map(|ip| ip.parse().expect(ip)), "{text}");
    }
}

#[test]
fn parts_of_an_address() {
    let tcp = Address::parse("tcp:0.0.0.0:80,90-91", Side::Listen).expect("tcp");
    assert_eq!((tcp.protocol(), tcp.count(), tcp.unix()), (Protocol::Tcp, 3, None));
    assert!(tcp.host().is_some_and(IpHost::is_wildcard));
    let udp = Address::parse("udp:[fe80::1%eth0]:80", Side::Listen).expect("udp");
    let host = udp.host().expect("udp has a host");
    assert_eq!((udp.protocol(), host.zone().map(crate::Zone::as_str)), (Protocol::Udp, Some("eth0")));
    assert!(!host.is_wildcard());
    let unix = Address::parse("unix:@a", Side::Connect).expect("unix");
    assert_eq!((unix.protocol(), unix.count(), unix.host(), unix.ports()), (Protocol::Unix, 1, None, None));
    assert_eq!(unix.unix().and_then(UnixName::path), None);
    let path = Address::parse("unix:/a/b", Side::Connect).expect("unix");
    let path = path.unix().and_then(UnixName::path).expect("a path");
    assert_eq!((path.as_str(), path.as_path()), ("/a/b", std::path::Path::new("/a/b")));
}

#[test]
fn a_host_cannot_be_made_without_its_zone() {
    let zone = || crate::Zone::new("eth0");
    let ip = |text: &str| text.parse::<IpAddr>().expect(text);
    assert!(zone().is_some());
    assert_eq!(IpHost::new(ip("fe80::1"), None), None);
    assert_eq!(IpHost::new(ip("::1"), zone()), None);
    assert_eq!(IpHost::new(ip("1.2.3.4"), zone()), None);
    assert_eq!(IpHost::new(ip("::ffff:1.2.3.4"), None).map(|host| host.ip()), Some(ip("1.2.3.4")));
    assert!(IpHost::new(ip("fe80::1"), zone()).is_some());
}

#[test]
fn serde_uses_the_canonical_text() {
    let listen: ListenAddr = serde_json::from_str("\"tcp::80\"").expect("reads");
    assert_eq!(serde_json::to_string(&listen).expect("serializes"), "\"tcp:[::]:80\"");
    let connect: ConnectAddr = serde_json::from_str("\"tcp::80\"").expect("reads");
    assert_eq!(serde_json::to_string(&connect).expect("serializes"), "\"tcp:127.0.0.1:80\"");
    let error = serde_json::from_str::<ListenAddr>("\"tcp:1.2.3.4:70000\"").expect_err("port");
    assert!(error.to_string().starts_with("column 13: port 70000 is above 65535"), "{error}");
    assert!(serde_json::from_str::<ListenAddr>("7").is_err());
}
