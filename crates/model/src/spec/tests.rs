use super::*;

const TCP: [(&str, &str); 2] = [("listen", "tcp:0.0.0.0:80"), ("connect", "tcp:127.0.0.1:80")];
const UDP: [(&str, &str); 2] = [("listen", "udp:0.0.0.0:80"), ("connect", "udp:127.0.0.1:80")];
const UNIX: [(&str, &str); 2] = [("listen", "unix:/run/a"), ("connect", "unix:/run/b")];
const UNIX_TCP: [(&str, &str); 2] = [("listen", "unix:/run/a"), ("connect", "tcp::80")];
const TCP_UNIX: [(&str, &str); 2] = [("listen", "tcp::80"), ("connect", "unix:@b")];
const TCP_UDP: [(&str, &str); 2] = [("listen", "tcp::80"), ("connect", "udp::80")];

fn read(base: &[(&str, &str)], more: &[(&str, &str)]) -> Result<DeviceSpec, String> {
    let pairs = base.iter().chain(more).copied();
    DeviceSpec::from_keys(pairs).map_err(|error| error.to_string())
}

fn addresses(listen: &str, connect: &str) -> Result<DeviceSpec, String> {
    read(&[("listen", listen), ("connect", connect)], &[])
}

#[test]
fn defaults() {
    let spec = read(&TCP, &[]).expect("a device");
    assert_eq!(Ok(&spec), DeviceSpec::new(spec.listen.clone(), spec.connect.clone()).as_ref());
    assert_eq!(spec.bind, Bind::Host);
    assert_eq!((spec.socket.uid, spec.socket.gid, spec.socket.mode.bits()), (None, None, 0o644));
    assert_eq!(spec.run_as, RunAs::default());
    assert_eq!((spec.proxy_protocol, spec.fds, spec.follow), (ProxyProtocol::Off, FdPassing::On, None));
    let seconds = [
        spec.connect_timeout.as_secs(),
        spec.hold.as_secs(),
        spec.udp_idle.as_secs(),
        spec.tcp_keepalive.as_secs(),
        spec.tcp_timeout.as_secs(),
    ];
    assert_eq!(seconds, [10, 30, 120, 30, 120]);
    assert_eq!((spec.udp_max_flows, spec.v6only), (16_384, false));
    let keys: Vec<_> = spec.to_keys().into_iter().collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(keys, [(text("connect"), text("tcp:127.0.0.1:80")), (text("listen"), text("tcp:0.0.0.0:80"))]);
}

#[test]
fn the_key_table_tells_the_defaults() {
    let path = read(&UNIX, &[]).expect("a device");
    for doc in DeviceSpec::KEYS.iter().filter(|doc| !doc.default.is_empty()) {
        assert_eq!(read(&UNIX, &[(doc.name, doc.default)]), Ok(path.clone()), "{}", doc.name);
    }
}

/// Base, key, value, canonical value (`None`: the default).
type Valid<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, Option<&'a str>);

const VALID: &[Valid<'static>] = &[
    (&TCP, "bind", "", None),
    (&TCP, "bind", "guest", Some("instance")),
    (&UNIX, "uid", "0", Some("0")),
    (&UNIX_TCP, "gid", "4294967294", Some("4294967294")),
    (&UNIX, "mode", "660", Some("0660")),
    (&UNIX, "mode", "0644", None),
    (&UDP, "security.uid", "0", Some("0")),
    (&TCP, "security.gid", "1000", Some("1000")),
    (&TCP, "security.groups", "44,4,44", Some("4,44")),
    (&TCP, "accept_proxy", "::1,10.0.0.0/8", Some("10.0.0.0/8,::1/128")),
    (&TCP_UNIX, "accept_proxy", "anybody", Some("anybody")),
    (&TCP, "allow", "192.0.2.7", Some("192.0.2.7/32")),
    (&UDP, "deny", "0.0.0.0/0,::/0", Some("0.0.0.0/0,::/0")),
    (&TCP, "limits.connections", "1", Some("1")),
    (&UNIX, "limits.connections", "1000000", Some("1000000")),
    (&UNIX_TCP, "limits.rate", "5", Some("5/s")),
    (&UDP, "limits.per_source", "3", Some("3")),
    (&TCP, "proxy_protocol", "Yes", Some("v1")),
    (&UNIX_TCP, "proxy_protocol", "v2", Some("v2")),
    (&TCP_UNIX, "proxy_protocol", "v2", Some("v2")),
    (&UDP, "proxy_protocol", "off", None),
    (&TCP, "nat", "false", None),
    (&TCP, "nat", "NO", None),
    (&TCP, "nat", "auto", Some("auto")),
    (&TCP, "connect.timeout", "10ms", Some("10ms")),
    (&TCP, "connect.timeout", "10000ms", None),
    (&TCP, "hold", "0", Some("0s")),
    (&TCP, "hold", "24h", Some("24h")),
    (&UDP, "udp.idle", "100ms", Some("100ms")),
    (&TCP, "udp.idle", "60", Some("1m")),
    (&UDP, "udp.idle", "120", None),
    (&UDP, "udp.max_flows", "1", Some("1")),
    (&UDP, "udp.max_flows", "1000000", Some("1000000")),
    (&UNIX, "fds", "false", Some("off")),
    (&UNIX, "fds", "on", None),
    (&TCP, "fds", "off", Some("off")),
    (&TCP, "follow", "name", Some("name")),
    (&TCP, "follow", "uuid", Some("uuid")),
    (&TCP_UNIX, "v6only", "1", Some("true")),
    (&TCP, "v6only", "false", None),
    (&TCP, "tcp.keepalive", "9h", Some("9h")),
    (&TCP, "tcp.keepalive", "1000ms", Some("1s")),
    (&TCP, "tcp.timeout", "1", Some("1s")),
    (&TCP, "tcp.timeout", "120s", None),
];

#[test]
fn values_have_one_canonical_text() {
    for (base, key, value, canonical) in VALID {
        let spec = read(base, &[(key, value)]).expect(key);
        assert_eq!(spec.to_keys().get(*key).map(String::as_str), *canonical, "{key}={value}");
        assert_eq!(DeviceSpec::from_keys(spec.to_keys()).as_ref(), Ok(&spec), "{key}={value}");
    }
}

/// Base, key, value, error.
type Invalid<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, &'a str);

#[test]
fn bad_values_name_key_and_place() {
    let cases: &[Invalid<'_>] = &[
        (&TCP, "bind", "vm", "bind: column 1: `vm` is not host or instance"),
        (&UNIX, "uid", "root", "uid: column 1: unexpected `r`, expected a number"),
        (&UNIX, "gid", "4294967295", "gid: column 1: id 4294967295 is reserved by the kernel"),
        (&UNIX, "mode", "4755", "mode: column 1: `4755` is outside 0000 to 0777"),
        (&UNIX, "mode", "0689", "mode: column 3: unexpected `8`, expected an octal mode such as 0660"),
        (&TCP, "security.uid", "", "security.uid: column 1: value is empty, expected a number"),
        (&TCP, "security.gid", "1x", "security.gid: column 2: unexpected `x`, expected a number"),
        (&TCP, "security.groups", "1,x", "security.groups: column 3: unexpected `x`, expected a number"),
        (
            &TCP,
            "allow",
            "::1,10.0.0.1/8",
            "allow: column 5: `10.0.0.1/8` has host bits set, the block is 10.0.0.0/8",
        ),
        (&TCP, "deny", "10.0.0.0/33", "deny: column 10: `33` is outside 0 to 32"),
        (&TCP, "limits.connections", "0", "limits.connections: column 1: `0` is outside 1 to 1000000"),
        (&TCP, "limits.rate", "5/h", "limits.rate: column 2: unexpected `/h`, expected `/s` or nothing"),
        (&TCP, "limits.per_source", "-1", "limits.per_source: column 1: unexpected `-`, expected a number"),
        (&TCP, "proxy_protocol", "v3", "proxy_protocol: column 1: `v3` is not v1, v2, true or false"),
        (&TCP, "nat", "maybe", "nat: column 1: `maybe` is not true, false or auto"),
        (&TCP, "connect.timeout", "9ms", "connect.timeout: column 1: `9ms` is outside 10ms to 24h"),
        (&TCP, "hold", "25h", "hold: column 1: `25h` is outside 0s to 24h"),
        (
            &TCP,
            "hold",
            "30 s",
            "hold: column 3: unexpected ` s`, expected a duration such as 500ms, 10s, 2m or 1h",
        ),
        (&UDP, "udp.idle", "0", "udp.idle: column 1: `0` is outside 100ms to 24h"),
        (&UDP, "udp.max_flows", "0", "udp.max_flows: column 1: `0` is outside 1 to 1000000"),
        (&TCP, "udp.framing", "len32", "udp.framing: column 1: `len32` is not raw or len16"),
        (&UDP, "udp.max_flows", "1000001", "udp.max_flows: column 1: `1000001` is outside 1 to 1000000"),
        (&UNIX, "fds", "2", "fds: column 1: `2` is not on or off"),
        (&TCP, "follow", "id", "follow: column 1: `id` is not uuid or name"),
        (&TCP, "v6only", "v6", "v6only: column 1: `v6` is not true or false"),
        (
            &TCP,
            "tcp.keepalive",
            "1500ms",
            "tcp.keepalive: column 1: `1500ms` is not a whole number of seconds",
        ),
        (&TCP, "tcp.keepalive", "10h", "tcp.keepalive: column 1: `10h` is outside 1s to 9h"),
        (&TCP, "tcp.timeout", "999ms", "tcp.timeout: column 1: `999ms` is outside 1s to 24h"),
    ];
    for (base, key, value, message) in cases {
        assert_eq!(read(base, &[(key, value)]), Err((*message).to_owned()), "{key}={value}");
    }
}

#[test]
fn bad_keys_name_the_key() {
    let unknown = |key: &str, nearest: &str| format!("unknown key `{key}`, did you mean `{nearest}`?");
    let foreign = |key: &str| format!("key `{key}` is not kept, only keys that a proxy device knows are");
    let cases = [
        ("user.note", "x", foreign("user.note")),
        ("initial.x", "x", foreign("initial.x")),
        ("Connect", "x", unknown("Connect", "connect")),
        ("securty.uid", "0", unknown("securty.uid", "security.uid")),
        ("a\u{1b}b", "", "unknown key `a\\u{1b}b`".to_owned()),
        ("", "", "unknown key ``".to_owned()),
        ("type", "proxy", "unknown key `type`".to_owned()),
        ("listen", "tcp::1", "key `listen` is given twice".to_owned()),
    ];
    for (key, value, message) in cases {
        assert_eq!(read(&TCP, &[(key, value)]), Err(message), "{key}={value}");
    }
}

#[test]
fn both_addresses_are_required() {
    let none: [(&str, &str); 0] = [];
    assert_eq!(read(&none, &[]), Err("key `listen` is missing".to_owned()));
    assert_eq!(read(&TCP[..1], &[]), Err("key `connect` is missing".to_owned()));
    assert_eq!(read(&TCP[1..], &[("uid", "x")]), Err("key `listen` is missing".to_owned()));
    assert_eq!(
        addresses("", "tcp::80"),
        Err("listen: column 1: address is empty, expected tcp:HOST:PORT, udp:HOST:PORT or unix:PATH"
            .to_owned())
    );
    assert_eq!(
        addresses("tcp::80", "tcp:1.2.3.4:70000"),
        Err("connect: column 13: port 70000 is above 65535".to_owned())
    );
}

#[test]
fn the_error_does_not_depend_on_the_order_of_keys() {
    let mut pairs =
        vec![("hold", "x"), ("uid", "x"), ("connect", "x"), ("listen", "x"), ("zzz", "x"), ("user.x", "x")];
    let mut seen = Vec::new();
    while !pairs.is_empty() {
        let error = DeviceSpec::from_keys(pairs.clone()).expect_err("malformed");
        for turn in 0..pairs.len() {
            let mut turned = pairs.clone();
            turned.rotate_left(turn);
            assert_eq!(DeviceSpec::from_keys(turned).as_ref(), Err(&error));
        }
        seen.push(error.to_string());
        pairs.pop();
    }
    let first: Vec<_> = seen.iter().map(|error| error.split(':').next().unwrap_or_default()).collect();
    assert_eq!(
        first,
        [
            "key `user.x` is not kept, only keys that a proxy device knows are",
            "unknown key `zzz`",
            "listen",
            "key `listen` is missing",
            "key `listen` is missing",
            "key `listen` is missing"
        ]
    );
}

#[test]
fn every_pairing() {
    let of = |protocol: Protocol| match protocol {
        Protocol::Tcp => "tcp::80",
        Protocol::Udp => "udp::80",
        Protocol::Unix => "unix:/run/a",
        Protocol::Unixgram => "unixgram:/run/a",
        Protocol::Unixpacket => "unixpacket:/run/a",
    };
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Unix, Protocol::Unixgram, Protocol::Unixpacket];
    for (listen, connect) in all.into_iter().flat_map(|listen| all.map(|connect| (listen, connect))) {
        let expected = match (listen, connect) {
            (Protocol::Udp, Protocol::Tcp | Protocol::Unix) => Some(format!(
                "connect: udp cannot be carried to {connect} without udp.framing=len16 or udp.framing=raw"
            )),
            (Protocol::Unixpacket, Protocol::Unixpacket) => None,
            (Protocol::Unixpacket, _) | (_, Protocol::Unixpacket) => {
                Some(format!("connect: {listen} cannot be carried to {connect}: records go to records only"))
            }
            (Protocol::Tcp | Protocol::Unix, Protocol::Unixgram)
            | (Protocol::Unixgram, Protocol::Tcp | Protocol::Unix) => Some(format!(
                "connect: {listen} cannot be carried to {connect}: \
                 a stream keeps no boundaries, and who sends a datagram has no connection"
            )),
            _ => None,
        };
        assert_eq!(addresses(of(listen), of(connect)).err(), expected, "{listen} to {connect}");
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let fits =
                connect == Protocol::Tcp || (connect == Protocol::Unix && version == ProxyProtocol::V2);
            let refused = format!(
                "proxy_protocol: {version} cannot be sent to {connect}, v1 goes to tcp only, v2 to tcp and unix"
            );
            let base = [("listen", of(listen)), ("connect", of(connect))];
            let error = read(&base, &[("proxy_protocol", &version.to_string())]).err();
            assert_eq!(error, expected.clone().or((!fits).then_some(refused)), "{listen} to {connect}");
        }
    }
}

/// Framing is for udp and a stream, in either order; towards udp it is raw unless asked for.
#[test]
fn framing() {
    let only = Some("udp.framing: only between udp and tcp, or udp and unix".to_owned());
    let cases = [
        ("udp::53", "tcp::53", None),
        ("udp::53", "unix:@dns", None),
        ("tcp::53", "udp::53", None),
        ("unix:/run/dns", "udp::53", None),
        ("udp::53", "udp::53", only.clone()),
        ("tcp::53", "tcp::53", only.clone()),
        ("unixpacket:@a", "unixpacket:@b", only),
    ];
    for (listen, connect, refused) in cases {
        for framing in ["raw", "len16"] {
            let read = read(&[("listen", listen), ("connect", connect)], &[("udp.framing", framing)]);
            assert_eq!(read.as_ref().err(), refused.as_ref(), "{listen} to {connect}");
            if let Ok(spec) = read {
                assert_eq!(spec.to_keys().get("udp.framing").map(String::as_str), Some(framing));
            }
        }
    }
    let dns = [("listen", "udp::53"), ("connect", "tcp::53"), ("udp.framing", "len16")];
    let v1 = Some("proxy_protocol: v1 has no word for a udp client, v2 has".to_owned());
    assert_eq!(read(&dns, &[("proxy_protocol", "v1")]).err(), v1);
    assert_eq!(read(&dns, &[("proxy_protocol", "v2")]).err(), None);
}

#[test]
fn options_that_the_addresses_cannot_honour() {
    let file =
        |key: &str| Some(format!("{key}: only for a listen address that is a unix socket with a path"));
    for base in [TCP, UDP, [("listen", "unix:@a"), ("connect", "unix:/b")]] {
        for (key, value) in [("uid", "0"), ("gid", "0"), ("mode", "0644"), ("mode", "0600")] {
            assert_eq!(read(&base, &[(key, value)]).err(), file(key), "{base:?} {key}={value}");
        }
    }
    let fds = Some("fds: only from a unix listen address to a connect address of the same kind".to_owned());
    for base in [TCP, UDP, UNIX_TCP, TCP_UNIX] {
        assert_eq!(read(&base, &[("fds", "on")]).err(), fds, "{base:?}");
        assert_eq!(read(&base, &[("fds", "off")]).err(), None, "{base:?}");
    }
    let v6only = Some("v6only: only for a listen address that is IPv6".to_owned());
    assert_eq!(read(&TCP, &[("v6only", "true")]).err(), v6only);
    assert_eq!(read(&UNIX, &[("v6only", "true")]).err(), v6only);
    assert_eq!(read(&TCP_UDP, &[("v6only", "true")]).err(), None);
    let one = [("listen", "tcp:[::1]:80"), ("connect", "tcp::80")];
    assert_eq!(read(&one, &[("v6only", "true")]).err(), None);
}

#[test]
fn clients_are_judged_where_they_have_an_address() {
    let error = |key: &str, wanted: &str| Some(format!("{key}: only for a listen address that is {wanted}"));
    for base in [UNIX, UNIX_TCP, [("listen", "unix:@a"), ("connect", "tcp::80")]] {
        for (key, value) in [("allow", "::1"), ("deny", "10.0.0.0/8"), ("limits.per_source", "1")] {
            assert_eq!(read(&base, &[(key, value)]).err(), error(key, "tcp or udp"), "{base:?}");
        }
    }
    for base in [UNIX, UNIX_TCP, UDP] {
        assert_eq!(read(&base, &[("accept_proxy", "::1")]).err(), error("accept_proxy", "tcp"), "{base:?}");
    }
    let zero = Some("security.groups: group 0 needs security.uid=0".to_owned());
    assert_eq!(read(&UNIX, &[("security.groups", "0,4")]).err(), zero);
    assert_eq!(read(&UNIX, &[("security.groups", "0,4"), ("security.uid", "1000")]).err(), zero);
    assert_eq!(read(&UNIX, &[("security.groups", "0,4"), ("security.uid", "0")]).err(), None);
}

#[test]
fn port_counts() {
    let refused = |listen: u32, connect: u32| {
        Err(format!("connect: {connect} ports for {listen} listening, expected 1 or as many"))
    };
    let check = |listen: &str, connect: &str| addresses(listen, connect).map(|spec| spec.listen_count());
    assert_eq!(check("tcp::1", "tcp::1"), Ok(1));
    assert_eq!(check("tcp::1-10", "tcp::1"), Ok(10));
    assert_eq!(check("tcp::1-10", "tcp::5,11-19"), Ok(10));
    assert_eq!(check("tcp::1-65535", "udp::1-65535"), Ok(65535));
    assert_eq!(check("tcp::1-10", "unix:/a"), Ok(10));
    assert_eq!(check("unix:/a", "tcp::1"), Ok(1));
    assert_eq!(check("unix:/a", "unix:@b"), Ok(1));
    assert_eq!(check("tcp::1,2", "tcp::7,7"), Ok(2));
    assert_eq!(check("tcp::1-3", "tcp::1-2"), refused(3, 2));
    assert_eq!(check("tcp::1", "tcp::1-2"), refused(1, 2));
    assert_eq!(check("udp::1-2", "udp::1-3"), refused(2, 3));
    assert_eq!(check("unix:/a", "tcp::1-2"), refused(1, 2));
}

#[test]
fn targets_are_positional() {
    let spec = addresses("tcp::80,90-91", "tcp:[::]:1000,5,7").expect("a device");
    let tcp = |text: &str| Some(Target::Tcp { addr: text.parse().expect(text), zone: None });
    assert_eq!(spec.target(0), tcp("[::1]:1000"));
    assert_eq!(spec.target(1), tcp("[::1]:5"));
    assert_eq!(spec.target(2), tcp("[::1]:7"));
    assert_eq!((spec.target(3), spec.target(u32::MAX)), (None, None));
    let spec = addresses("tcp::80,90-91", "tcp:0.0.0.0:9").expect("a device");
    assert_eq!(
        (spec.target(0), spec.target(2), spec.target(3)),
        (tcp("127.0.0.1:9"), tcp("127.0.0.1:9"), None)
    );
    let spec = addresses("udp::80", "udp:[fe80::1%eth0]:9").expect("a device");
    let Some(Target::Udp { addr, zone }) = spec.target(0) else { panic!("udp") };
    assert_eq!((addr.to_string().as_str(), zone.map(Zone::as_str)), ("[fe80::1]:9", Some("eth0")));
    let spec = addresses("tcp::80-81", "unix:@b").expect("a device");
    assert!(
        matches!(spec.target(1), Some(Target::Unix(_, UnixName::Abstract(name))) if name.as_str() == "b")
    );
    assert_eq!(spec.target(2), None);
}

#[test]
fn checks_hold_for_values_built_by_hand() {
    let mut spec = read(&TCP, &[]).expect("a device");
    spec.socket.mode = crate::SocketMode::new(0o600).expect("a mode");
    assert_eq!(spec.check(), Err(SpecError::NotASocketFile { key: "mode" }));
    let mut spec = read(&UNIX, &[]).expect("a device");
    spec.proxy_protocol = ProxyProtocol::V1;
    assert!(spec.check().is_err());
    spec.proxy_protocol = ProxyProtocol::V2;
    assert_eq!(spec.check(), Ok(()));
}

#[test]
fn errors_know_their_key() {
    let key = |more: &[(&str, &str)]| {
        let error = DeviceSpec::from_keys(TCP.iter().chain(more).copied()).expect_err("malformed");
        error.key().to_owned()
    };
    assert_eq!(key(&[("hold", "x")]), "hold");
    assert_eq!(key(&[("nat", "true")]), "nat");
    assert_eq!(key(&[("allow", "x")]), "allow");
    assert_eq!(key(&[("security.groups", "0")]), "security.groups");
    assert_eq!(key(&[("uid", "0")]), "uid");
    assert_eq!(key(&[("v6only", "true")]), "v6only");
    assert_eq!(key(&[("fds", "on")]), "fds");
    assert_eq!(key(&[("foo", "on")]), "foo");
    assert_eq!(key(&[("user.x", "on")]), "user.x");
}

#[test]
fn serde_is_a_flat_map_of_strings() {
    let spec = read(&UNIX, &[("mode", "660"), ("hold", "60")]).expect("a device");
    let json = serde_json::to_string(&spec).expect("serializes");
    assert_eq!(json, r#"{"connect":"unix:/run/b","hold":"1m","listen":"unix:/run/a","mode":"0660"}"#);
    assert_eq!(serde_json::from_str::<DeviceSpec>(&json).expect("reads"), spec);
    let error = |json: &str| serde_json::from_str::<DeviceSpec>(json).expect_err(json).to_string();
    assert!(error(r#"{"listen":"tcp::80"}"#).starts_with("key `connect` is missing"));
    assert!(error(r#"{"listen":"tcp::80","listen":"tcp::81"}"#).starts_with("key `listen` is given twice"));
    assert!(error("[]").contains("expected a map of device keys to strings"));
    assert!(error(r#"{"listen":80}"#).contains("expected a string"));
}
