//! Listeners that meet, and rings of devices, against a model that looks at every port of every pair.

use std::collections::BTreeSet;

use portway_model::{Bind, DeviceSpec, InstanceKey, ListenIndex, Ways};
use proptest::prelude::*;

/// A device in as few words as a collision needs.
#[derive(Debug, Clone)]
struct Small {
    instance: usize,
    at: String,
    to: String,
    bind: Bind,
}

fn instances() -> [InstanceKey; 2] {
    ["incus:default/a", "incus:default/b"].map(|text| text.parse().expect("a name"))
}

fn ports(count: u16) -> impl Strategy<Value = String> {
    (1..6u16).prop_map(move |first| match count {
        1 => first.to_string(),
        2 => format!("{first},{}", first + 1),
        _ => format!("{}-{}", first, first + count - 1),
    })
}

fn address(listen: bool, count: u16) -> impl Strategy<Value = String> {
    let hosts: &[&str] = if listen {
        &["0.0.0.0", "[::]", "127.0.0.1", "10.0.0.1", "[::1]"]
    } else {
        &["127.0.0.1", "10.0.0.1", "[::1]", "0.0.0.0"]
    };
    let inet =
        (prop::sample::select(&["tcp", "udp"][..]), prop::sample::select(hosts.to_vec()), ports(count))
            .prop_map(|(protocol, host, ports)| format!("{protocol}:{host}:{ports}"));
    let unix = prop::sample::select(&["unix:/a", "unix:@a", "unixpacket:/a", "unixpacket:@a"][..]);
    if count == 1 { prop_oneof![4 => inet, 1 => unix.prop_map(str::to_owned)].boxed() } else { inet.boxed() }
}

fn device() -> impl Strategy<Value = Small> {
    let counts = prop::sample::select(&[(1, 1), (2, 1), (2, 2), (3, 3), (3, 1)][..]);
    let bind = prop::sample::select(&[Bind::Host, Bind::Instance][..]);
    counts.prop_flat_map(move |(listen, connect)| {
        (0..2usize, address(true, listen), address(false, connect), bind.clone())
            .prop_map(|(instance, at, to, bind)| Small { instance, at, to, bind })
    })
}

/// The devices that can exist.
fn specs(small: &[Small]) -> Vec<(InstanceKey, DeviceSpec)> {
    let read = |one: &Small| {
        let bind = one.bind.to_string();
        let keys = [("listen", one.at.as_str()), ("connect", one.to.as_str()), ("bind", &bind)];
        Some((instances().get(one.instance)?.clone(), DeviceSpec::from_keys(keys).ok()?))
    };
    small.iter().filter_map(read).collect()
}

/// Every socket of a device: its side, and the address of one port; `None` as the side is the host.
fn sockets(instance: &InstanceKey, spec: &DeviceSpec) -> Vec<(Option<InstanceKey>, String, u16)> {
    let side = (spec.bind == Bind::Instance).then(|| instance.clone());
    let address = spec.listen.address();
    match (address.host(), address.ports()) {
        (Some(host), Some(ports)) => {
            let text = |port: portway_model::Port| {
                (side.clone(), format!("{} {}", address.protocol(), host.ip()), port.get())
            };
            ports.iter().map(text).collect()
        }
        _ => vec![(side, address.to_string(), 0)],
    }
}

fn v4(ip: &str) -> bool {
    !ip.contains(':') || ip == "::"
}

fn v6(ip: &str) -> bool {
    ip.contains(':')
}

/// Whether two sockets cannot be at once.
fn meet(one: &(Option<InstanceKey>, String, u16), other: &(Option<InstanceKey>, String, u16)) -> bool {
    if one.0 != other.0 || one.2 != other.2 {
        return false;
    }
    match (one.1.split_once(' '), other.1.split_once(' ')) {
        (Some((p, a)), Some((q, b))) => {
            let wild = ["0.0.0.0", "::"];
            let family = (v4(a) && v4(b)) || (v6(a) && v6(b));
            p == q && (a == b || (family && (wild.contains(&a) || wild.contains(&b))))
        }
        (None, None) => {
            let path = |text: &str| text.split_once(":/").map(|(_, path)| path.to_owned());
            one.1 == other.1 || (path(&one.1).is_some() && path(&one.1) == path(&other.1))
        }
        _ => false,
    }
}

/// The sockets that take what comes in at a socket of a device.
fn next(devices: &[(InstanceKey, DeviceSpec)], (at, place): (usize, usize)) -> Vec<(usize, usize)> {
    let (instance, spec) = &devices[at];
    let side = (spec.bind == Bind::Host).then(|| instance.clone());
    let connect = spec.connect.address();
    let mut found = Vec::new();
    for (number, (other, listener)) in devices.iter().enumerate() {
        for (index, socket) in sockets(other, listener).into_iter().enumerate() {
            let takes = match (connect.host(), connect.ports()) {
                (Some(host), Some(ports)) => {
                    let ports: Vec<u16> = ports.iter().map(portway_model::Port::get).collect();
                    let port = if ports.len() == 1 { ports[0] } else { ports[place] };
                    let ip = host.dial_ip();
                    let everywhere = ip.is_loopback()
                        && [if ip.is_ipv4() { "0.0.0.0" } else { "::" }, "::"]
                            .iter()
                            .any(|wild| socket.1 == format!("{} {wild}", connect.protocol()));
                    socket.2 == port && (everywhere || socket.1 == format!("{} {ip}", connect.protocol()))
                }
                _ => socket.1 == connect.to_string(),
            };
            if takes && socket.0 == side {
                found.push((number, index));
            }
        }
    }
    found
}

/// Whether a socket of a device is reached from itself.
fn in_a_ring(devices: &[(InstanceKey, DeviceSpec)], device: usize) -> bool {
    let count = sockets(&devices[device].0, &devices[device].1).len();
    (0..count).any(|place| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![(device, place)]);
        while let Some(door) = open.pop() {
            for to in next(devices, door) {
                if to == (device, place) {
                    return true;
                }
                if seen.insert(to) {
                    open.push(to);
                }
            }
        }
        false
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Fails when: a kind of address is not looked for, or a port is left out at an edge.
    #[test]
    fn listeners_that_cannot_be_at_once_are_found(small in prop::collection::vec(device(), 1..8)) {
        let devices = specs(&small);
        let listed = devices.iter().enumerate().map(|(number, (instance, spec))| (number, instance, spec));
        let index = ListenIndex::new(listed);
        for (number, (instance, spec)) in devices.iter().enumerate() {
            let found: BTreeSet<usize> = index.in_the_way_of(instance, spec).collect();
            let own = sockets(instance, spec);
            let expected: BTreeSet<usize> = (0..devices.len())
                .filter(|other| {
                    let theirs = sockets(&devices[*other].0, &devices[*other].1);
                    own.iter().any(|one| theirs.iter().any(|other| meet(one, other)))
                })
                .collect();
            prop_assert_eq!(&found, &expected, "{} {:?}", number, devices);
        }
    }

    /// Devices are added one by one, and who would close a ring is not: as with the daemon.
    ///
    /// Fails when: a way is not followed, or ports are not told apart.
    #[test]
    fn a_device_that_closes_a_ring_is_found(small in prop::collection::vec(device(), 1..10)) {
        let mut devices: Vec<(InstanceKey, DeviceSpec)> = Vec::new();
        for one in specs(&small) {
            devices.push(one);
            let last = devices.len() - 1;
            let ways = Ways::new(devices.iter().map(|(instance, spec)| (instance, spec)).collect());
            let ring = ways.ring(last);
            prop_assert_eq!(ring.is_some(), in_a_ring(&devices, last), "{:?}", devices);
            if let Some(ring) = ring {
                prop_assert_eq!(ring.first(), Some(&last));
                // None is named that the ring does not go through: each leads to one of them, and one of them to it.
                let leads = |from: usize, to: usize| {
                    let count = sockets(&devices[from].0, &devices[from].1).len();
                    (0..count).any(|place| next(&devices, (from, place)).iter().any(|door| door.0 == to))
                };
                for one in &ring {
                    let on = ring.iter().any(|other| leads(*one, *other));
                    let from = ring.iter().any(|other| leads(*other, *one));
                    prop_assert!(on && from, "{:?} {:?}", ring, devices);
                }
                let once: BTreeSet<&usize> = ring.iter().collect();
                prop_assert_eq!(once.len(), ring.len());
                devices.pop();
            }
        }
    }
}

/// A ring that goes twice through a device of two ports, which stands between the two others.
///
/// Fails when: a device is named twice, or one of them is not.
#[test]
fn a_ring_twice_through_a_device_names_it_once() {
    let small = [
        ("tcp:0.0.0.0:1", "tcp:127.0.0.1:4", Bind::Host),
        ("tcp:0.0.0.0:2", "tcp:127.0.0.1:3", Bind::Host),
        ("tcp:0.0.0.0:3,4", "tcp:127.0.0.1:1,2", Bind::Instance),
    ];
    let small = small.map(|(at, to, bind)| Small { instance: 0, at: at.into(), to: to.into(), bind });
    let devices = specs(&small);
    let ways = Ways::new(devices.iter().map(|(instance, spec)| (instance, spec)).collect());
    assert_eq!(ways.ring(2), Some(vec![2, 0, 1]));
}
