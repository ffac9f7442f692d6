//! A device that gets another key. Its name and its addresses stay.
//!
//! 1. The new key is written to `private.key.next`.
//! 2. The registrar is asked, with a proof of both keys. It revokes the one and makes the other a member in one step.
//! 3. The records are written, which say so.
//! 4. `private.key.next` takes the place of `private.key`.
//!
//! Whoever is stopped between two of them has both keys. After the first, the old one is good, and the next try takes the
//! same new one. After the second, the old one is refused, and asked as the new one the registrar answers. After the
//! third, the records tell. A process that runs meanwhile finds the new key in the same ways.

use std::path::Path;

use tracing::warn;

use super::{KEY_FILE, Membership, MembershipError, new_key, read_key};
use crate::org::client::{ClientError, Session};
use crate::org::disk;
use crate::org::label::OrgName;
use crate::org::snapshot::Snapshot;
use crate::spec::PrivateKey;
use crate::with_causes;

const NEXT_FILE: &str = "private.key.next";

impl Membership {
    /// Gives this device another key, or ends what an earlier try has begun.
    ///
    /// # Errors
    /// [`MembershipError`]. The device has the one key or the other, and the next try goes on from there.
    pub async fn rotate(mesh_dir: &Path, org: &OrgName) -> Result<Membership, MembershipError> {
        let dir = Membership::dir(mesh_dir, org);
        // Who has not joined has no folder.
        drop(Membership::load_in(&dir, org)?);
        let _lock = disk::lock(&dir)?.ok_or(MembershipError::Busy)?;
        let mut member = Membership::read(&dir, org)?;
        if member.find_successor()? {
            member.settle()?;
        }
        let path = dir.join(NEXT_FILE);
        let next = match read_key(&path)? {
            Some(next) => next,
            None => new_key(&path)?,
        };
        let snapshot = member.session().await?.rotate(org, &next).await?;
        let view = member.view.next(&member.trust, &snapshot)?;
        let successor = view.successor(&member.key.public());
        if successor.is_none_or(|device| device.key != next.public()) {
            return Err(MembershipError::Missing);
        }
        (member.view, member.key) = (view, next);
        member.settle()?;
        Ok(member)
    }

    /// Takes up the key that this device has instead of its revoked one, if it has one, by its records or the registrar's.
    ///
    /// # Errors
    /// [`MembershipError`]; it is not known whether it has.
    pub(in crate::org) async fn take_up(&mut self) -> Result<bool, MembershipError> {
        if self.take_up_known()? {
            return Ok(true);
        }
        // Both are one step of the registrar's: who is known to be revoked without another key has none.
        if self.view.record(&self.key.public()).is_some_and(|record| record.device().is_none()) {
            return Ok(false);
        }
        for name in [NEXT_FILE, KEY_FILE] {
            let key = read_key(&self.dir.join(name))?.filter(|key| *key != self.key);
            let Some(key) = key else { continue };
            if let Some(snapshot) = self.asked_as(&key).await? {
                self.view = self.view.next(&self.trust, &snapshot)?;
                return self.take_up_known();
            }
        }
        Ok(false)
    }

    /// All records, as the registrar tells them to who has `key`; `None`: it is no member's.
    async fn asked_as(&self, key: &PrivateKey) -> Result<Option<Snapshot>, ClientError> {
        let session = Session::open(&self.url, self.pin, key).await?;
        match session.watch(&self.trust.org, 0).await {
            Ok(mut watch) => watch.next().await,
            Err(ClientError::Refused { failure, .. })
                if ["revoked", "no_member"].contains(&failure.code.as_str()) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The same, by what is known already.
    ///
    /// # Errors
    /// A key cannot be read.
    pub(super) fn take_up_known(&mut self) -> Result<bool, MembershipError> {
        if !self.find_successor()? {
            return Ok(false);
        }
        // Whoever has the folder is about to do it. What cannot be done is done by who looks next.
        if self.dir.join(NEXT_FILE).exists()
            && let Ok(Some(_lock)) = disk::lock(&self.dir)
            && let Err(error) = self.settle()
        {
            warn!(org = %self.trust.org, error = with_causes(&error), "the new key has not taken the place of the old one");
        }
        Ok(true)
    }

    /// Finds the key that this device has instead, if its records say that it has one.
    fn find_successor(&mut self) -> Result<bool, MembershipError> {
        let Some(device) = self.view.successor(&self.key.public()) else { return Ok(false) };
        // In this order: one that goes from the first place to the second meanwhile is found.
        for name in [NEXT_FILE, KEY_FILE] {
            let key = read_key(&self.dir.join(name))?.filter(|key| key.public() == device.key);
            if let Some(key) = key {
                self.key = key;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The last two steps, for whoever has the folder: the key without its records would be no member's.
    fn settle(&self) -> Result<(), MembershipError> {
        self.keep()?;
        let path = self.dir.join(NEXT_FILE);
        if read_key(&path)?.is_some_and(|next| next == self.key) {
            disk::replace(&path, &self.dir.join(KEY_FILE))?;
        }
        Ok(())
    }
}

impl MembershipError {
    /// Whether the registrar says that this device's key was revoked.
    pub(in crate::org) fn is_revoked(&self) -> bool {
        let MembershipError::Client(ClientError::Refused { failure, .. }) = self else { return false };
        failure.code == "revoked"
    }
}
