//! A look at the server.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use portway_control::ClientError;
use portway_incus::{Client, IncusError, Listed, Pool, Resource, ResourceId, Shelf, status_code};
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::label;
use crate::lock;
use crate::map::Bridges;
use crate::observe::{Life, Observed, Seen, SeenNetwork, SeenVolume};
use crate::want::{ComposeProject, ImageSource, Instance, Keys, Owner, Privilege};

/// Looks at networks of which one is half made, and the time between two: two seconds, of which the server needs a tenth.
const SETTLED: u32 = 20;
const AGAIN: Duration = Duration::from_millis(100);

/// Longest wait for an instance that is being made or changed: a large image takes tens of seconds, a stop its grace.
const MADE: Duration = Duration::from_secs(60);

/// What the server may be at that it does not list, for somebody who was killed: a change of a network takes it 0.7 s, 0.6
/// of which it sleeps for dnsmasq. Where it has much to do the rest takes longer, as a look does, which takes it 5 ms else.
const UNSEEN: Duration = Duration::from_millis(1500);
const SLOWER: u32 = 20;

/// What an instance is listed by that has no files yet.
const MAKING: &str = "Creating instance";

/// Changes after which an instance is not what it is listed as, in the words of Incus 6.0, 7.0 and LXD 5.0.
const CHANGES: [&str; 8] = [
    MAKING,
    "Deleting instance",
    "Freezing instance",
    "Renaming instance",
    "Restarting instance",
    "Starting instance",
    "Stopping instance",
    "Unfreezing instance",
];

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
    /// It has no such one.
    #[error("the server has no storage pool {0}")]
    UnknownPool(String),
    /// The project is in another one.
    #[error("the project is in storage pool {has}, not in {wish}: take it down with its volumes first")]
    OtherPool {
        /// Where it is.
        has: String,
        /// What was asked for.
        wish: String,
    },
}

/// What is there, for a project of the server's. What `want` names is looked at more closely.
///
/// # Errors
/// [`LookError`], any.
pub async fn look(
    client: &Client,
    project: &str,
    want: Option<&ComposeProject>,
    portway: Option<&Daemon>,
) -> Result<Observed, LookError> {
    let own = client.resource(&ResourceId::Project { name: project.to_owned() }).await?;
    let pools = client.pools().await?;
    let label = |config: &Keys| config.get(label::POOL).cloned();
    let first = pools.iter().find(|pool| pool.name == "default").or(pools.first());
    let said = match (want.and_then(|want| label(&want.config)), &own) {
        // What is there is in its pool, and nothing moves it.
        (Some(wish), Some(own)) if own.config.contains_key(label::PROJECT) => {
            let has = label(&own.config).or(first.map(|pool| pool.name.clone()));
            if has.as_ref().is_some_and(|has| *has != wish) {
                return Err(LookError::OtherPool { has: has.unwrap_or_default(), wish });
            }
            Some(wish)
        }
        (wish, own) => wish.or(own.as_ref().and_then(|own| label(&own.config))),
    };
    let pool = match said {
        Some(said) => {
            let known = pools.iter().any(|pool| pool.name == said);
            known.then(|| said.clone()).ok_or(LookError::UnknownPool(said))?
        }
        None => first.ok_or(LookError::NoPool)?.name.clone(),
    };
    let mut seen = Observed {
        pool,
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
        made(client, project).await?;
        seen.instances = client.list(project).await?.into_iter().map(instance).collect();
        volumes(client, project, (want, &pools), &mut seen).await?;
        if want.is_none() {
            seen.fenced = fenced(client, seen.project.as_ref()).await?;
        }
    }
    if let Some(want) = want {
        let others = others(client, project, want).await?;
        leases(client, want, &others, &mut seen).await?;
        rivals(others, &mut seen);
    }
    if let Some(want) = want {
        images(client, project, want, &mut seen).await?;
    }
    if let Some(daemon) = portway {
        published(daemon, project, &mut seen).await?;
    }
    Ok(seen)
}

/// Waits for instances that the server is at making, as for somebody who was killed: they have no files yet.
async fn made(client: &Client, project: &str) -> Result<(), IncusError> {
    let begin = Instant::now();
    while begin.elapsed() < MADE && client.under_way(project).await?.iter().any(|one| one == MAKING) {
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

/// Waits for what the server is at with a project for somebody who was killed: what comes of it cannot be seen yet. Who
/// lives is not waited for.
///
/// # Errors
/// When the server cannot be asked.
pub async fn rest(client: &Client, project: &str) -> Result<(), IncusError> {
    let id = ResourceId::Project { name: project.to_owned() };
    let begin = Instant::now();
    let mut was_left = false;
    while begin.elapsed() < MADE {
        let before = Instant::now();
        let Some(own) = client.resource(&id).await?.filter(|own| !lock::is_held(&own.config)) else { break };
        if lock::is_left(&own.config) && !was_left {
            was_left = true;
            tokio::time::sleep((UNSEEN + before.elapsed() * SLOWER).min(MADE)).await;
        }
        if !client.under_way(project).await?.iter().any(|one| CHANGES.contains(&one.as_str())) {
            break;
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

/// Networks that the access lists of a project are for.
async fn fenced(client: &Client, own: Option<&Keys>) -> Result<BTreeSet<String>, IncusError> {
    let Some(name) = own.and_then(|own| own.get(label::PROJECT)) else { return Ok(BTreeSet::new()) };
    let all = client.acls().await?.into_iter();
    let own = all.filter(|list| list.get(label::PROJECT) == Some(name));
    Ok(own.filter_map(|list| list.get(label::NAME).cloned()).collect())
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
    let (config, devices) = (config.collect(), listed.definition.devices());
    let seen = Seen { config, devices, life, ..Seen::default() };
    (listed.definition.name, seen)
}

async fn networks(
    client: &Client,
    want: Option<&ComposeProject>,
    seen: &mut Observed,
) -> Result<(), IncusError> {
    let found = settled(client, want).await?;
    for resource in found {
        let own = want.and_then(|want| want.networks.values().find(|own| own.name == resource.id.name()));
        let half = match own {
            Some(own) if own.owner == Owner::Project => is_half(client, &resource).await?,
            _ => resource.is_half,
        };
        let Resource { id, config, used_by, is_managed, .. } = resource;
        let network = SeenNetwork { managed: is_managed, half, config, used_by, ..SeenNetwork::default() };
        seen.networks.insert(id.name().to_owned(), network);
    }
    let Some(want) = want else { return Ok(()) };
    let mut wanted = want.networks.values();
    let new = wanted.any(|network| crate::place::takes_new(network, seen.networks.get(&network.name)));
    let leads = want.instances().any(|(_, instance)| !instance.leads.is_empty());
    // Where a subnet has to be found, all that the server's host has are taken; where it leads, its addresses count.
    for (name, network) in seen.networks.iter_mut().filter(|(_, one)| leads || (new && !one.managed)) {
        network.addresses = client.host_addresses(name).await?;
    }
    Ok(())
}

/// Whether a network has no bridge that it should have: the server was interrupted when it made it, or, which it does not
/// say, when it removed it. One that is in use cannot be made anew.
///
/// # Errors
/// When the server cannot be asked.
pub(crate) async fn is_half(client: &Client, network: &Resource) -> Result<bool, IncusError> {
    let has = |key: &str| network.config.get(key).is_some_and(|address| address != "none");
    if network.is_half || !network.is_managed || !network.used_by.is_empty() {
        return Ok(network.is_half);
    }
    if !has("ipv4.address") && !has("ipv6.address") {
        return Ok(false);
    }
    client.host_addresses(network.id.name()).await.map(|addresses| addresses.is_empty())
}

/// Who has which address in the networks that others use too, and in those in which an instance has none reserved.
async fn leases(
    client: &Client,
    want: &ComposeProject,
    others: &[Listed],
    seen: &mut Observed,
) -> Result<(), IncusError> {
    for network in want.networks.values() {
        let Some(there) = seen.networks.get_mut(&network.name) else { continue };
        let bare = |one: &Seen| {
            let nic = one.nic_in(&network.name).filter(|_| one.service().is_some());
            nic.is_some_and(|(_, nic)| !nic.contains_key("ipv4.address"))
        };
        if network.owner == Owner::Project && !seen.instances.values().any(bare) {
            continue;
        }
        for lease in client.leases("default", &network.name).await?.unwrap_or_default() {
            if let IpAddr::V4(address) = lease.address() {
                there.leases.entry(address).or_default().insert(lease.hwaddr().to_ascii_lowercase());
            }
        }
        // The server lists what is reserved in its default project only.
        for other in others {
            let mut nics = other.definition.expanded_devices.values();
            let is_in = |nic: &&Keys| nic.get("network") == Some(&network.name);
            let address = nics.find(is_in).and_then(|nic| nic.get("ipv4.address")?.parse().ok());
            if let Some(address) = address {
                there.leases.entry(address).or_default().insert(other.definition.name.clone());
            }
        }
        for one in seen.instances.values_mut() {
            let Some(name) = one.nic_in(&network.name).map(|(name, _)| name.clone()) else { continue };
            let Some(hwaddr) = one.hwaddr(&name) else { continue };
            let own = there.leases.iter().find(|(_, has)| has.contains(&hwaddr));
            one.leased.extend(own.map(|(address, _)| (name, *address)));
        }
    }
    Ok(())
}

/// Instances of the server's other projects, when the project publishes something or is in networks of others.
async fn others(client: &Client, project: &str, want: &ComposeProject) -> Result<Vec<Listed>, IncusError> {
    let publishes = |one: &Instance| !one.ports.is_empty() || one.devices.values().any(is_proxy);
    let is_external = want.networks.values().any(|network| network.owner == Owner::External);
    if !is_external && !want.instances().any(|(_, instance)| publishes(instance)) {
        return Ok(Vec::new());
    }
    let all = client.list_everywhere().await?.into_iter();
    Ok(all.filter(|one| one.definition.project != project).collect())
}

fn is_proxy(device: &Keys) -> bool {
    device.get("type").is_some_and(|kind| kind == "proxy")
}

/// The proxy devices of those of them that run.
fn rivals(others: Vec<Listed>, seen: &mut Observed) {
    for one in others.into_iter().filter(|one| one.status_code != status_code::STOPPED) {
        let one = one.definition;
        let devices: Vec<Keys> = one.expanded_devices.into_values().filter(is_proxy).collect();
        if !devices.is_empty() {
            seen.rivals.insert(format!("{} of the server's project {}", one.name, one.project), devices);
        }
    }
}

/// Names that the bridges of the Compose project `name` have, and cannot have.
///
/// # Errors
/// When the server cannot be asked.
pub async fn bridges(client: &Client, name: &str) -> Result<Bridges, IncusError> {
    let mut bridges = Bridges::default();
    for found in client.resources(&Shelf::Networks { project: "default".to_owned() }).await? {
        let (own, key) = (found.config.get(label::PROJECT), found.config.get(label::KEY));
        if !found.is_managed {
            bridges.strays.insert(found.id.name().to_owned());
        } else if let (true, Some(key)) = (own.is_some_and(|own| own == name), key) {
            bridges.own.insert(key.clone(), found.id.name().to_owned());
        }
    }
    Ok(bridges)
}

/// The networks, once those of the project are complete: one that is being made is listed before its keys are.
async fn settled(client: &Client, want: Option<&ComposeProject>) -> Result<Vec<Resource>, IncusError> {
    let half = |found: &Resource| {
        let mut wanted = want.into_iter().flat_map(|want| want.networks.values());
        let own = wanted.any(|one| one.owner == Owner::Project && one.name == found.id.name());
        own && (found.is_half || !found.config.contains_key(label::PROJECT))
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
    (want, all): (Option<&ComposeProject>, &[Pool]),
    seen: &mut Observed,
) -> Result<(), IncusError> {
    let pools: BTreeSet<String> = match want {
        Some(want) => want
            .volumes
            .values()
            .filter_map(|volume| volume.pool.clone())
            .chain([seen.pool.clone()])
            .collect(),
        // Nobody says where they are.
        None => all.iter().map(|pool| pool.name.clone()).collect(),
    };
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
        if let ImageSource::Local(alias) | ImageSource::Built(alias) = &image.source {
            if let Some(image) = client.image(project, alias).await? {
                seen.images.insert(name.clone(), image.fingerprint);
            }
            continue;
        }
        let Some(remote) = image.source.remote() else { continue };
        if all.is_none() {
            all = Some(client.images(project).await?);
        }
        let found = all.iter().flatten().filter(|image| {
            image
                .source
                .as_ref()
                .is_some_and(|from| from.server == remote.server && from.alias == remote.alias)
        });
        // One that was fetched again has another fingerprint, and the one before stays.
        if let Some(image) = found.max_by_key(|image| &image.uploaded_at) {
            seen.images.insert(name.clone(), image.fingerprint.clone());
        }
    }
    Ok(())
}

/// Devices of Portway: those in the instances of the project, and those of others.
async fn published(daemon: &Daemon, project: &str, seen: &mut Observed) -> Result<(), ClientError> {
    for device in daemon.client.devices(None).await? {
        let key = &device.instance;
        if daemon.is_in(project, key) {
            let of = seen.published.entry(key.name().to_string()).or_default();
            of.insert(device.name.to_string(), device.keys);
        } else {
            let of = seen.rivals.entry(format!("{} of {key}", device.name)).or_default();
            of.push(device.keys);
        }
    }
    Ok(())
}

/// What the files ask for by naming networks of other Compose projects.
///
/// # Errors
/// [`IncusError`], any.
pub async fn strangers(client: &Client, want: &ComposeProject) -> Result<Vec<Privilege>, IncusError> {
    let mut found = Vec::new();
    for (key, network) in want.networks.iter().filter(|(_, network)| network.owner == Owner::External) {
        let id = ResourceId::Network { project: "default".to_owned(), name: network.name.clone() };
        let there = client.resource(&id).await?;
        let other = there.and_then(|there| there.config.get(label::PROJECT).cloned());
        let Some(other) = other.filter(|other| *other != want.name) else { continue };
        for service in want.services.values() {
            if service.instances.iter().any(|one| one.nics.iter().any(|nic| nic.network == *key)) {
                let what = format!("be in the network {} of the project {other}", network.name);
                let place = network.place.clone();
                found.push(Privilege { service: service.name.clone(), what, place });
            }
        }
    }
    Ok(found)
}
