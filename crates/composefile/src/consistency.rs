//! What must fit together across keys: references, exclusive keys, numbers that are said twice, cycles.

use std::collections::BTreeSet;

use crate::fault::{Fault, Kind, nearest};
use crate::tree::{Map, Node, Value};

/// Checks the project, its enabled services only. `disabled` names the ones that profiles leave out.
///
/// # Errors
/// The first contradiction, in the order of the services' names.
pub(crate) fn check(tree: &Map, disabled: &BTreeSet<String>) -> Result<(), Fault> {
    let none = Map::new();
    let services = tree.get("services").and_then(Node::as_map).unwrap_or(&none);
    for (name, service) in services {
        let path = format!("services.{name}");
        image(service, &path)?;
        exclusive(service, &path)?;
        references(tree, service, &path)?;
        dependencies(services, disabled, service, &path)?;
        contexts(services, service, &path)?;
        scale(service, &path)?;
    }
    files(tree)?;
    cycles(services)
}

/// Checks what a service says in itself, of those too that profiles leave out.
///
/// # Errors
/// The first contradiction, in the order of the services' names.
pub(crate) fn check_each(tree: &Map) -> Result<(), Fault> {
    for (name, service) in tree.get("services").and_then(Node::as_map).into_iter().flatten() {
        let path = format!("services.{name}");
        mounts(service, &path)?;
        gpus(service, &path)?;
        unique(service, &path)?;
    }
    Ok(())
}

fn inconsistent(node: &Node, path: &str, what: String) -> Fault {
    node.fault(path, what).kind(Kind::Inconsistent)
}

fn image(service: &Node, path: &str) -> Result<(), Fault> {
    let has_image = service.text_at("image").is_some_and(|image| !image.is_empty());
    if has_image || service.at("build").is_some() {
        return Ok(());
    }
    Err(inconsistent(service, path, "has neither `image` nor `build`".to_owned()))
}

fn exclusive(service: &Node, path: &str) -> Result<(), Fault> {
    let mode = service.at("network_mode").filter(|mode| mode.as_text() != Some(""));
    if let (Some(mode), Some(_)) = (mode, service.at("networks")) {
        return Err(inconsistent(mode, path, "`network_mode` and `networks` exclude one another".to_owned()));
    }
    if let Some(build) = service.at("build")
        && let (Some(_), Some(inline)) = (build.at("dockerfile"), build.at("dockerfile_inline"))
    {
        let what = "`dockerfile` and `dockerfile_inline` exclude one another".to_owned();
        return Err(inconsistent(inline, &format!("{path}.build"), what));
    }
    Ok(())
}

/// Networks, volumes, secrets and configs that a service names are there.
fn references(tree: &Map, service: &Node, path: &str) -> Result<(), Fault> {
    let known = |section: &str, name: &str, node: &Node, noun: &str| {
        let members = tree.get(section).and_then(Node::as_map);
        if members.is_some_and(|members| members.contains_key(name)) {
            return Ok(());
        }
        let near = members.and_then(|members| nearest(name, members.keys().map(String::as_str)));
        let hint = near.map(|near| format!("did you mean `{near}`?"));
        Err(inconsistent(node, path, format!("there is no {noun} `{name}`")).hint(hint))
    };
    for (name, node) in service.members("networks") {
        known("networks", name, node, "network")?;
    }
    for mount in service.items("volumes") {
        let source = mount.text_at("source").unwrap_or_default();
        if mount.text_at("type") == Some("volume") && !source.is_empty() {
            known("volumes", source, mount, "volume")?;
        }
    }
    for (section, noun) in [("secrets", "secret"), ("configs", "config")] {
        for grant in service.items(section) {
            known(section, grant.text_at("source").unwrap_or_default(), grant, noun)?;
        }
    }
    let build_secrets = service.at("build").map(|build| build.items("secrets")).unwrap_or_default();
    for grant in build_secrets {
        known("secrets", grant.text_at("source").unwrap_or_default(), grant, "secret")?;
    }
    Ok(())
}

fn dependencies(
    services: &Map,
    disabled: &BTreeSet<String>,
    service: &Node,
    path: &str,
) -> Result<(), Fault> {
    for (name, dependency) in service.members("depends_on") {
        let optional = dependency.at("required").is_some_and(|node| node.value == Value::Bool(false));
        if services.contains_key(name) || optional {
            continue;
        }
        let (what, hint) = if disabled.contains(name) {
            (format!("depends on `{name}`, which no enabled profile has"), None)
        } else {
            let near = nearest(name, services.keys().map(String::as_str));
            (
                format!("depends on `{name}`, which is not there"),
                near.map(|near| format!("did you mean `{near}`?")),
            )
        };
        return Err(inconsistent(dependency, path, what).hint(hint));
    }
    Ok(())
}

/// A build may read from another service's.
fn contexts(services: &Map, service: &Node, path: &str) -> Result<(), Fault> {
    let contexts =
        service.at("build").and_then(|build| build.at("additional_contexts")).and_then(Node::as_map);
    for (name, node) in contexts.into_iter().flatten() {
        let other = node.as_text().and_then(|text| text.strip_prefix("service:"));
        if let Some(other) = other.filter(|other| !services.contains_key(*other)) {
            let path = format!("{path}.build.additional_contexts.{name}");
            return Err(inconsistent(node, &path, format!("there is no service `{other}`")));
        }
    }
    Ok(())
}

/// Numbers that may be said in two places must be the same.
fn scale(service: &Node, path: &str) -> Result<(), Fault> {
    let deploy = |keys: &[&str]| keys.iter().try_fold(service.at("deploy")?, |node, key| node.at(key));
    let replicas = deploy(&["replicas"]);
    let limits = |key| deploy(&["resources", "limits", key]);
    let pairs = [
        ("scale", "deploy.replicas", replicas),
        ("mem_limit", "deploy.resources.limits.memory", limits("memory")),
        ("cpus", "deploy.resources.limits.cpus", limits("cpus")),
        ("pids_limit", "deploy.resources.limits.pids", limits("pids")),
    ];
    if let (Some(own), Some(reservations)) =
        (service.at("mem_reservation"), deploy(&["resources", "reservations"]))
        && reservations.at("memory") != Some(own)
    {
        let what = "`mem_reservation` and `deploy.resources.reservations.memory` are not the same".to_owned();
        return Err(inconsistent(own, path, what));
    }
    // Limits that are said at all say every one: what is left out of them is none.
    let said = deploy(&["resources", "limits"]).is_some();
    for (key, other, value) in pairs {
        if let Some(own) = service.at(key)
            && (value.is_some() || (said && key != "scale"))
            && Some(own) != value
        {
            return Err(inconsistent(own, path, format!("`{key}` and `{other}` are not the same")));
        }
    }
    let several = [service.at("scale"), replicas].into_iter().flatten();
    let several =
        several.filter_map(|node| if let Value::Int(n) = node.value { Some(n) } else { None }).max();
    if let (Some(name), Some(2..)) = (service.at("container_name"), several) {
        let what = "`container_name` is one name, and there is more than one replica".to_owned();
        return Err(inconsistent(name, path, what));
    }
    Ok(())
}

fn mounts(service: &Node, path: &str) -> Result<(), Fault> {
    for mount in service.items("volumes") {
        if mount.text_at("type") == Some("bind") && mount.text_at("source").is_none_or(str::is_empty) {
            return Err(inconsistent(mount, path, "a bind mount has no `source`".to_owned()));
        }
    }
    Ok(())
}

fn gpus(service: &Node, path: &str) -> Result<(), Fault> {
    let reserved = service.at("deploy").and_then(|d| d.at("resources")).and_then(|r| r.at("reservations"));
    let reserved = reserved.map(|node| node.items("devices")).unwrap_or_default();
    for device in service.items("gpus").iter().chain(reserved) {
        if let (Some(count), Some(_)) = (device.at("count"), device.at("device_ids")) {
            return Err(inconsistent(count, path, "`count` and `device_ids` exclude one another".to_owned()));
        }
    }
    for device in reserved {
        if device.at("capabilities").is_none() {
            return Err(inconsistent(device, path, "a reserved device has no `capabilities`".to_owned()));
        }
    }
    Ok(())
}

/// Lists in which nothing may come twice, one file and the next taken together.
fn unique(service: &Node, path: &str) -> Result<(), Fault> {
    for key in ["device_cgroup_rules", "external_links", "security_opt", "volumes_from"] {
        let mut seen = BTreeSet::new();
        for item in service.items(key) {
            let text = item.as_text().unwrap_or_default();
            if !seen.insert(text) {
                return Err(inconsistent(item, &format!("{path}.{key}"), format!("has `{text}` twice")));
            }
        }
    }
    Ok(())
}

/// Where secrets and configs come from, and what an external resource may say.
fn files(tree: &Map) -> Result<(), Fault> {
    let sections: [(&str, &[&str]); 2] =
        [("secrets", &["file", "environment"]), ("configs", &["file", "environment", "content"])];
    for (section, sources) in sections {
        for (name, node) in tree.get(section).and_then(Node::as_map).into_iter().flatten() {
            let count = sources.iter().filter(|key| node.at(key).is_some()).count();
            let path = format!("{section}.{name}");
            match (node.is_true_at("external"), count) {
                (false, 0) => {
                    return Err(inconsistent(node, &path, format!("needs one of {}", sources.join(", "))));
                }
                (false, 2..) => {
                    return Err(inconsistent(
                        node,
                        &path,
                        format!("{} exclude one another", sources.join(", ")),
                    ));
                }
                _ => {}
            }
        }
    }
    for (name, node) in tree.get("volumes").and_then(Node::as_map).into_iter().flatten() {
        let extra = ["driver", "driver_opts", "labels"].into_iter().find(|key| node.at(key).is_some());
        if let (true, Some(extra)) = (node.is_true_at("external"), extra) {
            let what = format!("is external, which `{extra}` contradicts");
            return Err(inconsistent(node, &format!("volumes.{name}"), what));
        }
    }
    Ok(())
}

/// Services that wait for one another for ever.
fn cycles(services: &Map) -> Result<(), Fault> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in services.keys() {
        // Depth first: the way here, and what is still to be looked at from each step of it.
        let mut way: Vec<(&str, Vec<&str>)> = Vec::new();
        let mut on_the_way: BTreeSet<&str> = BTreeSet::new();
        let next = |name: &str| -> Vec<&str> {
            let dependencies =
                services.get(name).map(|node| node.members("depends_on").map(|(name, _)| name.as_str()));
            dependencies.into_iter().flatten().filter(|name| services.contains_key(*name)).collect()
        };
        if done.contains(start.as_str()) {
            continue;
        }
        way.push((start, next(start)));
        on_the_way.insert(start);
        while let Some((name, open)) = way.last_mut() {
            let Some(other) = open.pop() else {
                done.insert(name);
                on_the_way.remove(name);
                way.pop();
                continue;
            };
            if on_the_way.contains(other) {
                let ring = way.iter().map(|(name, _)| *name).skip_while(|name| *name != other);
                return Err(ring_fault(services, other, &ring.chain([other]).collect::<Vec<_>>()));
            }
            if !done.contains(other) {
                way.push((other, next(other)));
                on_the_way.insert(other);
            }
        }
    }
    Ok(())
}

/// Most services of a ring that are named.
const MAX_SHOWN: usize = 12;

fn ring_fault(services: &Map, first: &str, ring: &[&str]) -> Fault {
    let ring = if ring.len() > MAX_SHOWN {
        format!("{} -> … ({} services)", ring[..MAX_SHOWN].join(" -> "), ring.len() - 1)
    } else {
        ring.join(" -> ")
    };
    let what = format!("services depend on one another in a ring: {ring}");
    match services.get(first).and_then(|node| node.at("depends_on")) {
        Some(node) => inconsistent(node, &format!("services.{first}"), what),
        None => Fault::of(Kind::Inconsistent, what),
    }
}
