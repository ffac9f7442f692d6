use super::*;
use crate::forward::forward_obstacles;
use crate::netlink::{FLAG_ACK, FLAG_CREATE, Writer};
use crate::nft::{Element, FAMILY_INET, Hook, Key, attr, kind};
use crate::spec::{Listen, Publication, Transport};
use crate::watch::{Event, Watch};
use portway_model::{Port, PortRange};
use portway_testkit::Netns;

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
    Netns::apart(|_| {
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
    });
}

/// Changes of what is kept, between them some of others: the table is what is wanted each time, elements of a new
/// target go on counting, and what a second keeper does is put right.
///
/// Fails when: a change of somebody else's, or of another [`Checked`], is not noticed; or a fresh count is not asked for.
#[test]
fn what_is_kept_over_changes_is_what_the_table_says() {
    Netns::apart(|netns| {
        let publication = |port: u16, target: u8| {
            let port = PortRange::from(Port::new(port).unwrap());
            let listen = (Listen::Address([192, 0, 2, 1].into()), port);
            let to = ([10, 0, 0, target].into(), port);
            Arc::new(Publication::new(&format!("d{port}"), Transport::Tcp, listen, to).unwrap())
        };
        let mut nat = Nat::open(TableName::default()).unwrap();
        let check = |nat: &mut Nat, want: &Checked| {
            assert_eq!(table(nat), layout::table(want, TableName::default().label()));
        };
        let mut want = Checked::default();
        for port in 1..=40 {
            want.put(&publication(port, 2)).unwrap();
        }
        assert!(nat.apply_kept(&mut want).unwrap().plan.is_whole());
        check(&mut nat, &want);
        netns.nft("add element inet portway address4 { 192.0.2.1 . tcp . 99 counter packets 7 bytes 420 : 10.0.0.9 . 99 }").unwrap();
        want.put(&publication(99, 9)).unwrap();
        assert!(nat.apply_kept(&mut want).unwrap().plan.is_empty());
        for (gone, new) in [(99, publication(99, 3)), (40, publication(41, 4))] {
            let old =
                want.publications().find(|one| one.ports().first().get() == gone).cloned().map(Arc::new);
            want.take(&old.unwrap());
            want.put(&new).unwrap();
            // What is known of counts is as old as the last look.
            for set in nat.known.as_mut().unwrap().table.sets.values_mut() {
                set.elements.values_mut().for_each(|element| element.count = Count::default());
            }
            let plan = nat.apply_kept(&mut want).unwrap().plan;
            assert_eq!((plan.is_whole(), plan.coming(), plan.leaving()), (false, 1, 1));
            check(&mut nat, &want);
            let new = want.publications().find(|one| one.device() == "d99").unwrap().clone();
            assert_eq!(nat.counts_of(&[&new]).unwrap()["d99"].connections, 7);
        }
        netns.nft("delete element inet portway address4 { 192.0.2.1 . tcp . 7 }").unwrap();
        want.put(&publication(50, 2)).unwrap();
        assert_eq!(nat.apply_kept(&mut want).unwrap().plan.coming(), 2);
        check(&mut nat, &want);
        nat.apply(&tests::want(2)).unwrap();
        want.put(&publication(51, 2)).unwrap();
        nat.apply_kept(&mut want).unwrap();
        check(&mut nat, &want);
        let mut other = Checked::default();
        nat.apply_kept(&mut other).unwrap();
        want.put(&publication(52, 2)).unwrap();
        nat.apply_kept(&mut want).unwrap();
        check(&mut nat, &want);
    });
}

/// A transaction made for another state of the ruleset is not carried out.
///
/// Fails when: the generation is left out of the first message.
#[test]
fn a_transaction_for_another_generation_is_not_carried_out() {
    Netns::apart(|netns| {
        let mut nat = Nat::open(TableName::default()).unwrap();
        nat.apply(&want(2)).unwrap();
        let before = table(&mut nat);
        let generation = nat.generation().unwrap();
        netns.nft("add table ip somebodys").unwrap();
        let mut batch = Batch::new("portway", Some(generation));
        batch.delete_table();
        assert_eq!(nat.commit(batch, Affected::Nothing).unwrap(), None);
        assert_eq!(table(&mut nat), before);
    });
}

/// The kernel makes a change, and its answer cannot be read: the call fails, and the next one, which finds
/// nothing to do, says what has to be swept all the same; once.
///
/// Fails when: what a change touches is forgotten when its answer is lost.
#[test]
fn what_a_change_touches_is_owed_when_its_answer_is_lost() {
    Netns::apart(|_| {
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
    });
}

/// What cannot be learnt after a change is no failure of the change.
#[test]
fn a_change_that_is_made_does_not_fail_because_of_what_is_read_after_it() {
    Netns::apart(|_| {
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
    });
}

/// A table with a set and a chain, each named `name` and a byte that is no text. A set of a table that is there
/// already is added to it.
fn with_odd_names(table: &[u8], name: &[u8]) -> Writer {
    let odd = [name, &[0xff, 0]].concat();
    let mut batch = Writer::default();
    batch.netfilter(16, 0, 0, 10, |_| {});
    batch.netfilter(kind::NEW_TABLE, FLAG_CREATE | FLAG_ACK, FAMILY_INET, 0, |out| {
        out.bytes(attr::TABLE, table);
    });
    batch.netfilter(kind::NEW_SET, FLAG_CREATE | FLAG_ACK, FAMILY_INET, 0, |out| {
        out.bytes(attr::TABLE, table);
        out.bytes(attr::SET_NAME, &odd);
        for (kind, value) in [(attr::SET_KEY_TYPE, 7), (attr::SET_KEY_LENGTH, 4), (attr::SET_ID, 1)] {
            out.u32(kind, value);
        }
    });
    batch.netfilter(kind::NEW_CHAIN, FLAG_CREATE | FLAG_ACK, FAMILY_INET, 0, |out| {
        out.bytes(attr::TABLE, table);
        out.bytes(attr::CHAIN_NAME, &odd);
        out.nested(attr::CHAIN_HOOK, |out| {
            out.u32(attr::HOOK_NUMBER, Hook::FORWARD);
            out.u32(attr::HOOK_PRIORITY, 0);
        });
        out.text(attr::CHAIN_TYPE, "filter");
        out.u32(attr::CHAIN_POLICY, 0);
    });
    batch.netfilter(17, 0, 0, 10, |_| {});
    batch
}

/// Names are any bytes to the kernel. Those of somebody else's table are no event and hide nothing, a chain of
/// such a name is found all the same, and in our own table they are drift like any other.
///
/// Fails when: a name that is no UTF-8 is an error, of the watch, of the search, or of the table's reading.
#[test]
fn names_that_are_no_text_do_no_harm() {
    Netns::apart(|_| {
        let mut watch = Watch::open(TableName::default()).unwrap();
        let mut nat = Nat::open(TableName::default()).unwrap();
        watch.ignore(nat.port_id());
        let mut others = Connection::open(Netlink::Netfilter).unwrap();
        let mut others = |table: &[u8]| {
            assert_eq!(others.send(&mut with_odd_names(table, b"a\x1b")).unwrap(), []);
        };
        others(b"foreign\xff\0");
        assert_eq!(watch.poll().unwrap(), None);
        nat.apply(&want(2)).unwrap();
        let named = || forward_obstacles().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        let rest = "stops forwarded packets that its rules do not allow";
        assert_eq!(named(), [format!("chain a\\u{{1b}}\u{fffd} of table inet foreign\u{fffd} {rest}")]);
        others(b"portway\0");
        assert_eq!(watch.poll().unwrap(), Some(Event::Changed));
        assert!(nat.apply(&want(2)).unwrap().plan.is_whole());
        assert_eq!(named().len(), 1);
        assert!(nat.apply(&want(2)).unwrap().plan.is_empty());
    });
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
