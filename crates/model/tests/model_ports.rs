//! Port lists against their expansion.

use portway_model::{ConnectAddr, DeviceSpec, ListenAddr, Port, PortList, PortRange, Target};
use proptest::prelude::*;

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![1..=65535u16, 1..=40u16, 65500..=65535u16]
}

fn range() -> impl Strategy<Value = (u16, u16)> {
    (port(), 0..300u16).prop_map(|(first, more)| (first, first.saturating_add(more)))
}

fn items() -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::collection::vec(range(), 1..40)
}

fn text_of(items: &[(u16, u16)]) -> String {
    let item = |&(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    items.iter().map(item).collect::<Vec<_>>().join(",")
}

fn expanded(items: &[(u16, u16)]) -> Vec<u16> {
    items.iter().flat_map(|&(first, last)| first..=last).collect()
}

fn has_repeat(ports: &[u16]) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    !ports.iter().all(|port| seen.insert(*port))
}

/// A list of `count` ports: pieces of random length at random places, which may overlap.
fn list_of(count: u32) -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::collection::vec((1..=1000u16, 1..50u16), 1..60).prop_map(move |pieces| {
        let mut left = u16::try_from(count).expect("small");
        let mut items = Vec::new();
        for (first, length) in pieces.into_iter().cycle() {
            let length = length.min(left);
            items.push((first, first + length - 1));
            left -= length;
            if left == 0 {
                break;
            }
        }
        items
    })
}

/// The same without overlaps: pieces one after the other, in any order.
fn distinct_of(count: u32) -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::collection::vec((0..30u16, 1..50u16), 1..60)
        .prop_map(move |pieces| {
            let mut left = u16::try_from(count).expect("small");
            let (mut items, mut next) = (Vec::new(), 1);
            for (gap, length) in pieces.into_iter().cycle() {
                let length = length.min(left);
                items.push((next + gap, next + gap + length - 1));
                next += gap + length;
                left -= length;
                if left == 0 {
                    break;
                }
            }
            items
        })
        .prop_shuffle()
}

proptest! {
    #[test]
    fn a_list_is_its_expansion(items in items()) {
        let text = text_of(&items);
        let list: PortList = text.parse().expect("valid");
        let ports = expanded(&items);
        prop_assert_eq!(list.to_string(), text);
        prop_assert_eq!(usize::try_from(list.count()).expect("small"), ports.len());
        prop_assert_eq!(list.iter().map(Port::get).collect::<Vec<_>>(), &ports[..]);
        for index in 0..list.count() + 2 {
            let expected = ports.get(usize::try_from(index).expect("small")).copied();
            prop_assert_eq!(list.nth(index).map(Port::get), expected);
        }
        let built = list.ranges().iter().map(|range| PortRange::new(range.first(), range.last()));
        prop_assert_eq!(PortList::new(built.collect::<Option<_>>().expect("rising")), Some(list));
    }

    /// Fails when: a range is compared at one end only.
    #[test]
    fn lists_share_what_is_in_both(one in items(), other in items()) {
        let list = |items: &[_]| text_of(items).parse::<PortList>().expect("a list");
        let (a, b) = (expanded(&one), expanded(&other));
        prop_assert_eq!(list(&one).shares(&list(&other)), a.iter().any(|port| b.contains(port)));
    }

    #[test]
    fn a_listen_list_has_no_port_twice(items in items()) {
        let text = format!("tcp::{}", text_of(&items));
        let ports = expanded(&items);
        prop_assert_eq!(text.parse::<ListenAddr>().is_err(), has_repeat(&ports), "{}", text);
        prop_assert!(text.parse::<ConnectAddr>().is_ok());
    }

    #[test]
    fn the_repeated_item_is_the_first_that_repeats(items in items()) {
        let ports = expanded(&items);
        prop_assume!(has_repeat(&ports));
        let error = format!("tcp::{}", text_of(&items)).parse::<ListenAddr>().expect_err("a repeat");
        let item = (0..items.len())
            .find(|&index| has_repeat(&expanded(&items[..=index])))
            .expect("some prefix repeats");
        let before = if item == 0 { 0 } else { text_of(&items[..item]).len() + 1 };
        prop_assert_eq!(error.position, "tcp::".len() + before);
    }

    #[test]
    fn one_target_serves_every_listener(items in distinct_of(200), target in port()) {
        let listen = format!("tcp::{}", text_of(&items)).parse().expect("valid");
        let connect = format!("tcp::{target}").parse().expect("valid");
        let spec = DeviceSpec::new(listen, connect).expect("N:1");
        for index in 0..spec.listen_count() {
            let Some(Target::Tcp { addr, .. }) = spec.target(index) else { panic!("tcp") };
            prop_assert_eq!(addr.port(), target);
        }
        prop_assert_eq!(spec.target(spec.listen_count()), None);
    }

    #[test]
    fn equal_counts_pair_by_position((listen, connect) in (1..400u32).prop_flat_map(|count| (distinct_of(count), list_of(count)))) {
        let ports = expanded(&connect);
        let spec = DeviceSpec::new(
            format!("udp::{}", text_of(&listen)).parse().expect("valid"),
            format!("udp:[::1]:{}", text_of(&connect)).parse().expect("valid"),
        ).expect("N:N");
        for (index, port) in (0..).zip(&ports) {
            let Some(Target::Udp { addr, .. }) = spec.target(index) else { panic!("udp") };
            prop_assert_eq!(addr.port(), *port);
        }
        prop_assert_eq!(spec.target(spec.listen_count()), None);
    }

    #[test]
    fn other_counts_are_refused((listen, connect) in (1..300u32, 2..300u32).prop_filter("differ", |(a, b)| a != b)
        .prop_flat_map(|(a, b)| (distinct_of(a), list_of(b))))
    {
        let listen: ListenAddr = format!("tcp::{}", text_of(&listen)).parse().expect("valid");
        let connect: ConnectAddr = format!("tcp::{}", text_of(&connect)).parse().expect("valid");
        let counts = (listen.address().count(), connect.address().count());
        let error = DeviceSpec::new(listen, connect).expect_err("N:M").to_string();
        prop_assert_eq!(error, format!("connect: {} ports for {} listening, expected 1 or as many", counts.1, counts.0));
    }
}
