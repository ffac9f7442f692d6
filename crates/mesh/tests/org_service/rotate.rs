//! A device that gets another key, and is stopped at each step of it.

use std::path::{Path, PathBuf};

use portway_mesh::org::follow::{Following, News, follow};
use portway_mesh::org::membership::{Membership, MembershipError};
use portway_mesh::org::{Change, ClientError, Device, OrgName};
use portway_mesh::spec::PublicKey;

use crate::bed::{Bed, PATIENCE};
use crate::device::{code, news};

fn acme() -> OrgName {
    "acme".parse().unwrap()
}

async fn rotate(home: &Path) -> Result<Membership, MembershipError> {
    tokio::time::timeout(PATIENCE, Membership::rotate(home, &acme())).await.unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

const WHOLE: [&str; 4] = ["member.json", "private.key", "snapshot.json", "snapshot.lock"];

/// The next changes of which one is that this device has another key.
async fn told_of_own(following: &mut Following) -> PublicKey {
    loop {
        let News::Changes(changes) = news(following).await else { panic!("revoked") };
        let own = changes.iter().find_map(|change| match change {
            Change::Own(key) => Some(key.public()),
            _ => None,
        });
        if let Some(own) = own {
            assert!(changes.iter().any(|change| matches!(change, Change::Altered(_))), "{changes:?}");
            return own;
        }
    }
}

/// Fails when: a device that has another key is not who it was, those that follow are not told at once, it does not take
/// the key up where it runs, or whoever has the old one is let in.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_while_all_follow() {
    let bed = Bed::new().await;
    let token = bed.token(None).await;
    let one = bed.join("one", &token).await.unwrap();
    let two = bed.join("two", &token).await.unwrap();
    let old = one.own().unwrap().clone();
    let thief = bed.home("thief").join("acme");
    std::fs::create_dir_all(&thief).unwrap();
    for name in WHOLE {
        std::fs::copy(one.folder().join(name), thief.join(name)).unwrap();
    }
    let mut told = follow(two.folder(), &acme()).unwrap();
    assert!(matches!(news(&mut told).await, News::Changes(_)));
    let mut own = follow(one.folder(), &acme()).unwrap();
    assert!(matches!(news(&mut own).await, News::Changes(_)));
    let mut stolen = follow(&thief, &acme()).unwrap();

    let rotated = rotate(&bed.home("one")).await.unwrap();
    let new = rotated.own().unwrap();
    assert_eq!(*new, Device { key: new.key, revision: new.revision, ..old.clone() });
    assert_ne!(new.key, old.key);
    assert_eq!(names(rotated.folder()), WHOLE);
    let News::Changes(changes) = news(&mut told).await else { panic!("revoked") };
    let [Change::Rekeyed(former, peer)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((*former, peer.public_key), (old.key, new.key));
    assert_eq!(told_of_own(&mut own).await, new.key);
    while !matches!(news(&mut stolen).await, News::Revoked) {}
    assert_eq!(code(&bed.join_as(&bed.home("thief"), &token, &wish()).await.unwrap_err()), "403 revoked");
    assert_eq!(code(&rotate(&bed.home("thief")).await.unwrap_err()), "403 revoked");
    // It goes on being told as who it is.
    let third = bed.join("three", &token).await.unwrap();
    let News::Changes(changes) = news(&mut own).await else { panic!("revoked") };
    assert!(matches!(&changes[..], [Change::Added(peer)] if peer.public_key == third.key().public()));
    assert_eq!(bed.join("one", &token).await.unwrap().own().unwrap().key, new.key);
}

fn wish() -> portway_mesh::org::membership::Wish {
    portway_mesh::org::membership::Wish {
        name: "one".parse().unwrap(),
        request_ip: None,
        endpoints: Vec::new(),
    }
}

/// What a device was to become when it was stopped.
struct Stopped {
    folder: PathBuf,
    new: PublicKey,
    revision: u64,
}

/// A device that was stopped before its key was replaced, or before it had written down the records, too.
async fn stopped(home: &Path, with_records: bool) -> Stopped {
    let folder = home.join("acme");
    let kept = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (key, snapshot) = (kept("private.key"), kept("snapshot.json"));
    let rotated = rotate(home).await.unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    put("private.key.next", &kept("private.key"));
    put("private.key", &key);
    if !with_records {
        put("snapshot.json", &snapshot);
    }
    Stopped { new: rotated.key().public(), revision: rotated.view().revision(), folder }
}

/// Fails when: a device that was stopped after the registrar had done it, and before it was told or had written it down, is
/// locked out, whatever it does next; or has a third key then.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_stopped_goes_on() {
    let mut bed = Bed::new().await;
    let token = bed.token(None).await;
    let home = bed.home("one");
    bed.join("one", &token).await.unwrap();
    bed.join("two", &token).await.unwrap();
    bed.join("one", &token).await.unwrap();

    // Asked again.
    let at = stopped(&home, false).await;
    let again = rotate(&home).await.unwrap();
    assert_eq!((again.key().public(), again.view().revision()), (at.new, at.revision));
    assert_eq!(names(&at.folder), WHOLE);

    // It runs as a network.
    let at = stopped(&home, false).await;
    let mut following = follow(&at.folder, &acme()).unwrap();
    assert_ne!(following.member.key().public(), at.new);
    assert_eq!(told_of_own(&mut following).await, at.new);
    drop(following);
    assert_eq!(names(&at.folder), WHOLE);

    // It joins once more.
    let at = stopped(&home, false).await;
    assert_eq!(bed.join("one", &token).await.unwrap().key().public(), at.new);
    assert_eq!(names(&at.folder), WHOLE);

    // The records are there: nobody has to be asked.
    let at = stopped(&home, true).await;
    bed.stop().await;
    let known = Membership::load(&home, &acme()).unwrap();
    assert_eq!(known.own().unwrap().key, at.new);
    assert_eq!(names(&at.folder), WHOLE);

    // Nobody answers: nothing has happened, and the next try takes the same key.
    let refused = rotate(&home).await.unwrap_err();
    assert!(matches!(refused, MembershipError::Client(ClientError::Unreachable { .. })), "{refused}");
    assert_eq!(Membership::load(&home, &acme()).unwrap().own().unwrap().key, at.new);
    let next = std::fs::read(at.folder.join("private.key.next")).unwrap();
    bed.start().await;
    assert_eq!(bed.join("one", &token).await.unwrap().key().public(), at.new);
    let last = rotate(&home).await.unwrap();
    assert_eq!(std::fs::read(at.folder.join("private.key")).unwrap(), next);
    assert_eq!(last.view().revision(), at.revision + 1);
    // One that is revoked is so, whatever key was prepared.
    std::fs::write(at.folder.join("private.key.next"), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\n")
        .unwrap();
    let mut following = follow(&at.folder, &acme()).unwrap();
    bed.owner().delete("/v1/orgs/acme/devices/one").await.unwrap();
    while !matches!(news(&mut following).await, News::Revoked) {}
    assert_eq!(code(&rotate(&home).await.unwrap_err()), "403 revoked");
    assert_eq!(code(&bed.join("one", &token).await.unwrap_err()), "403 revoked");
}

/// Fails when: of several who would give one device a key at once two do, or none, or what is on disk then is not a member's.
#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_are_one_after_the_other() {
    let bed = Bed::new().await;
    let token = bed.token(None).await;
    bed.join("one", &token).await.unwrap();
    let home = bed.home("one");
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let home = home.clone();
            tokio::spawn(async move { rotate(&home).await.map(|member| member.view().revision()) })
        })
        .collect();
    let (mut done, mut busy) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => done += 1,
            Err(MembershipError::Busy) => busy += 1,
            Err(error) => panic!("{}", code(&error)),
        }
    }
    assert!(done >= 1 && done + busy == 6, "{done} {busy}");
    let known = Membership::load(&home, &acme()).unwrap();
    let own = known.own().unwrap().key;
    assert_eq!(bed.join("one", &token).await.unwrap().own().unwrap().key, own);
    assert_eq!(names(known.folder()), WHOLE);
}
