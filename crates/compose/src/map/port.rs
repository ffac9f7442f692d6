//! Published ports: as devices of Portway, or as the server's own.

use std::net::IpAddr;

use portway_composefile::Fault;
use portway_composefile::tree::Node;
use portway_model::DeviceSpec;

use super::extension::{nat_proxy, of_device, truth};
use super::{Engine, Work, int, refused};
use crate::want::{Instance, Keys};

/// One published port.
struct Published {
    protocol: String,
    /// `None`: everywhere.
    address: Option<IpAddr>,
    port: u16,
    target: u16,
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
        let all = nat_proxy(node, path)?;
        let all_path = format!("{path}.x-portway");
        for (at, said) in node.items("ports").iter().enumerate() {
            let path = format!("{path}.ports[{at}]");
            let own_path = format!("{path}.x-portway");
            let mut own = Keys::new();
            for (node, path) in [(node, &all_path), (said, &own_path)] {
                if let Some(said) = node.at("x-portway") {
                    own.extend(of_device(said, path)?);
                }
            }
            let port = published(said, &path, replica)?;
            let taken =
                |name: &String| instance.ports.contains_key(name) || instance.devices.contains_key(name);
            let name = port.name(taken);
            let nat = match said.at("x-incus-compose").and_then(|own| own.at("nat")) {
                Some(own) => truth(own, &format!("{path}.x-incus-compose.nat"))?,
                None => all == Some(true),
            };
            let nat = nat && self.can_nat(service, said, &port, instance);
            match self.setting.engine {
                Engine::Portway => {
                    let mut keys = port.ours(nat);
                    keys.extend(own);
                    if let Err(error) = DeviceSpec::from_keys(&keys) {
                        return Err(refused(said, &path, format!("cannot be published: {error}")));
                    }
                    instance.ports.insert(name, keys);
                }
                Engine::Incus => {
                    for (own, path) in [(node, path.as_str()), (said, path.as_str())] {
                        if let Some(own) = own.at("x-portway") {
                            self.warn(
                                own,
                                path,
                                "x-portway ignored: the server's own devices carry the port",
                            );
                        }
                    }
                    instance.devices.insert(name, port.theirs());
                }
            }
        }
        Ok(())
    }

    /// Whether a port can be led by the kernel; says why not.
    fn can_nat(&mut self, service: &str, node: &Node, port: &Published, instance: &Instance) -> bool {
        let why = if port.address.is_some_and(|address| address.is_loopback()) {
            "loopback listen address"
        } else if instance.nics.is_empty() {
            "no interface"
        } else if self.setting.engine == Engine::Incus {
            "the server's own devices are not led by the kernel yet"
        } else {
            return true;
        };
        let shown = port.address.map(|address| format!("{}:", bracketed(address))).unwrap_or_default();
        let line = format!("service {service} port {shown}{}/{} is relayed: {why}", port.port, port.protocol);
        self.warn(node, "nat-proxy", &line);
        false
    }
}

impl Published {
    /// `proxy-PORT`, as incus-compose has it; more only where two ports would have one name.
    fn name(&self, taken: impl Fn(&String) -> bool) -> String {
        let name = format!("proxy-{}", self.port);
        if !taken(&name) {
            return name;
        }
        super::mount::free(format!("{name}-{}", self.protocol), taken)
    }

    /// Keys of a device of Portway.
    fn ours(&self, nat: bool) -> Keys {
        // Under NAT a packet cannot reach the instance's loopback address.
        let (everywhere, connect) = if nat { ("0.0.0.0", "0.0.0.0") } else { ("[::]", "127.0.0.1") };
        let listen = self.address.map_or_else(|| everywhere.to_owned(), bracketed);
        let connect = match self.address {
            Some(IpAddr::V6(_)) if nat => "[::]",
            _ => connect,
        };
        let mut keys = self.keys(&listen, connect);
        if nat {
            keys.insert("nat".to_owned(), "auto".to_owned());
        }
        keys
    }

    /// Keys of a proxy device of the server, as incus-compose writes them.
    fn theirs(&self) -> Keys {
        let listen = self.address.map_or_else(|| "0.0.0.0".to_owned(), bracketed);
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

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// What one replica of a service publishes for an entry of the list.
fn published(node: &Node, path: &str, (index, replicas): (u32, u32)) -> Result<Published, Fault> {
    let protocol = node.text_at("protocol").unwrap_or("tcp").to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp") {
        return Err(refused(node, path, format!("the protocol {protocol} cannot be had: tcp and udp can")));
    }
    let target = int(node.at("target")).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let Some(target) = target else { return Err(refused(node, path, "has no port inside")) };
    let text = node.at("published").and_then(Node::as_word).unwrap_or_default();
    if matches!(text.as_str(), "" | "0") {
        let hint = format!("say which: \"{target}:{target}\"");
        return Err(refused(node, path, "no port of the host is said").hint(Some(hint)));
    }
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
        return Err(refused(node, path, format!("`{text}` is no port of the host")));
    };
    let number = u16::try_from(index - 1).ok().and_then(|number| first.checked_add(number));
    let Some(port) = number.filter(|port| *port > 0 && *port <= last) else {
        let what = format!("{replicas} replicas cannot publish {text}: each needs a port of its own");
        let hint = format!("give a range, \"{first}-{}:{target}\"", u32::from(first) + replicas - 1);
        return Err(refused(node, path, what).hint(Some(hint)));
    };
    let address = match node.text_at("host_ip").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let address: Result<IpAddr, _> = text.trim_matches(['[', ']']).parse();
            let address = address.map_err(|_| refused(node, path, format!("`{text}` is no address")))?;
            // Written or not, it is everywhere.
            (address != IpAddr::from([0, 0, 0, 0])).then_some(address)
        }
    };
    Ok(Published { protocol, address, port, target })
}
