//! Which networks, volumes and addresses the instances of a project get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::address::Subnet;
use crate::label;
use crate::observe::{Life, Observed, Seen, SeenNetwork};
use crate::plan::PlanError;
use crate::render::{Facts, Place};
use crate::want::{Addressing, ComposeProject, Instance, Network, Nic, Owner};

/// What a look at the server tells of `want`, for instances that `counts`.
pub(crate) fn facts<'a>(
    want: &'a ComposeProject,
    seen: &'a Observed,
    counts: &dyn Fn(&Instance) -> bool,
) -> Result<Facts<'a>, PlanError> {
    let seal = seen.project.as_ref().and_then(|own| own.get(label::SEAL)).or(want.config.get(label::SEAL));
    let mut facts = Facts {
        project: &want.name,
        pool: &seen.pool,
        guest: want.program.hash(),
        seal: seal.map(String::as_str).unwrap_or_default(),
        ..Facts::default()
    };
    let used = used(want, counts);
    let mut subnets = Vec::new();
    let mut networks: Vec<(&String, &Network)> =
        want.networks.iter().filter(|(key, _)| used.contains(key.as_str())).collect();
    // Those that are said first: what is free is chosen beside them.
    networks.sort_by_key(|(_, network)| said(network).is_none());
    for (key, network) in networks {
        let subnet = subnet(want, network, seen, &subnets)?;
        subnets.extend(subnet);
        let has = seen.networks.get(&network.name).map_or(&network.config, |there| &there.config);
        let is_off = |key: &str| has.get(key).or(network.config.get(key)).is_some_and(|said| said == "false");
        let is_closed = network.is_internal || is_off("ipv4.routing");
        let place = Place { network, subnet, is_closed, gives_addresses: !is_off("ipv4.dhcp") };
        facts.networks.insert(key, place);
    }
    facts.devices = seen.instances.iter().map(|(name, one)| (name.as_str(), &one.devices)).collect();
    for network in seen.networks.values() {
        let ips = network.addresses.iter().filter_map(|text| text.split_once('/')?.0.parse::<IpAddr>().ok());
        for ip in ips.filter(is_reachable) {
            facts.host.insert(ip);
            if !network.managed {
                facts.outer.insert(ip);
            }
        }
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

/// Whether others than the host itself can reach an address of it.
fn is_reachable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
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
        (Owner::External, Some(there)) if !there.managed => {
            return Err(PlanError::NotManaged { network: network.name.clone() });
        }
        // Not one that is just going: those were waited for.
        (Owner::Project, Some(there)) if !there.managed => {
            return Err(PlanError::Interface { network: network.name.clone() });
        }
        (Owner::Project, Some(there)) if !ours(there) => {
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
    let network = place.network;
    let mut copied = BTreeSet::new();
    for (name, other) in seen.instances.iter().filter(|(name, _)| !own.contains(name.as_str())) {
        let Some(address) = other.address_in(&network.name) else { continue };
        // A copy has the address of what it was copied from, which keeps it.
        if other.label(label::NAME).is_some_and(|origin| origin != name) {
            copied.insert(address);
        } else {
            taken.insert(address, name.as_str());
        }
    }
    for (instance, nic) in &inside {
        let Some(address) = nic.ipv4 else { continue };
        let who = || format!("{} of {}", address, instance.name);
        if !subnet.offers(address) {
            return Err(PlanError::Address { what: who(), why: format!("outside of {subnet}") });
        }
        if network.reserved.contains(&address) {
            return Err(PlanError::Address { what: who(), why: "it is one of aux_addresses".to_owned() });
        }
        if let Some(other) = taken.insert(address, &instance.name) {
            return Err(PlanError::Address { what: who(), why: format!("it is {other}'s") });
        }
        facts.addresses.insert((&instance.name, key), address);
    }
    let open: Vec<&Instance> = inside
        .iter()
        .filter(|(_, nic)| nic.ipv4.is_none())
        .map(|(instance, _)| *instance)
        .filter(|instance| is_given(network, instance))
        .collect();
    for instance in &open {
        if let Some(address) = kept(network, instance, &subnet, seen).filter(|has| !taken.contains_key(has)) {
            taken.insert(address, &instance.name);
            facts.addresses.insert((&instance.name, key), address);
        }
    }
    // A network that others use too has leases nobody told us of; those that are said are not handed out.
    let leases = there.map(|there| &there.leases);
    let leased = leases.into_iter().flat_map(|leases| leases.keys().copied());
    let reserved = network.reserved.iter().copied();
    let used = taken.keys().copied().chain(leased).chain(copied).chain(reserved);
    let mut used: BTreeSet<Ipv4Addr> = used.collect();
    for instance in open {
        let seen = seen.instances.get(&instance.name);
        let is_known = facts.addresses.contains_key(&(instance.name.as_str(), key));
        // It has one that nobody knows yet, and would not take another before its next start.
        let is_unclear = network.owner == Owner::External
            && instance.addressing == Addressing::Inside
            && seen.is_some_and(|seen| seen.life != Life::Stopped);
        if is_known || is_unclear {
            continue;
        }
        let free = subnet.free(network.range, &used);
        let address = free.ok_or_else(|| PlanError::NoAddress { network: network.name.clone() })?;
        used.insert(address);
        facts.addresses.insert((&instance.name, key), address);
    }
    contested(facts, (key, network), leases, seen);
    Ok(())
}

/// Whether an instance is given an address in a network, and does not just ask for one. What is led to it is led there.
fn is_given(network: &Network, instance: &Instance) -> bool {
    let is_led = !instance.leads.is_empty();
    network.owner == Owner::Project || instance.addressing != Addressing::Inside || is_led
}

/// The address that an instance has in a network: reserved, written into it, or leased.
fn kept(network: &Network, instance: &Instance, subnet: &Subnet, seen: &Observed) -> Option<Ipv4Addr> {
    let there = seen.instances.get(&instance.name)?;
    let written = || {
        let at = there.nic_in(&network.name)?.0.strip_prefix("eth")?;
        let begin = format!("lxc.net.{at}.ipv4.address = ");
        let raw = there.label("raw.lxc")?.lines().find_map(|line| line.strip_prefix(begin.as_str()))?;
        raw.split('/').next()?.parse().ok()
    };
    let address = there.address_in(&network.name).or_else(written)?;
    (subnet.offers(address) && !network.reserved.contains(&address)).then_some(address)
}

/// Notes the addresses in a network that somebody else has leased.
fn contested<'a>(
    facts: &mut Facts<'a>,
    (key, network): (&'a str, &Network),
    leases: Option<&BTreeMap<Ipv4Addr, BTreeSet<String>>>,
    seen: &Observed,
) {
    let Some(leases) = leases else { return };
    let of_others = |(name, of): &(&str, &str), address: &Ipv4Addr| {
        let Some(there) = seen.instances.get(*name).filter(|_| *of == key) else { return false };
        let own = there.nic_in(&network.name).and_then(|(device, _)| there.hwaddr(device));
        leases.get(address).is_some_and(|has| has.iter().any(|one| Some(one) != own.as_ref()))
    };
    let found = facts.addresses.iter().filter(|(who, address)| of_others(who, address));
    let found: Vec<(&str, &str)> = found.map(|(who, _)| *who).collect();
    facts.contested.extend(found);
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
    let beside = beside(key, want);
    for (service, instance) in want.instances() {
        // What `run` makes comes and goes, and each change of the names restarts the resolver.
        if instance.config.contains_key(label::ONE_OFF) {
            continue;
        }
        let is_in = |nic: &&Nic| nic.network == key;
        let mut nics = instance.nics.iter().filter(is_in).chain(
            // Who is here and there asks here.
            instance.nics.iter().filter(|nic| beside.contains(nic.network.as_str())),
        );
        let known = |nic: &Nic| facts.addresses.get(&(instance.name.as_str(), nic.network.as_str())).copied();
        let Some((nic, address)) = nics.find_map(|nic| Some((nic, known(nic)?))) else { continue };
        let mut names: Vec<&str> = vec![&instance.name, &service.name];
        names.extend(nic.aliases.iter().map(String::as_str));
        lines.extend(record(names, address).map(|line| (instance.name.as_str(), line)));
    }
    let Some(place) = facts.networks.get(key) else { return String::new() };
    let there = seen.networks.get(&place.network.name);
    let said = there.and_then(|there| there.config.get("raw.dnsmasq")).map_or("", String::as_str);
    for (name, one) in kept {
        let Some(address) = one.address_in(&place.network.name) else { continue };
        let begin = format!("{RECORD}{name},");
        let end = format!(",{address}");
        let known = said.lines().find(|line| line.starts_with(&begin) && line.ends_with(&end));
        if one.is_one_off() {
            continue;
        }
        let names = [name.as_str()].into_iter().chain(one.service()).collect();
        let line = known.map(str::to_owned).or_else(|| record(names, address));
        lines.extend(line.map(|line| (name.as_str(), line)));
    }
    lines.into_values().collect::<Vec<_>>().join("\n")
}

/// The other networks of those who are in one.
fn beside<'w>(key: &str, want: &'w ComposeProject) -> BTreeSet<&'w str> {
    let is_in = |instance: &&Instance| instance.nics.iter().any(|nic| nic.network == key);
    let members = want.instances().map(|(_, instance)| instance).filter(is_in);
    let networks = members.flat_map(|instance| instance.nics.iter().map(|nic| nic.network.as_str()));
    networks.filter(|network| *network != key).collect()
}

/// Refuses a name that somebody else's instance has in one of the networks: it could not be started there.
pub(crate) fn named(
    want: &ComposeProject,
    seen: &Observed,
    counts: &dyn Fn(&Instance) -> bool,
) -> Result<(), PlanError> {
    for (_, instance) in want.instances().filter(|(_, instance)| counts(instance)) {
        for nic in &instance.nics {
            let Some(network) = want.networks.get(&nic.network) else { continue };
            let users = seen.networks.get(&network.name).into_iter().flat_map(|there| &there.used_by);
            let same = users
                .filter_map(|path| user(path))
                .find(|(name, project)| *name == instance.name && *project != want.incus_project);
            if let Some((name, project)) = same {
                return Err(PlanError::Name {
                    instance: instance.name.clone(),
                    network: network.name.clone(),
                    other: format!("{name} of the server's project {project}"),
                });
            }
        }
    }
    Ok(())
}

/// Name and project of an instance by its path: `/1.0/instances/web-1?project=shop`.
fn user(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/1.0/instances/")?;
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut keys = query.split('&').filter_map(|pair| pair.strip_prefix("project="));
    Some((name, keys.next().unwrap_or("default")))
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
