//! Who somebody is, and whether that person may go where the login leads.
//!
//! A login is a place and a name that is claimed. Each method proves something about it, a [`Proof`]; once a connection
//! has proven what the gateway asks for, the proofs become one [`Grant`], if the policy lets that person do anything
//! there. No server is asked before, except for the users of an instance ([`inside`]) where the gateway lets those in.
//!
//! - `people`: users of the host and their groups; `keys`: their keys;
//! - `inside`: users of instances;
//! - `claim`: what a login says; `reason`: why it is refused.

mod claim;
mod inside;
mod keys;
mod people;
mod reason;
mod whole;

use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use portway_config::files::{self, Trust};
use russh::keys::PublicKey;
use russh::keys::ssh_key::Certificate;
use zeroize::Zeroizing;

use super::fresh::{Fresh, Read};
use super::gate::Crowd;
use super::grant::{Errand, Grant};
use super::lock;
use super::servers::Servers;
use crate::auth::accounts::Shadow;
use crate::auth::grant::{Circumstances, Grant as KeyGrant};
use crate::auth::key;
use crate::auth::nss;
use crate::auth::password::{Checker, HashError};
use crate::auth::settings::Settings;
use crate::auth::totp::{Totp, Used};
use crate::options::{AuthOptions, Method, Options};
use crate::policy::{Action, Decision, Making, Policy, Record, Target};
use claim::Claim;
use inside::Inside;
use keys::{Lists, OwnKeys, Shown};
use people::{HostUser, People};
pub(super) use reason::Reason;

/// Longest file of a one-time secret, bytes.
const SECRET_FILE_BYTES: u64 = 4096;

/// An error with its causes.
pub(super) fn why(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Where files of the judge are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) policy: PathBuf,
    pub(super) settings: PathBuf,
    /// One-time secrets, a file for each user of the host.
    pub(super) totp_dir: PathBuf,
}

/// Decides.
#[derive(Debug)]
pub(super) struct Judge {
    options: Arc<Options>,
    places: Places,
    servers: Arc<Servers>,
    policy: Fresh<Policy>,
    settings: Fresh<Settings>,
    lists: Lists,
    people: People,
    inside: Inside,
    checker: Checker,
    used: Mutex<Used>,
    /// Connections that have logged in.
    crowd: Mutex<Crowd>,
}

/// What a login has come to so far.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    method: Method,
    who: Who,
    key: Option<String>,
    principals: Vec<String>,
    options: KeyGrant,
}

/// About whom something was proven.
#[derive(Debug, Clone)]
enum Who {
    Host(Arc<HostUser>),
    /// The user inside whom the login names.
    Inside,
    /// The host user whom the login names has said a code, which names nobody by itself.
    Code,
}

impl Judge {
    pub(super) fn new(options: Arc<Options>, places: Places, servers: Arc<Servers>) -> Self {
        Self {
            options,
            places,
            servers,
            policy: Fresh::default(),
            settings: Fresh::default(),
            lists: Lists::default(),
            people: People::default(),
            inside: Inside::default(),
            checker: Checker::default(),
            // A code that counted before a restart does not count after it.
            used: Mutex::new(Used::since(now())),
            crowd: Mutex::default(),
        }
    }

    /// Reads what has to be right at the start.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.options.auth.chain == [Method::KeyboardInteractive] {
            return Err("auth-methods: a one-time code is never enough alone".to_owned());
        }
        self.policy().and_then(|_| self.settings()).map(|_| ())
    }

    fn policy(&self) -> Read<Policy> {
        self.policy.get(&self.places.policy, |path| Policy::load(path).map_err(|error| why(&error)))
    }

    fn settings(&self) -> Read<Settings> {
        self.settings.get(&self.places.settings, |path| Settings::load(path).map_err(|error| why(&error)))
    }

    /// What a login may be asked for, before anybody has said anything.
    pub(super) fn auth_options(&self) -> AuthOptions {
        let host = self.settings().is_ok_and(|settings| settings.host_passwords);
        let auth = &self.options.auth;
        AuthOptions { password: auth.password || host, ..auth.clone() }
    }

    /// Whether a key would do, or a certificate about it could.
    pub(super) async fn offer(&self, login: &str, key: &str, peer: IpAddr) -> Result<(), Reason> {
        let claim = self.claim_or_told(login);
        let settings = self.settings().map_err(Reason::Lists)?;
        let key = parse_key(key)?;
        let shown = Shown::Key(key.clone());
        let found = self.by_key(&claim, &settings, &shown, &key, peer).await;
        let Err(reason) = found else { return Ok(()) };
        // What is shown of a certificate beforehand is its key alone. An authority for everybody makes every key one that
        // could do, of whatever user: else it would tell who is there.
        let maybe = self.lists.has_authority(&settings)
            || match self.host_user(&claim).await {
                Ok(user) => OwnKeys::read(&settings, &user, &key).await.has_authority(),
                Err(_) => false,
            };
        if maybe { Ok(()) } else { Err(reason) }
    }

    /// What a key proves whose signature was good.
    pub(super) async fn key(&self, login: &str, key: &str, peer: IpAddr) -> Result<Proof, Reason> {
        let claim = self.claim_or_told(login);
        let settings = self.settings().map_err(Reason::Lists)?;
        let key = parse_key(key)?;
        self.by_key(&claim, &settings, &Shown::Key(key.clone()), &key, peer).await
    }

    /// What a certificate proves whose key has signed.
    pub(super) async fn certificate(&self, login: &str, text: &str, peer: IpAddr) -> Result<Proof, Reason> {
        let claim = self.claim_or_told(login);
        let settings = self.settings().map_err(Reason::Lists)?;
        let certificate = Certificate::from_openssh(text).map_err(|_| Reason::Key)?;
        key::check(certificate.public_key())?;
        let key = PublicKey::from(certificate.public_key().clone());
        let shown = Shown::Certificate(Box::new(certificate));
        self.by_key(&claim, &settings, &shown, &key, peer).await
    }

    async fn by_key(
        &self,
        claim: &Claim,
        settings: &Settings,
        shown: &Shown,
        key: &PublicKey,
        peer: IpAddr,
    ) -> Result<Proof, Reason> {
        self.lists.check(settings, shown)?;
        let circumstances = Circumstances { client: peer, now_seconds: now(), local_offset_seconds: None };
        let proof = |who, options| Proof {
            method: Method::PublicKey,
            who,
            key: Some(key::fingerprint(key.key_data())),
            principals: Vec::new(),
            options,
        };
        if self.options.auth.none {
            return Ok(proof(self.anybody(claim).await, KeyGrant::default()));
        }
        let host = self.by_host_key(claim, settings, shown, key, &circumstances).await;
        let reason = match host {
            Ok((user, options, principals)) => {
                return Ok(Proof { principals, ..proof(Who::Host(user), options) });
            }
            Err(reason) => claim.misread().unwrap_or(reason),
        };
        // There is nobody inside of nowhere.
        if !self.options.auth.instance || claim.misread().is_some() {
            return Err(reason);
        }
        let found = self.inside.find(&self.servers, &claim.place).await.ok_or_else(|| claim.not_inside())?;
        let found = match shown {
            Shown::Key(key) => found.keys.find_key(key.key_data(), &circumstances),
            Shown::Certificate(certificate) => {
                found.keys.find_certificate(certificate, &claim.place.instance_user, &circumstances)
            }
        };
        found.map(|found| proof(Who::Inside, found.grant)).map_err(|_| claim.not_inside())
    }

    /// Whose key it is, what it allows, and the names of its certificate that rules may go by: those an authority of the
    /// system has given. A user's own authority gives what he likes.
    async fn by_host_key(
        &self,
        claim: &Claim,
        settings: &Settings,
        shown: &Shown,
        key: &PublicKey,
        circumstances: &Circumstances,
    ) -> Result<(Arc<HostUser>, KeyGrant, Vec<String>), Reason> {
        let user = self.host_user(claim).await?;
        if let Shown::Certificate(certificate) = shown {
            match self.lists.by_authority(settings, certificate, &user, circumstances) {
                Ok(options) => return Ok((user, options, certificate.valid_principals().to_vec())),
                Err(Reason::NoKey(_)) => {}
                Err(reason) => return Err(reason),
            }
        }
        let options = OwnKeys::read(settings, &user, key).await.find(shown, circumstances)?;
        Ok((user, options, Vec::new()))
    }

    /// What a password proves: of the user inside, or of the host's user where the settings say so.
    pub(super) async fn password(&self, login: &str, password: Vec<u8>) -> Result<Proof, Reason> {
        let password = Zeroizing::new(password);
        let claim = self.claim(login);
        let settings = self.settings().map_err(Reason::Lists)?;
        let proof = |who| Proof {
            method: Method::Password,
            who,
            key: None,
            principals: Vec::new(),
            options: KeyGrant::default(),
        };
        let claim = match claim {
            Ok(claim) => claim,
            Err(reason) => return Err(self.nobody(password, reason).await),
        };
        if settings.host_passwords {
            let user = match self.host_user(&claim).await {
                Ok(user) => user,
                Err(reason) => return Err(self.nobody(password, reason).await),
            };
            let shadow = nss::find_shadow(&user.name).await.map_err(|error| Reason::Names(why(&error)))?;
            self.check_password(&claim.host_user, shadow.as_ref(), password).await?;
            return Ok(proof(Who::Host(user)));
        }
        let found = self.inside.find(&self.servers, &claim.place).await;
        let shadow = found.as_ref().and_then(|user| user.shadow.as_ref());
        self.check_password(&claim.inside(), shadow, password).await?;
        Ok(proof(Who::Inside))
    }

    /// Takes as long as for somebody who is there.
    async fn nobody(&self, password: Zeroizing<Vec<u8>>, reason: Reason) -> Reason {
        let _never = self.checker.check(None, password).await;
        reason
    }

    async fn check_password(
        &self,
        who: &str,
        shadow: Option<&Shadow>,
        password: Zeroizing<Vec<u8>>,
    ) -> Result<(), Reason> {
        let hash = shadow.map(|shadow| shadow.hash.clone());
        let right = self.checker.check(hash, password).await;
        let right =
            right.map_err(|error: HashError| Reason::NoPassword(who.to_owned(), error.to_string()))?;
        let Some(shadow) = shadow.filter(|_| right) else { return Err(Reason::Password(who.to_owned())) };
        let today = i64::try_from(now() / 86_400).unwrap_or(i64::MAX);
        shadow.check(today).map_err(|expired| Reason::Expired(who.to_owned(), expired))
    }

    /// What a one-time code proves: that the host's user has his device with him. It is never enough alone.
    pub(super) async fn code(&self, login: &str, code: &[u8]) -> Result<Proof, Reason> {
        let claim = self.claim(login)?;
        let wrong = || Reason::Code(claim.host_user.clone());
        let code = str::from_utf8(code).map_err(|_| wrong())?;
        let user = self.host_user(&claim).await?;
        if user.name.contains('/') || user.name.starts_with('.') {
            return Err(wrong());
        }
        let path = self.places.totp_dir.join(&user.name);
        let text = files::read(&path, SECRET_FILE_BYTES, Trust::Own);
        let text = Zeroizing::new(text.map_err(|error| Reason::Lists(why(&error)))?);
        let totp = str::from_utf8(&text).ok().and_then(|text| Totp::from_base32(text.trim()));
        let totp =
            totp.ok_or_else(|| Reason::Lists(format!("the one-time secret of {} is none", user.name)))?;
        if !lock(&self.used).verify(&user.name, &totp, code, now()) {
            return Err(wrong());
        }
        Ok(Proof {
            method: Method::KeyboardInteractive,
            who: Who::Code,
            key: None,
            principals: Vec::new(),
            options: KeyGrant::default(),
        })
    }

    /// The user of the host whom a login names, if one of his groups may come in.
    async fn host_user(&self, claim: &Claim) -> Result<Arc<HostUser>, Reason> {
        let user = self.people.find(&claim.host_user).await?;
        if people::may_enter(&user, &self.options.groups) {
            Ok(user)
        } else {
            Err(Reason::Group(user.name.clone()))
        }
    }

    /// Whoever is named, without proof: his groups count for the policy if he is somebody.
    async fn anybody(&self, claim: &Claim) -> Who {
        let nobody = |_| {
            let name = claim.host_user.clone();
            Arc::new(HostUser { name, uid: u32::MAX, home: String::new(), groups: Vec::new() })
        };
        Who::Host(self.people.find(&claim.host_user).await.unwrap_or_else(nobody))
    }

    /// What comes of all that was proven about a login. Whoever is let in counts until [`Judge::left`].
    pub(super) fn admit(&self, login: &str, proofs: &[Proof], peer: IpAddr) -> Result<Grant, Reason> {
        let claim = self.claim_or_told(login);
        let grant = grant(claim, proofs, self.options.auth.none).ok_or(Reason::Differ)?;
        if grant.misread().is_some() {
            return if lock(&self.crowd).enter(&grant.person, peer) { Ok(grant) } else { Err(Reason::Crowd) };
        }
        let is_shell = grant.errand == Some(Errand::Shell);
        // What anybody could have is no person's.
        if is_shell && self.options.auth.none {
            return Err(Reason::Wish("the shell of Incus commands"));
        }
        // What is asked of the gateway is decided when it is done; that it is refused is told to who may be there.
        let more = Some(Action::Remove).filter(|_| matches!(grant.errand, Some(Errand::Remove { .. })));
        let actions = Action::SESSION.into_iter().chain(more);
        let decisions: Vec<Decision> = if is_shell {
            vec![self.has_shell(&grant)]
        } else {
            actions.map(|action| self.decide(&grant, action)).collect()
        };
        match decisions.iter().find(|decision| decision.allowed) {
            Some(_) if lock(&self.crowd).enter(&grant.person, peer) => Ok(grant),
            Some(_) => Err(Reason::Crowd),
            None => {
                let reason = decisions.first().map(|decision| decision.reason.to_string());
                Err(Reason::Policy(reason.unwrap_or_default()))
            }
        }
    }

    /// Somebody is in, by another gateway's word.
    pub(super) fn entered(&self, grant: &Grant, peer: IpAddr) {
        lock(&self.crowd).add(&grant.person, peer);
    }

    /// Somebody who was in has gone.
    pub(super) fn left(&self, grant: &Grant, peer: IpAddr) {
        lock(&self.crowd).leave(&grant.person, peer);
    }

    /// What the policy has recorded of what somebody does. When it cannot be read nobody does anything.
    pub(super) fn records(&self, grant: &Grant, action: Action) -> Record {
        self.policy().map_or(Record::All, |policy| {
            policy.records(&grant.policy_person(), action, Some(&grant.place()))
        })
    }

    /// What holds for instances that logins make, by the policy as it is.
    pub(super) fn making(&self) -> Result<Making, String> {
        self.policy().map(|policy| policy.making().clone())
    }

    /// Whether somebody may do something, by the policy as it is.
    pub(super) fn decide(&self, grant: &Grant, action: Action) -> Decision {
        self.by_policy(|policy| policy.decide(&grant.policy_person(), action, Some(&grant.place())))
    }
}

/// One grant of all proofs. `None`: they contradict each other, or name nobody.
fn grant(claim: Claim, proofs: &[Proof], none: bool) -> Option<Grant> {
    let host = proofs.iter().find_map(|proof| match &proof.who {
        Who::Host(user) => Some(user),
        Who::Inside | Who::Code => None,
    });
    // A key inside is its instance's word. It adds nothing to what somebody of the host has proven.
    let is_mixed = |proof: &Proof| proof.method == Method::PublicKey && matches!(proof.who, Who::Inside);
    if host.is_some() && proofs.iter().any(is_mixed) {
        return None;
    }
    let is_inside = host.is_none() && proofs.iter().any(|proof| matches!(proof.who, Who::Inside));
    let person = match host {
        Some(user) => user.name.clone(),
        None if is_inside => claim.inside(),
        None => return None,
    };
    let options = proofs.iter().try_fold(KeyGrant::default(), |all, one| all.and(one.options.clone()))?;
    let names: Vec<&str> = proofs.iter().map(|proof| proof.method.as_str()).collect();
    let Claim { place: Target { remote, project, instance, instance_user }, keep, create, errand, .. } =
        claim;
    Some(Grant {
        person,
        key: proofs.iter().find_map(|proof| proof.key.clone()).unwrap_or_default(),
        project,
        instance,
        instance_user,
        remote,
        proof: if none { "none".to_owned() } else { names.join(",") },
        uid: host.map(|user| user.uid),
        groups: host.map(|user| user.groups.clone()).unwrap_or_default(),
        principals: proofs.iter().flat_map(|proof| proof.principals.clone()).collect(),
        is_inside,
        options,
        keep,
        create,
        errand,
    })
}

fn parse_key(text: &str) -> Result<PublicKey, Reason> {
    let key = PublicKey::from_openssh(text).map_err(|_| Reason::Key)?;
    key::check(key.key_data())?;
    Ok(key)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests;
