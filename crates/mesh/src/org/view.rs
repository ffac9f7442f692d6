//! What a device has verified of its organization. It goes from revision to revision and never back.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use thiserror::Error;

use super::digest::Digest;
use super::head::Head;
use super::label::{DeviceName, OrgName};
use super::record::{Device, Record, Revoked};
use super::signed::{OrgPublicKey, Signed};
use super::snapshot::Snapshot;
use super::wire::Malformed;
use crate::spec::PublicKey;

/// Whom a device believes: known to it from its token, and from nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The organization.
    pub org: OrgName,
    /// Who signs for it.
    pub signer: OrgPublicKey,
}

impl Trust {
    /// Of which revision a snapshot is, if its head is believed. Its records are not looked at.
    pub(super) fn revision(&self, snapshot: &Snapshot) -> Option<u64> {
        verified_head(self, &snapshot.head).ok().map(|head| head.revision)
    }
}

/// Why records are not believed. What was believed before stays.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unverified {
    /// Not written as ours are.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The head is another organization's.
    #[error("the records are of organization {found}, not of {expected}")]
    OtherOrganization {
        /// What it is.
        found: OrgName,
        /// What it was to be.
        expected: OrgName,
    },
    /// The head says that another key signs.
    #[error("the records are signed by a key that is not the organization's")]
    UnknownSigner,
    /// The head was changed after it was signed.
    #[error("the signature of the head does not hold")]
    Head,
    /// A record was changed after it was signed.
    #[error("the signature of a record does not hold")]
    Record,
    /// Older than what is known.
    #[error("the records are of revision {offered}, and revision {known} is known")]
    Older {
        /// What was offered.
        offered: u64,
        /// What is known.
        known: u64,
    },
    /// Two organizations of one name, key and revision: the registrar was set back, or lies.
    #[error("there is another revision {0} than the one that is known")]
    Fork(u64),
    /// A record is missing, or one too many is there.
    #[error("the records are not all those of revision {0}, and no others")]
    Incomplete(u64),
    /// Only what is newer than a revision, which is not known.
    #[error("the records are those after revision {since}, and {known} is known")]
    Gap {
        /// After which.
        since: u64,
        /// What is known.
        known: u64,
    },
    /// A record that cannot stand with the head or beside another.
    #[error("records contradict one another: {0}")]
    Contradiction(&'static str),
}

/// A record and its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) record: Record,
    pub(super) signed: Signed,
}

/// Records by whom they are about.
pub(super) type Members = BTreeMap<PublicKey, Arc<Member>>;

/// What the members' part of the head says.
pub(super) fn digest_of(members: &Members) -> Digest {
    Digest::of(members.values().map(|member| member.signed.bytes()))
}

/// An organization at one revision, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub(super) head: Head,
    pub(super) signed: Signed,
    pub(super) members: Members,
}

impl View {
    /// The first that is known: all records.
    ///
    /// # Errors
    /// [`Unverified`].
    pub fn first(trust: &Trust, snapshot: &Snapshot) -> Result<View, Unverified> {
        View::read(trust, None, snapshot)
    }

    /// What comes after this one: all records, or those that are newer.
    ///
    /// # Errors
    /// [`Unverified`].
    pub fn next(&self, trust: &Trust, snapshot: &Snapshot) -> Result<View, Unverified> {
        View::read(trust, Some(self), snapshot)
    }

    fn read(trust: &Trust, before: Option<&View>, snapshot: &Snapshot) -> Result<View, Unverified> {
        let head = verified_head(trust, &snapshot.head)?;
        let known = before.map_or(0, |view| view.head.revision);
        if head.revision < known {
            return Err(Unverified::Older { offered: head.revision, known });
        }
        if snapshot.since > known {
            return Err(Unverified::Gap { since: snapshot.since, known });
        }
        if let Some(before) = before
            && head.revision == known
            && head != before.head
        {
            return Err(Unverified::Fork(known));
        }
        let mut members = match before {
            Some(before) if snapshot.since > 0 => before.members.clone(),
            _ => Members::new(),
        };
        for signed in &snapshot.records {
            let record = verified_record(trust, &head, signed)?;
            members.insert(record.key(), Arc::new(Member { record, signed: signed.clone() }));
        }
        if digest_of(&members) != head.records {
            return Err(Unverified::Incomplete(head.revision));
        }
        let view = View { head, signed: snapshot.head.clone(), members };
        if let Some(before) = before {
            view.follows(before)?;
        }
        view.agrees().map(|()| view)
    }

    /// Whether nothing that is known is taken back, and what is not as it was came after it: a store that was set back, and
    /// has gone on from there, is another history.
    fn follows(&self, before: &View) -> Result<(), Unverified> {
        if before.members.keys().any(|key| !self.members.contains_key(key)) {
            return Err(Unverified::Contradiction("who was known is not known any more"));
        }
        for (key, member) in &self.members {
            let (is, was) = (&member.record, before.record(key));
            if was != Some(is) && is.revision() <= before.revision() {
                return Err(Unverified::Contradiction(
                    "a record is not the one that was known of its revision",
                ));
            }
            if is.device().is_some() && was.is_some_and(|was| was.device().is_none()) {
                return Err(Unverified::Contradiction("a former member is one again"));
            }
        }
        Ok(())
    }

    /// Whether no two members have the same, and all have what is the organization's.
    fn agrees(&self) -> Result<(), Unverified> {
        let pool = &self.head.settings.pool;
        let (mut names, mut routes) = (HashSet::new(), HashSet::new());
        let (mut ip4s, mut ip6s) = (HashSet::new(), HashSet::new());
        // Few have another key than at first: what is asked for them alone is made for the first of them.
        let mut former = None;
        for device in self.devices() {
            let is_own = pool.ip6(&device.key) == device.ip6
                || former.get_or_insert_with(|| self.former()).contains(&place(device));
            if !pool.has(device.ip4) || !is_own {
                return Err(Unverified::Contradiction("an address is not the organization's to give"));
            }
            if !names.insert(&device.name) || !ip4s.insert(device.ip4) || !ip6s.insert(device.ip6) {
                return Err(Unverified::Contradiction("two devices have the same name or address"));
            }
            if !device.routes.iter().all(|route| routes.insert(*route)) {
                return Err(Unverified::Contradiction("two devices have the same route"));
            }
        }
        Ok(())
    }

    /// What former members had, which stays theirs when they get another key.
    fn former(&self) -> HashSet<(&DeviceName, Ipv4Addr, Ipv6Addr)> {
        let pool = &self.head.settings.pool;
        let revoked = self.records().filter_map(Record::revoked);
        revoked.map(|revoked| (&revoked.name, revoked.ip4, pool.ip6(&revoked.key))).collect()
    }

    /// The member that had `key` once, and has been given another one instead. `None` when that key is a member's still,
    /// or its membership has ended.
    #[must_use]
    pub fn successor(&self, key: &PublicKey) -> Option<&Device> {
        let Some(Record::Revoked(revoked)) = self.record(key) else { return None };
        let device = self.devices().find(|device| revoked.is_of(device))?;
        // Its first key has its address, and was the first to be revoked. Whoever had the name before was so earlier.
        let pool = &self.head.settings.pool;
        let is_first = |other: &&Revoked| other.is_of(device) && pool.ip6(&other.key) == device.ip6;
        let first = self.records().filter_map(Record::revoked).find(is_first)?;
        (revoked.revision >= first.revision).then_some(device)
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Its revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.head.revision
    }

    /// The members, in the order of their keys.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.members.values().filter_map(|member| member.record.device())
    }

    /// All records, those of former members too.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.members.values().map(|member| &member.record)
    }

    /// What is known of a key.
    #[must_use]
    pub fn record(&self, key: &PublicKey) -> Option<&Record> {
        self.members.get(key).map(|member| &member.record)
    }

    /// What is newer than revision `since`, for who has that one; everything for 0.
    #[must_use]
    pub fn snapshot(&self, since: u64) -> Snapshot {
        let since = if since <= self.head.revision { since } else { 0 };
        let newer = self.members.values().filter(|member| member.record.revision() > since || since == 0);
        let records = newer.map(|member| member.signed.clone()).collect();
        Snapshot { since, head: self.signed.clone(), records }
    }
}

/// What stays a device's whatever its key is.
fn place(device: &Device) -> (&DeviceName, Ipv4Addr, Ipv6Addr) {
    (&device.name, device.ip4, device.ip6)
}

fn verified_head(trust: &Trust, signed: &Signed) -> Result<Head, Unverified> {
    // What is not signed by the key that we trust is read only to say what is wrong with it.
    let is_ours = signed.is_by(&trust.signer);
    let head = Head::parse(signed.bytes());
    if !is_ours {
        return Err(match head {
            Ok(head) if head.org != trust.org => other(head.org, trust),
            Ok(head) if head.signer != trust.signer => Unverified::UnknownSigner,
            _ => Unverified::Head,
        });
    }
    let head = head?;
    if head.org != trust.org {
        return Err(other(head.org, trust));
    }
    if head.signer != trust.signer {
        return Err(Unverified::UnknownSigner);
    }
    Ok(head)
}

fn other(found: OrgName, trust: &Trust) -> Unverified {
    Unverified::OtherOrganization { found, expected: trust.org.clone() }
}

fn verified_record(trust: &Trust, head: &Head, signed: &Signed) -> Result<Record, Unverified> {
    if !signed.is_by(&trust.signer) {
        return Err(Unverified::Record);
    }
    let record = Record::parse(signed.bytes())?;
    if *record.org() != head.org {
        return Err(Unverified::Contradiction("a record is another organization's"));
    }
    if record.revision() > head.revision {
        return Err(Unverified::Contradiction("a record is newer than its head"));
    }
    Ok(record)
}
