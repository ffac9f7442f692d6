//! What makes a registrar who it is: its keys and those of its organizations. Registrars of one store have a copy each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64ct::{Base64, Encoding as _};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::org::certificate::certificate;
use crate::org::disk::{self, DiskError};
use crate::org::{OrgKey, OrgName, Pin};
use crate::spec::PrivateKey;

/// Name of the file.
const FILE: &str = "registrar-keys.json";

/// Longest one: some thousand organizations.
const FILE_MAX_BYTES: usize = 1 << 20;

const VERSION: u32 = 1;

/// The keys of a registrar.
pub(super) struct Keys {
    path: PathBuf,
    /// Of its certificate.
    pub(super) tls: Zeroizing<[u8; 32]>,
    /// That devices prove themselves to.
    pub(super) proof: PrivateKey,
    /// Those of its organizations.
    pub(super) orgs: BTreeMap<OrgName, Arc<OrgKey>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    tls: Zeroizing<String>,
    proof: Zeroizing<String>,
    organizations: BTreeMap<String, Zeroizing<String>>,
}

impl Keys {
    /// Reads them, or makes and writes new ones where there are none.
    pub(super) fn open(dir: &Path) -> Result<Keys, DiskError> {
        let path = dir.join(FILE);
        if let Some(bytes) = disk::read(&path, FILE_MAX_BYTES)? {
            return parse(&path, &bytes);
        }
        let random = |error: getrandom::Error| DiskError::damaged(&path, error);
        let mut tls = Zeroizing::new([0; 32]);
        getrandom::fill(tls.as_mut_slice()).map_err(random)?;
        let proof = PrivateKey::generate().map_err(random)?;
        let keys = Keys { path, tls, proof, orgs: BTreeMap::new() };
        keys.write().map(|()| keys)
    }

    /// Keeps them on disk.
    pub(super) fn write(&self) -> Result<(), DiskError> {
        let text = |bytes: &[u8; 32]| Zeroizing::new(Base64::encode_string(bytes));
        let file = File {
            version: VERSION,
            tls: text(&self.tls),
            proof: self.proof.reveal(),
            organizations: self
                .orgs
                .iter()
                .map(|(name, key)| (name.to_string(), text(key.reveal())))
                .collect(),
        };
        let bytes =
            serde_json::to_vec_pretty(&file).map_err(|error| DiskError::damaged(&self.path, error))?;
        disk::write(&self.path, &Zeroizing::new(bytes))
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        certificate(&self.tls)
    }

    /// What tokens name this registrar by.
    pub(super) fn pin(&self) -> Pin {
        Pin::of(&self.certificate())
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Keys, DiskError> {
    // What serde says of it may repeat a piece of a key.
    let damaged = || DiskError::damaged(path, "it is no file of a registrar's keys");
    let file: File = serde_json::from_slice(bytes).map_err(|_| damaged())?;
    if file.version != VERSION {
        return Err(DiskError::damaged(path, "it is of another version"));
    }
    let seed = |text: &Zeroizing<String>| {
        let mut seed = Zeroizing::new([0; 32]);
        match Base64::decode(text.as_bytes(), seed.as_mut_slice()) {
            Ok(read) if read.len() == 32 => Ok(seed),
            _ => Err(damaged()),
        }
    };
    let org = |(name, text): (String, Zeroizing<String>)| {
        let name: OrgName = name.parse().map_err(|_| damaged())?;
        Ok((name, Arc::new(OrgKey::from_seed(seed(&text)?))))
    };
    Ok(Keys {
        path: path.to_owned(),
        tls: seed(&file.tls)?,
        proof: file.proof.parse().map_err(|_| damaged())?,
        orgs: file.organizations.into_iter().map(org).collect::<Result<_, DiskError>>()?,
    })
}
