use std::time::{Duration, Instant};

use super::*;
use crate::state::StoredDevice;

fn key(text: &str) -> DeviceKey {
    let (instance, device) = text.rsplit_once('/').unwrap();
    DeviceKey { instance: instance.parse().unwrap(), device: device.parse().unwrap() }
}

fn spec(keys: &str) -> DeviceSpec {
    DeviceSpec::from_keys(keys.split(' ').map(|pair| pair.split_once('=').unwrap())).unwrap()
}

fn stored(devices: &[(&str, &str)]) -> Desired {
    let device = |(name, keys): &(&str, &str)| {
        let DeviceKey { instance, device } = key(name);
        (key(name), StoredDevice { instance, uuid: None, name: device, keys: spec(keys), origin: None })
    };
    devices.iter().map(device).collect()
}

fn wanted(devices: &[(&str, &str)]) -> Wanted {
    devices.iter().map(|(name, keys)| (key(name), spec(keys))).collect()
}

const C1: &str = "incus:default/c1";

/// Who leaves goes first only where somebody new comes to the same place.
///
/// Fails when: a place is left out of the comparison, or every device that leaves goes first.
#[test]
fn what_is_in_the_way_goes_first() {
    for (old, new, first) in [
        ("listen=tcp:127.0.0.1:80 connect=tcp::80", "listen=tcp:0.0.0.0:70-90 connect=tcp::80", true),
        ("listen=tcp:127.0.0.1:80 connect=tcp::80", "listen=tcp:[::]:80 connect=tcp::80", true),
        ("listen=tcp:127.0.0.1:80 connect=tcp::80", "listen=tcp:[::]:80 connect=tcp::80 v6only=true", false),
        ("listen=tcp:127.0.0.1:80 connect=tcp::80", "listen=udp:127.0.0.1:80 connect=udp::80", false),
        ("listen=tcp:127.0.0.1:80 connect=tcp::80", "listen=tcp:127.0.0.2:80 connect=tcp::80", false),
        ("listen=unix:/a connect=tcp::80", "listen=unix:/a connect=tcp::81", true),
        ("listen=tcp::80 connect=tcp::80 bind=instance", "listen=tcp::80 connect=tcp::80", false),
        (
            "listen=tcp::80 connect=tcp::80 bind=instance",
            "listen=tcp::80 connect=tcp::81 bind=instance",
            true,
        ),
    ] {
        let before = stored(&[("incus:default/c1/old", old)]);
        let prune = [Scope::of(&C1.parse().unwrap())];
        let plan = plan(&before, &wanted(&[("incus:default/c1/new", new)]), &prune);
        assert_eq!(plan.clear.len(), usize::from(first), "{old} {new}");
        assert_eq!(plan.late.len(), usize::from(!first), "{old} {new}");
    }
}

/// Namespaces and processes have no project that they are in together.
///
/// Fails when: a file that names one namespace removes the devices of another.
#[test]
fn a_namespace_is_pruned_alone_and_a_project_whole() {
    let keys = "listen=tcp:127.0.0.1:80 connect=tcp::80";
    for (named, goes) in [
        ("netns:blue", "netns:blue/old"),
        ("pid:7", "pid:7/old"),
        ("incus:default/c1", "incus:default/c1/old incus:default/c2/old"),
    ] {
        let before = stored(&[
            ("netns:blue/old", keys),
            ("netns:green/old", keys),
            ("pid:7/old", keys),
            ("pid:8/old", keys),
            ("incus:default/c1/old", keys),
            ("incus:default/c2/old", keys),
            ("incus:web/c1/old", keys),
            ("lxd:default/c1/old", keys),
        ]);
        let prune = [Scope::of(&named.parse().unwrap())];
        let mut plan = plan(&before, &Wanted::new(), &prune);
        let going: Vec<String> = plan.late_keys().map(|key| key.to_string()).collect();
        assert_eq!(going.join(" "), goes);
        plan.drop_refused([key("netns:red/odd"), key("pid:9/odd")].into_iter(), &Wanted::new(), &prune);
        assert!(!plan.late_keys().any(|key| key.device.as_str() == "odd"), "{named}");
    }
}

/// Every device has another name: each new one meets one that leaves.
///
/// Fails when: pairs of devices are compared, each with each; 5,000 then take minutes.
#[test]
fn thousands_of_renamed_devices_are_planned_at_once() {
    for count in [1000, 5000_u16] {
        let named = |word: &str| {
            let device = |port: u16| {
                let name = format!("incus:default/c{}/{word}{port}", port % 10);
                (key(&name), spec(&format!("listen=tcp:127.0.0.1:{} connect=tcp::80", 10_000 + port)))
            };
            (0..count).map(device).collect::<Wanted>()
        };
        let before: Desired = named("old")
            .into_iter()
            .map(|(key, keys)| {
                let DeviceKey { instance, device: name } = key.clone();
                (key, StoredDevice { instance, uuid: None, name, keys, origin: None })
            })
            .collect();
        let prune = [Scope::of(&C1.parse().unwrap())];
        let wanted = named("new");
        let begin = Instant::now();
        let plan = plan(&before, &wanted, &prune);
        let taken = begin.elapsed();
        println!("{count} renamed: planned in {taken:?}");
        let cleared: usize = plan.clear.values().map(|batch| batch.remove.len()).sum();
        assert_eq!((cleared, plan.late.len()), (usize::from(count), 0));
        // Tens of milliseconds; a stall is the fault.
        assert!(taken < Duration::from_secs(5), "{taken:?}");
    }
}
