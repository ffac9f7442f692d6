//! What is read of organizations: snapshots, records, tokens.

use crate::org::{Head, JoinKey, OrgKey, Record, Snapshot, Token, Trust, View};

/// What is read is written again as it was; what is verified can be handed on and verified again.
pub(super) fn snapshot(data: &[u8]) {
    let Ok(snapshot) = Snapshot::parse(data) else { return };
    assert_eq!(Snapshot::parse(snapshot.to_text().as_bytes()).as_ref(), Ok(&snapshot));
    for signed in snapshot.records.iter().chain([&snapshot.head]) {
        if let Ok(record) = Record::parse(signed.bytes()) {
            assert_eq!(record.bytes(), signed.bytes());
        }
        if let Ok(head) = Head::parse(signed.bytes()) {
            assert_eq!(head.bytes(), signed.bytes());
        }
        if let Ok(join_key) = JoinKey::parse(signed.bytes()) {
            assert_eq!(join_key.bytes(), signed.bytes());
        }
    }
    let signer = OrgKey::from_seed([1; 32].into()).public();
    let trust = Trust { org: "acme".parse().expect("a name"), signer };
    if let Ok(view) = View::first(&trust, &snapshot) {
        assert_eq!(View::first(&trust, &view.snapshot(0)), Ok(view));
    }
}

/// A token that is read is written as one that is the same.
pub(super) fn token(data: &[u8]) {
    let text = std::str::from_utf8(data).unwrap_or_default();
    match text.parse::<Token>() {
        Ok(token) => assert_eq!(token.reveal().parse(), Ok(token)),
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}
