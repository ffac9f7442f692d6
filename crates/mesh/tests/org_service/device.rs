//! Devices that join and follow.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use portway_mesh::org::follow::{Following, News, follow};
use portway_mesh::org::membership::{Membership, MembershipError, Wish};
use portway_mesh::org::{Change, ClientError, OrgName};
use portway_mesh::stun::Transaction;

use crate::bed::{Bed, PATIENCE};

fn acme() -> OrgName {
    "acme".parse().unwrap()
}

/// The next news that a tunnel has to follow.
pub(crate) async fn news(following: &mut Following) -> News {
    loop {
        let next = tokio::time::timeout(PATIENCE, following.news.recv()).await.unwrap().unwrap();
        if matches!(next, News::Changes(_) | News::Revoked) {
            return next;
        }
    }
}

pub(crate) fn code(error: &MembershipError) -> String {
    match error {
        MembershipError::Client(ClientError::Refused { status, failure }) => {
            format!("{status} {}", failure.code)
        }
        error => error.to_string(),
    }
}

/// Fails when: joining again makes another device or uses the key again, or a file can be read by others.
#[tokio::test(flavor = "multi_thread")]
async fn joining_twice_is_joining_once() {
    let bed = Bed::new().await;
    let token = bed.token(Some(1)).await;
    let first = bed.join("one", &token).await.unwrap();
    let again = bed.join("one", &token).await.unwrap();
    assert_eq!(first.own().unwrap(), again.own().unwrap());
    assert_eq!(code(&bed.join("two", &token).await.unwrap_err()), "403 key_used_up");
    let mut files: Vec<_> = std::fs::read_dir(first.folder()).unwrap().map(|entry| entry.unwrap()).collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    let names: Vec<_> = files.iter().map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["member.json", "private.key", "snapshot.json", "snapshot.lock"]);
    assert!(files.iter().all(|entry| entry.metadata().unwrap().permissions().mode() & 0o777 == 0o600));
    assert_eq!(first.folder().metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

/// Fails when: of a join that was cut short after the registrar had done it, a second device is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_was_cut_short_is_taken_up() {
    let bed = Bed::new().await;
    let token = bed.token(Some(1)).await;
    let first = bed.join("one", &token).await.unwrap();
    let own = first.own().unwrap().clone();
    std::fs::remove_file(first.folder().join("member.json")).unwrap();
    std::fs::remove_file(first.folder().join("snapshot.json")).unwrap();
    assert_eq!(*bed.join("one", &token).await.unwrap().own().unwrap(), own);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_asked_for_is_had_or_refused() {
    let bed = Bed::new().await;
    let token = bed.token(None).await;
    let wish = |name: &str, ip: &str| Wish {
        name: name.parse().unwrap(),
        request_ip: Some(ip.parse().unwrap()),
        endpoints: Vec::new(),
    };
    let one = bed.join_as(&bed.home("one"), &token, &wish("one", "10.77.0.9")).await.unwrap();
    assert_eq!(one.own().unwrap().ip4.to_string(), "10.77.0.9");
    let cases = [
        ("two", "10.77.0.9", "409 address_taken"),
        ("two", "10.1.0.1", "409 address_outside"),
        ("one", "10.77.0.7", "409 name_taken"),
    ];
    for (name, ip, expected) in cases {
        let refused = bed.join_as(&bed.home("two"), &token, &wish(name, ip)).await.unwrap_err();
        assert_eq!(code(&refused), expected);
    }
}

/// Fails when: a device is not told of others within two seconds, of an endpoint, or of a membership that ended.
#[tokio::test(flavor = "multi_thread")]
async fn who_follows_is_told_at_once() {
    let bed = Bed::new().await;
    let token = bed.token(None).await;
    bed.join("one", &token).await.unwrap();
    let mut told = follow(&bed.home("one").join("acme"), &acme()).unwrap();
    assert_eq!(told.member.view().devices().count(), 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    let two = bed.join("two", &token).await.unwrap();
    let News::Changes(changes) = news(&mut told).await else { panic!("revoked") };
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let [Change::Added(peer)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(peer.public_key, two.key().public());
    let at = portway_mesh::org::endpoint("198.51.100.7:51820").unwrap();
    let wish = Wish { name: "two".parse().unwrap(), request_ip: None, endpoints: vec![at.clone()] };
    bed.join_as(&bed.home("two"), &token, &wish).await.unwrap();
    let News::Changes(changes) = news(&mut told).await else { panic!("revoked") };
    let [Change::Altered(peer)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(peer.endpoint, Some(at));
    let start = Instant::now();
    bed.owner().delete("/v1/orgs/acme/devices/two").await.unwrap();
    assert_eq!(news(&mut told).await, News::Changes(vec![Change::Removed(two.key().public())]));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    bed.owner().delete("/v1/orgs/acme/devices/one").await.unwrap();
    assert_eq!(news(&mut told).await, News::Revoked);
    assert_eq!(code(&bed.join("one", &token).await.unwrap_err()), "403 revoked");
}

/// Fails when: a device cannot start without the registrar, loses peers meanwhile, or does not find back to it.
#[tokio::test(flavor = "multi_thread")]
async fn the_registrar_is_away_for_a_while() {
    let mut bed = Bed::new().await;
    let token = bed.token(None).await;
    bed.join("one", &token).await.unwrap();
    bed.join("two", &token).await.unwrap();
    // What one knows of two is from the last time that it asked.
    bed.join("one", &token).await.unwrap();
    bed.stop().await;
    let mut told = follow(&bed.home("one").join("acme"), &acme()).unwrap();
    let News::Changes(changes) = news(&mut told).await else { panic!("revoked") };
    assert!(matches!(changes.as_slice(), [Change::Added(_)]), "{changes:?}");
    let refused = bed.join("three", &token).await.unwrap_err();
    assert!(matches!(refused, MembershipError::Client(ClientError::Unreachable { .. })), "{refused}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut is_said = false;
    while let Ok(next) = told.news.try_recv() {
        assert!(matches!(next, News::Away(_)), "{next:?}");
        is_said = true;
    }
    assert!(is_said, "that the registrar is away");
    bed.start().await;
    let three = bed.join("three", &token).await.unwrap();
    let News::Changes(changes) = news(&mut told).await else { panic!("revoked") };
    let [Change::Added(peer)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(peer.public_key, three.key().public());
}

/// Fails when: a revocation that cannot be written to disk is not told, or the registrar counts as away by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_no_revocation_away() {
    let bed = Bed::new().await;
    let token = bed.token(None).await;
    let two = bed.join("two", &token).await.unwrap();
    let one = bed.join("one", &token).await.unwrap();
    let mut told = follow(&bed.home("one").join("acme"), &acme()).unwrap();
    assert!(matches!(news(&mut told).await, News::Changes(_)));
    // Nothing can take the place of a folder, whoever tries.
    let path = one.folder().join("snapshot.json");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    bed.owner().delete("/v1/orgs/acme/devices/two").await.unwrap();
    loop {
        let next = tokio::time::timeout(PATIENCE, told.news.recv()).await.unwrap().unwrap();
        assert!(!matches!(next, News::Away(_)), "{next:?}");
        if let News::Changes(changes) = next {
            assert_eq!(changes, [Change::Removed(two.key().public())]);
            break;
        }
    }
}

/// Fails when: a process that knows less takes back on disk what another one knows.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_never_older() {
    let bed = Bed::new().await;
    let token = bed.token(None).await;
    let mut late = bed.join("one", &token).await.unwrap();
    let early = late.view().snapshot(0);
    bed.join("two", &token).await.unwrap();
    let now = bed.join("one", &token).await.unwrap();
    assert!(now.view().revision() > late.view().revision());
    let on_disk = || Membership::load(&bed.home("one"), &acme()).unwrap().view().revision();
    assert_eq!(on_disk(), now.view().revision());
    late.take(&early).unwrap();
    assert_eq!(on_disk(), now.view().revision());
    // Of another organization's revisions nothing follows: what is not believed is written over.
    let path = late.folder().join("snapshot.json");
    std::fs::write(&path, "{}").unwrap();
    late.take(&early).unwrap();
    assert_eq!(on_disk(), late.view().revision());
}

/// Fails when: a file of the device is believed without its signatures.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_on_disk_is_verified() {
    let bed = Bed::new().await;
    let one = bed.join("one", &bed.token(None).await).await.unwrap();
    let path = one.folder().join("snapshot.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let place = text.find("\"records\":[\"").unwrap() + 40;
    let mut bytes = text.into_bytes();
    bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
    std::fs::write(&path, bytes).unwrap();
    let refused = Membership::load(&bed.home("one"), &acme()).unwrap_err().to_string();
    assert!(
        refused.ends_with("snapshot.json is damaged: the signature of a record does not hold"),
        "{refused}"
    );
    let other = Membership::load(&bed.home("two"), &acme()).unwrap_err();
    assert_eq!(other.to_string(), "this device has not joined organization acme");
}

/// Fails when: a device is not told where its datagrams come from, or a stranger's datagram is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_told_where_it_comes_from() {
    let bed = Bed::new().await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket.connect(("127.0.0.1", bed.port)).unwrap();
    let mut room = [0; 64];
    socket.send(&[1, 0, 0, 0, 9, 9, 9, 9]).unwrap();
    assert!(socket.recv(&mut room).is_err());
    let transaction = Transaction::generate().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(&transaction.request()).unwrap();
    let length = socket.recv(&mut room).unwrap();
    let told = transaction.mapped(&room[..length]).unwrap();
    assert_eq!((told.address, told.other_port), (socket.local_addr().unwrap(), None));
}
