use super::*;
use crate::conntrack::Scope;
use crate::nft::{Chain, Count};
use crate::spec::{Family, Listen, Publication, Transport, Want};
use portway_model::{Port, PortRange};
use proptest::prelude::*;

/// Any changes of a table whose elements have counted: what a look at the touched ones finds is what a look at all finds,
/// and carried out it makes what is wanted.
///
/// Fails when: a publication that comes back, or another one at the same ports, is looked at as the one before.
#[test]
fn a_look_at_what_was_touched_finds_all() {
    let change = || (1..4_u8, 0..3_usize, 2..5_u8, proptest::bool::ANY);
    proptest::proptest!(|(rounds in prop::collection::vec(prop::collection::vec(change(), 0..6), 1..8))| {
        let mut wanted = Checked::default();
        let mut held: BTreeMap<(u8, usize), Arc<Publication>> = BTreeMap::new();
        let mut there = layout::table(&wanted, layout::Label::MAIN);
        for round in rounds {
            let seal = Arc::default();
            wanted.is_made(Arc::clone(&seal));
            for (number, ports, target, comes) in round {
                if let Some(old) = held.remove(&(number, ports)) {
                    wanted.take(&old);
                }
                let new = Arc::new(device(number, [1, 10, 5][ports], &format!("10.0.0.{target}")));
                if comes && wanted.put(&new).is_ok() {
                    held.insert((number, ports), new);
                }
            }
            for set in there.sets.values_mut() {
                set.elements.values_mut().for_each(|element| element.count.packets += 1);
            }
            prop_assert!(wanted.touched_since(None).is_none() && wanted.touched_since(Some(&Arc::default())).is_none());
            let plan = Plan::of_touched(&wanted, wanted.touched_since(Some(&seal)).unwrap(), &there);
            let table = layout::table(&wanted, layout::Label::MAIN);
            prop_assert_eq!(&plan, &between(&table, &there));
            plan.carry_out(&mut there);
            prop_assert_eq!(&table, &there);
        }
    });
}

/// One device of a port, or of ten.
fn device(number: u8, ports: u16, target: &str) -> Publication {
    let range =
        |first| PortRange::new(Port::new(first).unwrap(), Port::new(first + ports - 1).unwrap()).unwrap();
    let listen = Listen::Address([192, 0, 2, number].into());
    let target = (target.parse().unwrap(), range(8000));
    Publication::new(&format!("d{number}"), Transport::Udp, (listen, range(80)), target).unwrap()
}

fn table(publications: Vec<Publication>) -> Table {
    let want = Want { publications, ..Want::default() };
    layout::table(&want.check().unwrap(), layout::Label::MAIN)
}

fn between(wanted: &Table, there: &Table) -> Plan {
    Plan::between(wanted, &Observed::Ours(there.clone()))
}

#[test]
fn a_device_among_five_thousand_is_one_element() {
    let many = |count: u16| {
        let listen = |number: u16| {
            let [high, low] = number.to_be_bytes();
            Listen::Address([10, 1, high, low].into())
        };
        let port = PortRange::from(Port::new(80).unwrap());
        let publication = |number: u16| {
            let target = ([10, 2, 0, 2].into(), port);
            Publication::new(&number.to_string(), Transport::Tcp, (listen(number), port), target).unwrap()
        };
        table((0..count).map(publication).collect())
    };
    let plan = between(&many(5_001), &many(5_000));
    assert_eq!((plan.coming(), plan.leaving(), plan.is_whole()), (1, 0, false));
    assert_eq!(
        plan.affects(),
        Affected::Scopes(vec![Scope {
            transport: Transport::Tcp,
            listen: Listen::Address([10, 1, 19, 136].into()),
            first: 80,
            last: 80,
        }])
    );
    let batch = plan.batch("portway", 1).finish();
    assert!(batch.length() < 300, "{}", batch.length());
    assert!(between(&many(100), &many(100)).is_empty());
}

#[test]
fn a_new_target_keeps_the_count_and_leaves_others() {
    let mut there = table(vec![device(1, 1, "10.0.0.2"), device(2, 10, "10.0.0.2")]);
    for set in there.sets.values_mut() {
        for element in set.elements.values_mut() {
            element.count = Count { packets: 5, bytes: 300 };
        }
    }
    let plan = between(&table(vec![device(1, 1, "10.0.0.3"), device(2, 10, "10.0.0.2")]), &there);
    let Plan(Step::Elements(changes)) = &plan else { panic!("{plan:?}") };
    let [(set, change)] = &changes.iter().collect::<Vec<_>>()[..] else { panic!("{changes:?}") };
    assert_eq!(*set, "address4");
    let [(key, element)] = &change.coming[..] else { panic!("{change:?}") };
    assert_eq!(change.leaving, std::slice::from_ref(key));
    assert_eq!(element.count, Count { packets: 5, bytes: 300 });
    assert!(plan.carries_counts());
}

/// Fails when: anything but the elements of sets is left out of the comparison.
#[test]
fn any_other_shape_is_replaced_as_a_whole() {
    let wanted = table(vec![device(1, 1, "10.0.0.2")]);
    let mut there = wanted.clone();
    there.chains.insert("mine".to_owned(), Chain::default());
    assert!(between(&wanted, &there).is_whole());
    let mut there = wanted.clone();
    there.chains.get_mut("wildcard").unwrap().rules.pop();
    assert!(between(&wanted, &there).is_whole());
    let mut there = wanted.clone();
    there.chains.get_mut("output").unwrap().hook.as_mut().unwrap().priority = 0;
    assert!(between(&wanted, &there).is_whole());
    let mut there = wanted.clone();
    there.sets.remove(layout::MARKER);
    assert!(between(&wanted, &there).is_whole());
    let mut there = wanted.clone();
    there.sets.get_mut("every6").unwrap().shape.counts = false;
    let plan = between(&wanted, &there);
    assert_eq!(plan.to_string(), "replace the table, 1 elements");
    assert_eq!(plan.affects(), Affected::Everything);
    assert_eq!(Plan::between(&wanted, &Observed::Absent).to_string(), "make the table, 1 elements");
}

/// What an element answers for is read from its key alone, for every kind.
#[test]
fn elements_tell_what_they_answer_for() {
    let range = |first, last| PortRange::new(Port::new(first).unwrap(), Port::new(last).unwrap()).unwrap();
    for transport in [Transport::Tcp, Transport::Udp] {
        for (listen, target) in [
            (Listen::Address([192, 0, 2, 1].into()), "10.0.0.2"),
            (Listen::Every(Family::V4), "10.0.0.2"),
            (Listen::Address([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()), "fd00::2"),
            (Listen::Every(Family::V6), "fd00::2"),
        ] {
            for (first, last) in [(80, 80), (80, 90), (1, 65_535)] {
                let ports = range(first, last);
                let target = (target.parse().unwrap(), ports);
                let publication = Publication::new("d", transport, (listen, ports), target).unwrap();
                for (set, key, _) in layout::elements(&publication) {
                    assert_eq!(layout::scope(set, &key), Some(Scope { transport, listen, first, last }));
                }
            }
        }
    }
    let bridge = Key { first: vec![0; 20], last: None };
    assert_eq!(layout::scope("bridges", &bridge), None);
    assert_eq!(layout::scope("address4", &Key { first: vec![1], last: None }), None);
}

/// Fails when: two tables of a host share a mark without need.
#[test]
fn each_table_has_a_mark_of_its_own() {
    use layout::Label;
    let (main, other) = (Label::MAIN.bytes(), Label::of_number(7).bytes());
    assert_eq!((main.len(), main.iter().map(|byte| byte.count_ones()).sum::<u32>()), (16, 1));
    assert!(Label::MAIN.is_in(&main) && !Label::MAIN.is_in(&other) && !Label::MAIN.is_in(&[]));
    let marks = (0..40).map(Label::of_number);
    assert!(marks.clone().all(|mark| mark != Label::MAIN));
    assert_eq!(marks.map(Label::bytes).collect::<std::collections::BTreeSet<_>>().len(), 15);
}
