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
            let error = nat.commit(batch, Affected::Nothing).unwrap_err();
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
            assert_eq!(nat.commit(batch, Affected::Nothing).unwrap(), None);
            assert_eq!(table(&mut nat), before);
        })
        .unwrap();
}

/// The kernel makes a change, and its answer cannot be read: the call fails, and the next one, which finds
/// nothing to do, says what has to be swept all the same; once.
///
/// Fails when: what a change touches is forgotten when its answer is lost.
#[test]
fn what_a_change_touches_is_owed_when_its_answer_is_lost() {
    if !is_root() {
        return;
    }
    let netns = Netns::new().unwrap();
    netns
        .enter(|| {
            let mut nat = Nat::open(TableName::default()).unwrap();
            assert_eq!(nat.apply(&want(2)).unwrap().affected, Affected::Everything);
            let wanted = want(3);
            let layout = layout::table(&wanted.check().unwrap(), TableName::default().label());
            let (plan, generation) = nat.plan_to(&layout).unwrap();
            let touched = plan.affects();
            assert!(matches!(touched, Affected::Scopes(_)), "{touched:?}");
            let batch = plan.batch("portway", generation);
            let room = nat.connection.set_room(1);
            nat.commit(batch, plan.affects()).unwrap_err();
            nat.connection.set_room(room);
            let again = nat.apply(&wanted).unwrap();
            assert!(again.plan.is_empty());
            assert_eq!(again.affected, touched);
            assert_eq!(nat.apply(&wanted).unwrap().affected, Affected::Nothing);
        })
        .unwrap();
}

/// What cannot be learnt after a change is no failure of the change.
#[test]
fn a_change_that_is_made_does_not_fail_because_of_what_is_read_after_it() {
    if !is_root() {
        return;
    }
    let netns = Netns::new().unwrap();
    netns
        .enter(|| {
            let mut nat = Nat::open(TableName::default()).unwrap();
            let wanted = want(2);
            let layout = layout::table(&wanted.check().unwrap(), TableName::default().label());
            let (plan, generation) = nat.plan_to(&layout).unwrap();
            assert!(nat.commit(plan.batch("portway", generation), plan.affects()).unwrap().is_some());
            let room = nat.connection.set_room(1);
            nat.learn(&plan, generation, layout);
            nat.connection.set_room(room);
            assert!(nat.known.is_none());
            assert!(nat.apply(&wanted).unwrap().plan.is_empty());
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
