//! Ports that the kernel leads by the server's own devices, from the file to the steps.

use super::*;
use crate::observe::{Life, Observed, SeenNetwork};
use crate::plan::{Plan, Recreate, Up, up};
use crate::scene::{after, lines, server};

/// A server whose host has an address of its own.
fn host() -> Observed {
    let mut seen = server();
    let addresses = ["192.0.2.2/24", "fd00::2/64"].map(str::to_owned).to_vec();
    seen.networks.insert("eth0".to_owned(), SeenNetwork { addresses, ..SeenNetwork::default() });
    seen
}

fn want(text: &str) -> ComposeProject {
    mapped(text, &Setting { engine: Engine::Incus, ..old() })
}

fn planned(text: &str, seen: &Observed) -> Plan {
    up(&want(text), seen, &Up::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The server after `text` is brought up on it.
fn upped(text: &str, seen: Observed) -> Observed {
    let plan = planned(text, &seen);
    after(seen, &plan)
}

/// Devices of an instance but its root disk.
fn devices(seen: &Observed, instance: &str) -> Vec<String> {
    let devices = seen.instances[instance].devices.iter().filter(|(name, _)| *name != "root");
    let line = |(name, keys): (&String, &Keys)| {
        let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{name}: {}", keys.join(" "))
    };
    devices.map(line).collect()
}

/// A service with these lines, in a network whose addresses are known.
fn web(lines: &str) -> String {
    format!(
        "services:\n  web:\n    image: busybox\n    networks: {{default: {{ipv4_address: 10.77.0.201}}}}\n    {lines}\n\
         networks: {{default: {{ipam: {{config: [{{subnet: 10.77.0.0/24}}]}}}}}}\n"
    )
}

const PLAIN: &str = "ports: ['8080:80', '8443:443']";
const LED: &str = "ports: ['8080:80', '8443:443']\n    x-incus: {nat-proxy: true}";

/// Fails when a device of the example differs: its names, what relays, where the kernel leads from and to.
#[test]
fn the_worked_example() {
    let text = web(LED).replace(
        "networks: {default: {ipam",
        "  api: {image: busybox, ports: ['3000:3000']}\nnetworks: {default: {ipam",
    );
    let seen = upped(&text, host());
    insta::assert_snapshot!(format!(
        "{}\n\n{}",
        devices(&seen, "web-1").join("\n"),
        devices(&seen, "api-1").join("\n")
    ));
    assert!(planned(&text, &seen).is_empty(), "{:?}", lines(&planned(&text, &seen)));
}

/// Fails when the key makes an instance anew, stops it or changes what relays; when it leaves anything behind; or when a
/// file without it has other devices than before it.
#[test]
fn the_key_comes_and_goes_while_the_instance_runs() {
    let seen = upped(&web(PLAIN), host());
    let before = devices(&seen, "web-1");
    let plan = planned(&web(LED), &seen);
    let names =
        "device proxy-8080-nat0, device proxy-8080-nat1, device proxy-8443-nat0, device proxy-8443-nat1";
    assert_eq!(lines(&plan), [format!("change instance web-1 (live: {names})")]);
    let led = after(seen, &plan);
    let kept = devices(&led, "web-1").into_iter().filter(|line| !line.contains("nat=true"));
    assert_eq!(kept.collect::<Vec<_>>(), before);
    let plan = planned(&web(PLAIN), &led);
    assert_eq!(lines(&plan), [format!("change instance web-1 (live: {names})")]);
    let back = after(led.clone(), &plan);
    assert_eq!(devices(&back, "web-1"), before);
    let again = Up { recreate: Recreate::All, ..Up::default() };
    let plan = up(&want(&web(PLAIN)), &led, &again).expect("a plan");
    assert_eq!(devices(&after(led, &plan), "web-1"), before, "made anew it is the same");
}

#[test]
fn a_port_more_and_a_port_less() {
    let seen = upped(&web(LED), host());
    let more = LED.replace("['8080:80',", "['8080:80', '53:53/udp',");
    let plan = planned(&web(&more), &seen);
    assert_eq!(
        lines(&plan),
        ["change instance web-1 (live: device proxy-53, device proxy-53-nat0, device proxy-53-nat1)"]
    );
    let seen = after(seen, &plan);
    assert_eq!(lines(&planned(&web(LED), &seen)), lines(&plan), "and back");
}

/// Fails when an address of the host that comes or goes moves those that stay.
#[test]
fn addresses_of_the_host_come_and_go() {
    let mut seen = upped(&web(LED), host());
    seen.networks.get_mut("eth0").expect("it").addresses.insert(0, "192.0.2.1/24".to_owned());
    let plan = planned(&web(LED), &seen);
    assert_eq!(
        lines(&plan),
        ["change instance web-1 (live: device proxy-8080-nat2, device proxy-8443-nat2)"]
    );
    let mut seen = after(seen, &plan);
    assert!(planned(&web(LED), &seen).is_empty());
    seen.networks.get_mut("eth0").expect("it").addresses.retain(|address| address != "192.0.2.2/24");
    let plan = planned(&web(LED), &seen);
    assert_eq!(
        lines(&plan),
        ["change instance web-1 (live: device proxy-8080-nat0, device proxy-8443-nat0)"]
    );
}

/// Fails when an address that is no longer reserved is not reserved again: before a start, which would fail, and while
/// it runs, without a stop.
#[test]
fn a_pin_removed_by_hand_is_put_back() {
    let text = web(LED);
    let mut seen = upped(&text, host());
    let one = seen.instances.get_mut("web-1").expect("it");
    one.devices.get_mut("eth0").expect("it").remove("ipv4.address");
    one.leased.insert("eth0".to_owned(), "10.77.0.201".parse().expect("an address"));
    let plan = planned(&text, &seen);
    assert_eq!(lines(&plan), ["change instance web-1 (live: device eth0)"]);
    let one = seen.instances.get_mut("web-1").expect("it");
    (one.life, one.leased) = (Life::Stopped, BTreeMap::new());
    let plan = planned(&text, &seen);
    assert_eq!(lines(&plan), ["change instance web-1 (live: device eth0)", "start instance web-1 <- 0"]);
    let seen = after(seen, &plan);
    assert!(planned(&text, &seen).is_empty());
}

/// Each reason, and what is done instead: the port is relayed and nothing fails.
#[test]
fn what_cannot_be_led_is_relayed_and_said() {
    let said = |text: &str, seen: Observed| {
        let want = want(text);
        let plan = up(&want, &seen, &Up::default()).expect("a plan");
        let seen = after(seen, &plan);
        let led =
            seen.instances.values().any(|one| one.devices.values().any(|device| device.contains_key("nat")));
        assert!(!led, "{text}");
        let mut said = want.warnings;
        said.extend(plan.notes);
        said.join("\n")
    };
    let service = |lines: &str| {
        format!("services:\n  web:\n    image: busybox\n    {lines}\n    x-incus: {{nat-proxy: true}}\n")
    };
    for (text, reason) in [
        (service("ports: ['127.0.0.1:80:80']"), "service web port 127.0.0.1:80/tcp is relayed: loopback ("),
        (
            service("ports: ['80:80/udp']\n    network_mode: none"),
            "service web port 80/udp is relayed: no-nic (",
        ),
        (
            service("ports: ['198.51.100.1:80:80']"),
            "service web port 198.51.100.1:80/tcp is relayed: not-a-host-address (",
        ),
        (
            service("ports: ['[fd00::2]:80:80']"),
            "service web port [fd00::2]:80/tcp is relayed: ipv6-without-static (",
        ),
        (
            service("ports: ['80:80']") + "networks: {default: {internal: true}}\n",
            "service web port 80/tcp is relayed: internal-network (",
        ),
        (
            service("ports: ['80:80']") + "networks: {default: {x-incus: {ipv4.dhcp: false}}}\n",
            "service web port 80/tcp is relayed: network-dhcp-off (",
        ),
        (
            service("ports: ['80:80']") + "x-incus: {features.networks: true}\n",
            "service web port 80/tcp is relayed: project-networks-feature (",
        ),
    ] {
        let said = said(&text, host());
        assert!(said.contains(reason), "{said}");
        assert_eq!(said.matches("is relayed").count(), 1, "{said}");
    }
}

/// A network that others use too: the address that the instance has leased is reserved for it, and is left to its leases
/// again without the key.
#[test]
fn a_lease_is_adopted_in_a_network_of_others() {
    let text = |key: &str| {
        format!(
            "services: {{web: {{image: busybox, ports: ['80:80'], x-incus: {{nat-proxy: {key}}}}}}}\n\
             networks: {{default: {{external: true, name: lan}}}}\n"
        )
    };
    let mut seen = host();
    let lan = SeenNetwork {
        managed: true,
        config: pairs(&[("ipv4.address", "10.5.0.1/24")]),
        ..SeenNetwork::default()
    };
    seen.networks.insert("lan".to_owned(), lan);
    let mut seen = upped(&text("false"), seen);
    assert_eq!(devices(&seen, "web-1")[0], "eth0: name=eth0 network=lan type=nic");
    let running = planned(&text("true"), &seen);
    assert!(
        running.notes[0].contains("is relayed: no-address ("),
        "nobody knows its address: {:?}",
        running.notes
    );
    // What a look finds once it has asked.
    let one = seen.instances.get_mut("web-1").expect("it");
    one.config.insert("volatile.eth0.hwaddr".to_owned(), "00:16:3e:00:00:07".to_owned());
    let address: std::net::Ipv4Addr = "10.5.0.77".parse().expect("an address");
    one.leased.insert("eth0".to_owned(), address);
    let leases = &mut seen.networks.get_mut("lan").expect("it").leases;
    leases.entry(address).or_default().insert("00:16:3e:00:00:07".to_owned());
    let plan = planned(&text("true"), &seen);
    assert_eq!(
        lines(&plan),
        ["change instance web-1 (live: device eth0, device proxy-80-nat0, device proxy-80-nat1)"]
    );
    let mut led = after(seen, &plan);
    assert_eq!(devices(&led, "web-1")[0], "eth0: ipv4.address=10.5.0.77 name=eth0 network=lan type=nic");
    assert!(planned(&text("true"), &led).is_empty());
    let plan = planned(&text("false"), &led);
    assert_eq!(
        lines(&plan),
        ["change instance web-1 (live: device eth0, device proxy-80-nat0, device proxy-80-nat1)"]
    );
    // Somebody else gets the lease: nothing is led to them.
    let leases = &mut led.networks.get_mut("lan").expect("it").leases;
    leases.entry(address).or_default().insert("00:16:3e:00:00:08".to_owned());
    let plan = planned(&text("true"), &led);
    assert!(plan.notes[0].contains("is relayed: pin-mismatch ("), "{:?}", plan.notes);
    assert!(lines(&plan)[0].contains("proxy-80-nat0"), "{:?}", lines(&plan));
}

/// Fails when `strict` leaves anything that relays where the kernel leads, or a port without either.
#[test]
fn strict_has_nothing_that_relays() {
    let text = web("ports: ['8080:80', '127.0.0.1:81:81']\n    x-incus: {nat-proxy: strict}");
    let seen = upped(&text, host());
    let names: Vec<&String> = seen.instances["web-1"].devices.keys().collect();
    assert_eq!(names, ["eth0", "proxy-8080-nat0", "proxy-8080-nat1", "proxy-81", "root"]);
    assert!(planned(&text, &seen).is_empty());
}

/// Two interfaces: the first by priority is led to, never whichever the server takes.
#[test]
fn the_first_interface_that_leads_out_is_led_to() {
    let text = "services: {web: {image: busybox, ports: ['80:80'], networks: {in: {priority: 9}, a: {priority: 1}, b: {priority: 5}}, \
                x-incus: {nat-proxy: true}}}\n\
                networks:\n  in: {internal: true}\n  a: {ipam: {config: [{subnet: 10.1.0.0/24}]}}\n  b: {ipam: {config: [{subnet: 10.2.0.0/24}]}}\n";
    let seen = upped(text, host());
    let devices = devices(&seen, "web-1");
    let led: Vec<&String> = devices.iter().filter(|line| line.contains("nat=true")).collect();
    assert!(led.iter().all(|line| line.contains("connect=tcp:10.2.0.2:80")), "{led:?}");
    assert!(led.iter().any(|line| line.contains("listen=tcp:10.2.0.1:80")), "its own gateway: {led:?}");
}

/// A reserved IPv6 address is led to from an address of that family.
#[test]
fn ipv6_with_a_reserved_address() {
    let text = "services: {web: {image: busybox, ports: ['[fd00::2]:80:80'], networks: {default: {ipv6_address: 'fd77::5'}}, \
                x-incus: {nat-proxy: true}}}\nnetworks: {default: {ipam: {config: [{subnet: 'fd77::/64'}]}}}\n";
    let seen = upped(text, host());
    let found = devices(&seen, "web-1");
    assert!(
        found.contains(
            &"proxy-80-nat0: connect=tcp:[fd77::5]:80 listen=tcp:[fd00::2]:80 nat=true type=proxy".to_owned()
        ),
        "{found:?}"
    );
}

#[test]
fn what_the_key_says_is_one_of_three() {
    let said = fault(&web("x-incus: {nat-proxy: maybe}"), &old());
    assert!(
        said.contains("services.web.x-incus.nat-proxy: `maybe` is none of true, false, strict"),
        "{said}"
    );
    let said = fault(&web("ports: [{target: 80, published: 80, x-incus-compose: {nat: 7}}]"), &old());
    assert!(said.contains("services.web.ports[0].x-incus-compose.nat: `7` is none of"), "{said}");
}
