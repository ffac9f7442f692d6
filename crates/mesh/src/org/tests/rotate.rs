//! A device that gets another key.

use super::*;

fn trust() -> Trust {
    Trust { org: "acme".parse().unwrap(), signer: signer(1).public() }
}

/// `old` has `new` from then on.
fn rotated(ledger: &Ledger, old: u16, new: u16) -> Ledger {
    ledger.rotate(&key(old), &key(new), NOW).unwrap().step.unwrap().ledger
}

fn refused(ledger: &Ledger, old: u16, new: u16, now: u64) -> Refusal {
    ledger.rotate(&key(old), &key(new), now).unwrap_err()
}

fn three() -> Ledger {
    (1..=3).fold(org("10.0.0.0/24", Terms::default()), |ledger, number| joined(&ledger, number))
}

/// Fails when: anything but the key is another, the old key is good for anything, or a device that follows, from the start
/// or step by step, does not believe it.
#[test]
fn all_but_the_key_stays() {
    let before = three().set_hub(&"d1".parse().unwrap(), true, NOW).unwrap().unwrap().ledger;
    let old = before.member(&key(1)).unwrap().clone();
    let after = rotated(&before, 1, 11);
    let new = after.member(&key(11)).unwrap();
    assert_eq!(*new, Device { key: key(11), revision: new.revision, ..old.clone() });
    assert_ne!(pool("10.0.0.0/24", &[]).ip6(&key(11)), new.ip6);
    assert_eq!(after.member(&key(1)).unwrap_err(), Refusal::Revoked);
    assert_eq!(after.move_to(&key(1), &[], NOW).unwrap_err(), Refusal::Revoked);
    assert_eq!(after.register(&asks(1), NOW).unwrap_err(), Refusal::Revoked);
    assert_eq!(after.register(&Registration { key: key(11), ..asks(1) }, NOW).unwrap().device, *new);
    let known = View::first(&trust(), &before.view().snapshot(0)).unwrap();
    let newer = after.view().snapshot(known.revision());
    assert_eq!(newer.records.len(), 2);
    assert_eq!(known.next(&trust(), &newer).as_ref(), Ok(after.view()));
    assert_eq!(View::first(&trust(), &after.view().snapshot(0)).as_ref(), Ok(after.view()));
    assert_eq!(after.view().successor(&key(1)), Some(new));
    assert_eq!(after.view().successor(&key(2)), None);
    // The address rests once that device is gone, and not before.
    let wants = Registration { request_ip: Some(old.ip4), ..asks(4) };
    assert_eq!(after.register(&wants, NOW + 1000).unwrap_err(), Refusal::AddressTaken(old.ip4));
    let gone = after.revoke(&old.name, NOW).unwrap().ledger;
    assert_eq!(gone.register(&wants, NOW + 99).unwrap_err(), Refusal::AddressTaken(old.ip4));
    assert_eq!(gone.view().successor(&key(1)), None);
    // Whoever has name and address after it is somebody else.
    let wants = Registration { name: old.name, ..wants };
    let other = gone.register(&wants, NOW + 100).unwrap().step.unwrap().ledger;
    assert_eq!(other.view().successor(&key(11)), None);
    let other = rotated(&other, 4, 14);
    assert_eq!(other.view().successor(&key(11)), None);
    assert_eq!(other.view().successor(&key(4)).unwrap().key, key(14));
    assert!(View::first(&trust(), &other.view().snapshot(0)).is_ok());
}

/// Fails when: asking again changes anything or is refused, one of two that ask at once gets another answer than no, an
/// old request is good once more, or a key is given that was anybody's.
#[test]
fn asked_again_and_out_of_turn() {
    let once = rotated(&three(), 1, 11);
    let again = once.rotate(&key(1), &key(11), NOW + 5).unwrap();
    assert!(again.step.is_none());
    assert_eq!(again.device, *once.member(&key(11)).unwrap());
    // Two at once: who comes second finds the first's.
    assert_eq!(refused(&once, 1, 12, NOW), Refusal::Revoked);
    let twice = rotated(&once, 11, 12);
    assert_eq!(twice.member(&key(12)).unwrap().ip6, again.device.ip6);
    assert_eq!(twice.view().successor(&key(1)), twice.view().successor(&key(11)));
    // The first request comes again.
    assert_eq!(refused(&twice, 1, 11, NOW), Refusal::Revoked);
    assert!(twice.rotate(&key(11), &key(12), NOW).unwrap().step.is_none());
    for taken in [1, 2, 11, 12] {
        assert_eq!(refused(&twice, 12, taken, NOW), Refusal::KeyTaken, "{taken}");
    }
    assert_eq!(refused(&twice, 9, 13, NOW), Refusal::NoMember);
    let gone = twice.revoke(&"d1".parse().unwrap(), NOW).unwrap().ledger;
    for (old, new) in [(12, 13), (12, 12), (11, 12), (1, 12)] {
        assert_eq!(refused(&gone, old, new, NOW), Refusal::Revoked, "{old} {new}");
    }
    assert!(View::first(&trust(), &gone.view().snapshot(0)).is_ok());
}

/// Fails when: one device fills the organization with former keys.
#[test]
fn a_device_has_so_many_keys_a_day() {
    let many = (0..16).fold(three(), |ledger, step| {
        let old = if step == 0 { 1 } else { 100 + step - 1 };
        rotated(&ledger, old, 100 + step)
    });
    let limit = refused(&many, 115, 200, NOW + 86_399);
    assert_eq!((limit.status(), limit.code()), (429, "too_often"));
    assert!(many.rotate(&key(115), &key(200), NOW + 86_400).is_ok());
    assert!(many.rotate(&key(2), &key(200), NOW).is_ok());
}

/// Fails when: a record with an address that neither its key nor a former key of the same device has is believed.
#[test]
fn an_address_is_of_a_former_key() {
    let after = rotated(&three(), 1, 11);
    let own = after.member(&key(11)).unwrap().clone();
    let two = after.member(&key(2)).unwrap().ip6;
    let other_key = pool("10.0.0.0/24", &[]).ip6(&key(9));
    for ip6 in [two, other_key] {
        let mut forged = after.view().clone();
        let record = Record::Device(Device { ip6, ..own.clone() });
        let signed = signer(1).sign(record.bytes());
        forged.members.insert(own.key, Arc::new(super::super::view::Member { record, signed }));
        forged.head.records = super::super::view::digest_of(&forged.members);
        forged.signed = signer(1).sign(forged.head.bytes());
        let refused = View::first(&trust(), &forged.snapshot(0));
        assert!(matches!(refused, Err(Unverified::Contradiction(_))), "{ip6}: {refused:?}");
    }
}

/// Fails when: to others the device is one that goes and another one that comes, which ends its connections; or who has the
/// new key itself keeps anything that it has agreed on with the old one, or somebody who is gone.
#[test]
fn others_and_the_device_itself_are_told() {
    let before = three();
    let after = rotated(&before, 1, 11);
    let addresses = |view: &View, key| peer(None, view.record(&key).unwrap().device().unwrap()).allowed_ips;
    let told = changes(&key(2), Some(before.view()), after.view());
    let [Change::Rekeyed(former, new)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((*former, new.public_key), (key(1), key(11)));
    assert_eq!(new.allowed_ips, addresses(before.view(), key(1)));
    // Twice in one leap.
    let twice = rotated(&after, 11, 12);
    let told = changes(&key(2), Some(before.view()), twice.view());
    assert!(
        matches!(&told[..], [Change::Rekeyed(former, new)] if *former == key(1) && new.public_key == key(12))
    );
    let gone = after.revoke(&"d1".parse().unwrap(), NOW).unwrap().ledger;
    assert_eq!(changes(&key(2), Some(before.view()), gone.view()), [Change::Removed(key(1))]);
    let less = rotated(&after, 3, 13).revoke(&"d2".parse().unwrap(), NOW).unwrap().ledger;
    let own = PrivateKey::from_bytes(&[99; 32]).unwrap();
    let own_key = own.public();
    let less = less.rotate(&key(11), &own_key, NOW).unwrap().step.unwrap().ledger;
    let told = changes_of_own(&key(1), before.view(), &own, less.view());
    let [gone, rekeyed, another, stays] = &told[..] else { panic!("{told:?}") };
    assert_eq!((gone, another), (&Change::Removed(key(2)), &Change::Own(own)));
    assert!(matches!(rekeyed, Change::Rekeyed(former, _) if *former == key(3)));
    assert!(matches!(stays, Change::Altered(peer) if peer.public_key == key(13)));
}
