//! Keys of a user of the host: his own file, the system's about him, a program's answer, and the authorities that sign
//! for everybody.

use std::path::{Path, PathBuf};

use nix::unistd::User;
use russh::keys::PublicKey;
use russh::keys::ssh_key::Certificate;

use super::super::fresh::{Fresh, Read};
use super::people::HostUser;
use super::{Reason, why};
use crate::auth::authorized_keys::{AuthorizedKeys, FILE_MAX_BYTES, Found, KeyRefusal};
use crate::auth::certificate;
use crate::auth::command::{Asked, KeysCommand};
use crate::auth::files::{self, FileError, Owner};
use crate::auth::grant::{Circumstances, Grant};
use crate::auth::key;
use crate::auth::revoked::{self, Revoked};
use crate::auth::run::RunAs;
use crate::auth::settings::Settings;

/// Keys that the system has for its users, a file each.
const SYSTEM_DIR: &str = "/etc/ssh/authorized_keys.d";

/// What a client shows of itself.
#[derive(Debug, Clone)]
pub(super) enum Shown {
    /// A key.
    Key(PublicKey),
    /// A certificate.
    Certificate(Box<Certificate>),
}

/// Lists that count for everybody.
#[derive(Debug, Default)]
pub(super) struct Lists {
    revoked: Fresh<Revoked>,
    authorities: Fresh<AuthorizedKeys>,
}

impl Lists {
    /// Refuses what is revoked. Each way in asks this, and none besides it.
    pub(super) fn check(&self, settings: &Settings, shown: &Shown) -> Result<(), Reason> {
        let Some(path) = &settings.revoked_keys else { return Ok(()) };
        let list = self.revoked.get(path, |path| {
            let bytes = read_system(path, revoked::FILE_MAX_BYTES)?;
            Revoked::parse(&bytes).map_err(|error| format!("{}: {error}", path.display()))
        });
        // A list that cannot be read revokes everything.
        let list = list.map_err(Reason::Lists)?;
        let is_revoked = match shown {
            Shown::Key(key) => list.has_key(key.key_data()),
            Shown::Certificate(certificate) => list.has_certificate(certificate),
        };
        if is_revoked { Err(Reason::Revoked) } else { Ok(()) }
    }

    fn authorities(&self, settings: &Settings) -> Option<Read<AuthorizedKeys>> {
        let path = settings.trusted_ca_keys.as_ref()?;
        Some(self.authorities.get(path, |path| {
            let bytes = read_system(path, FILE_MAX_BYTES)?;
            Ok(AuthorizedKeys::parse(&bytes))
        }))
    }

    /// What an authority of the system allows whoever has a certificate of it.
    pub(super) fn by_authority(
        &self,
        settings: &Settings,
        certificate: &Certificate,
        user: &HostUser,
        circumstances: &Circumstances,
    ) -> Result<Grant, Reason> {
        let unknown = || Reason::NoKey(user.name.clone());
        let authorities = self.authorities(settings).ok_or_else(unknown)?.map_err(Reason::Lists)?;
        let authority = certificate.signature_key();
        if !authorities.has_plain(authority) {
            return Err(unknown());
        }
        let names = [user.name.clone()];
        certificate::check(certificate, authority, &names, circumstances).map_err(Reason::Certificate)
    }

    /// Whether there is an authority for everybody.
    pub(super) fn has_authority(&self, settings: &Settings) -> bool {
        matches!(self.authorities(settings), Some(Ok(authorities)) if !authorities.is_empty())
    }
}

fn read_system(path: &Path, max_bytes: usize) -> Result<Vec<u8>, String> {
    files::read(path, Owner { uid: 0, home: None }, max_bytes).map_err(|error| why(&error))
}

/// The lists of one user.
#[derive(Debug)]
pub(super) struct OwnKeys {
    user: String,
    lists: Vec<AuthorizedKeys>,
    /// Lists that were not read, and why.
    faults: Vec<String>,
}

impl OwnKeys {
    /// Reads the lists of a user. One that cannot be read or trusted costs that list.
    pub(super) async fn read(settings: &Settings, user: &HostUser, shown: &PublicKey) -> Self {
        let mut keys = Self { user: user.name.clone(), lists: Vec::new(), faults: Vec::new() };
        let (name, home, uid) = (user.name.clone(), PathBuf::from(&user.home), user.uid);
        // A home may be on a slow server.
        let read = tokio::task::spawn_blocking(move || {
            let own = files::read(
                &home.join(".ssh/authorized_keys"),
                Owner { uid, home: Some(&home) },
                FILE_MAX_BYTES,
            );
            let system = Path::new(SYSTEM_DIR).join(&name);
            // No name leads out of that folder.
            let plain = !name.contains('/') && !name.starts_with('.');
            let system = plain.then(|| files::read(&system, Owner { uid: 0, home: None }, FILE_MAX_BYTES));
            [Some(own), system]
        });
        for list in read.await.into_iter().flatten().flatten() {
            match list {
                Ok(bytes) => keys.lists.push(AuthorizedKeys::parse(&bytes)),
                Err(FileError::Missing(_)) => {}
                Err(error) => keys.faults.push(why(&error)),
            }
        }
        if settings.keys_command.is_some() {
            match from_program(settings, user, shown).await {
                Ok(bytes) => keys.lists.push(AuthorizedKeys::parse(&bytes)),
                Err(error) => keys.faults.push(error),
            }
        }
        keys
    }

    /// What they allow; the first list that allows something decides.
    pub(super) fn find(&self, shown: &Shown, circumstances: &Circumstances) -> Result<Grant, Reason> {
        let mut refusal = None;
        for list in &self.lists {
            let found = match shown {
                Shown::Key(key) => list.find_key(key.key_data(), circumstances),
                Shown::Certificate(certificate) => {
                    list.find_certificate(certificate, &self.user, circumstances)
                }
            };
            match found {
                Ok(Found { grant, .. }) => return Ok(grant),
                Err(KeyRefusal::Unknown) => {}
                Err(error) => refusal = Some(error),
            }
        }
        Err(match refusal {
            Some(error) => Reason::KeyRefused(self.user.clone(), error),
            None if !self.faults.is_empty() => Reason::Keys(self.user.clone(), self.faults.join(", ")),
            None => Reason::NoKey(self.user.clone()),
        })
    }

    /// Whether one of them has an authority, whose certificates could be good.
    pub(super) fn has_authority(&self) -> bool {
        self.lists.iter().any(AuthorizedKeys::has_authority)
    }
}

async fn from_program(settings: &Settings, user: &HostUser, shown: &PublicKey) -> Result<Vec<u8>, String> {
    let Some(command) = &settings.keys_command else { return Ok(Vec::new()) };
    let name = &settings.keys_command_user;
    let runs_as = User::from_name(name).ok().flatten().filter(|user| !user.uid.is_root());
    let runs_as = runs_as.ok_or_else(|| format!("there is no user {name} for authorized_keys_command"))?;
    let runs_as = RunAs { uid: runs_as.uid.as_raw(), gid: runs_as.gid.as_raw() };
    let command = KeysCommand::parse(command, runs_as).map_err(|error| why(&error))?;
    let text = shown.to_openssh().map_err(|error| why(&error))?;
    let (kind, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let asked = Asked {
        user: &user.name,
        uid: user.uid,
        home: &user.home,
        key_type: kind,
        key: rest.split(' ').next().unwrap_or_default(),
        fingerprint: &key::fingerprint(shown.key_data()),
    };
    command.keys(&asked).await.map_err(|error| why(&error))
}
