//! What proofs come to. Who proves what is tested with real servers and clients.

use super::*;

fn claim() -> Claim {
    let text = |text: &str| text.to_owned();
    let place = Target {
        remote: text("local"),
        project: text("default"),
        instance: text("c1"),
        instance_user: text("bob"),
    };
    Claim { place, host_user: text("ann"), keep: None, create: None, errand: None }
}

fn proof(method: Method, who: Who) -> Proof {
    Proof { method, who, key: None, principals: Vec::new(), options: KeyGrant::default() }
}

fn ann() -> Who {
    let groups = vec!["incus".to_owned()];
    Who::Host(Arc::new(HostUser { name: "ann".to_owned(), uid: 7, home: "/".to_owned(), groups }))
}

/// Fails when: a code alone makes a person, or a user of an instance becomes one of the host.
#[test]
fn proofs_make_one_person() {
    use Method::{KeyboardInteractive, Password, PublicKey};
    let code = || proof(KeyboardInteractive, Who::Code);
    assert_eq!(grant(claim(), &[code()], false), None);
    assert_eq!(grant(claim(), &[], false), None);
    let inside = grant(claim(), &[proof(Password, Who::Inside), code()], false).expect("a person");
    assert_eq!(
        (inside.person.as_str(), inside.is_inside, inside.uid, inside.proof.as_str()),
        ("instance:local/default/c1/bob", true, None, "password,keyboard-interactive")
    );
    let host = grant(claim(), &[proof(PublicKey, ann()), proof(Password, Who::Inside)], false);
    let host = host.expect("a person");
    assert_eq!((host.person.as_str(), host.is_inside, host.uid), ("ann", false, Some(7)));
    let mixed = [proof(PublicKey, Who::Inside), proof(Password, ann())];
    assert_eq!(grant(claim(), &mixed, false), None, "a key that the instance has given");
}

/// Fails when: what one proof forbids another allows.
#[test]
fn the_narrowest_counts() {
    let with = |options| Proof { options, ..proof(Method::PublicKey, ann()) };
    let forced = |command: &str| KeyGrant { command: Some(command.to_owned()), ..KeyGrant::default() };
    let both = grant(claim(), &[with(KeyGrant::restricted()), with(forced("x"))], false).expect("a person");
    assert!(!both.options.pty && both.options.command.as_deref() == Some("x"));
    assert_eq!(grant(claim(), &[with(forced("x")), with(forced("y"))], false), None);
}
