//! Addresses that the server itself has assigned to an instance: the only ones it may be dialled at
//! from the host. What an instance says about itself, in its state or in a lease of another's, is no
//! reason to send anything anywhere.

use std::net::IpAddr;

use crate::Instance;
use crate::types::wire;

/// A network managed by the server, as far as it bounds addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// The bridge's own addresses, with the length of their prefixes.
    gateways: Vec<(IpAddr, u8)>,
    /// `bridge`, `ovn`, `macvlan`, `sriov`, `physical`.
    kind: String,
}

/// A lease or a reservation of an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    hwaddr: String,
    address: IpAddr,
}

/// An interface of an instance in a network of the server's, with what the server has assigned to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Name of the instance's device.
    pub device: String,
    /// Name of the host's end of it, while the instance runs.
    pub host_name: Option<String>,
    /// Name of the network; of a bridge, that of its interface too.
    pub network: String,
    /// Whether the network is a bridge of the server's host, so that the host reaches its addresses.
    pub is_bridge: bool,
    /// The network's own addresses, with the length of their prefixes in bits.
    pub subnets: Vec<(IpAddr, u8)>,
    /// The interface's addresses: reserved ones, then leases; IPv4 first. Inside the network, nobody else's.
    pub addresses: Vec<IpAddr>,
}

/// A network interface of an instance in a managed network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nic {
    device: String,
    host_name: Option<String>,
    pub(crate) network: String,
    hwaddr: Option<String>,
    /// Addresses its configuration reserves.
    reserved: Vec<IpAddr>,
}

impl From<wire::Network> for Network {
    fn from(from: wire::Network) -> Self {
        let keys = ["ipv4.address", "ipv6.address"];
        let texts = keys.iter().filter_map(|key| from.config.get(*key));
        Self { gateways: texts.filter_map(|text| prefix(text)).collect(), kind: from.kind }
    }
}

impl Lease {
    pub(crate) fn from_wire(from: &wire::Lease) -> Option<Self> {
        Some(Self { hwaddr: from.hwaddr.to_ascii_lowercase(), address: from.address.parse().ok()? })
    }
}

/// `10.0.0.1/24`; `None` also for `none` and `auto`.
fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    (u32::from(length) <= bits(address)).then_some((address, length))
}

fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address as a number of its family's width.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

impl Network {
    /// Whether the server assigns addresses in it. In the other kinds somebody else does, outside, and
    /// the server answers a question for leases with an error.
    pub(crate) fn has_leases(&self) -> bool {
        matches!(self.kind.as_str(), "bridge" | "ovn")
    }

    /// Whether `address` may be a host's of this network: inside it, and none of its special ones.
    fn holds(&self, address: IpAddr) -> bool {
        self.gateways.iter().any(|(gateway, length)| {
            let host_bits = bits(*gateway) - u32::from(*length);
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            let host = number(address) & !mask;
            let all_ones = !mask & (u128::MAX >> (128 - bits(*gateway)));
            gateway.is_ipv4() == address.is_ipv4()
                && number(*gateway) & mask == number(address) & mask
                && host != 0
                && (address.is_ipv6() || host != all_ones)
        })
    }

    fn is_gateway(&self, address: IpAddr) -> bool {
        self.gateways.iter().any(|(gateway, _)| *gateway == address)
    }
}

/// Whether no instance may be dialled there, whatever a network is configured to be.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_link_local()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || ip.to_ipv4_mapped().is_some()
        }
    }
}

/// The interfaces of an instance that are in a network of the server's.
pub(crate) fn nics(instance: &Instance) -> Vec<Nic> {
    let is_nic = |keys: &&std::collections::BTreeMap<String, String>| {
        keys.get("type").is_some_and(|kind| kind == "nic")
    };
    let nic = |(name, keys): (&String, &std::collections::BTreeMap<String, String>)| {
        let network = keys.get("network")?.clone();
        let volatile = instance.config.get(&format!("volatile.{name}.hwaddr"));
        let reserved = ["ipv4.address", "ipv6.address"].iter().filter_map(|key| keys.get(*key)?.parse().ok());
        Some(Nic {
            device: name.clone(),
            host_name: instance.config.get(&format!("volatile.{name}.host_name")).cloned(),
            network,
            hwaddr: keys.get("hwaddr").or(volatile).map(|text| text.to_ascii_lowercase()),
            reserved: reserved.collect(),
        })
    };
    instance.devices.iter().filter(|(_, keys)| is_nic(keys)).filter_map(nic).collect()
}

/// One interface with its addresses.
pub(crate) fn assigned(nic: &Nic, network: &Network, leases: &[Lease]) -> Assigned {
    Assigned {
        device: nic.device.clone(),
        host_name: nic.host_name.clone(),
        network: nic.network.clone(),
        is_bridge: network.kind == "bridge",
        subnets: network.gateways.clone(),
        addresses: addresses(nic, network, leases),
    }
}

/// The addresses of one interface: reserved ones and leases, inside the network, nobody else's.
fn addresses(nic: &Nic, network: &Network, leases: &[Lease]) -> Vec<IpAddr> {
    let is_own = |lease: &&Lease| nic.hwaddr.as_ref() == Some(&lease.hwaddr) && !lease.hwaddr.is_empty();
    let leased = leases.iter().filter(is_own).map(|lease| lease.address);
    let mut found: Vec<IpAddr> = Vec::new();
    for address in nic.reserved.iter().copied().chain(leased) {
        let is_others = leases.iter().any(|lease| lease.address == address && !is_own(&lease));
        let fits = network.holds(address) && !network.is_gateway(address) && !is_special(address);
        if fits && !is_others && !found.contains(&address) {
            found.push(address);
        }
    }
    // IPv4 first, else in the order found: the same answer at every look.
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(v4: &str, v6: &str) -> Network {
        let config = [("ipv4.address", v4), ("ipv6.address", v6)];
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Network::from(wire::Network { kind: "bridge".into(), config })
    }

    fn lease(hwaddr: &str, address: &str) -> Lease {
        Lease::from_wire(&wire::Lease { hwaddr: hwaddr.into(), address: address.into() }).expect("an address")
    }

    fn nic(reserved: &[&str]) -> Nic {
        let reserved = reserved.iter().map(|text| text.parse().expect("an address")).collect();
        Nic {
            device: "eth0".into(),
            host_name: None,
            network: "br0".into(),
            hwaddr: Some("aa:00".into()),
            reserved,
        }
    }

    fn shown(found: &[IpAddr]) -> Vec<String> {
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reserved_and_leased_addresses_inside_the_network() {
        let leases = [
            lease("", "10.0.0.1"),
            lease("AA:00", "10.0.0.9"),
            lease("aa:00", "fd00::9"),
            lease("bb:00", "10.0.0.8"),
        ];
        let found = addresses(&nic(&["10.0.0.5"]), &network("10.0.0.1/24", "fd00::1/64"), &leases);
        assert_eq!(shown(&found), ["10.0.0.5", "10.0.0.9", "fd00::9"]);
        assert!(addresses(&nic(&[]), &network("none", "none"), &leases).is_empty());
        let unknown = Nic { hwaddr: None, ..nic(&[]) };
        assert!(addresses(&unknown, &network("10.0.0.1/24", "none"), &leases).is_empty());
    }

    /// Loopback, wildcard, the bridge itself, another instance's, link-local (the metadata service of
    /// clouds among them), multicast, broadcast, another network: never dialled, whoever says so.
    ///
    /// Fails when: any condition of [`addresses`] is left out.
    #[test]
    fn addresses_that_are_never_a_target() {
        let wide = network("10.0.0.1/8", "fd00::1/8");
        let everything = network("0.0.0.1/0", "::1/0");
        for address in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "10.0.0.1",
            "fd00::1",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "10.255.255.255",
            "10.0.0.0",
            "192.0.2.1",
            "2001:db8::1",
            "::ffff:10.0.0.5",
            "255.255.255.255",
        ] {
            let leases = [lease("aa:00", address)];
            assert!(addresses(&nic(&[]), &wide, &leases).is_empty(), "{address} by lease");
            assert!(addresses(&nic(&[address]), &wide, &[]).is_empty(), "{address} by configuration");
        }
        for address in ["127.0.0.1", "169.254.169.254", "224.0.0.1", "fe80::1", "ff02::1"] {
            assert!(
                addresses(&nic(&[address]), &everything, &[]).is_empty(),
                "{address} in a network of all"
            );
        }
        let others = [lease("bb:00", "10.0.0.5")];
        assert!(addresses(&nic(&["10.0.0.5"]), &wide, &others).is_empty(), "another's");
    }

    #[test]
    fn prefixes_of_every_length() {
        for text in ["none", "auto", "", "10.0.0.1", "10.0.0.1/33", "fd00::1/129", "x/8", "10.0.0.1/x"] {
            assert_eq!(prefix(text), None, "{text}");
        }
        let point = network("10.0.0.1/32", "fd00::1/128");
        assert!(!point.holds("10.0.0.1".parse().expect("an address")));
        let pair = network("10.0.0.0/31", "none");
        assert!(!pair.holds("10.0.0.2".parse().expect("an address")));
    }
}
