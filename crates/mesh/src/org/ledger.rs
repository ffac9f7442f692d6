//! All that a registrar knows of one organization, and what may become of it.
//!
//! A change is a [`Step`]: the ledger afterwards, and what is to be written, all of it or nothing, if nobody else has
//! changed the head meanwhile. That one condition is enough: every rule is checked here, against records whose signatures
//! and digests hold, so a store that loses, changes or sets back a record is found out before anything is signed on it.

mod rotate;

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use portway_model::Cidr;
use thiserror::Error;

use super::digest::Digest;
use super::head::{Head, Settings};
use super::join_key::{JoinKey, KeyId, Terms};
use super::label::{DeviceName, OrgName};
use super::record::{Device, Record, Revoked};
use super::refusal::Refusal;
use super::signed::{OrgKey, Signed};
use super::snapshot::Snapshot;
use super::token::Secret;
use super::view::{Member, Trust, Unverified, View, digest_of};
use super::wire::Malformed;
use crate::spec::{Endpoint, PublicKey};

/// Most records of one organization, former members counted.
const RECORDS_MAX: usize = 50_000;

/// Most keys to join with at a time.
const JOIN_KEYS_MAX: usize = 4096;

/// Where the head is in a store.
const HEAD: &str = "head";
const MEMBER: &str = "member/";
const JOIN_KEY: &str = "key/";

/// Something to be written to a store, below its organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// It is this from then on.
    Put {
        /// What it is called.
        name: String,
        /// What it is.
        value: Vec<u8>,
    },
    /// It is no more.
    Delete {
        /// What it is called.
        name: String,
    },
}

impl Write {
    /// What the head is called: the entry that every step writes.
    pub const HEAD: &'static str = HEAD;
}

/// Why what a store has is not used.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// It has no head.
    #[error("the store has no head")]
    NoHead,
    /// Something that no registrar puts there.
    #[error("the store has an entry that is none: {0}")]
    Entry(#[from] Malformed),
    /// Changed, missing or too much.
    #[error("the store has other records than were signed")]
    Records(#[from] Unverified),
    /// The same of the keys to join with.
    #[error("the store has other keys to join with than were signed")]
    JoinKeys,
}

/// A device that asks to become a member.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its key, proven to be its own.
    pub key: PublicKey,
    /// The secret of its token.
    pub secret: Secret,
    /// The name it would have.
    pub name: DeviceName,
    /// This address or none.
    pub request_ip: Option<Ipv4Addr>,
    /// Where it says it is reached.
    pub endpoints: Vec<Endpoint>,
}

/// A device that is a member.
#[derive(Debug)]
pub struct Registered {
    /// Its record.
    pub device: Device,
    /// What has to be written first; `None` when it was a member already.
    pub step: Option<Step>,
}

/// A change: what is written, and what is so once it is.
#[derive(Debug)]
pub struct Step {
    /// Afterwards.
    pub ledger: Ledger,
    /// All of it or nothing, and only if the head is still the one before.
    pub writes: Vec<Write>,
}

/// All that a registrar knows of one organization.
#[derive(Debug, Clone)]
pub struct Ledger {
    signer: Arc<OrgKey>,
    view: View,
    join_keys: BTreeMap<[u8; 32], JoinKey>,
}

impl Ledger {
    /// A new organization without members.
    ///
    /// # Panics
    /// Never: what was signed just now holds.
    #[must_use]
    pub fn create(signer: Arc<OrgKey>, org: OrgName, settings: Settings, now: u64) -> Step {
        let head = Head {
            org,
            signer: signer.public(),
            settings,
            created: now,
            changed: now,
            revision: 1,
            records: digest_of(&BTreeMap::new()),
            join_keys: digest_of_keys(&BTreeMap::new()),
        };
        let signed = signer.sign(head.bytes());
        let put = Write::Put { name: HEAD.to_owned(), value: signed.pack() };
        let view = View { head, signed, members: BTreeMap::new() };
        Step { ledger: Ledger { signer, view, join_keys: BTreeMap::new() }, writes: vec![put] }
    }

    /// What a store has, verified.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn read(
        signer: Arc<OrgKey>,
        org: &OrgName,
        entries: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Ledger, LedgerError> {
        let head = Signed::unpack(entries.get(HEAD).ok_or(LedgerError::NoHead)?)?;
        let (mut records, mut join_keys) = (Vec::new(), BTreeMap::new());
        for (name, value) in entries {
            if name.starts_with(MEMBER) {
                records.push(Signed::unpack(value)?);
            } else if name.starts_with(JOIN_KEY) {
                let key = JoinKey::parse(value)?;
                join_keys.insert(key.hash, key);
            } else if name != HEAD {
                return Err(Malformed("name").into());
            }
        }
        let trust = Trust { org: org.clone(), signer: signer.public() };
        let view = View::first(&trust, &Snapshot { since: 0, head, records })?;
        if digest_of_keys(&join_keys) != view.head.join_keys {
            return Err(LedgerError::JoinKeys);
        }
        Ok(Ledger { signer, view, join_keys })
    }

    /// What devices may know.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whom devices believe.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust { org: self.view.head.org.clone(), signer: self.view.head.signer }
    }

    /// Keys to join with.
    pub fn join_keys(&self) -> impl Iterator<Item = &JoinKey> {
        self.join_keys.values()
    }

    /// Makes a device a member, if it is none: with one use of its key to join with.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn register(&self, asked: &Registration, now: u64) -> Result<Registered, Refusal> {
        match self.view.record(&asked.key) {
            Some(Record::Revoked(_)) => return Err(Refusal::Revoked),
            Some(Record::Device(device)) => {
                let is_other = asked.request_ip.is_some_and(|ip| ip != device.ip4);
                let device = device.clone();
                return if is_other {
                    Err(Refusal::AddressFixed(device.ip4))
                } else {
                    Ok(Registered { device, step: None })
                };
            }
            None => {}
        }
        let join_key = self.usable(&asked.secret, now)?;
        if self.view.members.len() >= RECORDS_MAX {
            return Err(Refusal::Full("records"));
        }
        if self.view.devices().any(|device| device.name == asked.name) {
            return Err(Refusal::NameTaken(asked.name.clone()));
        }
        let device = Device {
            org: self.view.head.org.clone(),
            key: asked.key,
            name: asked.name.clone(),
            ip4: self.address(asked, now)?,
            ip6: self.view.head.settings.pool.ip6(&asked.key),
            routes: self.routes(&join_key.terms)?,
            tags: join_key.terms.tags.clone(),
            endpoints: bounded(&asked.endpoints),
            created: now,
            revision: self.next_revision(),
            hub: false,
        };
        let mut draft = self.draft();
        let mut used = join_key.clone();
        if let Some(left) = &mut used.terms.uses_left {
            *left = left.saturating_sub(1);
            draft.put_key(used);
        }
        draft.put(Record::Device(device.clone()));
        Ok(Registered { device, step: Some(draft.finish(now)) })
    }

    fn usable(&self, secret: &Secret, now: u64) -> Result<&JoinKey, Refusal> {
        let join_key = self.join_keys.get(&secret.hash()).ok_or(Refusal::UnknownJoinKey)?;
        if join_key.terms.not_after.is_some_and(|last| now > last) {
            return Err(Refusal::Expired);
        }
        if join_key.terms.uses_left == Some(0) {
            return Err(Refusal::UsedUp);
        }
        Ok(join_key)
    }

    fn address(&self, asked: &Registration, now: u64) -> Result<Ipv4Addr, Refusal> {
        let pool = &self.view.head.settings.pool;
        let taken: HashSet<Ipv4Addr> = self.view.records().filter_map(|record| holds(record, now)).collect();
        match asked.request_ip {
            Some(ip) if !pool.has(ip) => Err(Refusal::AddressOutside(ip)),
            Some(ip) if taken.contains(&ip) => Err(Refusal::AddressTaken(ip)),
            Some(ip) => Ok(ip),
            None => pool.candidate(&asked.key, |ip| taken.contains(&ip)).ok_or(Refusal::NoAddress),
        }
    }

    fn routes(&self, terms: &Terms) -> Result<Vec<Cidr>, Refusal> {
        let pool = &self.view.head.settings.pool;
        let own = [Some(pool.block()), pool.block6()];
        let is_taken = |route: &Cidr| {
            own.iter().flatten().any(|own| own.contains(route.ip()) || route.contains(own.ip()))
                || self.view.devices().any(|device| device.routes.contains(route))
        };
        match terms.routes.iter().find(|route| is_taken(route)) {
            Some(route) => Err(Refusal::RouteTaken(*route)),
            None => Ok(terms.routes.clone()),
        }
    }

    /// Makes a key to join with.
    ///
    /// # Errors
    /// There are too many.
    pub fn add_key(&self, secret: &Secret, terms: Terms, now: u64) -> Result<Step, Refusal> {
        if self.join_keys.len() >= JOIN_KEYS_MAX {
            return Err(Refusal::Full("keys to join with"));
        }
        self.routes(&terms)?;
        let mut draft = self.draft();
        draft.put_key(JoinKey { hash: secret.hash(), terms, created: now });
        Ok(draft.finish(now))
    }

    /// Nobody joins with it any more; who has, stays.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_key(&self, id: KeyId, now: u64) -> Result<Step, Refusal> {
        let found = self.join_keys.values().find(|key| key.id() == id).ok_or(Refusal::NoJoinKey(id))?;
        let hash = found.hash;
        let mut draft = self.draft();
        draft.ledger.join_keys.remove(&hash);
        draft.writes.push(Write::Delete { name: key_name(&hash) });
        Ok(draft.finish(now))
    }

    /// Ends a membership for good.
    ///
    /// # Errors
    /// There is no such device.
    pub fn revoke(&self, name: &DeviceName, now: u64) -> Result<Step, Refusal> {
        let found = self.view.devices().find(|device| device.name == *name);
        let device = found.ok_or_else(|| Refusal::NoDevice(name.clone()))?;
        let mut draft = self.draft();
        draft.put(Record::Revoked(Revoked {
            org: device.org.clone(),
            key: device.key,
            name: device.name.clone(),
            ip4: device.ip4,
            at: now,
            quarantine_until: now.saturating_add(self.view.head.settings.quarantine_seconds),
            revision: self.next_revision(),
        }));
        Ok(draft.finish(now))
    }

    /// A member passes messages on for others from now on, or does so no more. `None` when it is so already.
    ///
    /// # Errors
    /// There is no such device.
    pub fn set_hub(&self, name: &DeviceName, hub: bool, now: u64) -> Result<Option<Step>, Refusal> {
        let found = self.view.devices().find(|device| device.name == *name);
        let device = found.ok_or_else(|| Refusal::NoDevice(name.clone()))?;
        if device.hub == hub {
            return Ok(None);
        }
        let mut draft = self.draft();
        draft.put(Record::Device(Device { hub, revision: self.next_revision(), ..device.clone() }));
        Ok(Some(draft.finish(now)))
    }

    /// A member is reached elsewhere. `None` when it is said already.
    ///
    /// # Errors
    /// It is no member.
    pub fn move_to(
        &self,
        key: &PublicKey,
        endpoints: &[Endpoint],
        now: u64,
    ) -> Result<Option<Step>, Refusal> {
        let mut device = self.member(key)?.clone();
        let endpoints = bounded(endpoints);
        if device.endpoints == endpoints {
            return Ok(None);
        }
        device.endpoints = endpoints;
        device.revision = self.next_revision();
        let mut draft = self.draft();
        draft.put(Record::Device(device));
        Ok(Some(draft.finish(now)))
    }

    /// The member of this key.
    ///
    /// # Errors
    /// It is none, or was revoked.
    pub fn member(&self, key: &PublicKey) -> Result<&Device, Refusal> {
        match self.view.record(key) {
            Some(Record::Device(device)) => Ok(device),
            Some(Record::Revoked(_)) => Err(Refusal::Revoked),
            None => Err(Refusal::NoMember),
        }
    }

    fn next_revision(&self) -> u64 {
        self.view.head.revision.saturating_add(1)
    }

    fn draft(&self) -> Draft {
        Draft { ledger: self.clone(), writes: Vec::new() }
    }
}

/// A step that is being put together.
struct Draft {
    ledger: Ledger,
    writes: Vec<Write>,
}

impl Draft {
    fn put(&mut self, record: Record) {
        let (key, signed) = (record.key(), self.ledger.signer.sign(record.bytes()));
        let name = format!("{MEMBER}{}", hex(key.as_bytes()));
        self.writes.push(Write::Put { name, value: signed.pack() });
        self.ledger.view.members.insert(key, Arc::new(Member { record, signed }));
    }

    fn put_key(&mut self, key: JoinKey) {
        self.writes.push(Write::Put { name: key_name(&key.hash), value: key.bytes() });
        self.ledger.join_keys.insert(key.hash, key);
    }

    fn finish(mut self, now: u64) -> Step {
        let Ledger { signer, view, join_keys } = &mut self.ledger;
        view.head.revision = view.head.revision.saturating_add(1);
        view.head.changed = now;
        view.head.records = digest_of(&view.members);
        view.head.join_keys = digest_of_keys(join_keys);
        view.signed = signer.sign(view.head.bytes());
        self.writes.push(Write::Put { name: HEAD.to_owned(), value: view.signed.pack() });
        Step { ledger: self.ledger, writes: self.writes }
    }
}

/// The address that `record` keeps others from, at `now`.
fn holds(record: &Record, now: u64) -> Option<Ipv4Addr> {
    match record {
        Record::Device(device) => Some(device.ip4),
        Record::Revoked(revoked) => (now < revoked.quarantine_until).then_some(revoked.ip4),
    }
}

/// Each once, and no more than a record can have.
fn bounded(endpoints: &[Endpoint]) -> Vec<Endpoint> {
    let mut kept: Vec<Endpoint> = Vec::new();
    for endpoint in endpoints {
        if !kept.contains(endpoint) && kept.len() < Device::LIST_MAX {
            kept.push(endpoint.clone());
        }
    }
    kept
}

fn digest_of_keys(keys: &BTreeMap<[u8; 32], JoinKey>) -> Digest {
    Digest::of(keys.values().map(JoinKey::bytes))
}

fn key_name(hash: &[u8; 32]) -> String {
    format!("{JOIN_KEY}{}", hex(hash))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
