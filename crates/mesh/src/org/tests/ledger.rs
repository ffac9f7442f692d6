//! What a registrar allows, and what it takes from a store.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn refused(ledger: &Ledger, asked: &Registration, now: u64) -> Refusal {
    ledger.register(asked, now).unwrap_err()
}

#[test]
fn keys_are_used_up_and_expire() {
    let once = org("10.0.0.0/24", Terms { uses_left: Some(1), ..Terms::default() });
    let joined = joined(&once, 1);
    assert_eq!(refused(&joined, &asks(2), NOW), Refusal::UsedUp);
    let again = joined.register(&asks(1), NOW + 1).unwrap();
    assert!(again.step.is_none());
    assert_eq!(again.device, *joined.member(&key(1)).unwrap());
    let brief = org("10.0.0.0/24", Terms { not_after: Some(NOW + 5), ..Terms::default() });
    assert!(brief.register(&asks(1), NOW + 5).is_ok());
    assert_eq!(refused(&brief, &asks(1), NOW + 6), Refusal::Expired);
    let other = Registration { secret: secret(2), ..asks(1) };
    assert_eq!(refused(&brief, &other, NOW), Refusal::UnknownJoinKey);
    let id = brief.join_keys().next().unwrap().id();
    let none = brief.remove_key(id, NOW).unwrap().ledger;
    assert_eq!(refused(&none, &asks(1), NOW), Refusal::UnknownJoinKey);
    assert_eq!(none.remove_key(id, NOW).unwrap_err(), Refusal::NoJoinKey(id));
}

#[test]
fn an_address_asked_for_is_had_or_refused() {
    let ledger = org("10.0.0.0/24", Terms::default());
    let asks_for = |number, ip: &str| Registration { request_ip: Some(ip.parse().unwrap()), ..asks(number) };
    let first = ledger.register(&asks_for(1, "10.0.0.9"), NOW).unwrap();
    assert_eq!(first.device.ip4.to_string(), "10.0.0.9");
    let ledger = first.step.unwrap().ledger;
    let taken = refused(&ledger, &asks_for(2, "10.0.0.9"), NOW);
    assert_eq!((taken.status(), taken.code()), (409, "address_taken"));
    for outside in ["10.0.0.0", "10.0.0.255", "10.0.1.1"] {
        assert_eq!(refused(&ledger, &asks_for(2, outside), NOW).code(), "address_outside");
    }
    assert_eq!(refused(&ledger, &asks_for(1, "10.0.0.8"), NOW).code(), "address_fixed");
    assert!(ledger.register(&asks_for(1, "10.0.0.9"), NOW).unwrap().step.is_none());
    let same_name = Registration { name: asks(1).name, ..asks(2) };
    assert_eq!(refused(&ledger, &same_name, NOW).code(), "name_taken");
}

#[test]
fn who_was_revoked_stays_out_and_its_address_rests() {
    let ledger = joined(&org("10.0.0.0/29", Terms::default()), 1);
    let ip = ledger.member(&key(1)).unwrap().ip4;
    let name = &asks(1).name;
    let ledger = ledger.revoke(name, NOW).unwrap().ledger;
    assert_eq!(refused(&ledger, &asks(1), NOW), Refusal::Revoked);
    assert_eq!(ledger.move_to(&key(1), &[], NOW).unwrap_err(), Refusal::Revoked);
    assert_eq!(ledger.revoke(name, NOW).unwrap_err().status(), 404);
    let wants = Registration { request_ip: Some(ip), ..asks(2) };
    assert_eq!(refused(&ledger, &wants, NOW + 99), Refusal::AddressTaken(ip));
    assert!(ledger.register(&wants, NOW + 100).is_ok());
    // Five of the six addresses are left, and then none.
    let full = (2..=6).fold(ledger, |ledger, number| joined(&ledger, number));
    assert!(full.view().devices().all(|device| device.ip4 != ip));
    assert_eq!(refused(&full, &asks(7), NOW), Refusal::NoAddress);
}

#[test]
fn routes_come_from_the_key_and_are_one_devices() {
    let terms = Terms { routes: vec![block("192.168.0.0/16")], ..Terms::default() };
    let ledger = joined(&org("10.0.0.0/24", terms.clone()), 1);
    assert_eq!(ledger.member(&key(1)).unwrap().routes, terms.routes);
    assert_eq!(refused(&ledger, &asks(2), NOW), Refusal::RouteTaken(terms.routes[0]));
    for own in ["10.0.0.0/8", "10.0.0.128/25", "0.0.0.0/0", "fd01:203:405::/64"] {
        let terms = Terms { routes: vec![block(own)], ..Terms::default() };
        assert_eq!(ledger.add_key(&secret(2), terms, NOW).unwrap_err().code(), "route_taken", "{own}");
    }
}

/// Fails when: a store that lost, changed, swapped or set back an entry is built upon.
#[test]
fn a_store_that_lies_is_found_out() {
    let mut entries = BTreeMap::new();
    let settings = Settings { pool: pool("10.0.0.0/24", &[]), quarantine_seconds: 1 };
    let made = Ledger::create(signer(1), "acme".parse().unwrap(), settings, NOW);
    let mut ledger = made.ledger;
    stored(&mut entries, made.writes);
    let terms = Terms { uses_left: Some(3), ..Terms::default() };
    let step = ledger.add_key(&secret(1), terms, NOW).unwrap();
    (ledger, _) = (step.ledger, stored(&mut entries, step.writes));
    let before = entries.clone();
    for number in 1..=2 {
        let step = ledger.register(&asks(number), NOW).unwrap().step.unwrap();
        (ledger, _) = (step.ledger, stored(&mut entries, step.writes));
    }
    let read = |entries: &_| Ledger::read(signer(1), &"acme".parse().unwrap(), entries);
    assert_eq!(read(&entries).unwrap().view(), ledger.view());
    for name in entries.keys() {
        let mut other = entries.clone();
        other.remove(name);
        assert!(read(&other).is_err(), "{name} lost");
        for place in 0..entries[name].len() {
            let mut other = entries.clone();
            other.get_mut(name).unwrap()[place] ^= 0x10;
            assert!(read(&other).is_err(), "{name} changed at {place}");
        }
        if let Some(old) = before.get(name) {
            let other = BTreeMap::from_iter(entries.clone().into_iter().chain([(name.clone(), old.clone())]));
            assert!(read(&other).is_err(), "{name} set back");
        }
    }
    assert!(Ledger::read(signer(2), &"acme".parse().unwrap(), &entries).is_err());
    assert!(Ledger::read(signer(1), &"other".parse().unwrap(), &entries).is_err());
}

#[derive(Debug, Clone)]
enum Act {
    Join(u16),
    Revoke(u16),
    Later(u64),
    Move(u16, u16),
    Rotate(u16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0_u16..24).prop_map(Act::Join),
        2 => (0_u16..24).prop_map(Act::Revoke),
        1 => (0_u64..80).prop_map(Act::Later),
        1 => (0_u16..24, 1_u16..9).prop_map(|(who, port)| Act::Move(who, port)),
        2 => (0_u16..24).prop_map(Act::Rotate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Fails when: after any acts two have one address, a store read again says something else, a device that follows
    /// step by step or in leaps does not end at the same, or more have joined than the key allows; keys change, too.
    #[test]
    fn any_acts_leave_one_organization(acts in prop::collection::vec(act(), 1..60), uses in 1_u32..20) {
        let settings = Settings { pool: pool("10.0.0.0/28", &["10.0.0.8/31"]), quarantine_seconds: 50 };
        let made = Ledger::create(signer(1), "acme".parse().unwrap(), settings, NOW);
        let (mut ledger, mut entries, mut now, mut joins) = (made.ledger, BTreeMap::new(), NOW, 0);
        stored(&mut entries, made.writes);
        let mut known = View::first(&ledger.trust(), &ledger.view().snapshot(0)).unwrap();
        let mut seldom = known.clone();
        let first = ledger.add_key(&secret(1), Terms { uses_left: Some(uses), ..Terms::default() }, now).unwrap();
        let mut pending = Some(first);
        for (count, act) in acts.into_iter().enumerate() {
            let step = pending.take().or_else(|| match act {
                Act::Join(who) => {
                    let step = ledger.register(&asks(who), now).ok()?.step?;
                    joins += 1;
                    Some(step)
                }
                Act::Revoke(who) => ledger.revoke(&asks(who).name, now).ok(),
                Act::Later(seconds) => {
                    now += seconds;
                    None
                }
                // Always from its first key: asked again later, it is refused or is what it was.
                Act::Rotate(who) => ledger.rotate(&key(who), &key(100 + who), now).ok()?.step,
                Act::Move(who, port) => {
                    let at = endpoint(&format!("192.0.2.1:{port}")).unwrap();
                    ledger.move_to(&key(who), &[at], now).ok()?
                }
            });
            let Some(step) = step else { continue };
            stored(&mut entries, step.writes);
            ledger = step.ledger;
            known = known.next(&ledger.trust(), &ledger.view().snapshot(known.revision())).unwrap();
            if count % 5 == 0 {
                seldom = seldom.next(&ledger.trust(), &ledger.view().snapshot(seldom.revision())).unwrap();
            }
        }
        seldom = seldom.next(&ledger.trust(), &ledger.view().snapshot(seldom.revision())).unwrap();
        prop_assert_eq!(&known, ledger.view());
        prop_assert_eq!(&seldom, ledger.view());
        let read = Ledger::read(signer(1), &"acme".parse().unwrap(), &entries).unwrap();
        prop_assert_eq!(read.view(), ledger.view());
        let addresses: HashSet<_> = ledger.view().devices().map(|device| device.ip4).collect();
        prop_assert_eq!(addresses.len(), ledger.view().devices().count());
        let addresses: HashSet<_> = ledger.view().devices().map(|device| device.ip6).collect();
        prop_assert_eq!(addresses.len(), ledger.view().devices().count());
        prop_assert!(joins <= uses);
    }
}
