//! What a device keeps of an organization it has joined, in a folder of its own: `private.key`, `member.json` (where the
//! registrar is, and whom to believe) and `snapshot.json`, the last records that were verified. Beside them, while it gets
//! another key, `private.key.next`.
//!
//! With that it starts without the registrar. What is read is verified again: a file is believed no more than a stranger.

mod rotate;

use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::client::{ClientError, RegistrarUrl, Session};
use super::disk::{self, DiskError};
use super::label::{DeviceName, OrgName};
use super::ledger::Registration;
use super::record::Device;
use super::signed::OrgPublicKey;
use super::snapshot::{SNAPSHOT_MAX_BYTES, Snapshot};
use super::token::{Pin, Token};
use super::view::{Trust, Unverified, View};
use crate::spec::{Endpoint, PrivateKey};

const KEY_FILE: &str = "private.key";
const MEMBER_FILE: &str = "member.json";
const SNAPSHOT_FILE: &str = "snapshot.json";

/// Longest of the first two.
const FILE_MAX_BYTES: usize = 64 << 10;

const VERSION: u32 = 1;

/// Why this device is no member, or cannot become one.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// A file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The registrar.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What the registrar has answered.
    #[error("the registrar's answer is not believed")]
    Unverified(#[from] Unverified),
    /// The registrar says that it is, and its records do not.
    #[error("the registrar's records have no device with the key of this one")]
    Missing,
    /// It has not joined.
    #[error("this device has not joined organization {0}")]
    NotJoined(OrgName),
    /// It has joined one of that name with another key.
    #[error("{} is of another organization of the same name", dir.display())]
    Other {
        /// Its folder.
        dir: PathBuf,
    },
    /// Two would give this device a key each.
    #[error("another process gives this device a new key")]
    Busy,
    /// The kernel has no random numbers to give.
    #[error("no random numbers")]
    Random(#[from] getrandom::Error),
}

impl MembershipError {
    /// The same of a folder that is called otherwise.
    pub(crate) fn in_folder(self, dir: &Path) -> MembershipError {
        match self {
            MembershipError::Disk(error) => MembershipError::Disk(error.in_folder(dir)),
            other => other,
        }
    }
}

/// How a device would be a member.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its name.
    pub name: DeviceName,
    /// This address or none.
    pub request_ip: Option<std::net::Ipv4Addr>,
    /// Where it is reached.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    organization: String,
    signer: String,
    registrar: String,
    pin: String,
    /// Where it is reached it has found out itself; nobody has said it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    found: bool,
}

/// Who a device is and whom it believes: all of its folder that no registrar has said.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    url: RegistrarUrl,
    pin: Pin,
    trust: Trust,
    key: PrivateKey,
    found: bool,
}

impl Identity {
    /// That of a device of organization `org`, from the folder of the organization. Two short files are read, and no
    /// records.
    ///
    /// # Errors
    /// [`MembershipError`]; [`MembershipError::NotJoined`] when nothing is there.
    pub fn load_in(dir: &Path, org: &OrgName) -> Result<Identity, MembershipError> {
        let path = dir.join(MEMBER_FILE);
        let file = member_file(&path)?.ok_or_else(|| MembershipError::NotJoined(org.clone()))?;
        let damaged = |what: &str| DiskError::damaged(&path, what);
        let bytes32 = |text: &str| {
            let mut bytes = [0; 32];
            let read = Base64::decode(text, &mut bytes).map(<[u8]>::len);
            if read == Ok(32) { Ok(bytes) } else { Err(damaged("a key is none")) }
        };
        let trust = Trust {
            org: file.organization.parse().map_err(|_| damaged("the organization has no name"))?,
            signer: OrgPublicKey::from_bytes(bytes32(&file.signer)?),
        };
        let url = file.registrar.parse().map_err(|_| damaged("the registrar has no address"))?;
        let pin = Pin(bytes32(&file.pin)?);
        Ok(Identity { dir: dir.to_owned(), url, pin, trust, key: own_key(dir)?, found: file.found })
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Whom it believes.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.dir
    }
}

/// A device in an organization.
#[derive(Debug, Clone)]
pub struct Membership {
    dir: PathBuf,
    url: RegistrarUrl,
    pin: Pin,
    trust: Trust,
    key: PrivateKey,
    view: View,
    found: bool,
}

impl Membership {
    /// The folder of organization `org` below `mesh_dir`.
    #[must_use]
    pub fn dir(mesh_dir: &Path, org: &OrgName) -> PathBuf {
        mesh_dir.join(org.as_str())
    }

    /// Joins, or, where it has joined already, asks whether it still is a member. The key of the device is on disk before
    /// the registrar hears of it, so that a try that was cut short is taken up and not begun anew.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn join(
        mesh_dir: &Path,
        url: &RegistrarUrl,
        token: &Token,
        wish: &Wish,
    ) -> Result<Membership, MembershipError> {
        let dir = Membership::dir(mesh_dir, &token.trust.org);
        let before = match Membership::load(mesh_dir, &token.trust.org) {
            Ok(known) if known.trust != token.trust => return Err(MembershipError::Other { dir }),
            Ok(known) => Some(known),
            Err(MembershipError::NotJoined(_)) => None,
            Err(error) => return Err(error),
        };
        disk::folder(&dir)?;
        let joined = Membership::join_in(&dir, url, token, wish, before).await;
        if let Err(error) = &joined
            && error.is_revoked()
            && let Ok(mut known) = Membership::load(mesh_dir, &token.trust.org)
            && known.take_up().await?
        {
            // It was given another key, and stopped before it knew.
            return Membership::join_in(&dir, url, token, wish, Some(known)).await;
        }
        joined
    }

    async fn join_in(
        dir: &Path,
        url: &RegistrarUrl,
        token: &Token,
        wish: &Wish,
        before: Option<Membership>,
    ) -> Result<Membership, MembershipError> {
        let key = before.as_ref().map_or_else(|| own_key(dir), |before| Ok(before.key.clone()))?;
        let registration = Registration {
            key: key.public(),
            secret: token.secret.clone(),
            name: wish.name.clone(),
            request_ip: wish.request_ip,
            endpoints: wish.endpoints.clone(),
        };
        let org = &token.trust.org;
        let mut session = Session::open(url, token.pin, &key).await?;
        let snapshot = session.register(org, &registration).await?;
        let view = match &before {
            Some(before) => before.view.next(&token.trust, &snapshot)?,
            None => View::first(&token.trust, &snapshot)?,
        };
        let (pin, trust) = (token.pin, token.trust.clone());
        let found = before.is_some_and(|before| before.found) && wish.endpoints.is_empty();
        let dir = dir.to_owned();
        let mut member = Membership { dir, url: url.clone(), pin, trust, key: key.clone(), view, found };
        let own = member.own().ok_or(MembershipError::Missing)?;
        // Nothing said is nothing changed.
        if !wish.endpoints.is_empty() && own.endpoints != wish.endpoints {
            session.move_to(org, &wish.endpoints).await?;
            let snapshot = session.register(org, &registration).await?;
            member.view = member.view.next(&token.trust, &snapshot)?;
        }
        member.write()?;
        Ok(member)
    }

    /// What is on disk of organization `org`.
    ///
    /// # Errors
    /// [`MembershipError`]; [`MembershipError::NotJoined`] when nothing is there.
    pub fn load(mesh_dir: &Path, org: &OrgName) -> Result<Membership, MembershipError> {
        Membership::load_in(&Membership::dir(mesh_dir, org), org)
    }

    /// The same from the folder of the organization itself.
    ///
    /// # Errors
    /// As [`Membership::load`].
    pub fn load_in(dir: &Path, org: &OrgName) -> Result<Membership, MembershipError> {
        let mut member = Membership::read(dir, org)?;
        member.take_up_known()?;
        Ok(member)
    }

    fn read(dir: &Path, org: &OrgName) -> Result<Membership, MembershipError> {
        let Identity { dir, url, pin, trust, key, found } = Identity::load_in(dir, org)?;
        let path = dir.join(SNAPSHOT_FILE);
        let bytes = disk::read(&path, SNAPSHOT_MAX_BYTES)?;
        let bytes = bytes.ok_or_else(|| MembershipError::NotJoined(org.clone()))?;
        let snapshot = Snapshot::parse(&bytes).map_err(|error| DiskError::damaged(&path, error))?;
        let view = View::first(&trust, &snapshot).map_err(|error| DiskError::damaged(&path, error))?;
        Ok(Membership { dir, key, url, pin, trust, view, found })
    }

    /// The last records that were verified.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// This device, if it is a member still.
    #[must_use]
    pub fn own(&self) -> Option<&Device> {
        self.view.record(&self.key.public()).and_then(|record| record.device())
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Whom it believes.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// Its registrar.
    #[must_use]
    pub fn registrar(&self) -> &RegistrarUrl {
        &self.url
    }

    /// Whether this device has found out itself where it is reached, and may find out anew.
    #[must_use]
    pub fn is_found(&self) -> bool {
        self.found || self.own().is_none_or(|own| own.endpoints.is_empty())
    }

    /// Whether somebody has said where this device is reached since this was read.
    pub(super) fn is_said_meanwhile(&self) -> bool {
        // Whoever says it takes this note away. Without it the records tell, which are many.
        let file = member_file(&self.dir.join(MEMBER_FILE));
        if file.is_ok_and(|file| file.is_some_and(|file| file.found)) {
            return false;
        }
        Membership::load_in(&self.dir, &self.trust.org).is_ok_and(|now| !now.is_found())
    }

    /// Notes that nobody has said where this device is reached.
    pub(super) fn note_found(&mut self) -> Result<(), MembershipError> {
        if !self.found {
            self.found = true;
            self.write().inspect_err(|_| self.found = false)?;
        }
        Ok(())
    }

    /// A connection to its registrar.
    pub(super) async fn session(&self) -> Result<Session<'_>, ClientError> {
        Session::open(&self.url, self.pin, &self.key).await
    }

    /// Takes records in, if they can be believed, and keeps them on disk.
    ///
    /// # Errors
    /// They are not believed, and what was known before stays. Or they cannot be written
    /// ([`MembershipError::Disk`]): they are known until this process ends.
    pub fn take(&mut self, snapshot: &Snapshot) -> Result<(), MembershipError> {
        self.view = self.view.next(&self.trust, snapshot)?;
        self.keep().map_err(MembershipError::from)
    }

    /// Keeps the records on disk, unless another process has kept newer ones since.
    fn keep(&self) -> Result<(), DiskError> {
        let is_newer = |text: &[u8]| {
            let kept = Snapshot::parse(text).ok();
            kept.and_then(|kept| self.trust.revision(&kept)).is_some_and(|kept| kept > self.view.revision())
        };
        let text = self.view.snapshot(0).to_text();
        disk::write_unless(&self.dir.join(SNAPSHOT_FILE), text.as_bytes(), SNAPSHOT_MAX_BYTES, is_newer)
    }

    fn write(&self) -> Result<(), DiskError> {
        let path = self.dir.join(MEMBER_FILE);
        let file = File {
            version: VERSION,
            organization: self.trust.org.to_string(),
            signer: self.trust.signer.to_string(),
            registrar: self.url.to_string(),
            pin: Base64::encode_string(&self.pin.0),
            found: self.found,
        };
        let text = serde_json::to_vec_pretty(&file).map_err(|error| DiskError::damaged(&path, error))?;
        // Without records it would be a member that knows nobody.
        self.keep()?;
        disk::write(&path, &text)
    }
}

/// What stands in this file, if it is there.
fn member_file(path: &Path) -> Result<Option<File>, DiskError> {
    let Some(bytes) = disk::read(path, FILE_MAX_BYTES)? else { return Ok(None) };
    let file: File = serde_json::from_slice(&bytes).map_err(|error| DiskError::damaged(path, error))?;
    if file.version != VERSION {
        return Err(DiskError::damaged(path, "it is of another version"));
    }
    Ok(Some(file))
}

/// The key in this folder; a new one where there is none.
fn own_key(dir: &Path) -> Result<PrivateKey, MembershipError> {
    let path = dir.join(KEY_FILE);
    match read_key(&path)? {
        Some(key) => Ok(key),
        None => new_key(&path),
    }
}

fn read_key(path: &Path) -> Result<Option<PrivateKey>, DiskError> {
    let Some(bytes) = disk::read(path, FILE_MAX_BYTES)? else { return Ok(None) };
    let text = std::str::from_utf8(&bytes).map_err(|_| DiskError::damaged(path, "it is no key"))?;
    text.trim().parse().map(Some).map_err(|error| DiskError::damaged(path, error))
}

fn new_key(path: &Path) -> Result<PrivateKey, MembershipError> {
    let key = PrivateKey::generate()?;
    let text = Zeroizing::new(format!("{}\n", key.reveal().as_str()));
    disk::write(path, text.as_bytes())?;
    Ok(key)
}
