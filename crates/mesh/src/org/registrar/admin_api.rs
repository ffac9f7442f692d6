//! What the owner of a registrar asks for.

use hyper::Method;
use portway_model::{Cidr, CidrList};
use serde::de::DeserializeOwned;
use tracing::info;

use super::device_api::{Asked, nothing};
use super::{Registrar, RegistrarError, admin};
use crate::org::http::{Answered, Denied, said};
use crate::org::registry::{Registry, unix_now};
use crate::org::{Device, JoinKey, Ledger, Pool, Secret, Settings, Terms};

impl From<RegistrarError> for Denied {
    fn from(error: RegistrarError) -> Denied {
        match error {
            RegistrarError::Registry(error) => error.into(),
            error => Denied::new(500, "registrar", error),
        }
    }
}

/// One request of the owner's.
pub(super) async fn answer(registrar: &Registrar, asked: &Asked<'_>) -> Result<Answered, Denied> {
    let parts: Vec<&str> = asked.target.split('/').collect();
    let ["", "v1", "orgs", rest @ ..] = parts.as_slice() else { return Err(nothing()) };
    let (org, rest) = match rest {
        [] => return orgs(registrar, asked).await,
        [org, rest @ ..] => (org, rest),
    };
    let missing = || Denied::new(404, "no_org", format!("there is no organization {org:.70}"));
    let registry = registrar.org(org).ok_or_else(missing)?;
    match (asked.method, rest) {
        (&Method::GET, ["keys"]) => {
            Ok(said(&registry.look(|ledger| ledger.join_keys().map(key).collect::<Vec<_>>()).await?))
        }
        (&Method::POST, ["keys"]) => new_key(registrar, &registry, &body(asked)?).await,
        (&Method::DELETE, ["keys", id]) => {
            let id = id.parse().map_err(Denied::malformed)?;
            registry.change(|ledger, now| Ok(((), Some(ledger.remove_key(id, now)?)))).await?;
            Ok(said(&serde_json::json!({})))
        }
        (&Method::GET, ["devices"]) => {
            let all = |ledger: &Ledger| ledger.view().devices().map(member).collect::<Vec<_>>();
            Ok(said(&registry.look(all).await?))
        }
        (&Method::DELETE, ["devices", name]) => {
            let name = name.parse().map_err(|error| Denied::malformed(format!("device: {error}")))?;
            registry.change(|ledger, now| Ok(((), Some(ledger.revoke(&name, now)?)))).await?;
            info!(org = %registry.org(), device = %name, "device revoked");
            Ok(said(&serde_json::json!({})))
        }
        (&Method::PUT, ["devices", name, "hub"]) => {
            let name = name.parse().map_err(|error| Denied::malformed(format!("device: {error}")))?;
            let admin::SetHub { hub } = body(asked)?;
            let marked = registry.change(|ledger, now| {
                let step = ledger.set_hub(&name, hub, now)?;
                let after = step.as_ref().map_or(ledger, |step| &step.ledger);
                let marked = after.view().devices().find(|device| device.name == name).map(member);
                Ok((marked, step))
            });
            let marked = marked.await?;
            info!(org = %registry.org(), device = %name, hub, "device marked");
            Ok(said(&marked))
        }
        _ => Err(nothing()),
    }
}

fn body<T: DeserializeOwned>(asked: &Asked<'_>) -> Result<T, Denied> {
    serde_json::from_slice(asked.body).map_err(Denied::malformed)
}

async fn orgs(registrar: &Registrar, asked: &Asked<'_>) -> Result<Answered, Denied> {
    match *asked.method {
        Method::GET => {
            let mut all = Vec::new();
            for name in registrar.orgs() {
                if let Some(registry) = registrar.org(name.as_str()) {
                    all.push(registry.look(org).await?);
                }
            }
            Ok(said(&all))
        }
        Method::POST => {
            let new: admin::NewOrg = body(asked)?;
            let name = new.name.parse().map_err(|error| Denied::malformed(format!("name: {error}")))?;
            let pool = Pool::new(
                block(&new.network)?,
                Pool::random_prefix6().map_err(|error| Denied::new(500, "random", error))?,
                new.reserved.iter().map(|text| block(text)).collect::<Result<_, _>>()?,
            );
            let pool = pool.map_err(Denied::malformed)?;
            let settings = Settings { pool, quarantine_seconds: new.quarantine_seconds };
            let made = registrar.create(name, settings).await?;
            info!(org = %made.org(), "organization made");
            Ok(said(&made.look(org).await?))
        }
        _ => Err(nothing()),
    }
}

fn block(text: &str) -> Result<Cidr, Denied> {
    let list: CidrList = text.parse().map_err(|error| Denied::malformed(format!("network: {error}")))?;
    match list.blocks() {
        [block] => Ok(*block),
        _ => Err(Denied::malformed("one address block is expected, such as 10.77.0.0/16")),
    }
}

fn org(ledger: &Ledger) -> admin::Org {
    let head = ledger.view().head();
    let pool = &head.settings.pool;
    admin::Org {
        name: head.org.to_string(),
        key: head.signer.to_string(),
        network: pool.block().to_string(),
        network6: pool.block6().map(|block| block.to_string()).unwrap_or_default(),
        devices: ledger.view().devices().count(),
        revision: head.revision,
    }
}

async fn new_key(
    registrar: &Registrar,
    registry: &Registry,
    new: &admin::NewKey,
) -> Result<Answered, Denied> {
    if new.tags.len().max(new.routes.len()) > Device::LIST_MAX {
        return Err(Denied::malformed(format!("more than {} tags or routes", Device::LIST_MAX)));
    }
    if new.uses == Some(0) {
        return Err(Denied::malformed("a key for no device is of no use"));
    }
    let tag = |text: &String| text.parse().map_err(|error| Denied::malformed(format!("tag: {error}")));
    let terms = Terms {
        uses_left: new.uses,
        not_after: new.expires_seconds.map(|seconds| unix_now().saturating_add(seconds)),
        tags: new.tags.iter().map(tag).collect::<Result<_, _>>()?,
        routes: new.routes.iter().map(|text| block(text)).collect::<Result<_, _>>()?,
    };
    let secret = Secret::generate().map_err(|error| Denied::new(500, "random", error))?;
    let add = |ledger: &Ledger, now| Ok(((), Some(ledger.add_key(&secret, terms.clone(), now)?)));
    registry.change(add).await?;
    let hash = secret.hash();
    let made = JoinKey { hash, terms, created: unix_now() };
    Ok(said(&admin::Key { token: Some(registrar.token(registry, secret).reveal()), ..key(&made) }))
}

fn key(join_key: &JoinKey) -> admin::Key {
    admin::Key {
        id: join_key.id().to_string(),
        token: None,
        uses_left: join_key.terms.uses_left,
        not_after: join_key.terms.not_after,
        tags: join_key.terms.tags.iter().map(ToString::to_string).collect(),
        routes: join_key.terms.routes.iter().map(ToString::to_string).collect(),
        created: join_key.created,
    }
}

fn member(device: &Device) -> admin::Member {
    admin::Member {
        name: device.name.to_string(),
        key: device.key.to_string(),
        ip4: device.ip4,
        ip6: device.ip6,
        routes: device.routes.iter().map(ToString::to_string).collect(),
        tags: device.tags.iter().map(ToString::to_string).collect(),
        endpoints: device.endpoints.iter().map(ToString::to_string).collect(),
        created: device.created,
        hub: device.hub,
    }
}
