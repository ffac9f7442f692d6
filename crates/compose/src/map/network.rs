//! Networks, and the interfaces of instances in them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portway_composefile::Fault;
use portway_composefile::tree::{Node, Value};

use super::extension::Of;
use super::{Work, in_order, int, kept, labels, name, plain, refused};
use crate::apply::fence;
use crate::want::{Instance, Keys, Network, Nic, Owner};

/// The option of Docker's bridges that has a counterpart.
const MTU: &str = "com.docker.network.driver.mtu";

impl Work<'_> {
    pub(super) fn networks(&mut self) -> Result<(), Fault> {
        let members: Vec<(String, Node)> =
            self.section("networks").map(|(key, node)| (key.clone(), node.clone())).collect();
        for (key, node) in members {
            let path = format!("networks.{key}");
            let usual = format!("{}_{key}", self.project.name);
            let external = node.is_true_at("external");
            let own = node.at("x-incus-compose").and_then(|own| own.text_at("network"));
            let called = own.or(node.text_at("name").filter(|said| external || *said != usual));
            let called = match called {
                None => name::bridge_of(&self.project.name, &key, &self.setting.bridges),
                Some(said) if name::is_bridge(said) => said.to_owned(),
                Some(said) => {
                    let what =
                        format!("`{said}` is no name of a bridge: at most 15 letters, digits, `-`, `_`, `.`");
                    return Err(refused(&node, &path, what));
                }
            };
            if let Some((other, _)) = self.want.networks.iter().find(|(_, other)| other.name == called) {
                return Err(refused(
                    &node,
                    &path,
                    format!("would be the same bridge as `{other}`: {called}"),
                ));
            }
            let config = if external { Keys::new() } else { self.bridge((&key, &called), &node, &path)? };
            let owner = if external { Owner::External } else { Owner::Project };
            let reserved = reserved(&node, &path)?;
            let range = pools(&node).iter().find_map(|pool| range(pool.text_at("ip_range")?));
            let is_internal = !external && node.is_true_at("internal");
            let place = node.place.to_string();
            let network = Network { name: called, owner, config, range, reserved, is_internal, place };
            self.want.networks.insert(key, network);
        }
        Ok(())
    }

    fn bridge(&mut self, (name, called): (&str, &str), node: &Node, path: &str) -> Result<Keys, Fault> {
        if let Some(driver) =
            node.text_at("driver").filter(|driver| !matches!(*driver, "" | "bridge" | "default"))
        {
            return Err(refused(node, &format!("{path}.driver"), format!("`{driver}` cannot be had")));
        }
        let is_false = |key: &str| node.at(key).is_some_and(|node| node.value == Value::Bool(false));
        let is_internal = node.is_true_at("internal");
        let nat = if is_internal { "false" } else { "true" };
        let mut config = Keys::from([("ipv4.nat".to_owned(), nat.to_owned())]);
        if is_internal && self.setting.can("network_bridge_acl") {
            config.extend(fence::keys(called));
        } else if is_internal {
            let what = "the server has no access lists for it: who is root inside can still reach its other networks";
            self.warn(node, &format!("{path}.internal"), what);
        }
        let mut set = |key: &str, value: String| config.insert(key.to_owned(), value);
        if is_internal {
            // Nobody is told of a gateway, names outside are not asked for, and an access list stops the rest. Not
            // `ipv4.routing=false`: where the host filters bridged packets (`bridge-nf-call-iptables`), that cuts the
            // instances off from each other too.
            set("raw.dnsmasq", "dhcp-option=3\nno-resolv".to_owned());
        }
        if is_false("enable_ipv4") {
            set("ipv4.address", "none".to_owned());
        }
        if node.is_true_at("enable_ipv6") {
            set("ipv6.address", "auto".to_owned());
            set("ipv6.nat", nat.to_owned());
        }
        for (at, pool) in pools(node).iter().enumerate() {
            for (key, value) in subnet(pool, &format!("{path}.ipam.config[{at}]"))? {
                set(key, value);
            }
        }
        for (key, value) in node.members("driver_opts") {
            let path = format!("{path}.driver_opts.{key}");
            if key == MTU {
                config.insert("bridge.mtu".to_owned(), plain(value, &path)?);
            } else {
                self.warn(value, &path, "ignored: means something to Docker's engine only");
            }
        }
        if let Some(said) = node.at("labels") {
            labels(said, "user.label.", &format!("{path}.labels"), &mut config)?;
        }
        self.extensions(("", Of::Network(name)), node, path, &mut config)?;
        for key in ["ipv4.address", "ipv6.address"] {
            if let Some(subnet) = config.get(key).filter(|subnet| !is_private(subnet)) {
                // What others have out there would be led into the project.
                self.privilege("", node, format!("have the public subnet {subnet} in the network {name}"));
            }
        }
        kept(&mut config);
        Ok(config)
    }

    /// The interfaces of an instance: the most important first, then in the order of the file.
    pub(super) fn nics(
        &mut self,
        (name, service): (&str, &Node),
        path: &str,
        replicas: u32,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        let Some(networks) = service.at("networks").and_then(Node::as_map) else { return Ok(()) };
        let mut networks = in_order(networks);
        let rank = |node: &Node| {
            let gateway = match node.at("gw_priority").map(|node| &node.value) {
                Some(Value::Int(value)) => *value,
                Some(Value::Float(value)) if *value > 0.0 => 1,
                _ => 0,
            };
            (-gateway, -int(node.at("priority")).unwrap_or(0))
        };
        networks.sort_by_key(|(_, node)| rank(node));
        for (key, node) in networks {
            let path = format!("{path}.networks.{key}");
            let mut nic = Nic { network: key.clone(), ipv4: None, aliases: Vec::new(), keys: Keys::new() };
            for address in ["ipv4_address", "ipv6_address", "mac_address"] {
                if let Some(said) = node.at(address).filter(|_| replicas > 1) {
                    let what = format!("is one, and there are {replicas} replicas");
                    return Err(refused(said, &format!("{path}.{address}"), what));
                }
            }
            if let Some(text) = node.text_at("ipv4_address") {
                let address: Result<Ipv4Addr, _> = text.parse();
                nic.ipv4 =
                    Some(address.map_err(|_| refused(node, &path, format!("`{text}` is no address")))?);
            }
            if let Some(text) = node.text_at("ipv6_address") {
                let address: Result<Ipv6Addr, _> = text.parse();
                let address = address.map_err(|_| refused(node, &path, format!("`{text}` is no address")))?;
                nic.keys.insert("ipv6.address".to_owned(), address.to_string());
            }
            if let Some(text) = node.text_at("mac_address") {
                nic.keys.insert("hwaddr".to_owned(), mac(node, &path, text)?);
            }
            for alias in node.items("aliases") {
                nic.aliases.push(plain(alias, &format!("{path}.aliases"))?);
            }
            self.extensions((name, Of::Nic(key)), node, &path, &mut nic.keys)?;
            instance.nics.push(nic);
        }
        if let (Some(said), Some(first)) = (service.at("mac_address"), instance.nics.first_mut()) {
            let path = format!("{path}.mac_address");
            let text = mac(said, &path, said.as_text().unwrap_or_default())?;
            first.keys.entry("hwaddr".to_owned()).or_insert(text);
        }
        Ok(())
    }

    /// `links: [db:database]`: another name for a service.
    pub(super) fn links(&mut self) -> Result<(), Fault> {
        let project = self.project;
        for (name, node) in project.services() {
            for link in node.items("links") {
                let text = plain(link, &format!("services.{name}.links"))?;
                let Some((other, alias)) = text.split_once(':') else { continue };
                let Some(other) = self.want.services.get_mut(other) else { continue };
                let nics = other.instances.iter_mut().flat_map(|instance| &mut instance.nics);
                for nic in nics.filter(|nic| !nic.aliases.iter().any(|known| known == alias)) {
                    nic.aliases.push(alias.to_owned());
                }
            }
        }
        Ok(())
    }
}

/// A network of `ipam.config`.
fn subnet(pool: &Node, path: &str) -> Result<Vec<(&'static str, String)>, Fault> {
    let bad = |text: &str, what: &str| refused(pool, path, format!("`{text}` is no {what}"));
    let Some(text) = pool.text_at("subnet") else {
        return Err(refused(pool, path, "has no `subnet`"));
    };
    let Some((address, prefix)) = text.split_once('/') else { return Err(bad(text, "subnet")) };
    let (Ok(address), Ok(prefix)) = (address.parse::<IpAddr>(), prefix.parse::<u8>()) else {
        return Err(bad(text, "subnet"));
    };
    let gateway = match pool.text_at("gateway") {
        Some(said) => said.parse::<IpAddr>().map_err(|_| bad(said, "address"))?,
        None => match address {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(1))),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(1))),
        },
    };
    match (address, gateway) {
        (IpAddr::V4(base), IpAddr::V4(gateway)) if (8..=30).contains(&prefix) => {
            let mask = u32::MAX << (32 - prefix);
            if u32::from(base) & mask != u32::from(gateway) & mask {
                return Err(refused(pool, path, format!("the gateway {gateway} is not in {text}")));
            }
            let mut keys = vec![("ipv4.address", format!("{gateway}/{prefix}"))];
            if let Some(text) = pool.text_at("ip_range") {
                let (first, last) = range(text).ok_or_else(|| bad(text, "range"))?;
                let inside = [first, last].iter().all(|end| u32::from(*end) & mask == u32::from(base) & mask);
                if !inside {
                    return Err(refused(
                        pool,
                        path,
                        format!("the range {text} is not in {address}/{prefix}"),
                    ));
                }
                keys.push(("ipv4.dhcp.ranges", format!("{first}-{last}")));
            }
            Ok(keys)
        }
        (IpAddr::V6(_), IpAddr::V6(gateway)) if (8..=126).contains(&prefix) => Ok(vec![
            ("ipv6.address", format!("{gateway}/{prefix}")),
            ("ipv6.dhcp.stateful", "true".to_owned()),
        ]),
        _ => Err(bad(text, "subnet that can be had")),
    }
}

/// Whether a bridge's addresses are nobody's elsewhere: those of RFC 1918 and RFC 4193, or none that the file chooses.
fn is_private(subnet: &str) -> bool {
    if matches!(subnet, "" | "auto" | "none") {
        return true;
    }
    let Some((address, prefix)) = subnet.split_once('/') else { return false };
    let (Ok(address), Ok(prefix)) = (address.parse::<IpAddr>(), prefix.parse::<u8>()) else { return false };
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            match (first, second) {
                (10, _) => prefix >= 8,
                (172, 16..=31) => prefix >= 12,
                (192, 168) => prefix >= 16,
                _ => false,
            }
        }
        IpAddr::V6(address) => prefix >= 7 && address.is_unique_local(),
    }
}

/// Addresses that no instance is given.
fn reserved(node: &Node, path: &str) -> Result<BTreeSet<Ipv4Addr>, Fault> {
    let mut reserved = BTreeSet::new();
    for (at, pool) in pools(node).iter().enumerate() {
        for (name, said) in pool.members("aux_addresses") {
            let path = format!("{path}.ipam.config[{at}].aux_addresses.{name}");
            let text = plain(said, &path)?;
            let address: Result<IpAddr, _> = text.parse();
            match address.map_err(|_| refused(said, &path, format!("`{text}` is no address")))? {
                IpAddr::V4(address) => drop(reserved.insert(address)),
                // The server gives those by itself, and they are too many to be in the way.
                IpAddr::V6(_) => {}
            }
        }
    }
    Ok(reserved)
}

fn pools(node: &Node) -> &[Node] {
    node.at("ipam").map(|ipam| ipam.items("config")).unwrap_or_default()
}

/// First and last address of a block.
fn range(range: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (base, prefix) = range.split_once('/')?;
    let prefix: u32 = prefix.parse().ok().filter(|prefix| (8..=30).contains(prefix))?;
    let base = u32::from(base.parse::<Ipv4Addr>().ok()?) & (u32::MAX << (32 - prefix));
    let last = base | (u32::MAX >> prefix);
    Some((Ipv4Addr::from(base + 1), Ipv4Addr::from(last - 1)))
}

fn mac(node: &Node, path: &str, text: &str) -> Result<String, Fault> {
    let text = text.to_ascii_lowercase().replace('-', ":");
    let parts: Vec<&str> = text.split(':').collect();
    let fine = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    if parts.len() == 6 && parts.iter().all(fine) {
        return Ok(text);
    }
    Err(refused(node, path, format!("`{text}` is no address of an interface")))
}
