//! A member that gets another key: the old one is revoked for good, and all else stays, its addresses too.

use super::{Ledger, RECORDS_MAX, Registered};
use crate::org::record::{Device, Record, Revoked};
use crate::org::refusal::Refusal;
use crate::spec::PublicKey;

/// How often a member may have another key in that time: each leaves a record that everybody keeps.
const ROTATIONS_MAX: usize = 16;
const ROTATIONS_WITHIN_SECONDS: u64 = 24 * 60 * 60;

impl Ledger {
    /// Gives the member with the key `old` the key `new`, both proven to be its own. Asked again with the same two, it
    /// answers the same and changes nothing: the first answer may have been lost.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn rotate(&self, old: &PublicKey, new: &PublicKey, now: u64) -> Result<Registered, Refusal> {
        let device = match self.member(old) {
            Ok(device) => device,
            Err(refusal) => {
                let done = self.view.successor(old).filter(|device| device.key == *new).cloned();
                return done.map(|device| Registered { device, step: None }).ok_or(refusal);
            }
        };
        if self.view.record(new).is_some() {
            return Err(Refusal::KeyTaken);
        }
        if self.view.members.len() >= RECORDS_MAX {
            return Err(Refusal::Full("records"));
        }
        let is_recent = |revoked: &Revoked| {
            revoked.is_of(device) && now < revoked.at.saturating_add(ROTATIONS_WITHIN_SECONDS)
        };
        let records = self.view.records().filter_map(Record::revoked);
        if records.filter(|revoked| is_recent(revoked)).count() >= ROTATIONS_MAX {
            return Err(Refusal::TooOften(ROTATIONS_MAX));
        }
        let revision = self.next_revision();
        let former = Revoked {
            org: device.org.clone(),
            key: *old,
            name: device.name.clone(),
            ip4: device.ip4,
            at: now,
            // The address does not rest: it is the same device's.
            quarantine_until: now,
            revision,
        };
        let device = Device { key: *new, revision, ..device.clone() };
        let mut draft = self.draft();
        draft.put(Record::Revoked(former));
        draft.put(Record::Device(device.clone()));
        Ok(Registered { device, step: Some(draft.finish(now)) })
    }
}
