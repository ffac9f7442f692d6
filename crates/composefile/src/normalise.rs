//! From the merged tree to the project: environment files, names, defaults, dependencies that follow from other keys.

use std::path::Path;

use crate::fault::Fault;
use crate::load::{Environment, Loader};
use crate::tree::{Map, Node, Value, text_weight};

/// Completes every service and every resource.
///
/// # Errors
/// An environment or label file that is not there.
pub(crate) fn project(
    loader: &Loader<'_>,
    tree: &mut Map,
    name: &str,
    dir: &Path,
    environment: &Environment,
) -> Result<(), Fault> {
    let mut needs_default = false;
    let services = tree.get_mut("services").and_then(Node::as_map_mut);
    for (service_name, service) in services.into_iter().flatten() {
        let path = format!("services.{service_name}");
        if let Some(map) = service.as_map_mut() {
            build(loader, map, dir, environment)?;
            networks(map);
            dependencies(map);
            small_defaults(map);
            env_files(loader, map, &path, environment)?;
            label_files(loader, map, &path)?;
            if !loader.raw {
                from_environment(loader, map.get_mut("environment"), environment)?;
            }
        }
        needs_default |= service.at("networks").is_some_and(|networks| networks.at("default").is_some());
    }
    if needs_default {
        let place = crate::fault::Place::of_file("");
        let networks =
            tree.entry("networks".to_owned()).or_insert_with(|| Node::new(Value::empty_map(), &place));
        networks.default_at("default", Value::Null);
    }
    for section in ["networks", "volumes", "secrets", "configs"] {
        let Some(members) = tree.get_mut(section).and_then(Node::as_map_mut) else { continue };
        for (key, node) in members {
            if node.value == Value::Null {
                node.value = Value::empty_map();
            }
            let own = if node.is_true_at("external") { key.clone() } else { format!("{name}_{key}") };
            if node.text_at("name").is_none_or(str::is_empty) {
                if let Some(map) = node.as_map_mut() {
                    map.remove("name");
                }
                node.default_at("name", Value::Text(own));
            }
        }
    }
    Ok(())
}

fn build(loader: &Loader<'_>, service: &mut Map, dir: &Path, environment: &Environment) -> Result<(), Fault> {
    let Some(build) = service.get_mut("build") else { return Ok(()) };
    build.default_at("context", Value::Text(dir.display().to_string()));
    if build.at("dockerfile_inline").is_none() {
        build.default_at("dockerfile", Value::Text("Dockerfile".to_owned()));
    }
    if let Some(args) = build.as_map_mut().and_then(|map| map.get_mut("args")) {
        from_environment(loader, Some(args), environment)?;
        if let Some(map) = args.as_map_mut() {
            map.retain(|_, node| node.value != Value::Null);
        }
    }
    Ok(())
}

/// A name without a value takes the one outside. The values are counted: a name is short, and what it stands for long.
fn from_environment(
    loader: &Loader<'_>,
    dict: Option<&mut Node>,
    environment: &Environment,
) -> Result<(), Fault> {
    for (name, node) in dict.and_then(Node::as_map_mut).into_iter().flatten() {
        if let (Value::Null, Some(value)) = (&node.value, environment.get(name)) {
            loader.make(text_weight(value), &node.place, name)?;
            node.value = Value::Text(value.clone());
        }
    }
    Ok(())
}

/// A service that names no network is in the default one.
fn networks(service: &mut Map) {
    let empty = service.get("networks").is_none_or(|node| node.as_map().is_some_and(Map::is_empty));
    if !empty || service.get("network_mode").is_some_and(|mode| mode.as_text() != Some("")) {
        return;
    }
    let Some(place) = service.values().next().map(|node| node.place.clone()) else { return };
    let default = Map::from([("default".to_owned(), Node::new(Value::Null, &place))]);
    service.insert("networks".to_owned(), Node::new(Value::Map(default), &place));
}

/// Whoever uses another service's namespaces, volumes or name depends on it.
fn dependencies(service: &mut Map) {
    let mut found: Vec<(String, bool, Node)> = Vec::new();
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        let Some(node) = service.get(key) else { continue };
        if let Some(other) = node.as_text().and_then(|text| text.strip_prefix("service:")) {
            found.push((other.to_owned(), true, node.clone()));
        }
    }
    let list = |key: &str| service.get(key).and_then(Node::as_list).unwrap_or_default().to_vec();
    for link in list("links") {
        let other = link.as_text().unwrap_or_default();
        found.push((other.split_once(':').map_or(other, |(other, _)| other).to_owned(), true, link.clone()));
    }
    for volumes in list("volumes_from") {
        let text = volumes.as_text().unwrap_or_default();
        if !text.starts_with("container:") {
            let other = text.split_once(':').map_or(text, |(other, _)| other);
            found.push((other.to_owned(), false, volumes.clone()));
        }
    }
    let Some((_, _, first)) = found.first().cloned() else { return };
    let depends_on =
        service.entry("depends_on".to_owned()).or_insert_with(|| Node::new(Value::empty_map(), &first.place));
    for (other, restart, node) in found {
        let mut dependency = Node::new(Value::empty_map(), &node.place);
        dependency.default_at("condition", Value::Text("service_started".to_owned()));
        dependency.default_at("required", Value::Bool(true));
        if restart {
            dependency.default_at("restart", Value::Bool(true));
        }
        if let Some(map) = depends_on.as_map_mut() {
            map.entry(other).or_insert(dependency);
        }
    }
}

fn small_defaults(service: &mut Map) {
    if let Some(policy) =
        service.get_mut("pull_policy").filter(|node| node.as_text() == Some("if_not_present"))
    {
        policy.value = Value::Text("missing".to_owned());
    }
    if let Some(scale) = service.get("scale").map(|scale| scale.value.clone())
        && let Some(deploy) = service.get_mut("deploy")
    {
        deploy.default_at("replicas", scale);
    }
    if let Some(Value::List(hosts)) = service.get_mut("extra_hosts").map(|node| &mut node.value) {
        hosts.sort_by(|a, b| a.as_text().cmp(&b.as_text()));
    }
    if let Some(Value::List(secrets)) = service.get_mut("secrets").map(|node| &mut node.value) {
        for secret in secrets {
            let target = format!("/run/secrets/{}", secret.text_at("source").unwrap_or_default());
            if secret.text_at("target").is_none_or(str::is_empty) {
                if let Some(map) = secret.as_map_mut() {
                    map.remove("target");
                }
                secret.default_at("target", Value::Text(target));
            }
        }
    }
    if let Some(Value::List(gpus)) = service.get_mut("gpus").map(|node| &mut node.value) {
        gpus.iter_mut().for_each(gpu_count);
    }
    let devices = service
        .get_mut("deploy")
        .and_then(|deploy| deploy.as_map_mut()?.get_mut("resources")?.as_map_mut()?.get_mut("reservations"))
        .and_then(|reservations| reservations.as_map_mut()?.get_mut("devices"));
    if let Some(Value::List(devices)) = devices.map(|node| &mut node.value) {
        devices.iter_mut().for_each(gpu_count);
    }
}

/// All of them, unless they are named.
fn gpu_count(device: &mut Node) {
    if device.at("device_ids").is_none() {
        device.default_at("count", Value::Int(-1));
    }
}

/// What environment files say goes below what the service says itself; a later file wins.
fn env_files(
    loader: &Loader<'_>,
    service: &mut Map,
    path: &str,
    environment: &Environment,
) -> Result<(), Fault> {
    let Some(files) = service.remove("env_file") else { return Ok(()) };
    if loader.raw {
        service.insert("env_file".to_owned(), files);
        return Ok(());
    }
    let mut said = Environment::new();
    for file in files.as_list().unwrap_or_default() {
        let name = file.text_at("path").unwrap_or_default();
        let optional = file.at("required").is_some_and(|node| node.value == Value::Bool(false));
        if optional && !loader.host.is_file(Path::new(name)) {
            continue;
        }
        if let Some(format) = file.text_at("format").filter(|format| !format.is_empty()) {
            return Err(file.fault(&format!("{path}.env_file"), format!("there is no format `{format}`")));
        }
        // An earlier file wins over the environment here.
        let mut outside = environment.clone();
        outside.extend(said.clone());
        said.extend(loader.env_file(
            Path::new(name),
            &outside,
            Some((&file.place, &format!("{path}.env_file"))),
        )?);
    }
    let dict = service
        .entry("environment".to_owned())
        .or_insert_with(|| Node::new(Value::empty_map(), &files.place));
    from_environment(loader, Some(&mut *dict), environment)?;
    for (name, value) in said {
        dict.default_at(&name, Value::Text(value));
    }
    Ok(())
}

fn label_files(loader: &Loader<'_>, service: &mut Map, path: &str) -> Result<(), Fault> {
    let Some(files) = service.remove("label_file") else { return Ok(()) };
    let labels =
        service.entry("labels".to_owned()).or_insert_with(|| Node::new(Value::empty_map(), &files.place));
    let mut said = Environment::new();
    for file in files.as_list().unwrap_or_default() {
        let name = Path::new(file.as_text().unwrap_or_default());
        said.extend(loader.env_file(
            name,
            &Environment::new(),
            Some((&file.place, &format!("{path}.label_file"))),
        )?);
    }
    for (name, value) in said {
        labels.default_at(&name, Value::Text(value));
    }
    Ok(())
}
