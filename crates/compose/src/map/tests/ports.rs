use super::*;

/// Devices of one service with these ports.
fn devices(service: &str, engine: Engine) -> (Vec<String>, Vec<String>) {
    let text = format!("services:\n  web:\n    image: busybox\n    {service}\n");
    let setting = Setting { engine, ..old() };
    let want = mapped(&text, &setting);
    let mut lines = Vec::new();
    for (_, instance) in want.instances() {
        let devices = if engine == Engine::Incus { &instance.devices } else { &instance.ports };
        for (name, keys) in devices {
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            lines.push(format!("{} {name}: {}", instance.name, keys.join(" ")));
        }
    }
    (lines, want.warnings)
}

/// Every kind of port that works without a choice of its own.
const PORTS: &str = "ports: ['80:80', '127.0.0.1:8080:80', '[::1]:8081:80', '53:53/tcp', '53:53/udp', '10.0.0.1:53:53/udp', \
                     '9000-9001:7000-7001']";

/// Fails when a device of the server differs in one byte from what incus-compose makes of the same file.
#[test]
fn the_servers_own_devices() {
    let (lines, warnings) = devices(PORTS, Engine::Incus);
    assert!(warnings.is_empty(), "{warnings:?}");
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn devices_of_portway() {
    insta::assert_snapshot!(devices(PORTS, Engine::Portway).0.join("\n"));
}

/// Fails when NAT is asked for where it cannot be, or falls back without a word.
#[test]
fn nat_for_all_ports_of_a_service() {
    let ports = "ports: ['80:80', '127.0.0.1:81:80', {target: 80, published: 82, x-incus-compose: {nat: false}}, \
                 {target: 80, published: 83, x-portway: {nat: auto, limits.rate: 5}}]\n    x-incus: {nat-proxy: true}";
    let (lines, warnings) = devices(ports, Engine::Portway);
    insta::assert_snapshot!(format!("{}\n{}", lines.join("\n"), warnings.join("\n")));
    let (_, warnings) = devices(ports, Engine::Incus);
    assert_eq!(warnings.len(), 2, "loopback, and limits.rate: {warnings:?}");
    let (lines, warnings) =
        devices("ports: ['80:80']\n    network_mode: none\n    x-incus: {nat-proxy: true}", Engine::Portway);
    assert!(!lines[0].contains("nat="), "{lines:?}");
    assert!(warnings[0].contains("is relayed: no-nic ("), "{warnings:?}");
}

/// Fails when `nat` of `x-portway` leaves a device that the kernel could never lead, or the nearer word does not win.
#[test]
fn nat_of_x_portway() {
    let one = |said: &str| devices(said, Engine::Portway).0.join("; ");
    let led = "web-1 proxy-80: connect=tcp:0.0.0.0:80 listen=tcp:0.0.0.0:80 nat=auto; \
               web-1 proxy-80-ipv6: connect=tcp:127.0.0.1:80 listen=tcp:[::]:80 v6only=true";
    let relayed = "web-1 proxy-80: connect=tcp:127.0.0.1:80 listen=tcp:[::]:80";
    assert_eq!(one("ports: [{target: 80, published: 80, x-portway: {nat: auto}}]"), led);
    assert_eq!(one("ports: ['80:80']\n    x-portway: {nat: auto}"), led);
    assert_eq!(
        one("ports: [{target: 80, published: 80, x-portway: {nat: false}}]\n    x-incus: {nat-proxy: true}"),
        relayed
    );
    assert_eq!(
        one(
            "ports: [{target: 80, published: 80, x-incus-compose: {nat: true}}]\n    x-portway: {nat: false}"
        ),
        led
    );
    let strict = "web-1 proxy-80: connect=tcp:0.0.0.0:80 listen=tcp:0.0.0.0:80 nat=true";
    assert_eq!(one("ports: ['80:80']\n    x-incus: {nat-proxy: strict}"), strict);
    assert_eq!(one("ports: [{target: 80, published: 80, x-portway: {nat: true}}]"), strict);
    let (lines, warnings) =
        devices("ports: ['80:80']\n    x-portway: {nat: auto, allow: 10.0.0.0/8}", Engine::Portway);
    assert_eq!(lines, ["web-1 proxy-80: allow=10.0.0.0/8 connect=tcp:127.0.0.1:80 listen=tcp:[::]:80"]);
    assert!(
        warnings[0]
            .contains("service web port 80/tcp is relayed: relay-only-key (only the relay can honour allow)"),
        "{warnings:?}"
    );
    let text = "services: {web: {image: x, ports: [{target: 80, published: 80, x-portway: {nat: maybe}}]}}";
    assert!(fault(text, &old()).contains("services.web.ports[0].x-portway.nat: "), "{}", fault(text, &old()));
}

/// An address that is written is that one: docker's `0.0.0.0` is IPv4 alone, its `::` is IPv6 alone.
#[test]
fn both_wildcards_side_by_side() {
    let both = "ports: ['0.0.0.0:80:80', '[::]:80:80']";
    assert_eq!(
        devices(both, Engine::Portway).0,
        [
            "web-1 proxy-80: connect=tcp:127.0.0.1:80 listen=tcp:0.0.0.0:80",
            "web-1 proxy-80-tcp: connect=tcp:127.0.0.1:80 listen=tcp:[::]:80 v6only=true",
        ]
    );
    let text = format!("services: {{web: {{image: busybox, {both}}}}}");
    let plan = |engine| {
        let want = mapped(&text, &Setting { engine, ..old() });
        crate::plan::up(&want, &crate::scene::server(), &crate::plan::Up::default()).map(|_| ())
    };
    assert_eq!(plan(Engine::Portway), Ok(()));
    let refused = plan(Engine::Incus).expect_err("the server's 0.0.0.0 is on IPv6 too");
    assert_eq!(refused.to_string(), "web-1 and web-1 both publish tcp:[::]:80");
}

/// Published ports of a plan and the server after it, by instance and device: `web-1 proxy-any-80 61234`.
fn chosen(
    text: &str,
    engine: Engine,
    seen: crate::observe::Observed,
) -> (Vec<(String, u16)>, crate::observe::Observed) {
    use crate::plan::{Up, up};
    let want = mapped(text, &Setting { engine, ..old() });
    let plan = up(&want, &seen, &Up::default()).unwrap_or_else(|error| panic!("{error}"));
    let seen = crate::scene::after(seen, &plan);
    let theirs = seen.instances.iter().map(|(name, one)| (name, &one.devices));
    let devices =
        theirs.chain(&seen.published).flat_map(|(name, devices)| devices.iter().map(move |one| (name, one)));
    let port = |(instance, (device, keys)): (&String, (&String, &Keys))| {
        let port = keys.get("listen")?.rsplit_once(':')?.1.parse().ok()?;
        Some((format!("{instance} {device}"), port))
    };
    (devices.filter_map(port).collect(), seen)
}

/// Fails when a port that nobody has named is another at each `up`, is taken twice, or is not told.
#[test]
fn ports_that_are_left_open_are_chosen_once() {
    let text = "services: {web: {image: busybox, scale: 3, ports: ['80', '0:81', '8000-8002:82/udp']}}";
    for engine in [Engine::Portway, Engine::Incus] {
        let (first, seen) = chosen(text, engine, crate::scene::server());
        let ports: BTreeSet<u16> = first.iter().map(|(_, port)| *port).collect();
        assert_eq!((first.len(), ports.len()), (9, 9), "{first:?}");
        let range = first.iter().filter(|(name, _)| name.ends_with("proxy-8000-8002")).map(|(_, port)| *port);
        assert_eq!(range.collect::<Vec<_>>(), [8000, 8001, 8002]);
        assert!(first.iter().filter(|(name, _)| name.contains("any")).all(|(_, port)| *port >= 61_000));
        let (again, seen) = chosen(text, engine, seen);
        assert_eq!(again, first);
        // Those that stay keep theirs when the others go, and the others come back to what is free.
        let two = text.replace("scale: 3", "scale: 2");
        let (fewer, seen) = chosen(&two, engine, seen);
        assert!(fewer.iter().all(|one| first.contains(one)) && fewer.len() == 6, "{fewer:?}");
        let (more, _) = chosen(text, engine, seen);
        assert_eq!(more, first);
    }
    let led = "services: {web: {image: busybox, ports: ['80'], x-incus: {nat-proxy: true}}}";
    let (both, _) = chosen(led, Engine::Portway, crate::scene::server());
    assert_eq!((both.len(), both[0].1), (2, both[1].1), "both halves of one port: {both:?}");
}

/// Fails when a port is taken that somebody has who is not in the files.
#[test]
fn ports_of_others_are_refused_or_avoided() {
    use crate::plan::{PlanError, Up, up};
    let mut seen = crate::scene::server();
    let device =
        |listen: &str| pairs(&[("type", "proxy"), ("listen", listen), ("connect", "tcp:127.0.0.1:1")]);
    let led = Keys::from([("nat".to_owned(), "true".to_owned())]);
    let led = device("tcp:192.0.2.1:9000").into_iter().chain(led).collect();
    seen.rivals.insert("x of the server's project y".to_owned(), vec![device("tcp:0.0.0.0:8000"), led]);
    let plan = |ports: &str| {
        let text = format!("services: {{web: {{image: busybox, ports: [{ports}]}}}}");
        up(&mapped(&text, &Setting { engine: Engine::Incus, ..old() }), &seen, &Up::default())
    };
    for (ports, meets) in
        [("'8000:80'", true), ("'9000:80'", true), ("'192.0.2.2:9000:80'", false), ("'8000:80/udp'", false)]
    {
        assert_eq!(matches!(plan(ports), Err(PlanError::Port { .. })), meets, "{ports}");
    }
    let (chosen, _) =
        chosen("services: {web: {image: busybox, ports: ['8000-8001:80']}}", Engine::Incus, seen.clone());
    assert_eq!(chosen[0].1, 8001);
    let none = "services: {web: {image: busybox, ports: ['8000-8000:80'], scale: 1}}";
    assert!(up(&mapped(none, &Setting { engine: Engine::Incus, ..old() }), &seen, &Up::default()).is_err());
}

#[test]
fn a_range_has_a_port_for_each_replica() {
    let text = "services: {web: {image: busybox, ports: ['8000-8001:80'], scale: 2}}";
    let (chosen, _) = chosen(text, Engine::Incus, crate::scene::server());
    assert_eq!(
        chosen,
        [("web-1 proxy-8000-8001".to_owned(), 8000), ("web-2 proxy-8000-8001".to_owned(), 8001)]
    );
    let few = "services: {web: {image: busybox, ports: ['8000-8001:80'], scale: 3}}";
    assert!(fault(few, &old()).contains("3 replicas cannot publish 8000-8001"), "{}", fault(few, &old()));
}
