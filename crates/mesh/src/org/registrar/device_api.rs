//! What devices ask for.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tracing::info;

use super::Registrar;
use crate::org::api;
use crate::org::http::{Answered, Denied, lines, said, said_text};
use crate::org::proof::{KEY_HEADER, NEW_PROOF_HEADER, PROOF_BYTES, PROOF_HEADER, Proven, is_proof};
use crate::org::registry::{Registry, RegistryError};
use crate::org::store::StoreError;
use crate::org::wire::endpoint;
use crate::org::{Device, Record, Registration, Secret, View};
use crate::spec::{Endpoint, PublicKey};

/// How often somebody who follows is told that nothing has changed.
const STILL: Duration = Duration::from_secs(15);

/// A request, whole.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    /// Path and query.
    pub(super) target: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

impl From<RegistryError> for Denied {
    fn from(error: RegistryError) -> Denied {
        match &error {
            RegistryError::Refused(refusal) => Denied::new(refusal.status(), refusal.code(), refusal),
            RegistryError::Exists(_) => Denied::new(409, "exists", error),
            RegistryError::Store(StoreError::Unreachable(_) | StoreError::Unsure(_))
            | RegistryError::Busy(_) => Denied::new(503, "store", error),
            RegistryError::Store(StoreError::Broken(_))
            | RegistryError::Ledger { .. }
            | RegistryError::SetBack { .. } => Denied::new(500, "store", error),
        }
    }
}

/// A device's request: proven to be its own, then answered. `nonce` is used up by it.
pub(super) async fn answer(
    registrar: &Registrar,
    nonce: Option<[u8; PROOF_BYTES]>,
    asked: &Asked<'_>,
    watcher: impl FnOnce() -> Option<OwnedSemaphorePermit>,
) -> Result<Answered, Denied> {
    let (path, query) = asked.target.split_once('?').unwrap_or((asked.target, ""));
    let key = proven(registrar, nonce, asked)?;
    let parts: Vec<&str> = path.split('/').collect();
    let ["", "v1", "orgs", org, rest @ ..] = parts.as_slice() else { return Err(nothing()) };
    // Who has no key to join with learns nothing of which organizations there are.
    let registry = registrar.org(org).ok_or_else(|| {
        let refusal = crate::org::Refusal::UnknownJoinKey;
        Denied::new(refusal.status(), refusal.code(), refusal)
    })?;
    match (asked.method, rest) {
        (&Method::POST, ["register"]) => register(&registry, key, asked.body).await,
        (&Method::GET, ["watch"]) => {
            let since = query.strip_prefix("rev=").and_then(|digits| digits.parse().ok());
            let since = since.ok_or_else(|| Denied::malformed("expected watch?rev=NUMBER"))?;
            let permit = watcher().ok_or_else(|| Denied::new(503, "busy", "too many devices follow"))?;
            follow(registrar, &registry, key, since, permit).await
        }
        (&Method::PUT, ["me", "key"]) => rotated(registrar, &registry, key, nonce, asked).await,
        (&Method::PUT, ["me", "endpoints"]) => moved(registrar, &registry, key, asked.body).await,
        _ => Err(nothing()),
    }
}

pub(super) fn nothing() -> Denied {
    Denied::new(404, "nothing", "there is nothing of that name")
}

/// The device's key, if the request is its own.
fn proven(
    registrar: &Registrar,
    nonce: Option<[u8; PROOF_BYTES]>,
    asked: &Asked<'_>,
) -> Result<PublicKey, Denied> {
    let key = header(asked, KEY_HEADER).and_then(|text| text.parse::<PublicKey>().ok());
    let key = key.ok_or_else(|| unproven("the request has no key of a device"))?;
    proven_by(registrar, &key, PROOF_HEADER, nonce, asked).map(|()| key)
}

fn unproven(what: &str) -> Denied {
    Denied::new(401, "unproven", what)
}

fn header<'a>(asked: &Asked<'a>, name: &str) -> Option<&'a str> {
    asked.headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether the header `name` has the proof of who has the private half of `key`.
fn proven_by(
    registrar: &Registrar,
    key: &PublicKey,
    name: &str,
    nonce: Option<[u8; PROOF_BYTES]>,
    asked: &Asked<'_>,
) -> Result<(), Denied> {
    let mut found = [0; PROOF_BYTES];
    let proof = header(asked, name).and_then(|text| Base64::decode(text, &mut found).ok());
    if proof.is_none_or(|bytes| bytes.len() != PROOF_BYTES) {
        return Err(unproven("the request has no proof"));
    }
    let nonce = nonce.ok_or_else(|| unproven("the proof has no nonce: ask for /v1/nonce first"))?;
    let target = asked.target;
    let proven = Proven { nonce: &nonce, method: asked.method.as_str(), target, body: asked.body };
    let holds = is_proof(&registrar.proof, key, &proven, &found);
    if holds { Ok(()) } else { Err(unproven("the proof does not hold")) }
}

fn endpoints(texts: &[String]) -> Result<Vec<Endpoint>, Denied> {
    if texts.len() > Device::LIST_MAX {
        return Err(Denied::malformed(format!("more than {} endpoints", Device::LIST_MAX)));
    }
    let read = |text: &String| endpoint(text).ok_or_else(|| Denied::malformed("an endpoint is no HOST:PORT"));
    texts.iter().map(read).collect()
}

async fn register(registry: &Registry, key: PublicKey, body: &[u8]) -> Result<Answered, Denied> {
    // What serde says of it may repeat the secret.
    let malformed = |_| Denied::malformed("the body is no registration");
    let asked: api::Register = serde_json::from_slice(body).map_err(malformed)?;
    let mut secret = [0; 32];
    let read = Base64::decode(asked.secret.as_bytes(), &mut secret).map(<[u8]>::len);
    if read != Ok(32) {
        return Err(Denied::malformed("the secret is not 32 bytes in base64"));
    }
    let registration = Registration {
        key,
        secret: Secret::from_bytes(secret),
        name: asked.name.parse().map_err(|error| Denied::malformed(format!("name: {error}")))?,
        request_ip: asked.request_ip,
        endpoints: endpoints(&asked.endpoints)?,
    };
    let change = |ledger: &crate::org::Ledger, now| {
        let done = ledger.register(&registration, now)?;
        let after = done.step.as_ref().map_or(ledger, |step| &step.ledger);
        let (snapshot, is_new) = (after.view().snapshot(0), done.step.is_some());
        Ok(((snapshot, is_new, done.device), done.step))
    };
    let (snapshot, is_new, device) = registry.change(change).await?;
    if is_new {
        info!(org = %registry.org(), device = %device.name, key = %key, address = %device.ip4, "device joined");
    }
    Ok(said_text(snapshot.to_text()))
}

/// Another key for a member, which proves both: the nonce is of this one request, so nobody else's proof is of use.
async fn rotated(
    registrar: &Registrar,
    registry: &Registry,
    old: PublicKey,
    nonce: Option<[u8; PROOF_BYTES]>,
    asked: &Asked<'_>,
) -> Result<Answered, Denied> {
    let body: Option<api::NewKey> = serde_json::from_slice(asked.body).ok();
    let new = body.and_then(|body| body.key.parse::<PublicKey>().ok());
    let new = new.ok_or_else(|| Denied::malformed("the body has no key"))?;
    proven_by(registrar, &new, NEW_PROOF_HEADER, nonce, asked)?;
    let change = |ledger: &crate::org::Ledger, now| {
        let done = ledger.rotate(&old, &new, now)?;
        let after = done.step.as_ref().map_or(ledger, |step| &step.ledger);
        let (snapshot, is_new) = (after.view().snapshot(0), done.step.is_some());
        Ok(((snapshot, is_new, done.device), done.step))
    };
    let (snapshot, is_new, device) = registry.change(change).await?;
    if is_new {
        info!(org = %registry.org(), device = %device.name, key = %device.key, former = %old, "device has a new key");
    }
    Ok(said_text(snapshot.to_text()))
}

async fn moved(
    registrar: &Registrar,
    registry: &Registry,
    key: PublicKey,
    body: &[u8],
) -> Result<Answered, Denied> {
    let asked: api::Endpoints =
        serde_json::from_slice(body).map_err(|_| Denied::malformed("the body has no endpoints"))?;
    let endpoints = endpoints(&asked.endpoints)?;
    registry.look(|ledger| ledger.member(&key).map(|_| ())).await?.map_err(RegistryError::from)?;
    if !registrar.devices.may_move(key, Instant::now()) {
        return Err(Denied::new(429, "too_fast", "this device moves too often"));
    }
    registry.change(|ledger, now| Ok(((), ledger.move_to(&key, &endpoints, now)?))).await?;
    Ok(said(&serde_json::json!({})))
}

/// First what is newer than `since`, then each change, until the device is no member or nobody reads.
async fn follow(
    registrar: &Registrar,
    registry: &Registry,
    key: PublicKey,
    since: u64,
    permit: OwnedSemaphorePermit,
) -> Result<Answered, Denied> {
    registry.look(|ledger| ledger.member(&key).map(|_| ())).await?.map_err(RegistryError::from)?;
    let (sender, receiver) = mpsc::channel(1);
    let (telling, ended) =
        (tell(registry.watch(), key, since, sender, permit), registrar.devices.follow(key));
    tokio::spawn(async move {
        tokio::select! {
            () = telling => {}
            _ = ended => {}
        }
    });
    Ok(lines(receiver))
}

async fn tell(
    mut views: watch::Receiver<Option<Arc<View>>>,
    key: PublicKey,
    mut since: u64,
    sender: mpsc::Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
) {
    loop {
        let view = views.borrow_and_update().clone();
        if let Some(view) = view
            && (view.revision() != since || since == 0)
        {
            let mut line = view.snapshot(since).to_text();
            line.push('\n');
            since = view.revision();
            // Only the newest waits for a slow reader.
            if sender.send(line.into()).await.is_err() {
                return;
            }
            if !matches!(view.record(&key), Some(Record::Device(_))) {
                return;
            }
        }
        match tokio::time::timeout(STILL, views.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                if sender.send(Bytes::from_static(b"\n")).await.is_err() {
                    return;
                }
            }
        }
    }
}
