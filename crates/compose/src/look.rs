//! A look at the server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use portway_control::ClientError;
use portway_incus::{Client, IncusError, Listed, Resource, ResourceId, Shelf, status_code};
use portway_model::{InstanceKey, Provider};

use crate::label;
use crate::observe::{Life, Observed, Seen, SeenNetwork, SeenVolume};
use crate::want::{ComposeProject, ImageSource, Owner};

/// Looks at networks of which one is half made, and the time between two: two seconds, of which the server needs a tenth.
const SETTLED: u32 = 20;
const AGAIN: Duration = Duration::from_millis(100);

/// Why nothing can be seen.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The server does not answer, or refuses.
    #[error("the server cannot be looked at")]
    Server(#[from] IncusError),
    /// The daemon does not answer, or refuses.
    #[error("the published ports cannot be looked at")]
    Portway(#[from] ClientError),
    /// It has nowhere to put an instance.
    #[error("the server has no storage pool")]
    NoPool,
}

/// What is there, for a project of the server's. What `want` names is looked at more closely.
///
/// # Errors
/// [`LookError`], any.
pub async fn look(
    client: &Client,
    project: &str,
    want: Option<&ComposeProject>,
    portway: Option<&portway_control::Client>,
) -> Result<Observed, LookError> {
    let own = client.resource(&ResourceId::Project { name: project.to_owned() }).await?;
    let pools = client.pools().await?;
    let first = pools.iter().find(|pool| pool.name == "default").or(pools.first());
    let mut seen = Observed {
        pool: first.ok_or(LookError::NoPool)?.name.clone(),
        inhabitants: own
            .iter()
            .flat_map(|own| &own.used_by)
            .filter(|path| !is_default(path))
            .cloned()
            .collect(),
        project: own.map(|own| own.config),
        ..Observed::default()
    };
    networks(client, want, &mut seen).await?;
    if seen.project.is_some() {
        seen.instances = client.list(project).await?.into_iter().map(instance).collect();
        volumes(client, project, want, &mut seen).await?;
    }
    if let Some(want) = want {
        images(client, project, want, &mut seen).await?;
    }
    if let Some(daemon) = portway {
        seen.published = published(daemon, project).await?;
    }
    Ok(seen)
}

/// Whether it is the profile that every project has.
fn is_default(path: &str) -> bool {
    path.split('?').next() == Some("/1.0/profiles/default")
}

fn instance(listed: Listed) -> (String, Seen) {
    let life = match listed.status_code {
        status_code::RUNNING => Life::Running,
        status_code::STOPPED => Life::Stopped,
        status_code::FROZEN => Life::Paused,
        _ => Life::Unknown,
    };
    let config = listed.definition.config_below("").map(|(key, value)| (key.to_owned(), value.to_owned()));
    let seen = Seen { config: config.collect(), devices: listed.definition.devices(), life };
    (listed.definition.name, seen)
}

async fn networks(
    client: &Client,
    want: Option<&ComposeProject>,
    seen: &mut Observed,
) -> Result<(), IncusError> {
    let found = settled(client, want).await?;
    for Resource { id, config, used_by, is_managed, .. } in found {
        let network = SeenNetwork { managed: is_managed, config, used_by, ..SeenNetwork::default() };
        seen.networks.insert(id.name().to_owned(), network);
    }
    let Some(want) = want else { return Ok(()) };
    let wanted = want.networks.values();
    let new =
        wanted.clone().any(|network| crate::place::takes_new(network, seen.networks.get(&network.name)));
    if new {
        // Where a subnet has to be found, all that the server's host has are taken.
        for (name, network) in seen.networks.iter_mut().filter(|(_, network)| !network.managed) {
            network.addresses = client.host_addresses(name).await?;
        }
    }
    for network in wanted.filter(|network| network.owner == Owner::External) {
        if let Some(there) = seen.networks.get_mut(&network.name) {
            let leases = client.leases("default", &network.name).await?.unwrap_or_default();
            there.taken = leases
                .iter()
                .filter_map(|lease| match lease.address() {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                })
                .collect();
        }
    }
    Ok(())
}

/// The networks, once those of the project are complete: one that is being made is listed before its keys are.
async fn settled(client: &Client, want: Option<&ComposeProject>) -> Result<Vec<Resource>, IncusError> {
    let half = |found: &Resource| {
        let mut wanted = want.into_iter().flat_map(|want| want.networks.values());
        let own = wanted.any(|one| one.owner == Owner::Project && one.name == found.id.name());
        own && !found.config.contains_key(label::PROJECT)
    };
    let mut tries = 0;
    loop {
        let found = client.resources(&Shelf::Networks { project: "default".to_owned() }).await?;
        tries += 1;
        if tries > SETTLED || !found.iter().any(half) {
            return Ok(found);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn volumes(
    client: &Client,
    project: &str,
    want: Option<&ComposeProject>,
    seen: &mut Observed,
) -> Result<(), IncusError> {
    let named =
        want.into_iter().flat_map(|want| want.volumes.values().filter_map(|volume| volume.pool.clone()));
    let pools: BTreeSet<String> = named.chain([seen.pool.clone()]).collect();
    for pool in pools {
        let shelf = Shelf::Volumes { project: project.to_owned(), pool: pool.clone() };
        for Resource { id, config, used_by, .. } in client.resources(&shelf).await? {
            let key = (pool.clone(), id.name().to_owned());
            seen.volumes.insert(key, SeenVolume { config, used_by });
        }
    }
    Ok(())
}

/// Images by their names at the server, and those it has fetched by where they are from.
async fn images(
    client: &Client,
    project: &str,
    want: &ComposeProject,
    seen: &mut Observed,
) -> Result<(), IncusError> {
    let project = if seen.project.is_some() { project } else { "default" };
    let mut all = None;
    for (name, image) in &want.images {
        let (url, alias) = match &image.source {
            ImageSource::Local(alias) | ImageSource::Built(alias) => {
                if let Some(image) = client.image(project, alias).await? {
                    seen.images.insert(name.clone(), image.fingerprint);
                }
                continue;
            }
            ImageSource::Simplestreams { url, alias } => (url, alias),
            ImageSource::Oci { url, name } => (url, name),
        };
        if all.is_none() {
            all = Some(client.images(project).await?);
        }
        let mut found = all.iter().flatten().filter(|image| {
            image.source.as_ref().is_some_and(|from| from.server == *url && from.alias == *alias)
        });
        if let Some(image) = found.next() {
            seen.images.insert(name.clone(), image.fingerprint.clone());
        }
    }
    Ok(())
}

/// Devices of Portway in the instances of a project.
async fn published(
    daemon: &portway_control::Client,
    project: &str,
) -> Result<BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>, ClientError> {
    let ours = |key: &InstanceKey| {
        key.provider() == Provider::Incus && key.project().is_some_and(|name| name.as_str() == project)
    };
    let mut found: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
    for device in daemon.devices(None).await?.into_iter().filter(|device| ours(&device.instance)) {
        let of = found.entry(device.instance.name().to_string()).or_default();
        of.insert(device.name.to_string(), device.keys);
    }
    Ok(found)
}
