//! What a file asks for beyond its own instances.

use super::*;
use crate::place;
use crate::plan::PlanError;
use crate::scene;

/// What is asked for, one line each.
fn privileges(text: &str) -> Vec<String> {
    let want = mapped(text, &old());
    want.privileges.iter().map(|one| format!("{}: {}", one.service, one.what)).collect()
}

/// Fails when a file leads a published port elsewhere, or chooses as whom it is carried.
#[test]
fn x_portway_says_how_and_never_where() {
    let taken = [
        ("bind", "instance"),
        ("listen", "'tcp:127.0.0.1:9'"),
        ("connect", "'unix:/var/lib/incus/unix.socket'"),
        ("mode", "'0777'"),
        ("uid", "0"),
        ("gid", "0"),
        ("security.uid", "0"),
        ("security.groups", "[0]"),
        ("follow", "name"),
        ("anything", "1"),
    ];
    for engine in [Engine::Portway, Engine::Incus] {
        let setting = Setting { engine, ..old() };
        for (key, value) in taken {
            let port = format!(
                "services:\n  web:\n    image: x\n    ports: [{{target: 80, published: 81, x-portway: {{{key}: {value}}}}}]\n"
            );
            let said = fault(&port, &setting);
            let what = format!("-:4:53: services.web.ports[0].x-portway.{key}: is not the file's to set");
            assert!(said.starts_with(&what), "{said}");
            let service = format!(
                "services:\n  web:\n    image: x\n    ports: ['81:80']\n    x-portway: {{{key}: {value}}}\n"
            );
            let said = fault(&service, &setting);
            let what = format!("-:5:17: services.web.x-portway.{key}: is not the file's to set");
            assert!(said.starts_with(&what), "{said}");
        }
    }
    let text = "services: {web: {image: x, ports: ['81:80'], x-portway: {allow: 10.0.0.0/8, limits.rate: 5, proxy_protocol: v2, \
                connect.timeout: 2s}}}";
    let want = mapped(text, &old());
    assert_eq!(first(&want).ports["proxy-81"]["allow"], "10.0.0.0/8");
}

/// Fails when two files that ask for different things ask in the same words.
#[test]
fn a_privilege_says_its_whole_value() {
    let text = "services:\n\
                \x20 web:\n\
                \x20   image: busybox\n\
                \x20   x-incus: {raw.lxc: \"lxc.mount.entry = / host\\nlxc.hook.pre-start = /x\"}\n\
                \x20   x-incus-compose: {devices: {logs: {type: disk, source: '/a path=/b', path: /mnt}}}\n\
                \x20   gpus: [{device_ids: ['1', '3']}]\n\
                x-incus: {restricted.devices.disk: allow}\n";
    assert_eq!(
        privileges(text),
        [
            ": set restricted.devices.disk=allow of the project",
            "web: use graphics processors 1, 3 of the host",
            "web: set raw.lxc=\"lxc.mount.entry = / host\\nlxc.hook.pre-start = /x\"",
            "web: have the device logs: disk path=/mnt source=\"/a path=/b\"",
        ]
    );
}

/// Fails when a number of graphics processors becomes another, or all of them.
#[test]
fn as_many_graphics_processors_as_are_asked_for() {
    let of = |said: &str| -> Vec<Option<String>> {
        let text = format!("services: {{web: {{image: busybox, {said}}}}}\n");
        let want = mapped(&text, &old());
        let devices = first(&want).devices.values().filter(|device| device["type"] == "gpu");
        devices.map(|device| device.get("pci").cloned()).collect()
    };
    let deployed = |said: &str| {
        of(&format!("deploy: {{resources: {{reservations: {{devices: [{{capabilities: [gpu]{said}}}]}}}}}}"))
    };
    let both = ["0000:01:00.0", "0000:02:00.0"].map(|address| Some(address.to_owned()));
    assert_eq!(of("gpus: all"), [None]);
    assert_eq!(deployed(""), [None]);
    assert_eq!(deployed(", count: all"), [None]);
    for asked in [of("gpus: [{count: 1}]"), deployed(", count: 1")] {
        assert_eq!(asked, both[..1]);
    }
    assert_eq!(of("gpus: [{count: 2}]"), both);
    // As a variable turns them off: `count: ${GPUS:-0}`.
    assert_eq!([of("gpus: [{count: 0}]"), deployed(", count: 0")], [[], []]);
    assert_eq!(privileges("services: {web: {image: busybox, gpus: [{count: 0}]}}\n"), [""; 0]);
    let text = "services: {web: {image: busybox, gpus: [{count: 1}]}}\n";
    assert_eq!(privileges(text), ["web: use graphics processors (1 of them) of the host"]);
}

/// Fails when a file leads addresses of others into its network, and nobody is asked.
#[test]
fn addresses_of_networks_and_interfaces() {
    let network =
        |said: &str| format!("services: {{a: {{image: x, networks: [n]}}}}\nnetworks: {{n: {{{said}}}}}\n");
    for (said, asked) in [
        ("x-incus: {ipv4.routes: 8.8.8.8/32}", "set ipv4.routes=8.8.8.8/32 of the network n"),
        ("x-incus: {ipv4.firewall: 'false'}", "set ipv4.firewall=false of the network n"),
        ("x-incus: {ipv4.nat.address: 1.2.3.4}", "set ipv4.nat.address=1.2.3.4 of the network n"),
        ("x-incus: {ipv6.ovn.ranges: x}", "set ipv6.ovn.ranges=x of the network n"),
        ("ipam: {config: [{subnet: 1.1.1.0/24}]}", "have the public subnet 1.1.1.1/24 in the network n"),
        ("ipam: {config: [{subnet: 172.0.0.0/8}]}", "have the public subnet 172.0.0.1/8 in the network n"),
        ("x-incus: {ipv4.address: 9.9.9.9/24}", "have the public subnet 9.9.9.9/24 in the network n"),
        (
            "x-incus: {ipv6.address: '2001:db8::1/64'}",
            "have the public subnet 2001:db8::1/64 in the network n",
        ),
    ] {
        assert_eq!(privileges(&network(said)), [format!(": {asked}")], "{said}");
    }
    for said in [
        "x-incus: {ipv4.nat: false, ipv4.dhcp.ranges: 10.1.0.5-10.1.0.9, ipv6.dhcp.stateful: true, user.x: y}",
        "ipam: {config: [{subnet: 10.1.0.0/16}, {subnet: 'fd00:1::/64'}]}",
        "x-incus: {ipv4.address: none, ipv6.address: auto}",
    ] {
        assert_eq!(privileges(&network(said)), Vec::<String>::new(), "{said}");
    }
    let nic = "services: {a: {image: x, networks: {default: {x-incus: {ipv4.routes: 8.8.8.8/32, ipv4.address: 10.1.0.5, limits.max: 1Mbit}}}}}";
    assert_eq!(privileges(nic), ["a: set ipv4.routes=8.8.8.8/32 of the interface in default"]);
}

/// Fails when a network of the project takes what the host or another network has.
#[test]
fn a_subnet_that_overlaps_another_is_refused() {
    let text = "services: {a: {image: x, networks: [b, n]}}\nnetworks: {b: , n: {ipam: {config: [{subnet: 10.1.2.0/24}]}}}\n";
    let want = mapped(text, &old());
    let mut seen = scene::server();
    let place = |seen: &crate::observe::Observed| place::facts(&want, seen, &|_| true).map(|_| ());
    assert_eq!(place(&seen), Ok(()));
    let lan =
        crate::observe::SeenNetwork { addresses: vec!["10.1.2.77/25".to_owned()], ..Default::default() };
    seen.networks.insert("eth0".to_owned(), lan);
    let Err(PlanError::Address { what, why }) = place(&seen) else { panic!("it overlaps") };
    assert_eq!((what.as_str(), why.as_str()), ("10.1.2.1/24 of network shop-n", "10.1.2.77/25 is eth0's"));
    // What has its addresses already keeps them, whatever came after it.
    let own = crate::observe::SeenNetwork {
        managed: true,
        config: pairs(&[("ipv4.address", "10.1.2.1/24"), ("user.portway.project", "shop")]),
        ..Default::default()
    };
    seen.networks.insert("shop-n".to_owned(), own);
    assert_eq!(place(&seen), Ok(()));
    let text = text.replace("b: ,", "b: {ipam: {config: [{subnet: 10.1.0.0/16}]}},");
    let both = mapped(&text, &old());
    let said = place::facts(&both, &scene::server(), &|_| true).map(|_| ()).expect_err("they overlap");
    assert!(said.to_string().contains("10.1.2.1/24 of network shop-n"), "{said}");
}

/// Fails when a folder, a file or a socket of the host is had by one of the ways to name it, and nobody is asked.
#[test]
fn nothing_of_the_host_is_had_unasked() {
    for (source, real) in [
        ("/", "/"),
        ("../../..", "/"),
        ("./in/../../../etc", "/etc"),
        ("/var/lib/incus", "/var/lib/incus"),
        ("/run/incus", "/run/incus"),
        ("/run/portway", "/run/portway"),
        ("/run/portway/portway.sock", "/run/portway/portway.sock"),
        ("/var/run/docker.sock", "/var/run/docker.sock"),
        ("/run/docker.sock", "/run/docker.sock"),
    ] {
        for mount in [
            format!("'{source}:/s:ro'"),
            format!("{{type: bind, source: '{source}', target: /s, read_only: true}}"),
        ] {
            let asked = privileges(&format!("services: {{web: {{image: x, volumes: [{mount}]}}}}"));
            assert_eq!(asked.len(), 1, "{mount}: {asked:?}");
            let said = asked[0].strip_prefix("web: read ").and_then(|said| said.strip_suffix(" of the host"));
            assert_eq!(said, Some(real), "{mount}: {asked:?}");
        }
    }
}

/// Fails when a link in the project's folder leads out of it, and nobody is asked.
#[test]
fn a_link_is_where_it_leads() {
    let text = "services: {a: {image: x, volumes: ['./data:/host', './in:/in', '/elsewhere:/b'], secrets: [sec], command: y}}\n\
                secrets: {sec: {file: ./sec}}\n";
    let mut setting = old();
    for (path, real) in [
        ("/srv/shop", "/data/shop"),
        ("/srv/shop/data", "/"),
        ("/srv/shop/in", "/data/shop/in"),
        ("/srv/shop/sec", "/root/.ssh/id_ed25519"),
        ("/elsewhere", "/data/shop/inside"),
    ] {
        setting.real.insert(PathBuf::from(path), PathBuf::from(real));
    }
    let want = mapped(text, &setting);
    let said: Vec<&str> = want.privileges.iter().map(|one| one.what.as_str()).collect();
    assert_eq!(
        said,
        [
            "read and write / of the host",
            "read /root/.ssh/id_ed25519, which is outside of the project's folder"
        ]
    );
    let sources: Vec<&String> = first(&want).devices.values().map(|device| &device["source"]).collect();
    assert_eq!(sources, ["/data/shop/inside", "/", "/data/shop/in"]);
    // Where nobody has looked, everything is outside.
    let blind = Setting { real: BTreeMap::new(), ..old() };
    let want = map(&project(text), &blind).expect("mapped");
    assert_eq!(want.privileges.len(), 4, "{:?}", want.privileges);
}

/// Fails when a build reaches what nobody was asked about, or a word of a file becomes an option of the builder.
#[test]
fn builds_reach_what_was_granted() {
    let service = |said: &str| format!("services: {{web: {{build: {{context: ., {said}}}}}}}\n");
    for (said, asked) in [
        ("network: host", "build with the network host"),
        ("network: 'ns:/proc/1/ns/net'", "build with the network ns:/proc/1/ns/net"),
        (
            "tags: ['docker.io/library/debian:12']",
            "name what is built docker.io/library/debian:12 on this machine",
        ),
    ] {
        assert_eq!(privileges(&service(said)), [format!("web: {asked}")], "{said}");
    }
    assert_eq!(privileges(&service("network: none")), Vec::<String>::new());
    for (said, what) in [
        ("additional_contexts: {'x=https://evil/c.tar?': ./sub}", "is no name of a context"),
        ("additional_contexts: {x: '--volume=/:/h://'}", "is neither a path nor an address"),
    ] {
        let said = fault(&service(said), &old());
        assert!(said.contains(what), "{said}");
    }
    let text = "services: {web: {build: {context: 'https://x/y.git', dockerfile: /root/Dockerfile}}}\n";
    assert!(fault(text, &old()).contains("is a path of this machine"));
}

/// Fails when a port that nothing binds is taken from a program of the host, and nobody is asked.
#[test]
fn a_port_that_nothing_binds_is_asked_for() {
    let text = |mode: &str| {
        format!("services: {{web: {{image: busybox, ports: ['22:22'], x-incus: {{nat-proxy: {mode}}}}}}}\n")
    };
    let asked = |engine: Engine, mode: &str| {
        let want = mapped(&text(mode), &Setting { engine, ..old() });
        want.privileges.iter().map(|one| one.what.clone()).collect::<Vec<_>>()
    };
    assert_eq!(asked(Engine::Incus, "strict"), ["take port 22/tcp of the host from whatever listens there"]);
    assert_eq!(asked(Engine::Incus, "true"), Vec::<String>::new(), "the relaying device binds it");
    assert_eq!(asked(Engine::Portway, "strict"), Vec::<String>::new(), "Portway looks who has it");
}
