//! Short forms of keys, rewritten to the long ones. What is in the long form already stays as it is.

mod ports;
mod volumes;

pub(crate) use ports::{length, ports};
pub(crate) use volumes::{clean, mount};

use crate::fault::Fault;
use crate::shape::{Path, not};
use crate::tree::{Map, Node, Value};

/// A mapping of one member.
fn one(key: &str, value: Value, node: &Node) -> Map {
    Map::from([(key.to_owned(), Node::new(value, &node.place))])
}

/// A text becomes a mapping with the text under `key`.
fn text_to_map(node: &mut Node, key: &str) {
    if let Value::Text(text) = &node.value {
        node.value = Value::Map(one(key, Value::Text(text.clone()), node));
    }
}

/// `build: DIR`.
pub(crate) fn build(node: &mut Node, _: &Path<'_>) -> Result<(), Fault> {
    text_to_map(node, "context");
    Ok(())
}

/// A list of names becomes a mapping, the names without values.
pub(crate) fn names(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let Value::List(list) = &node.value else { return Ok(()) };
    let mut map = Map::new();
    for (at, item) in list.iter().enumerate() {
        let Some(name) = item.as_text() else { return Err(not(item, "a text", &path.item(at))) };
        map.insert(name.to_owned(), Node::new(Value::Null, &item.place));
    }
    node.value = Value::Map(map);
    Ok(())
}

/// `depends_on` as a list, and what a dependency means when it says nothing.
pub(crate) fn depends_on(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let listed = node.as_list().is_some();
    names(node, path)?;
    let Some(map) = node.as_map_mut() else { return Ok(()) };
    for (name, dependency) in map {
        if listed {
            dependency.value = Value::empty_map();
            dependency.default_at("condition", Value::Text("service_started".to_owned()));
        }
        if dependency.as_map().is_some() && dependency.at("condition").is_none() {
            return Err(dependency.fault(&path.key(name).to_string(), "has no `condition`"));
        }
        dependency.default_at("required", Value::Bool(true));
    }
    Ok(())
}

/// Anything but a list becomes a list of one.
pub(crate) fn one_or_many(node: &mut Node, _: &Path<'_>) -> Result<(), Fault> {
    if let Value::Text(_) = node.value {
        node.value = Value::List(vec![node.clone()]);
    }
    Ok(())
}

/// Numbers in a list become texts.
pub(crate) fn words(node: &mut Node, _: &Path<'_>) -> Result<(), Fault> {
    if let Value::List(list) = &mut node.value {
        for item in list {
            if let (Value::Int(_), Some(word)) = (&item.value, item.as_word()) {
                item.value = Value::Text(word);
            }
        }
    }
    Ok(())
}

/// A number with a part after the point is none here.
pub(crate) fn whole(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    if let Value::Float(_) = node.value { Err(not(node, "a whole number or a text", path)) } else { Ok(()) }
}

/// Hosts as a sorted list of `name=address`.
pub(crate) fn extra_hosts(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let mut hosts: Vec<(String, String, Node)> = Vec::new();
    let mut add = |host: &str, address: &str, node: &Node| {
        let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        hosts.push((host.to_owned(), address.to_owned(), node.clone()));
    };
    match &node.value {
        Value::Map(map) => {
            for (host, addresses) in map {
                for address in addresses.clone().into_list() {
                    let Some(text) = address.as_text() else {
                        return Err(not(&address, "an address", &path.key(host)));
                    };
                    add(host, text, &address);
                }
            }
        }
        Value::List(list) => {
            for (at, item) in list.iter().enumerate() {
                let Some(text) = item.as_text() else { return Err(not(item, "a text", &path.item(at))) };
                let Some((host, address)) = text.split_once('=').or_else(|| text.split_once(':')) else {
                    return Err(item.fault(&path.item(at).to_string(), format!("`{text}` has no address")));
                };
                add(host, address, item);
            }
        }
        _ => return Err(not(node, "a mapping or a list", path)),
    }
    hosts.sort_by(|a, b| a.0.cmp(&b.0));
    let texts =
        hosts.into_iter().map(|(host, address, item)| Node::text(format!("{host}={address}"), &item.place));
    node.value = Value::List(texts.collect());
    Ok(())
}

/// `gpus: all`.
pub(crate) fn gpus(node: &mut Node, _: &Path<'_>) -> Result<(), Fault> {
    if node.as_text() == Some("all") {
        let all = Node::new(Value::Map(one("count", Value::Int(-1), node)), &node.place);
        node.value = Value::List(vec![all]);
    }
    Ok(())
}

/// `count: all`.
pub(crate) fn count(node: &mut Node, _: &Path<'_>) -> Result<(), Fault> {
    if node.as_text() == Some("all") {
        node.value = Value::Int(-1);
    }
    Ok(())
}

/// A limit is a number, or a soft and a hard one.
pub(crate) fn ulimit(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let whole = |node: &mut Node, path: &Path<'_>| {
        let number = match &node.value {
            Value::Int(number) => Some(*number),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else { return Err(not(node, "a whole number", path)) };
        node.value = Value::Int(number);
        Ok(())
    };
    let place = node.place.clone();
    let Value::Map(map) = &mut node.value else {
        whole(node, path)?;
        if node.value == Value::Int(0) {
            let both = ["soft", "hard"].map(|name| (name.to_owned(), node.clone()));
            node.value = Value::Map(both.into());
        }
        return Ok(());
    };
    for name in ["soft", "hard"] {
        let Some(limit) = map.get_mut(name) else {
            return Err(Fault::at(&place, &path.to_string(), format!("has no `{name}`")));
        };
        whole(limit, &path.key(name))?;
    }
    Ok(())
}

/// `SOURCE[:TARGET[:PERMISSIONS]]`.
pub(crate) fn device(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    if let Some(text) = node.as_text() {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, permissions) = match parts[..] {
            [source] => (source, source, "rwm"),
            [source, target] => (source, target, "rwm"),
            [source, target, permissions] => (source, target, permissions),
            _ => return Err(node.fault(&path.to_string(), format!("`{text}` is no device"))),
        };
        let mut map = one("source", Value::Text(source.to_owned()), node);
        map.extend(one("target", Value::Text(target.to_owned()), node));
        map.extend(one("permissions", Value::Text(permissions.to_owned()), node));
        node.value = Value::Map(map);
    }
    needs(node, "target", path)
}

/// The mapping has the key.
fn needs(node: &Node, key: &str, path: &Path<'_>) -> Result<(), Fault> {
    match node.as_map() {
        Some(map) if !map.contains_key(key) => Err(node.fault(&path.to_string(), format!("has no `{key}`"))),
        _ => Ok(()),
    }
}

/// `env_file: FILE`.
pub(crate) fn env_file(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    text_to_map(node, "path");
    needs(node, "path", path)
}

/// A test of a healthcheck: a text is a line for a shell.
pub(crate) fn healthcheck(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    if let Value::Text(_) = node.value {
        let line = Node::new(node.value.clone(), &node.place);
        node.value = Value::List(vec![Node::text("CMD-SHELL", &node.place), line]);
    }
    let first = node.as_list().and_then(|list| list.first()).map(|node| node.as_text().unwrap_or_default());
    match first {
        Some("CMD" | "CMD-SHELL" | "NONE") | None => Ok(()),
        Some(_) => Err(node.fault(&path.to_string(), "must begin with CMD, CMD-SHELL or NONE")),
    }
}

/// A secret or a config of a service.
pub(crate) fn grant(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    text_to_map(node, "source");
    needs(node, "source", path)
}

/// A file mode: a text is octal.
pub(crate) fn mode(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    if let Some(text) = node.as_text() {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let mode =
            if text.starts_with('0') { u32::from_str_radix(digits, 8).ok() } else { text.parse().ok() };
        let Some(mode) = mode else {
            return Err(node.fault(&path.to_string(), format!("`{text}` is no file mode")));
        };
        node.value = Value::Int(mode.into());
    }
    Ok(())
}

/// `external: {name: N}`; the name is moved where it belongs by [`crate::normalise`].
pub(crate) fn external(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    if node.as_map().is_some() {
        return Err(node
            .fault(&path.to_string(), "must be true or false")
            .hint(Some("a `name` beside it tells what it is called".to_owned())));
    }
    Ok(())
}
