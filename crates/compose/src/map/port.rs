//! Published ports: as devices of Portway, or as the server's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portway_composefile::Fault;
use portway_composefile::tree::Node;
use portway_model::{DeviceSpec, Nat, NatObstacle};

use super::extension::{leads, of_device};
use super::{Engine, Work, int, refused};
use crate::lead::{self, Relayed};
use crate::ports::HALF;
use crate::want::{Instance, Keys, Lead};

/// Ports that one is chosen of where the file says none: above those that Linux gives to outgoing connections
/// (`net.ipv4.ip_local_port_range` ends at 60999).
const CHOSEN: (u16, u16) = (61_000, u16::MAX);

/// One published port.
struct Published {
    protocol: String,
    /// `None`: everywhere.
    address: Option<IpAddr>,
    /// The first, where it is still to be chosen.
    port: u16,
    target: u16,
    /// What it is chosen from.
    open: Option<(u16, u16)>,
}

/// A port of the list: where it stands, and what its service and its own entry say of it.
struct Entry<'n> {
    service: &'n str,
    node: &'n Node,
    path: String,
    port: Published,
    /// `x-portway` of both, without `nat`.
    own: Keys,
    nat: Nat,
}

impl Work<'_> {
    pub(super) fn ports(
        &mut self,
        service: &str,
        node: &Node,
        path: &str,
        replica: (u32, u32),
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        let all = leads(node.at("x-incus"), "nat-proxy", &format!("{path}.x-incus"))?;
        for (at, said) in node.items("ports").iter().enumerate() {
            let path = format!("{path}.ports[{at}]");
            let one = leads(said.at("x-incus-compose"), "nat", &format!("{path}.x-incus-compose"))?;
            let (mut own, mut of_keys) = (Keys::new(), [None, None]);
            for (at, node) in [node, said].into_iter().enumerate() {
                let Some(said) = node.at("x-portway") else { continue };
                let path = if at == 0 { format!("services.{service}") } else { path.clone() };
                let mut keys = of_device(said, &format!("{path}.x-portway"))?;
                if let Some(text) = keys.remove("nat") {
                    let nat = text.parse().map_err(|error| {
                        refused(said, &format!("{path}.x-portway.nat"), format!("{error}"))
                    })?;
                    if let Some(of) = of_keys.get_mut(at) {
                        *of = Some(nat);
                    }
                }
                own.extend(keys);
            }
            let [of_service, of_port] = of_keys;
            let nat = one.or(of_port).or(all).or(of_service).unwrap_or_default();
            let port = published(said, &path, replica)?;
            let mut entry = Entry { service, node: said, path, port, own, nat };
            self.judge(&mut entry, instance);
            match self.setting.engine {
                Engine::Portway => self.ours(entry, instance)?,
                Engine::Incus => self.theirs(entry, instance),
            }
        }
        Ok(())
    }

    /// What the kernel cannot lead whatever the server has is relayed, and a line says why.
    fn judge(&mut self, entry: &mut Entry<'_>, instance: &Instance) {
        if entry.nat == Nat::Off {
            return;
        }
        let networks = || instance.nics.iter().map(|nic| self.want.networks.get(&nic.network));
        // Portway leads to the first interface that has an address, the server to the one that it is told.
        let ours = self.setting.engine == Engine::Portway;
        let is_inside = if ours {
            networks().next().flatten().is_some_and(|network| network.is_internal)
        } else {
            networks().all(|network| network.is_some_and(|network| network.is_internal))
        };
        let features = self.want.config.get("features.networks").is_some_and(|said| said == "true");
        let v6 = |nic: &crate::want::Nic| {
            let config = self.want.networks.get(&nic.network).map(|network| &network.config);
            let of_network = config.and_then(|config| config.get("ipv6.address"));
            nic.keys.contains_key("ipv6.address") || of_network.is_some_and(|address| address != "none")
        };
        let is_v6 = entry.port.address.is_some_and(|address| address.is_ipv6());
        let why = if entry.port.address.is_some_and(|address| address.is_loopback()) {
            Relayed::Loopback
        } else if instance.nics.is_empty() {
            Relayed::NoInterface
        } else if is_inside {
            Relayed::Internal
        } else if features && !ours {
            Relayed::ProjectNetworks
        } else if is_v6 && ours && !instance.nics.iter().any(v6) {
            Relayed::NoStaticV6
        } else {
            return;
        };
        self.relayed(entry, &why);
    }

    fn relayed(&mut self, entry: &mut Entry<'_>, why: &Relayed) {
        let line = lead::line(entry.service, &entry.port.lead(entry.nat), why);
        self.warn(entry.node, "nat-proxy", &line);
        entry.nat = Nat::Off;
    }

    /// Devices of Portway: where the kernel leads IPv4 from everywhere, another one relays IPv6.
    fn ours(&mut self, mut entry: Entry<'_>, instance: &mut Instance) -> Result<(), Fault> {
        let spec = |entry: &Entry<'_>| {
            let mut keys = entry.port.ours(entry.nat);
            keys.extend(entry.own.clone());
            let spec = DeviceSpec::from_keys(&keys)
                .map_err(|error| refused(entry.node, &entry.path, format!("cannot be published: {error}")))?;
            Ok::<_, Fault>((keys, spec))
        };
        let (mut keys, made) = spec(&entry)?;
        if let (Nat::Auto, Some(NatObstacle::Key(key))) = (entry.nat, made.nat_obstacle()) {
            self.relayed(&mut entry, &Relayed::Key(key.to_owned()));
            keys = spec(&entry)?.0;
        }
        let name = entry.port.name(instance);
        if entry.nat == Nat::Auto && entry.port.address.is_none() {
            let mut six = entry.port.keys("[::]", "127.0.0.1");
            six.extend(entry.own);
            six.insert("v6only".to_owned(), "true".to_owned());
            let name = format!("{name}{HALF}");
            instance.open.extend(entry.port.open.map(|open| (name.clone(), open)));
            instance.ports.insert(name, six);
        }
        instance.open.extend(entry.port.open.map(|open| (name.clone(), open)));
        instance.ports.insert(name, keys);
        Ok(())
    }

    /// A device of the server's, as incus-compose has it; those that lead stand beside it once addresses are known.
    fn theirs(&mut self, entry: Entry<'_>, instance: &mut Instance) {
        if !entry.own.is_empty() {
            let what = "x-portway ignored: the server's own devices carry the port";
            self.warn(entry.node, &entry.path, what);
        }
        let name = entry.port.name(instance);
        if entry.nat == Nat::On {
            // Nothing binds it, so that the server does not see who has it.
            let what = format!(
                "take port {}/{} of the host from whatever listens there",
                entry.port.port, entry.port.protocol
            );
            self.privilege(entry.service, entry.node, what);
        }
        if entry.nat != Nat::Off {
            instance.leads.insert(name.clone(), entry.port.lead(entry.nat));
        }
        instance.open.extend(entry.port.open.map(|open| (name.clone(), open)));
        instance.devices.insert(name, entry.port.theirs());
    }
}

impl Published {
    /// `proxy-PORT`, as incus-compose has it; more only where two ports would have one name.
    fn name(&self, instance: &Instance) -> String {
        let taken = |name: &String| instance.ports.contains_key(name) || instance.devices.contains_key(name);
        let name = match self.open {
            None => format!("proxy-{}", self.port),
            Some(CHOSEN) => format!("proxy-any-{}", self.target),
            Some((first, last)) => format!("proxy-{first}-{last}"),
        };
        if !taken(&name) {
            return name;
        }
        super::mount::free(format!("{name}-{}", self.protocol), taken)
    }

    fn lead(&self, nat: Nat) -> Lead {
        let Published { protocol, address, port, target, .. } = self;
        Lead {
            protocol: protocol.clone(),
            address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port: *port,
            target: *target,
            is_strict: nat == Nat::On,
        }
    }

    /// Keys of a device of Portway. What the kernel leads cannot reach the instance's loopback address.
    fn ours(&self, nat: Nat) -> Keys {
        let led = nat != Nat::Off;
        let listen = match self.address {
            None if led => "0.0.0.0".to_owned(),
            None => "[::]".to_owned(),
            Some(address) => lead::host(address),
        };
        let connect = match self.address {
            Some(IpAddr::V6(_)) if led => "[::]",
            _ if led => "0.0.0.0",
            _ => "127.0.0.1",
        };
        let mut keys = self.keys(&listen, connect);
        if led {
            keys.insert("nat".to_owned(), nat.to_string());
        }
        if self.address == Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) {
            keys.insert("v6only".to_owned(), "true".to_owned());
        }
        keys
    }

    /// Keys of a proxy device of the server, as incus-compose writes them.
    fn theirs(&self) -> Keys {
        let listen = self.address.map_or_else(|| "0.0.0.0".to_owned(), lead::host);
        let mut keys = self.keys(&listen, "127.0.0.1");
        keys.insert("type".to_owned(), "proxy".to_owned());
        keys
    }

    fn keys(&self, listen: &str, connect: &str) -> Keys {
        let Published { protocol, port, target, .. } = self;
        Keys::from([
            ("listen".to_owned(), format!("{protocol}:{listen}:{port}")),
            ("connect".to_owned(), format!("{protocol}:{connect}:{target}")),
        ])
    }
}

/// What one replica of a service publishes for an entry of the list.
fn published(node: &Node, path: &str, (_, replicas): (u32, u32)) -> Result<Published, Fault> {
    let protocol = node.text_at("protocol").unwrap_or("tcp").to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp") {
        return Err(refused(node, path, format!("the protocol {protocol} cannot be had: tcp and udp can")));
    }
    let target = int(node.at("target")).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let Some(target) = target else { return Err(refused(node, path, "has no port inside")) };
    let text = node.at("published").and_then(Node::as_word).unwrap_or_default();
    let (port, open) = if matches!(text.as_str(), "" | "0") {
        (CHOSEN.0, Some(CHOSEN))
    } else {
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            return Err(refused(node, path, format!("`{text}` is no port of the host")));
        };
        let needed = u32::from(first) + replicas.max(1) - 1;
        if first == 0 || needed > u32::from(last) {
            let what = format!("{replicas} replicas cannot publish {text}: each needs a port of its own");
            let hint = format!("give a range, \"{first}-{needed}:{target}\"");
            return Err(refused(node, path, what).hint(Some(hint)));
        }
        (first, (first < last).then_some((first, last)))
    };
    let address = match node.text_at("host_ip").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let address: Result<IpAddr, _> = text.trim_matches(['[', ']']).parse();
            Some(address.map_err(|_| refused(node, path, format!("`{text}` is no address")))?)
        }
    };
    Ok(Published { protocol, address, port, target, open })
}
