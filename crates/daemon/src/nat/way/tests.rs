use super::*;

fn nic(device: &str, network: &str, addresses: &[&str]) -> Assigned {
    Assigned {
        device: device.into(),
        host_name: None,
        hwaddr: None,
        network: network.into(),
        is_bridge: true,
        subnets: vec![(ip("10.0.0.1"), 24), (ip("fd00::1"), 64)],
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        claimed: Vec::new(),
        unlisted: Vec::new(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn spec(listen: &str, connect: &str, more: &[(&str, &str)]) -> DeviceSpec {
    let keys = [("listen", listen), ("connect", connect), ("nat", "auto")];
    DeviceSpec::from_keys(keys.iter().chain(more).copied()).unwrap()
}

/// What a device publishes, as text, and what is said of it.
fn ways(listen: &str, connect: &str, more: &[(&str, &str)], nics: &[Assigned]) -> (Vec<String>, String) {
    let verdict = way(&spec(listen, connect, more), nics, None);
    let publications = verdict.way.iter().flat_map(|way| way.publications("d").unwrap());
    let text = |one: Publication| {
        format!("{} {}:{}", one.to_string().replace("d ", ""), one.target(), one.target_ports())
    };
    (publications.map(text).collect(), verdict.reason)
}

#[test]
fn the_first_interface_with_an_address_of_the_family_is_led_to() {
    let nics = [nic("eth0", "br0", &["fd00::5"]), nic("eth1", "br1", &["10.0.0.5", "10.0.0.6", "fd00::6"])];
    for (listen, connect, expected, said) in [
        (
            "tcp:0.0.0.0:80",
            "tcp:0.0.0.0:8080",
            &["(tcp:0.0.0.0:80) 10.0.0.5:8080"][..],
            "to 10.0.0.5 (eth1 in br1)",
        ),
        (
            "udp:192.0.2.1:53",
            "udp:10.0.0.6:53",
            &["(udp:192.0.2.1:53) 10.0.0.6:53"],
            "to 10.0.0.6 (eth1 in br1)",
        ),
        (
            "tcp:[::]:80",
            "tcp:[::]:80",
            &["(tcp:0.0.0.0:80) 10.0.0.5:80", "(tcp:[::]:80) fd00::5:80"],
            "to 10.0.0.5 (eth1 in br1), fd00::5 (eth0 in br0)",
        ),
        (
            "tcp:[2001:db8::1]:1-9",
            "tcp:[::]:2",
            &["(tcp:[2001:db8::1]:1-9) fd00::5:2"],
            "to fd00::5 (eth0 in br0)",
        ),
    ] {
        assert_eq!(
            ways(listen, connect, &[], &nics),
            (expected.iter().map(ToString::to_string).collect(), said.into())
        );
    }
}

/// Fails when: an instance's own word goes before the server's, or is not looked at again.
#[test]
fn what_the_instance_says_is_the_last_choice() {
    let claims = |claimed: &[&str], nic: Assigned| Assigned {
        claimed: claimed.iter().map(|text| ip(text)).collect(),
        ..nic
    };
    let any = spec("tcp:0.0.0.0:80", "tcp:0.0.0.0:80", &[]);
    let only = [claims(&["10.0.0.7"], nic("eth0", "br0", &[]))];
    let verdict = way(&any, &only, None);
    assert_eq!(verdict.reason, "to 10.0.0.7 (eth0 in br0, configured inside)");
    assert!(verdict.is_loose && verdict.way.is_some());
    let both = [only[0].clone(), nic("eth1", "br1", &["10.0.0.5"])];
    let verdict = way(&any, &both, None);
    assert_eq!((verdict.reason.as_str(), verdict.is_loose), ("to 10.0.0.5 (eth1 in br1)", false));
    assert!(way(&any, &[nic("eth0", "br0", &[])], None).is_loose);
    assert!(!way(&any, &[], None).is_loose);
}

/// An IPv6 host takes a new address every day and gives up an old one days later.
///
/// Fails when: a new address ends the connections to one that is still there, or the newest is taken at first.
#[test]
fn what_the_instance_says_is_kept_as_long_as_it_says_it() {
    let claims = |claimed: &[&str]| {
        [Assigned { claimed: claimed.iter().map(|text| ip(text)).collect(), ..nic("eth0", "br0", &[]) }]
    };
    let any = spec("tcp:[::]:80", "tcp:[::]:80", &[("v6only", "true")]);
    let first = way(&any, &claims(&["fd00::b", "fd00::a"]), None);
    assert_eq!(first.reason, "to fd00::a (eth0 in br0, configured inside)");
    let later = way(&any, &claims(&["fd00::c", "fd00::a", "fd00::b"]), first.way.as_deref());
    assert_eq!(later.way, first.way);
    let gone = way(&any, &claims(&["fd00::c", "fd00::b"]), later.way.as_deref());
    assert_eq!(gone.reason, "to fd00::b (eth0 in br0, configured inside)");
    let v4 = spec("tcp:0.0.0.0:80", "tcp:0.0.0.0:80", &[]);
    assert_eq!(
        way(&v4, &claims(&["10.0.0.8", "10.0.0.9"]), None).reason,
        "to 10.0.0.8 (eth0 in br0, configured inside)"
    );
}

#[test]
fn what_has_no_way_says_why() {
    let v4 = [nic("eth0", "br0", &["10.0.0.5"])];
    let ovn = [Assigned { is_bridge: false, ..nic("eth0", "ovn", &["10.0.0.5"]) }];
    let (web, any) = ("tcp:0.0.0.0:80", "tcp:0.0.0.0:80");
    for (listen, connect, nics, said) in [
        (
            web,
            "tcp:10.0.0.9:80",
            &v4[..],
            "10.0.0.9 is not an address the server has assigned to the instance",
        ),
        (web, any, &[], "the instance has no interface in a bridge of the server's"),
        (web, any, &ovn, "the instance has no interface in a bridge of the server's"),
        (
            web,
            any,
            &[nic("eth0", "br0", &[])],
            "the instance has no IPv4 address that the server has assigned",
        ),
        ("tcp:127.0.0.1:80", any, &v4, "clients of a loopback address are on this host and are relayed"),
    ] {
        assert_eq!(ways(listen, connect, &[], nics), (vec![], said.into()), "{listen} {connect}");
    }
    let (found, said) = ways("tcp:[::]:80", "tcp:[::]:80", &[], &v4);
    assert_eq!(found, ["(tcp:0.0.0.0:80) 10.0.0.5:80"]);
    assert_eq!(
        said,
        "to 10.0.0.5 (eth0 in br0); the instance has no IPv6 address that the server has assigned, so those are relayed"
    );
    let (_, said) = ways(web, "tcp:127.0.0.1:80", &[], &v4);
    assert!(said.contains("never reaches the instance's loopback"), "{said}");
    let (_, said) = ways(web, any, &[("allow", "192.0.2.0/24")], &v4);
    assert_eq!(said, "only the relay can honour allow");
}

/// Lists are cut where either of them ends a range.
#[test]
fn lists_of_ports_are_led_in_order() {
    let nics = [nic("eth0", "br0", &["10.0.0.5"])];
    for (listen, connect, expected) in [
        ("80,443", "8080", &["80 8080", "443 8080"][..]),
        ("1-4", "11-12,21-22", &["1-2 11-12", "3-4 21-22"]),
        ("1,2-4,9", "11-13,20,30", &["1 11", "2-3 12-13", "4 20", "9 30"]),
        ("65535,1", "1,65535", &["65535 1", "1 65535"]),
        ("1-65535", "1-65535", &["1-65535 1-65535"]),
    ] {
        let (found, _) =
            ways(&format!("tcp:0.0.0.0:{listen}"), &format!("tcp:0.0.0.0:{connect}"), &[], &nics);
        let expected: Vec<String> = expected
            .iter()
            .map(|pair| pair.split_once(' ').unwrap())
            .map(|(ports, to)| format!("(tcp:0.0.0.0:{ports}) 10.0.0.5:{to}"))
            .collect();
        assert_eq!(found, expected, "{listen} to {connect}");
    }
}

/// Fails when: a way of other ports, of another address, protocol or family counts as one of the device.
#[test]
fn a_way_is_one_for_its_options() {
    let nics = [nic("eth0", "br0", &["10.0.0.5", "fd00::5"])];
    let made = |listen: &str, connect: &str| way(&spec(listen, connect, &[]), &nics, None).way.unwrap();
    let own = made("tcp:0.0.0.0:80-89", "tcp:0.0.0.0:8080-8089");
    for (listen, connect, more, fits) in [
        ("tcp:0.0.0.0:80-89", "tcp:0.0.0.0:8080-8089", &[][..], true),
        ("tcp:0.0.0.0:80-89", "tcp:10.0.0.5:8080-8089", &[], true),
        ("tcp:0.0.0.0:80-89", "tcp:10.0.0.6:8080-8089", &[], false),
        ("tcp:0.0.0.0:80-89", "tcp:0.0.0.0:8081-8090", &[], false),
        ("tcp:0.0.0.0:81-90", "tcp:0.0.0.0:8080-8089", &[], false),
        ("tcp:192.0.2.1:80-89", "tcp:0.0.0.0:8080-8089", &[], false),
        ("udp:0.0.0.0:80-89", "udp:0.0.0.0:8080-8089", &[], false),
        ("tcp:127.0.0.1:80-89", "tcp:0.0.0.0:8080-8089", &[], false),
        ("tcp:0.0.0.0:80-89", "tcp:0.0.0.0:8080-8089", &[("allow", "192.0.2.0/24")], false),
        ("tcp:[::]:80-89", "tcp:[::]:8080-8089", &[], true),
        ("tcp:[::]:80-89", "tcp:[::]:8080-8089", &[("v6only", "true")], false),
    ] {
        assert_eq!(own.fits(&spec(listen, connect, more)), fits, "{listen} {connect} {more:?}");
    }
    let keys = [("listen", "tcp:0.0.0.0:80-89"), ("connect", "tcp:0.0.0.0:8080-8089")];
    assert!(!own.fits(&DeviceSpec::from_keys(keys).unwrap()), "without nat");
    let both = made("tcp:[::]:80", "tcp:[::]:80");
    assert!(both.fits(&spec("tcp:[::]:80", "tcp:[::]:80", &[])));
    assert!(!both.fits(&spec("tcp:[::]:80", "tcp:[::]:80", &[("v6only", "true")])));
}

/// Fails when: `nat=auto` leads what the host stops, `nat=true` does not, or one family's obstacle counts for the other.
#[test]
fn what_the_host_stops_is_relayed_or_said() {
    let nics = [nic("eth0", "br0", &["10.0.0.5", "fd00::5"])];
    let text = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let both = ("tcp:[::]:80", "tcp:[::]:80");
    let four = ("tcp:0.0.0.0:80", "tcp:0.0.0.0:80");
    let to = "to 10.0.0.5 (eth0 in br0), fd00::5 (eth0 in br0)";
    for ((listen, connect), nat, v4, v6, count, said) in [
        (both, Nat::Auto, &[][..], &[][..], 2, to.to_owned()),
        (both, Nat::Auto, &["a"], &[], 1, "to fd00::5; IPv4 is relayed: a".to_owned()),
        (both, Nat::Auto, &["a", "b"], &["a"], 0, "a; b".to_owned()),
        (both, Nat::On, &["a", "b"], &["a"], 2, format!("{to}; a; b")),
        (four, Nat::Auto, &[], &["a"], 1, "to 10.0.0.5 (eth0 in br0)".to_owned()),
        (four, Nat::On, &["a"], &[], 1, "to 10.0.0.5 (eth0 in br0); a".to_owned()),
    ] {
        let obstacles = Obstacles { v4: text(v4), v6: text(v6) };
        let verdict = way(&spec(listen, connect, &[]), &nics, None).on(&obstacles, nat);
        let led = verdict.way.map_or(0, |way| way.leads.len());
        assert_eq!((led, verdict.reason), (count, said), "{listen} {nat:?} {v4:?} {v6:?}");
    }
}
