//! Printing and parsing are inverse, and no text does harm.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use portway_model::{
    At, Bind, ConnectAddr, DeviceKey, DeviceName, DeviceSpec, FdPassing, Follow, InstanceKey, InstanceRef,
    IpHost, ListenAddr, PortList, ProjectName, Provider, ProxyProtocol, SocketMode, format_duration, nearest,
    parse_duration,
};
use proptest::prelude::*;

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    let segments = prop::array::uniform8(prop_oneof![Just(0u16), Just(0xffff), any::<u16>()]);
    prop_oneof![any::<u128>().prop_map(Ipv6Addr::from), segments.prop_map(Ipv6Addr::from)]
}

fn host() -> impl Strategy<Value = String> {
    let linklocal =
        (any::<u64>(), "[a-z0-9@._-]{1,15}").prop_filter("dots", |(_, zone)| zone != "." && zone != "..");
    prop_oneof![
        Just(String::new()),
        Just("[]".to_owned()),
        any::<u32>().prop_map(|ip| Ipv4Addr::from(ip).to_string()),
        v6().prop_filter("needs a zone", |ip| !ip.is_unicast_link_local()).prop_map(|ip| format!("[{ip}]")),
        any::<u32>().prop_map(|ip| format!("[::ffff:{}]", Ipv4Addr::from(ip))),
        linklocal.prop_map(|(low, zone)| {
            let ip = Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(low));
            format!("[{ip}%{zone}]")
        }),
    ]
}

fn ports() -> impl Strategy<Value = String> {
    prop_oneof![
        (1..=65535u16).prop_map(|port| port.to_string()),
        (1..=65534u16)
            .prop_flat_map(|first| (Just(first), first + 1..=65535))
            .prop_map(|(a, b)| format!("{a}-{b}")),
        (1..=100u16, 200..=300u16, 400..=500u16).prop_map(|(a, b, c)| format!("{c},{a}-{b}")),
    ]
}

fn unix() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "(/{1,2}(\\.|[a-zA-Z0-9é :@_-]{1,9})){0,5}/[a-z:é ]{1,8}".prop_map(|path| path),
        "[^\\x00]{1,20}".prop_map(|name| format!("@{name}")),
    ];
    (prop::sample::select(vec!["unix", "unixgram", "unixpacket"]), name)
        .prop_map(|(kind, name)| format!("{kind}:{name}"))
}

fn address() -> BoxedStrategy<String> {
    let inet = (prop_oneof![Just("tcp"), Just("udp")], host(), ports());
    prop_oneof![3 => inet.prop_map(|(protocol, host, ports)| format!("{protocol}:{host}:{ports}")), 1 => unix()].boxed()
}

/// Text that is nearly an address, key or name: pieces of the grammar and noise.
fn noise() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "tcp:",
        "udp:",
        "unix:",
        "[",
        "]",
        "::",
        ":",
        "%",
        "eth0",
        "fe80::1",
        "1.2.3.4",
        "0",
        "65536",
        "-",
        ",",
        "/",
        "..",
        ".",
        "@",
        "\0",
        "é",
        " ",
        "incus:",
        "netns:",
        "pid:",
        "default",
        "c1",
        "%2F",
        "ms",
        "h",
        "9999999999999",
        "true",
        "v1",
        "\u{1b}[2J",
        "🦀",
    ]);
    prop_oneof![prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat()), any::<String>()]
}

/// The error's place is in the text and between characters, and it prints as one short line.
fn check_error<K: Display + Debug>(text: &str, error: &At<K>) -> Result<(), TestCaseError> {
    let before = text.get(..error.position);
    prop_assert!(before.is_some(), "{:?} in {:?}", error, text);
    prop_assert_eq!(before.map_or(0, |before| before.chars().count()) + 1, error.column);
    let line = error.to_string();
    prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
    prop_assert!(line.chars().count() < 600, "{}", line);
    Ok(())
}

/// Whatever parses prints a text that parses to the same value and prints the same.
fn check_text<T, K>(text: &str) -> Result<(), TestCaseError>
where
    T: FromStr<Err = At<K>> + Display + PartialEq + Debug,
    K: Display + Debug + PartialEq,
{
    match text.parse::<T>() {
        Ok(value) => {
            let canonical = value.to_string();
            prop_assert_eq!(canonical.parse::<T>(), Ok(value), "{:?} from {:?}", canonical, text);
        }
        Err(error) => check_error(text, &error)?,
    }
    Ok(())
}

fn duration(min_ms: u64, max_ms: u64) -> impl Strategy<Value = Duration> {
    let wide = (min_ms..=max_ms).prop_map(Duration::from_millis);
    prop_oneof![wide, (min_ms.div_ceil(1000)..=max_ms / 1000).prop_map(Duration::from_secs)]
}

const DAY_MS: u64 = 86_400_000;

/// Any device: addresses first, then options as far as they fit.
fn spec() -> BoxedStrategy<DeviceSpec> {
    let ids = || prop::option::of(0..u32::MAX);
    let words = (any::<bool>(), 0..3u8, any::<bool>(), prop::option::of(any::<bool>()), any::<bool>());
    let times = (
        duration(10, DAY_MS),
        duration(0, DAY_MS),
        duration(100, DAY_MS),
        1..=32_400u64,
        duration(1000, DAY_MS),
    );
    (address(), address(), (ids(), ids(), ids(), ids(), 0..=0o777u16), words, times, 1..=1_000_000u32)
        .prop_filter_map(
            "addresses that cannot be joined",
            |(listen, connect, (uid, gid, run_uid, run_gid, mode), words, times, flows)| {
                let mut spec = DeviceSpec::new(listen.parse().ok()?, connect.parse().ok()?).ok()?;
                let usual = spec.clone();
                (spec.run_as.uid, spec.run_as.gid) = (run_uid, run_gid);
                (spec.bind, spec.fds) = (
                    if words.0 { Bind::Instance } else { Bind::Host },
                    if words.2 { FdPassing::Off } else { FdPassing::On },
                );
                spec.follow = words.3.map(|uuid| if uuid { Follow::Uuid } else { Follow::Name });
                (spec.connect_timeout, spec.hold, spec.udp_idle) = (times.0, times.1, times.2);
                (spec.tcp_keepalive, spec.tcp_timeout) = (Duration::from_secs(times.3), times.4);
                spec.udp_max_flows = flows;
                // Each of these may not fit.
                spec.proxy_protocol =
                    [ProxyProtocol::Off, ProxyProtocol::V1, ProxyProtocol::V2][usize::from(words.1)];
                if spec.check().is_err() {
                    spec.proxy_protocol = ProxyProtocol::Off;
                }
                (spec.socket.uid, spec.socket.gid) = (uid, gid);
                spec.socket.mode = SocketMode::new(mode)?;
                if spec.check().is_err() {
                    spec.socket = usual.socket;
                }
                spec.v6only = words.4;
                if spec.check().is_err() {
                    spec.v6only = false;
                }
                Some(spec)
            },
        )
        .boxed()
}

proptest! {
    #[test]
    fn addresses_survive_printing(text in address()) {
        // A listen list without repeats by construction, so both sides read it.
        let listen: ListenAddr = text.parse().expect(&text);
        let connect: ConnectAddr = text.parse().expect(&text);
        let canonical = (listen.to_string(), connect.to_string());
        prop_assert_eq!(canonical.0.parse::<ListenAddr>(), Ok(listen.clone()));
        prop_assert_eq!(canonical.1.parse::<ConnectAddr>(), Ok(connect.clone()));
        let crossed: ConnectAddr = canonical.0.parse().expect("canonical texts mean the same on both sides");
        prop_assert_eq!(crossed.address(), listen.address());
        let json = serde_json::to_string(&(&listen, &connect)).expect("serializes");
        prop_assert_eq!(serde_json::from_str::<(ListenAddr, ConnectAddr)>(&json).expect("reads"), (listen, connect));
    }

    #[test]
    fn equal_hosts_have_equal_texts(ip in v6()) {
        prop_assume!(!ip.is_unicast_link_local());
        let host = IpHost::new(IpAddr::V6(ip), None).expect("no zone needed");
        let long: Vec<String> = ip.segments().iter().map(|segment| format!("{segment:04X}")).collect();
        let parsed: ListenAddr = format!("tcp:[{}]:1", long.join(":")).parse().expect("valid");
        prop_assert_eq!(parsed.address().host(), Some(&host));
        prop_assert_eq!(parsed.to_string(), format!("tcp:{host}:1"));
        prop_assert!(!matches!(host.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()));
        prop_assert!(!host.dial_ip().is_unspecified());
    }

    #[test]
    fn no_text_does_harm(text in noise()) {
        check_text::<ListenAddr, _>(&text)?;
        check_text::<ConnectAddr, _>(&text)?;
        check_text::<PortList, _>(&text)?;
        check_text::<DeviceName, _>(&text)?;
        check_text::<DeviceKey, _>(&text)?;
        check_text::<InstanceRef, _>(&text)?;
        check_text::<InstanceKey, _>(&text)?;
        check_text::<ProjectName, _>(&text)?;
        check_text::<Provider, _>(&text)?;
        check_text::<Bind, _>(&text)?;
        check_text::<ProxyProtocol, _>(&text)?;
        check_text::<FdPassing, _>(&text)?;
        check_text::<Follow, _>(&text)?;
        check_text::<SocketMode, _>(&text)?;
        if let Err(error) = parse_duration(&text, Duration::ZERO, Duration::from_secs(9)) {
            check_error(&text, &error)?;
        }
        let _ = nearest(&text, [text.as_str(), "listen"]);
        for provider in Provider::ALL {
            if let Ok(typed) = text.parse::<InstanceRef>() {
                match typed.resolve(provider, None) {
                    Ok(key) => prop_assert_eq!(key.to_string().parse::<InstanceKey>(), Ok(key)),
                    Err(error) => check_error(&text, &error)?,
                }
            }
        }
    }

    #[test]
    fn no_keys_do_harm(pairs in prop::collection::vec((prop::sample::select(
        DeviceSpec::KEYS.iter().map(|doc| doc.name.to_owned()).chain(["x".to_owned()]).collect::<Vec<_>>()), noise()), 0..6),
        listen in address(), connect in address())
    {
        let base = [("listen".to_owned(), listen), ("connect".to_owned(), connect)];
        match DeviceSpec::from_keys(base.into_iter().chain(pairs)) {
            Ok(spec) => {
                prop_assert_eq!(spec.check(), Ok(()));
                prop_assert_eq!(DeviceSpec::from_keys(spec.to_keys()), Ok(spec));
            }
            Err(error) => {
                let line = error.to_string();
                prop_assert!(!line.chars().any(char::is_control) && line.chars().count() < 600, "{}", line);
                prop_assert!(line.contains(error.key()), "{}", line);
            }
        }
    }

    #[test]
    fn devices_survive_their_keys(spec in spec()) {
        let keys = spec.to_keys();
        prop_assert_eq!(DeviceSpec::from_keys(&keys), Ok(spec.clone()), "{:?}", keys);
        let json = serde_json::to_string(&spec).expect("serializes");
        prop_assert_eq!(serde_json::from_str::<BTreeMap<String, String>>(&json).expect("a map of strings"), keys);
        prop_assert_eq!(serde_json::from_str::<DeviceSpec>(&json).expect("reads"), spec);
    }

    #[test]
    fn every_listener_has_a_target(spec in spec(), index in any::<u32>()) {
        prop_assert_eq!(spec.target(index).is_some(), index < spec.listen_count());
        prop_assert!(spec.target(0).is_some() && spec.target(spec.listen_count() - 1).is_some());
    }

    #[test]
    fn durations_survive_printing(value in duration(0, DAY_MS)) {
        let text = format_duration(value);
        prop_assert_eq!(parse_duration(&text, Duration::ZERO, Duration::from_millis(DAY_MS)), Ok(value));
    }

    #[test]
    fn device_keys_survive_printing(device in "[a-zA-Z0-9/:_-][a-zA-Z0-9/:._-]{0,63}",
        instance in prop_oneof!["(incus|lxd):[a-z.%:]{3,9}/[a-z][a-z0-9-]{0,9}[a-z]", "netns:[a-z:% ]{1,9}",
            "netns:(/[a-z:.]{3,5}){1,3}/x", "pid:[1-9][0-9]{0,5}"])
    {
        let instance: InstanceKey = instance.parse().expect(&instance);
        let device: DeviceName = device.parse().expect(&device);
        let key = DeviceKey { instance, device };
        prop_assert_eq!(key.to_string().parse::<DeviceKey>(), Ok(key));
    }
}
