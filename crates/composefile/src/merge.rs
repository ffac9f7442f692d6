//! One document over another, both in canonical form.
//!
//! Mappings merge by key, lists append what is not there yet, anything else is replaced. Mounts, devices, ports, secrets
//! and configs are the same entry when they have the same identity, and the later one replaces it in its place.
//! Commands are replaced whole, and so is everything under `x-`.

use std::collections::BTreeMap;

use crate::shape::is_extension;
use crate::tree::{Map, Node, Tag, Value};

/// `over` over `base`.
pub(crate) fn merge_maps(base: &mut Map, over: Map) {
    for (key, node) in over {
        match node.tag {
            Tag::Reset => {
                reset(base, &key);
            }
            Tag::Override => {
                let node = settled_under(&key, Node { tag: Tag::Plain, ..node });
                base.insert(key, node);
            }
            Tag::Plain | Tag::Listed => match base.get_mut(&key) {
                Some(old) if !is_extension(&key) => merge(old, node, &key),
                _ => {
                    let node = settled_under(&key, node);
                    base.insert(key, node);
                }
            },
        }
    }
}

fn reset(base: &mut Map, key: &str) {
    if base.get(key).is_some_and(|old| old.tag != Tag::Listed) {
        base.remove(key);
    }
}

/// `over` over `base`, both under `key`.
fn merge(base: &mut Node, over: Node, key: &str) {
    match (&mut base.value, over.value) {
        // Nothing changes nothing, but for what nothing is a value of.
        (_, Value::Null) if !matches!(key, "command" | "entrypoint") => {}
        // Below these a name without a value takes the place of one with a value.
        (Value::Map(base), Value::Map(over)) if matches!(key, "environment" | "args") => {
            for (name, node) in over {
                if node.tag == Tag::Reset {
                    reset(base, &name);
                } else {
                    base.insert(name, node);
                }
            }
        }
        // Below these stand names, which mean nothing here.
        (Value::Map(base), Value::Map(over)) if SECTIONS.contains(&key) => {
            for (name, node) in over {
                match (node.tag, base.get_mut(&name)) {
                    (Tag::Plain, Some(old)) => merge(old, node, ""),
                    _ => merge_maps(base, Map::from([(name, node)])),
                }
            }
        }
        (Value::Map(base), Value::Map(mut over)) => {
            if key == "logging" && another_driver(base, &over) {
                base.remove("options");
            }
            if key == "depends_on" {
                over.values_mut().for_each(|node| node.tag = Tag::Plain);
            }
            merge_maps(base, over);
        }
        (Value::List(base), Value::List(over)) if !matches!(key, "command" | "entrypoint" | "test") => {
            base.extend(over.into_iter().map(settled).filter(|node| node.tag != Tag::Reset));
            unify(base, key);
        }
        (_, value) => *base = settled(Node { value, place: over.place, tag: Tag::Plain }),
    }
}

/// Keys below which stand names.
const SECTIONS: [&str; 5] = ["services", "networks", "volumes", "secrets", "configs"];

fn another_driver(base: &Map, over: &Map) -> bool {
    let (base, over) = (base.get("driver"), over.get("driver"));
    base.is_some() && over.is_some() && base != over
}

/// A node that nothing earlier stands below: what is reset in it goes.
pub(crate) fn settled(mut node: Node) -> Node {
    match &mut node.value {
        Value::Map(map) => {
            let mut below = Map::new();
            merge_fresh(&mut below, std::mem::take(map));
            *map = below;
        }
        Value::List(list) => {
            let items = std::mem::take(list).into_iter().filter(|item| item.tag != Tag::Reset);
            list.extend(items.map(settled));
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
    }
    if node.tag == Tag::Override {
        node.tag = Tag::Plain;
    }
    node
}

fn merge_fresh(into: &mut Map, from: Map) {
    for (key, node) in from.into_iter().filter(|(_, node)| node.tag != Tag::Reset) {
        let node = settled_under(&key, node);
        into.insert(key, node);
    }
}

fn settled_under(key: &str, node: Node) -> Node {
    let mut node = settled(node);
    if let Value::List(list) = &mut node.value {
        unify(list, key);
    }
    node
}

/// Entries that are the same one: the last of them stays, in the place of the first.
fn unify(list: &mut Vec<Node>, key: &str) {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut unique: Vec<Node> = Vec::with_capacity(list.len());
    for node in std::mem::take(list) {
        match identity(&node, key).map(|identity| (places.get(&identity).copied(), identity)) {
            Some((Some(at), _)) => {
                if let Some(old) = unique.get_mut(at) {
                    *old = node;
                }
            }
            Some((None, identity)) => {
                places.insert(identity, unique.len());
                unique.push(node);
            }
            None => unique.push(node),
        }
    }
    *list = unique;
}

/// What makes an entry of a list under `key` the same as another; `None` when each stands for itself.
fn identity(node: &Node, key: &str) -> Option<String> {
    let text = |name: &str| node.at(name).and_then(Node::as_word).unwrap_or_default();
    match key {
        "volumes" | "devices" if node.as_map().is_some() => Some(text("target")),
        "ports" if node.as_map().is_some() => {
            let address = node.text_at("host_ip").unwrap_or("0.0.0.0");
            Some(format!("{address}|{}|{}|{}", text("published"), text("target"), text("protocol")))
        }
        "secrets" | "configs" => {
            let prefix = if key == "secrets" { "/run/secrets/" } else { "" };
            Some(node.text_at("target").map_or_else(|| format!("{prefix}{}", text("source")), str::to_owned))
        }
        "env_file" => Some(text("path")),
        "extra_hosts" | "cap_add" | "cap_drop" | "dns" | "dns_opt" | "dns_search" | "expose" | "links"
        | "profiles" | "tmpfs" | "aliases" | "link_local_ips" | "tags" | "label_file" => {
            node.as_text().map(str::to_owned)
        }
        _ => None,
    }
}
