//! Which networks, volumes and addresses the instances of a project get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::address::Subnet;
use crate::label;
use crate::observe::{Observed, Seen, SeenNetwork};
use crate::plan::PlanError;
use crate::render::{Facts, Place};
use crate::want::{Addressing, ComposeProject, Instance, Network, Nic, Owner};

/// What a look at the server tells of `want`, for instances that `counts`.
pub(crate) fn facts<'a>(
    want: &'a ComposeProject,
    seen: &'a Observed,
    counts: &dyn Fn(&Instance) -> bool,
) -> Result<Facts<'a>, PlanError> {
    let mut facts = Facts { project: &want.name, pool: &seen.pool, ..Facts::default() };
    let used = used(want, counts);
    let mut subnets = Vec::new();
    let mut networks: Vec<(&String, &Network)> =
        want.networks.iter().filter(|(key, _)| used.contains(key.as_str())).collect();
    // Those that are said first: what is free is chosen beside them.
    networks.sort_by_key(|(_, network)| said(network).is_none());
    for (key, network) in networks {
        let subnet = subnet(want, network, seen, &subnets)?;
        subnets.extend(subnet);
        facts.networks.insert(key, Place { network, subnet });
    }
    for (key, volume) in &want.volumes {
        facts.volumes.insert(key, (volume.pool.as_deref().unwrap_or(&seen.pool), &volume.name));
    }
    for (key, place) in facts.networks.clone() {
        let there = seen.networks.get(&place.network.name);
        addresses(&mut facts, want, (key, &place), there, (seen, counts))?;
    }
    Ok(facts)
}

/// Networks that instances which count are in.
fn used<'a>(want: &'a ComposeProject, counts: &dyn Fn(&Instance) -> bool) -> BTreeSet<&'a str> {
    let instances = want.instances().map(|(_, instance)| instance).filter(|instance| counts(instance));
    instances.flat_map(|instance| instance.nics.iter().map(|nic| nic.network.as_str())).collect()
}

/// The subnet of a network: its own, the one it is to have, or a free one.
fn subnet(
    want: &ComposeProject,
    network: &Network,
    seen: &Observed,
    chosen: &[Subnet],
) -> Result<Option<Subnet>, PlanError> {
    let there = seen.networks.get(&network.name);
    let ours = |there: &SeenNetwork| there.config.get(label::PROJECT) == Some(&want.name);
    match (network.owner, there) {
        (Owner::External, None) => {
            return Err(PlanError::Missing { what: format!("network {}", network.name) });
        }
        (Owner::Project, Some(there)) if !there.managed || !ours(there) => {
            return Err(PlanError::Taken { what: format!("network {}", network.name) });
        }
        _ => {}
    }
    let others = seen.networks.iter().filter(|(name, _)| **name != network.name);
    let others = others.flat_map(|(name, other)| {
        let addresses = other.addresses.iter().chain(other.config.get("ipv4.address"));
        addresses.filter_map(|text| Subnet::parse(text)).map(move |subnet| (name.as_str(), subnet))
    });
    let others = others.chain(chosen.iter().map(|subnet| (want.name.as_str(), *subnet)));
    match said(network).or_else(|| there.and_then(|there| there.config.get("ipv4.address"))) {
        Some(text) => {
            let subnet = Subnet::parse(text);
            let mut taken = others.filter(|(_, other)| subnet.is_some_and(|own| own.overlaps(other)));
            match taken.next().filter(|_| takes_new(network, there)) {
                Some((name, other)) => Err(PlanError::Address {
                    what: format!("{text} of network {}", network.name),
                    why: format!("{other} is {name}'s"),
                }),
                None => Ok(subnet),
            }
        }
        None if network.owner == Owner::External => Ok(None),
        None => {
            let taken: Vec<Subnet> = others.map(|(_, subnet)| subnet).collect();
            let free = Subnet::unused(&network.name, &taken);
            free.map(Some).ok_or_else(|| PlanError::NoSubnet { network: network.name.clone() })
        }
    }
}

/// The subnet that the files say. `auto` is any: one that is free.
fn said(network: &Network) -> Option<&String> {
    let said = network.config.get("ipv4.address").filter(|text| *text != "auto");
    said.filter(|_| network.owner == Owner::Project)
}

/// Whether a network of the project is to have addresses that it has not yet.
pub(crate) fn takes_new(network: &Network, there: Option<&SeenNetwork>) -> bool {
    let has = there.and_then(|there| there.config.get("ipv4.address"));
    network.owner == Owner::Project && (has.is_none() || said(network).is_some_and(|said| has != Some(said)))
}

/// Gives the interfaces in one network their addresses: what is said, what they have, what is free.
fn addresses<'a>(
    facts: &mut Facts<'a>,
    want: &'a ComposeProject,
    (key, place): (&'a str, &Place<'a>),
    there: Option<&SeenNetwork>,
    (seen, counts): (&Observed, &dyn Fn(&Instance) -> bool),
) -> Result<(), PlanError> {
    let Some(subnet) = place.subnet else { return Ok(()) };
    let instances = want.instances().map(|(_, instance)| instance).filter(|instance| counts(instance));
    let inside: Vec<(&Instance, &Nic)> = instances
        .flat_map(|instance| instance.nics.iter().map(move |nic| (instance, nic)))
        .filter(|(_, nic)| nic.network == key)
        .collect();
    let mut taken: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
    let own: BTreeSet<&str> = inside.iter().map(|(instance, _)| instance.name.as_str()).collect();
    let mut copied = BTreeSet::new();
    for (name, other) in seen.instances.iter().filter(|(name, _)| !own.contains(name.as_str())) {
        let Some(address) = other.address_in(&place.network.name) else { continue };
        // A copy has the address of what it was copied from, which keeps it.
        if other.label(label::NAME).is_some_and(|origin| origin != name) {
            copied.insert(address);
        } else {
            taken.insert(address, name.as_str());
        }
    }
    let kept = |instance: &Instance| {
        let address = seen.instances.get(&instance.name)?.address_in(&place.network.name)?;
        subnet.offers(address).then_some(address)
    };
    for (instance, nic) in &inside {
        let Some(address) = nic.ipv4 else { continue };
        let who = || format!("{} of {}", address, instance.name);
        if !subnet.offers(address) {
            return Err(PlanError::Address { what: who(), why: format!("outside of {subnet}") });
        }
        if let Some(other) = taken.insert(address, &instance.name) {
            return Err(PlanError::Address { what: who(), why: format!("it is {other}'s") });
        }
        facts.addresses.insert((&instance.name, key), address);
    }
    // A network that others use too has leases nobody told us of; those that are said are not handed out.
    let leased: BTreeSet<Ipv4Addr> =
        there.into_iter().flat_map(|there| there.taken.iter().copied()).collect();
    let open = inside.iter().filter(|(_, nic)| nic.ipv4.is_none());
    let open: Vec<_> = open
        .filter(|(instance, _)| {
            place.network.owner == Owner::Project || instance.addressing == Addressing::Outside
        })
        .collect();
    for (instance, _) in &open {
        if let Some(address) = kept(instance).filter(|address| !taken.contains_key(address)) {
            taken.insert(address, &instance.name);
            facts.addresses.insert((&instance.name, key), address);
        }
    }
    let mut used: BTreeSet<Ipv4Addr> = taken.keys().copied().chain(leased).chain(copied).collect();
    for (instance, _) in open {
        if facts.addresses.contains_key(&(instance.name.as_str(), key)) {
            continue;
        }
        let free = subnet.free(&used);
        let address = free.ok_or_else(|| PlanError::NoAddress { network: place.network.name.clone() })?;
        used.insert(address);
        facts.addresses.insert((&instance.name, key), address);
    }
    Ok(())
}

/// What the project's resolver says of its instances: each by its own name, its service's and its aliases. Those that
/// stay without being wanted are `kept`: what was said of them goes on being said.
pub(crate) fn names<'s>(
    key: &str,
    want: &ComposeProject,
    facts: &Facts<'_>,
    (seen, kept): (&Observed, impl Iterator<Item = (&'s String, &'s Seen)>),
) -> String {
    let mut lines = BTreeMap::new();
    for (service, instance) in want.instances() {
        let Some(address) = facts.addresses.get(&(instance.name.as_str(), key)) else { continue };
        let aliases = instance.nics.iter().filter(|nic| nic.network == key).flat_map(|nic| &nic.aliases);
        let mut names: Vec<&str> = vec![&instance.name, &service.name];
        names.extend(aliases.map(String::as_str));
        lines.extend(record(names, *address).map(|line| (instance.name.as_str(), line)));
    }
    let Some(place) = facts.networks.get(key) else { return String::new() };
    let there = seen.networks.get(&place.network.name);
    let said = there.and_then(|there| there.config.get("raw.dnsmasq")).map_or("", String::as_str);
    for (name, one) in kept {
        let Some(address) = one.address_in(&place.network.name) else { continue };
        let begin = format!("{RECORD}{name},");
        let end = format!(",{address}");
        let known = said.lines().find(|line| line.starts_with(&begin) && line.ends_with(&end));
        let service = one.service().filter(|_| !one.is_one_off());
        let names = [name.as_str()].into_iter().chain(service).collect();
        let line = known.map(str::to_owned).or_else(|| record(names, address));
        lines.extend(line.map(|line| (name.as_str(), line)));
    }
    lines.into_values().collect::<Vec<_>>().join("\n")
}

const RECORD: &str = "host-record=";

/// The resolver's line for an address; `None` when nothing can be its name.
fn record(mut names: Vec<&str>, address: Ipv4Addr) -> Option<String> {
    let mut said = BTreeSet::new();
    names.retain(|name| said.insert(*name) && is_host_name(name));
    let names: Vec<String> = names.iter().map(|name| format!("{name},{name}.incus")).collect();
    (!names.is_empty()).then(|| format!("{RECORD}{},{address}", names.join(",")))
}

/// Whether a text can stand in the resolver's configuration as a name and as nothing else.
fn is_host_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    // A number would be read as an address or a time.
    let number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(letter) && !number
}
