//! Devices that lead where none may: back to their own listener, round in a ring, or to the control socket.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use portway_model::{Address, Bind, DeviceKey, DeviceSpec, IpHost, Ways};

/// Devices by name, as rings are looked for among them.
pub(crate) type Specs<'a> = BTreeMap<&'a DeviceKey, &'a DeviceSpec>;

/// The devices of `new` that close a ring among `present` and those of `new` before them, each with what
/// is said of it.
pub(crate) fn closing<'a>(
    mut present: Specs<'a>,
    new: &[(&'a DeviceKey, &'a DeviceSpec)],
) -> BTreeMap<&'a DeviceKey, String> {
    let mut all = present.clone();
    all.extend(new.iter().copied());
    let mut refused = BTreeMap::new();
    let rings = Rings::new(&all);
    if new.iter().all(|(key, _)| rings.through(key).is_none()) {
        return refused;
    }
    // Somebody closes one: who it is depends on who came first.
    for (key, spec) in new {
        let before = present.insert(key, spec);
        if let Some(text) = Rings::new(&present).through(key) {
            refused.insert(*key, text);
            match before {
                Some(before) => drop(present.insert(key, before)),
                None => drop(present.remove(key)),
            }
        }
    }
    refused
}

/// Whether a device may be in a ring with `beside`, devices of the same instance: one that goes into an instance by one
/// device leaves it by another, which listens inside where the first one dials. So most devices are known to be in none
/// without a look at those of other instances.
pub(crate) fn may_close<'a>(spec: &DeviceSpec, mut beside: impl Iterator<Item = &'a DeviceSpec>) -> bool {
    beside.any(|other| match (spec.bind, other.bind) {
        (Bind::Host, Bind::Instance) => may_lead(spec, other),
        (Bind::Instance, Bind::Host) => may_lead(other, spec),
        (Bind::Host, Bind::Host) | (Bind::Instance, Bind::Instance) => false,
    })
}

/// Whether a device may dial another one's listener, at whatever address.
fn may_lead(from: &DeviceSpec, to: &DeviceSpec) -> bool {
    match (from.connect.address(), to.listen.address()) {
        (Address::Tcp { ports: dialled, .. }, Address::Tcp { ports, .. })
        | (Address::Udp { ports: dialled, .. }, Address::Udp { ports, .. }) => dialled.shares(ports),
        (Address::Unix(_, dialled), Address::Unix(_, name)) => dialled == name,
        _ => false,
    }
}

/// Rings among devices.
struct Rings<'a> {
    keys: Vec<&'a DeviceKey>,
    ways: Ways<'a>,
}

impl<'a> Rings<'a> {
    fn new(devices: &Specs<'a>) -> Rings<'a> {
        let ways = Ways::new(devices.iter().map(|(key, spec)| (&key.instance, *spec)).collect());
        Rings { keys: devices.keys().copied().collect(), ways }
    }

    /// What is said of a device that closes a ring.
    fn through(&self, key: &DeviceKey) -> Option<String> {
        let ring = self.ways.ring(self.keys.binary_search(&key).ok()?)?;
        let names = ring.iter().filter_map(|device| self.keys.get(*device));
        let names: Vec<String> = names.map(ToString::to_string).collect();
        Some(format!("it would close a ring: {} leads back to it", names.join(" leads to ")))
    }
}

/// Whether a device whose two sides are one place dials its own listener. [`closing`] sees longer ways
/// round, and not this one: that two sides are one place is not in their names.
pub(crate) fn leads_back(spec: &DeviceSpec) -> bool {
    match (spec.listen.address(), spec.connect.address()) {
        (Address::Tcp { host, ports }, Address::Tcp { host: dialled, ports: targets })
        | (Address::Udp { host, ports }, Address::Udp { host: dialled, ports: targets }) => {
            reaches(host, dialled) && ports.shares(targets)
        }
        (listen, connect) => listen.unix().is_some() && listen.to_string() == connect.to_string(),
    }
}

/// Whether what dials `dialled` may come to a listener at `host`.
fn reaches(host: &IpHost, dialled: &IpHost) -> bool {
    let (at, to) = (host.ip(), dialled.dial_ip());
    let same_family = at.is_ipv4() == to.is_ipv4();
    let everywhere = at.is_unspecified() && (same_family || matches!(at, IpAddr::V6(_)));
    at == to || (everywhere && to.is_loopback())
}

/// Whether a path of the host is the control socket, by whatever name.
pub(crate) fn is_control_socket(path: &Path, control: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    path == control || (file(path).is_some() && file(path) == file(control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(listen: &str, connect: &str) -> bool {
        leads_back(&DeviceSpec::from_keys([("listen", listen), ("connect", connect)]).unwrap())
    }

    fn device(name: &str, keys: &str) -> (DeviceKey, DeviceSpec) {
        let (instance, device) = name.split_once('/').unwrap();
        let key = DeviceKey {
            instance: format!("incus:default/{instance}").parse().unwrap(),
            device: device.parse().unwrap(),
        };
        let pairs = keys.split(' ').map(|pair| pair.split_once('=').unwrap());
        (key, DeviceSpec::from_keys(pairs).unwrap())
    }

    /// Three devices in a ring over two instances; whichever comes last is refused, and only it.
    ///
    /// Fails when: those of one batch are not looked at together, or a refused one counts as there.
    #[test]
    fn who_closes_a_ring_is_refused() {
        let ring = [
            device("a/in", "listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:81"),
            device("a/out", "listen=tcp:127.0.0.1:81 connect=tcp:127.0.0.1:82 bind=instance"),
            device("b/in", "listen=tcp:127.0.0.1:82 connect=unix:/s"),
            device("b/out", "listen=unix:/s connect=tcp:127.0.0.1:80 bind=instance"),
        ];
        let listed: Vec<_> = ring.iter().map(|(key, spec)| (key, spec)).collect();
        for turn in 0..ring.len() {
            let mut order = listed.clone();
            order.rotate_left(turn);
            let refused = closing(Specs::new(), &order);
            assert_eq!(refused.keys().collect::<Vec<_>>(), [&order[3].0]);
            let (last, before) = order.split_last().unwrap();
            let refused = closing(before.iter().copied().collect(), &[*last]);
            assert_eq!(refused.len(), 1);
        }
        let text = closing(Specs::new(), &listed).remove(&ring[3].0).unwrap();
        assert_eq!(
            text,
            "it would close a ring: incus:default/b/out leads to incus:default/a/in leads to \
             incus:default/a/out leads to incus:default/b/in leads back to it"
        );
        // With another port somewhere it ends there.
        let end = device("a/out", "listen=tcp:127.0.0.1:81 connect=tcp:127.0.0.1:83 bind=instance");
        let open = [listed[0], (&end.0, &end.1), listed[2], listed[3]];
        assert!(closing(Specs::new(), &open).is_empty());
    }

    /// Whoever is in a ring among a few devices that meet often is one that may be.
    ///
    /// Fails when: a pair of listener and dialler is left out that [`Ways`] follows.
    #[test]
    fn nobody_closes_a_ring_who_may_not() {
        let addresses =
            ["tcp:127.0.0.1:80", "tcp:0.0.0.0:80-82", "tcp:127.0.0.1:81,83", "udp:127.0.0.1:80", "unix:/s"];
        let pick = || (0..2_usize, 0..addresses.len(), 0..addresses.len(), 0..2_usize);
        let closed = std::cell::Cell::new(0);
        proptest::proptest!(|(picked in proptest::collection::vec(pick(), 1..9))| {
            let devices: Vec<_> = picked.into_iter().enumerate().map(|(n, (instance, listen, connect, bind))| {
                let (listen, connect) = (addresses[listen], addresses[connect]);
                let connect = if listen.starts_with("tcp:0") { "tcp:127.0.0.1:80-82" } else { connect };
                let connect = if connect.starts_with("tcp:0") || (connect.contains(',') && !listen.contains(',')) { "tcp:127.0.0.1:81" } else { connect };
                let connect = if listen.starts_with("udp") != connect.starts_with("udp") { listen } else { connect };
                device(&format!("c{instance}/d{n}"), &format!("listen={listen} connect={connect} bind={}", ["host", "instance"][bind]))
            }).collect();
            let (last, present) = devices.split_last().unwrap();
            let present: Specs<'_> = present.iter().map(|(key, spec)| (key, spec)).collect();
            let beside = present.iter().filter(|(key, _)| key.instance == last.0.instance).map(|(_, spec)| *spec);
            let may = may_close(&last.1, beside);
            let is_refused = !closing(present.clone(), &[(&last.0, &last.1)]).is_empty();
            proptest::prop_assert!(may || !is_refused);
            closed.set(closed.get() + usize::from(is_refused));
        });
        assert!(closed.get() > 5, "{}", closed.get());
    }

    /// Fails when: each device is looked at for each.
    #[test]
    fn thousands_are_looked_at_at_once() {
        let devices: Vec<_> = (0..5000)
            .map(|n| {
                let keys = format!("listen=tcp:127.0.0.1:{} connect=tcp:127.0.0.1:80", 10_000 + n);
                device(&format!("c{}/d{n}", n % 50), &keys)
            })
            .collect();
        let back = device("c7/back", "listen=tcp:127.0.0.1:80 connect=tcp:127.0.0.1:10007 bind=instance");
        let present: Specs<'_> = devices.iter().map(|(key, spec)| (key, spec)).collect();
        let begin = std::time::Instant::now();
        assert_eq!(closing(present.clone(), &[(&back.0, &back.1)]).len(), 1);
        println!("one beside 5,000: {:?}", begin.elapsed());
        let begin = std::time::Instant::now();
        let all: Vec<_> = present.into_iter().collect();
        assert!(closing(Specs::new(), &all).is_empty());
        println!("5,000 at once: {:?}", begin.elapsed());
        // Milliseconds; a stall is the fault.
        assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
    }

    #[test]
    fn a_device_that_dials_itself_is_seen() {
        for (listen, connect) in [
            ("tcp:127.0.0.1:80", "tcp:127.0.0.1:80"),
            ("tcp:0.0.0.0:80", "tcp:127.0.0.1:80"),
            ("tcp::80", "tcp::80"),
            ("tcp:[::]:80", "tcp:0.0.0.0:80"),
            ("udp:[::1]:70-90", "udp:[::1]:80"),
            ("tcp:10.0.0.1:80", "tcp:10.0.0.1:80"),
            ("unix:/run/a", "unix:/run/a"),
            ("unix:@a", "unix:@a"),
            ("tcp:127.0.0.1:80-81", "tcp:127.0.0.1:81,80"),
        ] {
            assert!(back(listen, connect), "{listen} {connect}");
        }
        for (listen, connect) in [
            ("tcp:127.0.0.1:80", "tcp:127.0.0.1:81"),
            ("tcp:127.0.0.1:80", "tcp:127.0.0.2:80"),
            ("tcp:0.0.0.0:80", "tcp:10.0.0.2:80"),
            ("tcp:0.0.0.0:80", "tcp:[::1]:80"),
            ("unix:/run/a", "unix:@/run/a"),
            ("tcp:127.0.0.1:80", "udp:127.0.0.1:80"),
        ] {
            assert!(!back(listen, connect), "{listen} {connect}");
        }
    }
}
