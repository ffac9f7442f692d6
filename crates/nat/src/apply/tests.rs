use super::*;
use crate::nft::{Element, Key};
use crate::spec::{Listen, Publication, Transport};
use portway_model::{Port, PortRange};
use portway_testkit::{Netns, is_root};

fn want(target: u8) -> Want {
    let port = PortRange::from(Port::new(80).unwrap());
    let listen = (Listen::Address([192, 0, 2, 1].into()), port);
    let publication =
        Publication::new("d", Transport::Tcp, listen, ([10, 0, 0, target].into(), port)).unwrap();
    Want { publications: vec![publication], ..Want::default() }
}

fn table(nat: &mut Nat) -> Table {
    match nat.observe().unwrap() {
        Observed::Ours(table) => table,
        Observed::Absent => panic!("no table"),
    }
}

/// Two changes the kernel would take, and one it does not: none of them happens, and the refusal names the
/// message and carries the kernel's words or number.
///
/// Fails when: a change is sent as several transactions.
#[test]
fn a_transaction_with_one_bad_element_changes_nothing() {
    if !is_root() {
        return;
    }
    let netns = Netns::new().unwrap();
    netns
        .enter(|| {
            let mut nat = Nat::open(TableName::default()).unwrap();
            nat.apply(&want(2)).unwrap();
            let before = table(&mut nat);
            let keys: Vec<Key> = before.sets["address4"].elements.keys().cloned().collect();
            let good = Element { data: vec![10, 0, 0, 9, 0, 80, 0, 0], ..Element::default() };
            let bad = Key { first: vec![1, 2, 3], last: None };
            let mut batch = Batch::new("portway", None);
            batch.delete_elements("address4", keys.iter());
            batch.add_elements("address4", keys.iter().map(|key| (key, &good, true)));
            batch.add_elements("every4", std::iter::once((&bad, &good, true)));
            let error = nat.commit(batch).unwrap_err();
            let NatError::Netlink { source: NetlinkError::Refused { message, .. }, .. } = &error else {
                panic!("{error:?}")
            };
            // The first message says that a transaction begins.
            assert_eq!(*message, 3);
            assert_eq!(error.to_string(), "cannot change the table inet portway");
            assert_eq!(table(&mut nat), before);
            // And the keeper goes on.
            nat.apply(&want(3)).unwrap();
            assert_ne!(table(&mut nat), before);
        })
        .unwrap();
}

/// A transaction made for another state of the ruleset is not carried out.
///
/// Fails when: the generation is left out of the first message.
#[test]
fn a_transaction_for_another_generation_is_not_carried_out() {
    if !is_root() {
        return;
    }
    let netns = Netns::new().unwrap();
    netns
        .enter(|| {
            let mut nat = Nat::open(TableName::default()).unwrap();
            nat.apply(&want(2)).unwrap();
            let before = table(&mut nat);
            let generation = nat.generation().unwrap();
            netns.nft("add table ip somebodys").unwrap();
            let mut batch = Batch::new("portway", Some(generation));
            batch.delete_table();
            assert_eq!(nat.commit(batch).unwrap(), None);
            assert_eq!(table(&mut nat), before);
        })
        .unwrap();
}

#[test]
fn table_names_are_ours_alone() {
    for name in ["portway", "portway_0123abcd"] {
        assert_eq!(TableName::new(name).unwrap().as_str(), name);
    }
    for name in
        ["", "incus", "portway_", "portway_0123abc", "portway_0123ABCD", "portway-0123abcd", "portway2"]
    {
        assert_eq!(TableName::new(name), None, "{name}");
    }
}
