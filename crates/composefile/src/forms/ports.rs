//! Published ports: `[ADDRESS:][HOST]:CONTAINER[/PROTOCOL]` with ranges.

use std::net::IpAddr;

use crate::fault::Fault;
use crate::shape::{Path, not};
use crate::tree::{Map, Node, Value};

/// Every short form of the list becomes one entry or, for ranges of one length, one for each port.
pub(crate) fn ports(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let Value::List(list) = &mut node.value else { return Ok(()) };
    let mut long = Vec::with_capacity(list.len());
    for (at, mut item) in std::mem::take(list).into_iter().enumerate() {
        let path = path.item(at);
        match (&item.value, item.as_word()) {
            (Value::Map(_), _) => {
                if item.at("target").is_none() {
                    return Err(item.fault(&path.to_string(), "has no `target`"));
                }
                item.default_at("mode", Value::Text("ingress".to_owned()));
                item.default_at("protocol", Value::Text("tcp".to_owned()));
                long.push(item);
            }
            (Value::Text(text), _) if text.contains('$') => long.push(item),
            (Value::Text(_) | Value::Int(_), Some(text)) => match short(&text) {
                Ok(entries) => long.extend(entries.iter().map(|entry| entry.node(&item))),
                Err(what) => return Err(item.fault(&path.to_string(), format!("`{text}`: {what}"))),
            },
            _ => return Err(not(&item, "a port or a mapping", &path)),
        }
        if long.len() > MAX_PORTS {
            return Err(Fault::at(&node.place, &path.to_string(), format!("more than {MAX_PORTS} ports"))
                .kind(crate::fault::Kind::TooLarge));
        }
    }
    node.value = Value::List(long);
    Ok(())
}

/// Every port of both protocols.
const MAX_PORTS: usize = 131_072;

/// One published port.
struct Entry {
    address: Option<String>,
    target: u16,
    published: Option<String>,
    protocol: String,
}

impl Entry {
    fn node(&self, item: &Node) -> Node {
        let mut map = Map::new();
        let mut set = |key: &str, value| map.insert(key.to_owned(), Node::new(value, &item.place));
        set("mode", Value::Text("ingress".to_owned()));
        set("target", Value::Int(self.target.into()));
        set("protocol", Value::Text(self.protocol.clone()));
        if let Some(address) = &self.address {
            set("host_ip", Value::Text(address.clone()));
        }
        if let Some(published) = &self.published {
            set("published", Value::Text(published.clone()));
        }
        Node { value: Value::Map(map), place: item.place.clone(), tag: item.tag }
    }
}

/// How many ports a short form stands for; none when it is malformed.
pub(crate) fn length(text: &str) -> usize {
    short(text).map_or(0, |entries| entries.len())
}

/// What a short form stands for.
fn short(text: &str) -> Result<Vec<Entry>, String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, ""));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("the protocol {protocol} is none of tcp, udp, sctp"));
    }
    let (before, container) =
        rest.rsplit_once(':').map_or(("", rest), |(before, container)| (before, container));
    let (address, host) = before.rsplit_once(':').unwrap_or(("", before));
    let address = address_of(address)?;
    let targets = range(container).ok_or_else(|| format!("{container} is no container port"))?;
    if targets.0 == 0 {
        return Err("the container port is 0".to_owned());
    }
    let entry = |target: u16, published: Option<String>| Entry {
        address: address.clone(),
        target,
        published,
        protocol: protocol.clone(),
    };
    let count = targets.1 - targets.0;
    let hosts = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("{host} is no host port"))?),
    };
    let mut entries: Vec<Entry> = match hosts {
        None => (targets.0..=targets.1).map(|target| entry(target, None)).collect(),
        Some(hosts) if count == 0 && hosts.0 != hosts.1 => {
            vec![entry(targets.0, Some(format!("{}-{}", hosts.0, hosts.1)))]
        }
        Some(hosts) if hosts.1 - hosts.0 != count => {
            return Err(format!("{host} and {container} are ranges of different lengths"));
        }
        Some(hosts) => (0..=count).map(|n| entry(targets.0 + n, Some((hosts.0 + n).to_string()))).collect(),
    };
    // The order of a range is that of its ports as texts.
    entries.sort_by_key(|entry| entry.target.to_string());
    Ok(entries)
}

fn address_of(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match bare.unwrap_or(text).parse::<IpAddr>() {
        Ok(address) if address.is_ipv4() || bare.is_some() => Ok(Some(bare.unwrap_or(text).to_owned())),
        Ok(_) => Err(format!("the address {text} must stand in brackets")),
        Err(_) => Err(format!("{text} is no address")),
    }
}

/// `80` or `80-90`.
fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if digits { text.parse::<u16>().ok() } else { None }
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}
