//! What a device believes.

use super::*;

fn trust() -> Trust {
    Trust { org: "acme".parse().unwrap(), signer: signer(1).public() }
}

/// Three members and one who was.
fn four() -> Ledger {
    let ledger = (1..=4).fold(org("10.0.0.0/24", Terms::default()), |ledger, number| joined(&ledger, number));
    ledger.revoke(&"d3".parse().unwrap(), NOW).unwrap().ledger
}

#[test]
fn what_was_signed_is_believed() {
    let ledger = four();
    let text = ledger.view().snapshot(0).to_text();
    let view = View::first(&trust(), &Snapshot::parse(text.as_bytes()).unwrap()).unwrap();
    assert_eq!(view, *ledger.view());
    assert_eq!(view.devices().count(), 3);
}

/// Fails when: a byte of the head or of any record can be changed and is still believed.
#[test]
fn a_flipped_byte_is_refused() {
    let snapshot = four().view().snapshot(0);
    for which in 0..=snapshot.records.len() {
        let packed = if which == 0 { snapshot.head.pack() } else { snapshot.records[which - 1].pack() };
        for place in 0..packed.len() {
            let mut packed = packed.clone();
            packed[place] ^= 1;
            let (signed, mut other) = (Signed::unpack(&packed).unwrap(), snapshot.clone());
            let (slot, expected) = match which {
                0 => (&mut other.head, "head"),
                _ => (&mut other.records[which - 1], "record"),
            };
            *slot = signed;
            let refused = View::first(&trust(), &other).unwrap_err();
            let named = match refused {
                Unverified::Record => "record",
                Unverified::Head | Unverified::UnknownSigner | Unverified::OtherOrganization { .. } => "head",
                other => panic!("{other}"),
            };
            assert_eq!(named, expected, "byte {place}");
        }
    }
}

#[test]
fn a_dropped_record_is_refused() {
    let snapshot = four().view().snapshot(0);
    for which in 0..snapshot.records.len() {
        let mut other = snapshot.clone();
        other.records.remove(which);
        assert_eq!(View::first(&trust(), &other), Err(Unverified::Incomplete(7)));
    }
}

#[test]
fn a_record_of_before_is_refused() {
    let ledger = org("10.0.0.0/24", Terms::default());
    let before = joined(&joined(&ledger, 1), 2);
    let after = before.revoke(&"d1".parse().unwrap(), NOW).unwrap().ledger;
    let mut snapshot = after.view().snapshot(0);
    snapshot.records = before.view().snapshot(0).records;
    assert_eq!(View::first(&trust(), &snapshot), Err(Unverified::Incomplete(after.view().revision())));
}

#[test]
fn an_older_revision_is_refused() {
    let before = joined(&org("10.0.0.0/24", Terms::default()), 1);
    let after = joined(&before, 2);
    let known = View::first(&trust(), &after.view().snapshot(0)).unwrap();
    let older = known.next(&trust(), &before.view().snapshot(0));
    assert_eq!(older, Err(Unverified::Older { offered: 3, known: 4 }));
    assert_eq!(known.next(&trust(), &after.view().snapshot(0)).as_ref(), Ok(&known));
}

/// Fails when: a registrar that was set back to an older state, and went on from there, is believed.
#[test]
fn another_history_is_refused() {
    let before = joined(&org("10.0.0.0/24", Terms::default()), 1);
    let known = View::first(&trust(), &joined(&before, 2).view().snapshot(0)).unwrap();
    assert_eq!(known.next(&trust(), &joined(&before, 3).view().snapshot(0)), Err(Unverified::Fork(4)));
    let later = joined(&joined(&before, 3), 4).view().snapshot(4);
    assert_eq!(known.next(&trust(), &later), Err(Unverified::Incomplete(5)));
}

#[test]
fn others_are_refused_by_name() {
    let settings = || Settings { pool: pool("10.0.0.0/24", &[]), quarantine_seconds: 1 };
    let made = |seed, name: &str| {
        let step = Ledger::create(signer(seed), name.parse().unwrap(), settings(), NOW);
        View::first(&trust(), &step.ledger.view().snapshot(0))
    };
    assert!(made(1, "acme").is_ok());
    assert_eq!(made(2, "acme"), Err(Unverified::UnknownSigner));
    let other = || Unverified::OtherOrganization { found: "evil".parse().unwrap(), expected: trust().org };
    assert_eq!(made(1, "evil"), Err(other()));
    assert_eq!(made(2, "evil"), Err(other()));
}

#[test]
fn what_is_newer_is_enough_for_who_has_the_rest() {
    let before = joined(&joined(&org("10.0.0.0/24", Terms::default()), 1), 2);
    let known = View::first(&trust(), &before.view().snapshot(0)).unwrap();
    let after = joined(&before, 3).revoke(&"d1".parse().unwrap(), NOW).unwrap().ledger;
    let newer = after.view().snapshot(known.revision());
    assert_eq!(newer.records.len(), 2);
    assert_eq!(known.next(&trust(), &newer).as_ref(), Ok(after.view()));
    let known_of_none = View::first(&trust(), &newer);
    assert_eq!(known_of_none, Err(Unverified::Gap { since: 4, known: 0 }));
    // Nobody is ahead of the registrar but who is lied to: it is given everything.
    assert_eq!(before.view().snapshot(99), before.view().snapshot(0));
}

#[test]
fn changes_lead_from_one_list_to_the_next() {
    let ledger = joined(&joined(&joined(&org("10.0.0.0/24", Terms::default()), 1), 2), 3);
    let view = ledger.view();
    let first = changes(&key(1), None, view);
    assert!(matches!(first.as_slice(), [Change::Added(_), Change::Added(_)]));
    let at = endpoint("198.51.100.1:51820").unwrap();
    let moved = ledger.move_to(&key(2), std::slice::from_ref(&at), NOW).unwrap().unwrap().ledger;
    // It can be sent to from here on, and what is between must not forget us.
    let [Change::Altered(peer)] = &changes(&key(1), Some(view), moved.view())[..] else { panic!() };
    assert_eq!((&peer.endpoint, peer.keepalive.is_some()), (&Some(at.clone()), true));
    let other = endpoint("198.51.100.1:2").unwrap();
    let again = moved.move_to(&key(2), std::slice::from_ref(&other), NOW).unwrap().unwrap().ledger;
    let expected = [Change::Endpoint(key(2), Some(other.clone()))];
    assert_eq!(changes(&key(1), Some(moved.view()), again.view()), expected);
    assert!(again.move_to(&key(2), &[other.clone(), other], NOW).unwrap().is_none());
    let gone = again.revoke(&"d2".parse().unwrap(), NOW).unwrap().ledger;
    assert_eq!(changes(&key(1), Some(again.view()), gone.view()), [Change::Removed(key(2))]);
    assert_eq!(changes(&key(1), Some(gone.view()), gone.view()), []);
}

/// Fails when: somebody who was revoked is believed to be a member again because the store was set back and has gone on.
#[test]
fn who_was_revoked_stays_revoked() {
    let before = (1..=4).fold(org("10.0.0.0/24", Terms::default()), |ledger, number| joined(&ledger, number));
    let known = before.revoke(&"d3".parse().unwrap(), NOW).unwrap().ledger;
    let other = (5..=7).fold(before, |ledger, number| joined(&ledger, number));
    assert!(other.view().revision() > known.view().revision());
    let refused = known.view().next(&trust(), &other.view().snapshot(0));
    assert!(matches!(refused, Err(Unverified::Contradiction(_))), "{refused:?}");
    let well = joined(&known, 5);
    assert_eq!(known.view().next(&trust(), &well.view().snapshot(0)).unwrap(), *well.view());
}

/// Fails when: a mark, a place or a whole member of before is believed again, or somebody new of another history, because
/// the store was set back and has gone on past the revision that is known.
#[test]
fn nothing_that_is_known_is_taken_back() {
    let name = |text: &str| text.parse().unwrap();
    let hub = |ledger: &Ledger, of: &str, is| ledger.set_hub(&name(of), is, NOW).unwrap().unwrap().ledger;
    let grown = |ledger: &Ledger, numbers: std::ops::RangeInclusive<u16>| {
        numbers.fold(ledger.clone(), |ledger, number| joined(&ledger, number))
    };
    let before = hub(&grown(&org("10.0.0.0/24", Terms::default()), 1..=4), "d1", true);
    let refused = |known: &Ledger, other: &Ledger| {
        assert!(other.view().revision() > known.view().revision());
        let refused = known.view().next(&trust(), &other.view().snapshot(0));
        assert!(matches!(refused, Err(Unverified::Contradiction(_))), "{refused:?}");
    };
    // The mark of the hub was taken away, and is there again.
    refused(&hub(&before, "d1", false), &grown(&before, 7..=9));
    // Where a member is.
    let moved = before.move_to(&key(2), &[endpoint("198.51.100.1:51820").unwrap()], NOW).unwrap().unwrap();
    refused(&moved.ledger, &grown(&before, 7..=9));
    // A member that had joined is not there, and another one has its revision.
    refused(&joined(&before, 5), &grown(&before, 7..=9));
    let known = joined(&before, 5);
    assert!(known.view().next(&trust(), &grown(&known, 6..=7).view().snapshot(0)).is_ok());
}
