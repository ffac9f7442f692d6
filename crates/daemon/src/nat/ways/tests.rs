use portway_incus::Assigned;
use portway_model::DeviceSpec;
use proptest::prelude::*;

use super::*;
use crate::nat::way::way;

fn key(number: usize) -> DeviceKey {
    format!("incus:default/c{}/d{number}", number % 3).parse().unwrap()
}

/// The way of a device that listens at a port or some, into one of two networks of which one is within the other.
fn led(first: u16, more: u16, network: usize) -> Way {
    let listen = if more == 0 {
        format!("tcp:0.0.0.0:{first}")
    } else {
        format!("tcp:0.0.0.0:{first}-{}", first + more)
    };
    let keys = [("listen", listen.as_str()), ("connect", "tcp:0.0.0.0:80"), ("nat", "true")];
    let (bridge, subnet) = [("br0", (10, 16)), ("br1", (10, 24))][network];
    let nic = Assigned {
        device: "eth0".into(),
        host_name: Some(format!("veth{first}")),
        hwaddr: None,
        network: bridge.into(),
        is_bridge: true,
        subnets: vec![([subnet.0, 1, 1, 1].into(), subnet.1)],
        addresses: vec![[10, 1, 1, 9].into()],
        claimed: Vec::new(),
        unlisted: Vec::new(),
    };
    let way = way(&DeviceSpec::from_keys(keys).unwrap(), &[nic], None).way.unwrap();
    Arc::unwrap_or_clone(way)
}

fn shown(ways: &mut Ways) -> (Vec<String>, String) {
    let published = ways.checked().publications().map(ToString::to_string).collect();
    let checked = format!("{:?}", ways.checked());
    // What was touched since when is the keeper's, and says nothing of what is wanted.
    let stands = checked.split(", touched:").next().unwrap_or_default().to_owned();
    (published, stands)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any changes, conflicts among them: what is kept is what is made of all ways at once.
    ///
    /// Fails when: who was left out stays out when what was in its way has gone, or a bridge or subnet outlives its last
    /// device.
    #[test]
    fn what_is_kept_is_what_all_ways_come_to(
        changes in prop::collection::vec((0..9_usize, 1..12_u16, 0..4_u16, 0..2_usize, any::<bool>()), 1..40),
    ) {
        let mut kept = Ways::default();
        for (number, first, more, network, comes) in changes {
            if comes {
                kept.insert(key(number), Arc::new(led(first, more, network)));
            } else {
                kept.remove(&key(number));
            }
            let all = kept.ways.iter().map(|(key, entry)| (key.clone(), Way::clone(&entry.way)));
            let mut anew: Ways = all.collect();
            prop_assert_eq!(shown(&mut kept), shown(&mut anew));
            prop_assert_eq!(&kept.left_out, &anew.left_out);
            prop_assert_eq!((&kept.bridges, &kept.ports, &kept.subnets), (&anew.bridges, &anew.ports, &anew.subnets));
            prop_assert_eq!(kept.texts().collect::<Vec<_>>(), anew.texts().collect::<Vec<_>>());
            let in_it: usize = kept.ways.iter().filter(|(key, _)| !kept.left_out.contains_key(key)).map(|(_, entry)| entry.publications.len()).sum();
            prop_assert_eq!(kept.checked.publications().count(), in_it);
        }
    }
}

/// Fails when: all are left out where one is in the way, or a device is left in by half.
#[test]
fn who_comes_second_to_a_port_is_left_out() {
    let mut ways = Ways::default();
    // The order of names decides, whoever came first.
    ways.insert("incus:default/c1/b".parse().unwrap(), Arc::new(led(9, 2, 0)));
    ways.insert("incus:default/c1/a".parse().unwrap(), Arc::new(led(1, 8, 0)));
    ways.insert("incus:default/c1/c".parse().unwrap(), Arc::new(led(10, 0, 0)));
    let b: DeviceKey = "incus:default/c1/b".parse().unwrap();
    assert_eq!(ways.left_out.keys().collect::<Vec<_>>(), [&b]);
    let text = "incus:default/c1/a (tcp:0.0.0.0:1-9) and incus:default/c1/b (tcp:0.0.0.0:9-11) share a port";
    assert_eq!(ways.left_out[&b], text);
    assert_eq!(ways.checked.publications().count(), 2);
    ways.remove(&"incus:default/c1/a".parse().unwrap());
    let text = "incus:default/c1/b (tcp:0.0.0.0:9-11) and incus:default/c1/c (tcp:0.0.0.0:10) share a port";
    assert_eq!(ways.left_out.values().collect::<Vec<_>>(), [text]);
}

/// Fails when: what is written is not what is read.
#[test]
fn ways_are_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nat.json");
    let ways: BTreeMap<DeviceKey, Way> =
        (0..3_u16).map(|number| (key(number.into()), led(20 + number, 0, 0))).collect();
    let counted = BTreeMap::from([(key(7), 5)]);
    for ways in [ways, BTreeMap::new()] {
        file::save(&path, &ways.clone().into_iter().collect(), &counted).unwrap();
        let (kept, problem) = file::load(&path);
        assert_eq!((kept.ways, &kept.counted, problem), (ways, &counted, None));
    }
    file::save(&path, &Ways::default(), &BTreeMap::new()).unwrap();
    assert!(!path.exists());
}
