//! The store in a file.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use portway_mesh::org::store::{FileStore, Store};
use tempfile::TempDir;

use crate::cases;

fn store(dir: &TempDir) -> Arc<dyn Store> {
    Arc::new(FileStore::open(&dir.path().join("registrar.redb")).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_is_had_by_one_of_two() {
    let dir = TempDir::new().unwrap();
    cases::one_address(store(&dir)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_one_is_used_by_one_of_many() {
    let dir = TempDir::new().unwrap();
    cases::single_use(store(&dir)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_again_changes_nothing() {
    let dir = TempDir::new().unwrap();
    cases::again(store(&dir)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_is_so_at_every_registrar() {
    let dir = TempDir::new().unwrap();
    cases::revoked(store(&dir)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_one_organizations() {
    let dir = TempDir::new().unwrap();
    cases::created_once(store(&dir)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_entries_are_all_read() {
    let dir = TempDir::new().unwrap();
    cases::many(store(&dir)).await;
}

/// Fails when: two registrars write one file, or others can read it, or it is empty when it is opened again.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_one_registrars_and_stays() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("registrar.redb");
    let first = store(&dir);
    let registry = cases::made(&first, 1).await;
    cases::join(&registry, 1, None).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let second = FileStore::open(&path).unwrap_err().to_string();
    assert!(second.contains("registrar.redb"), "{second}");
    drop((registry, first));
    let again = cases::opened(&store(&dir));
    assert_eq!(again.look(|ledger| ledger.view().devices().count()).await.unwrap(), 1);
}

#[test]
fn what_is_no_store_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.redb");
    std::fs::write(&path, "some other file, and long enough to be looked at".repeat(200)).unwrap();
    let refused = FileStore::open(&path).unwrap_err().to_string();
    assert!(refused.contains("x.redb") && !refused.contains('\n'), "{refused}");
}
