//! What any store has to make sure of.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use portway_mesh::org::store::{Commit, Store};
use portway_mesh::org::{
    Device, OrgKey, OrgName, Pool, Refusal, Registration, Registry, RegistryError, Secret, Settings, Terms,
    Write,
};
use portway_mesh::spec::PrivateKey;
use portway_model::CidrList;

fn org() -> OrgName {
    "acme".parse().unwrap()
}

fn signer() -> Arc<OrgKey> {
    Arc::new(OrgKey::from_seed([1; 32].into()))
}

fn settings() -> Settings {
    let block = "10.0.0.0/16".parse::<CidrList>().unwrap().blocks()[0];
    Settings { pool: Pool::new(block, [0xfd, 1, 2, 3, 4, 5], Vec::new()).unwrap(), quarantine_seconds: 60 }
}

/// A new organization with a key to join with for so many.
pub(crate) async fn made(store: &Arc<dyn Store>, uses: u32) -> Registry {
    let registry = Registry::create(org(), signer(), Arc::clone(store), settings()).await.unwrap();
    let terms = Terms { uses_left: Some(uses), ..Terms::default() };
    let add = |ledger: &portway_mesh::org::Ledger, now| {
        let step = ledger.add_key(&Secret::from_bytes([1; 32]), terms.clone(), now)?;
        Ok(((), Some(step)))
    };
    registry.change(add).await.unwrap();
    registry
}

/// Another registrar of the same organization.
pub(crate) fn opened(store: &Arc<dyn Store>) -> Registry {
    Registry::new(org(), signer(), Arc::clone(store))
}

fn asks(number: u8, request_ip: Option<Ipv4Addr>) -> Registration {
    Registration {
        key: PrivateKey::from_bytes(&[number; 32]).unwrap().public(),
        secret: Secret::from_bytes([1; 32]),
        name: format!("d{number}").parse().unwrap(),
        request_ip,
        endpoints: Vec::new(),
    }
}

pub(crate) async fn join(
    registry: &Registry,
    number: u8,
    request_ip: Option<Ipv4Addr>,
) -> Result<Device, RegistryError> {
    let asked = asks(number, request_ip);
    let register = |ledger: &portway_mesh::org::Ledger, now| {
        ledger.register(&asked, now).map(|registered| (registered.device, registered.step))
    };
    registry.change(register).await
}

/// `count` devices, each by a registrar of its own, at once: who got in, and why the others did not.
async fn all_at_once(
    store: &Arc<dyn Store>,
    count: u8,
    request_ip: Option<Ipv4Addr>,
) -> (Vec<Device>, Vec<String>) {
    let start = Arc::new(tokio::sync::Barrier::new(count.into()));
    let tasks: Vec<_> = (1..=count)
        .map(|number| {
            let (registry, start) = (opened(store), Arc::clone(&start));
            tokio::spawn(async move {
                // All have read the same before any of them writes.
                registry.look(|_| ()).await.unwrap();
                start.wait().await;
                join(&registry, number, request_ip).await
            })
        })
        .collect();
    let (mut joined, mut refused) = (Vec::new(), Vec::new());
    for task in tasks {
        match task.await.unwrap() {
            Ok(device) => joined.push(device),
            Err(RegistryError::Refused(refusal)) => refused.push(refusal.code().to_owned()),
            Err(error) => panic!("{error}"),
        }
    }
    (joined, refused)
}

pub(crate) async fn one_address(store: Arc<dyn Store>) {
    let registry = made(&store, 100).await;
    let (joined, refused) = all_at_once(&store, 2, Some(Ipv4Addr::new(10, 0, 3, 4))).await;
    assert_eq!((joined.len(), refused), (1, vec!["address_taken".to_owned()]));
    let stored = opened(&store);
    assert_eq!(
        stored.look(|ledger| ledger.view().devices().cloned().collect::<Vec<_>>()).await.unwrap(),
        joined
    );
    drop(registry);
}

pub(crate) async fn single_use(store: Arc<dyn Store>) {
    let _made = made(&store, 1).await;
    let (joined, refused) = all_at_once(&store, 8, None).await;
    assert_eq!((joined.len(), refused), (1, vec!["key_used_up".to_owned(); 7]));
}

pub(crate) async fn again(store: Arc<dyn Store>) {
    let first = made(&store, 1).await;
    let device = join(&first, 1, None).await.unwrap();
    let revision = first.look(|ledger| ledger.view().revision()).await.unwrap();
    assert_eq!(join(&first, 1, None).await.unwrap(), device);
    let other = opened(&store);
    assert_eq!(join(&other, 1, None).await.unwrap(), device);
    assert_eq!(other.look(|ledger| ledger.view().revision()).await.unwrap(), revision);
}

/// What one registrar does, the devices of another one are told, within a second.
pub(crate) async fn revoked(store: Arc<dyn Store>) {
    let here = made(&store, 9).await;
    join(&here, 1, None).await.unwrap();
    let there = Arc::new(opened(&store));
    let mut told = there.watch();
    let follow = tokio::spawn({
        let there = Arc::clone(&there);
        async move { there.follow().await }
    });
    let wait = async |told: &mut tokio::sync::watch::Receiver<_>, count: usize| {
        let is_so = |view: &Option<Arc<portway_mesh::org::View>>| {
            view.as_ref().is_some_and(|view| view.devices().count() == count)
        };
        tokio::time::timeout(Duration::from_secs(10), told.wait_for(is_so)).await.unwrap().unwrap();
    };
    wait(&mut told, 1).await;
    join(&here, 2, None).await.unwrap();
    wait(&mut told, 2).await;
    let name = "d1".parse().unwrap();
    here.change(|ledger, now| Ok(((), Some(ledger.revoke(&name, now)?)))).await.unwrap();
    wait(&mut told, 1).await;
    let refused = join(&there, 1, None).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Refused(Refusal::Revoked)), "{refused}");
    follow.abort();
}

pub(crate) async fn created_once(store: Arc<dyn Store>) {
    let _made = made(&store, 1).await;
    created_again(store).await;
}

/// The same where there is one already.
pub(crate) async fn created_again(store: Arc<dyn Store>) {
    let again = Registry::create(org(), signer(), store, settings()).await.unwrap_err();
    assert_eq!(again.to_string(), "there is an organization acme already");
}

/// More than fit in one answer; those of an organization whose name only begins alike are not among them.
pub(crate) async fn many(store: Arc<dyn Store>) {
    let (mut version, mut expected) = (0, BTreeMap::new());
    for page in 0..25 {
        let entries = (0..100).map(|number| (format!("member/{page}-{number:02}"), vec![page; 300]));
        let mut page: BTreeMap<String, Vec<u8>> = entries.collect();
        page.insert(Write::HEAD.to_owned(), vec![1]);
        let put =
            |(name, value): (&String, &Vec<u8>)| Write::Put { name: name.clone(), value: value.clone() };
        let writes: Vec<Write> = page.iter().map(put).collect();
        let Commit::Done(now) = store.commit(&org(), version, &writes).await.unwrap() else {
            panic!("conflict")
        };
        assert!(now > version);
        version = now;
        expected.extend(page);
    }
    let other = [Write::Put { name: Write::HEAD.to_owned(), value: vec![2] }];
    for name in ["acme0", "acme-1", "acm"] {
        assert!(matches!(store.commit(&name.parse().unwrap(), 0, &other).await.unwrap(), Commit::Done(_)));
    }
    let image = store.load(&org()).await.unwrap();
    assert_eq!(image.version, version);
    assert_eq!(image.entries, expected);
    let gone = [Write::Delete { name: "member/3-07".to_owned() }];
    assert_eq!(store.commit(&org(), version + 1000, &gone).await.unwrap(), Commit::Conflict);
    assert_eq!(store.load(&org()).await.unwrap(), image);
}
