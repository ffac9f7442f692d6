//! The store in etcd: real members, killed and compacted.

use std::time::{Duration, Instant};

use portway_mesh::org::store::{EtcdAddress, Store, StoreError};
use portway_mesh::org::{OrgName, RegistryError};

use crate::cases;
use crate::server::{Servers, is_there};

#[tokio::test(flavor = "multi_thread")]
async fn one_address_is_had_by_one_of_two() {
    if is_there() {
        cases::one_address(Servers::start(1, false).store()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_store_makes_sure_of_the_same() {
    if !is_there() {
        return;
    }
    let servers = Servers::start(1, false);
    cases::single_use(servers.store()).await;
    drop(servers);
    let servers = Servers::start(1, false);
    cases::again(servers.store()).await;
    cases::created_again(servers.store()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_is_so_at_every_registrar() {
    if is_there() {
        let servers = Servers::start(1, false);
        cases::revoked(servers.store()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_entries_are_all_read() {
    if is_there() {
        let servers = Servers::start(1, false);
        cases::many(servers.store()).await;
    }
}

/// Fails when: a watch from a revision that is compacted away hangs, or leads to anything but reading anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_during_a_watch_is_read_over() {
    if !is_there() {
        return;
    }
    let servers = Servers::start(1, false);
    let store = servers.store();
    let registry = cases::made(&store, 50).await;
    let old = store.load(&org()).await.unwrap();
    for number in 1..=20 {
        cases::join(&registry, number, None).await.unwrap();
        if number % 6 == 0 {
            servers.compact();
        }
    }
    let changed = tokio::time::timeout(Duration::from_secs(10), store.changed(&org(), old.version)).await;
    changed.unwrap().unwrap();
    // One that waits while it happens is told of the next change.
    let now = store.load(&org()).await.unwrap();
    let (waiting, version) = (servers.store(), now.version);
    let told = tokio::spawn(async move { waiting.changed(&org(), version).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    servers.compact();
    assert!(!told.is_finished());
    cases::join(&registry, 21, None).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), told).await.unwrap().unwrap().unwrap();
    let again = cases::opened(&store);
    assert_eq!(again.look(|ledger| ledger.view().devices().count()).await.unwrap(), 21);
}

/// Fails when: what was said to be done is lost, what was not is done twice, or a registrar does not find back.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_killed_and_comes_back() {
    if !is_there() {
        return;
    }
    let mut servers = Servers::start(1, false);
    let store = servers.store();
    let registry = cases::made(&store, 9).await;
    for round in 0..3 {
        let device = cases::join(&registry, 10 + round, None).await.unwrap();
        servers.kill(0);
        let refused = cases::join(&registry, 20 + round, None).await.unwrap_err();
        assert!(matches!(refused, RegistryError::Store(StoreError::Unreachable(_))), "{refused}");
        servers.run(0);
        servers.wait(0);
        assert_eq!(cases::join(&registry, 10 + round, None).await.unwrap(), device);
        let other = cases::opened(&store);
        let count = other.look(|ledger| ledger.view().devices().count()).await.unwrap();
        assert_eq!(count, usize::from(round) + 1);
    }
    assert_eq!(left(&store).await, Some(6));
}

/// Fails when: one of three members dies, and registrars that know the others stand still or lose a use of a key.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_members_is_killed() {
    if !is_there() {
        return;
    }
    let mut servers = Servers::start(3, false);
    let store = servers.store();
    let registry = cases::made(&store, 100).await;
    let mut joined = 0;
    for round in 0..3 {
        servers.kill(round);
        let start = Instant::now();
        for number in 0..5 {
            let number = u8::try_from(round * 10 + number + 1).unwrap();
            // Without a leader etcd says that it could not, or nothing; the device asks again.
            while let Err(error) = cases::join(&registry, number, None).await {
                assert!(matches!(error, RegistryError::Store(_) | RegistryError::Busy(_)), "{error}");
                assert!(start.elapsed() < Duration::from_secs(60), "{error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            joined += 1;
        }
        servers.run(round);
        servers.wait(round);
    }
    assert_eq!(left(&store).await, Some(100 - joined));
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_over_tls_knows_us_by_our_certificate() {
    if !is_there() {
        return;
    }
    let servers = Servers::start(1, true);
    let registry = cases::made(&servers.store(), 1).await;
    cases::join(&registry, 1, None).await.unwrap();
    // Without TLS, and over TLS with another authority's certificate, nobody is spoken to.
    let plain: EtcdAddress = servers.address().replace("etcds", "etcd").parse().unwrap();
    let refused = portway_mesh::org::store::Etcd::new(plain).load(&org()).await.unwrap_err();
    assert!(!refused.to_string().contains('\n'), "{refused}");
    let other = Servers::start(1, true);
    let address: EtcdAddress = servers.address().parse().unwrap();
    let refused =
        portway_mesh::org::store::Etcd::new(address.with_tls(other.client_tls())).load(&org()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer") || refused.contains("certificate"), "{refused}");
}

#[test]
fn addresses_of_etcd() {
    let parsed = |text: &str| text.parse::<EtcdAddress>().map(|address| format!("{address:?}"));
    assert_eq!(parsed("etcd://a:1,[::1]:2,c").unwrap(), r#"["a:1", "[::1]:2", "c:2379"]"#);
    for wrong in ["", "etcd://", "http://a", "etcd://a:0", "etcd://a,,b", "a:2379", "etcd://a b"] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
}

fn org() -> OrgName {
    "acme".parse().unwrap()
}

/// Uses that the key has left.
async fn left(store: &std::sync::Arc<dyn Store>) -> Option<u32> {
    let registry = cases::opened(store);
    registry.look(|ledger| ledger.join_keys().next().unwrap().terms.uses_left).await.unwrap()
}
