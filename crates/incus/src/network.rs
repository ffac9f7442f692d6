//! Addresses that the server itself has assigned to an instance: the only ones it is dialled at from the host.
//! And those that an instance says it has, inside its network and nobody else's: where nothing is assigned, what
//! comes for the instance may be led there.

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
    /// Its hardware address, in lower case.
    pub hwaddr: Option<String>,
    /// Name of the network; of a bridge, that of its interface too.
    pub network: String,
    /// Whether the network is a bridge of the server's host, so that the host reaches its addresses.
    pub is_bridge: bool,
    /// The network's own addresses, with the length of their prefixes in bits.
    pub subnets: Vec<(IpAddr, u8)>,
    /// The interface's addresses: reserved ones, then leases; IPv4 first. Inside the network, nobody else's.
    pub addresses: Vec<IpAddr>,
    /// Addresses that the instance says its interface has, of families in which it has none of the others. Inside
    /// the network and nobody's by reservation or lease; what other instances say is not looked at here. None
    /// where the server does not let it have any, or keeps it apart from its neighbours.
    pub claimed: Vec<IpAddr>,
    /// Addresses that the instance says its interface has and that are nobody's by reservation or lease, but not for
    /// what comes for it to be led there: by what is assigned beside them, or because the server filters. One that was
    /// assigned a moment ago is among them while a list of leases is being written anew.
    pub unlisted: Vec<IpAddr>,
}

impl Lease {
    /// The address that is leased or reserved.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The hardware address it is leased to or reserved for; empty where the server says none.
    #[must_use]
    pub fn hwaddr(&self) -> &str {
        &self.hwaddr
    }
}

/// Addresses that are an instance's, as far as the server or the instance itself says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Project of the instance.
    pub project: String,
    /// Its name.
    pub name: String,
    /// What its devices reserve, and what it says its interfaces have.
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
    /// Whether it has only the addresses that the server gives it, IPv4 and IPv6.
    filtered: [bool; 2],
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
            filtered: ["security.ipv4_filtering", "security.ipv6_filtering"]
                .map(|filter| is_on(keys, filter) || is_on(keys, "security.port_isolation")),
        })
    };
    instance.devices.iter().filter(|(_, keys)| is_nic(keys)).filter_map(nic).collect()
}

fn is_on(keys: &std::collections::BTreeMap<String, String>, key: &str) -> bool {
    keys.get(key).is_some_and(|text| crate::is_true(text))
}

/// One interface with its addresses.
pub(crate) fn assigned(nic: &Nic, network: &Network, leases: &[Lease]) -> Assigned {
    Assigned {
        device: nic.device.clone(),
        host_name: nic.host_name.clone(),
        hwaddr: nic.hwaddr.clone(),
        network: nic.network.clone(),
        is_bridge: network.kind == "bridge",
        subnets: network.gateways.clone(),
        addresses: addresses(nic, network, leases),
        claimed: Vec::new(),
        unlisted: Vec::new(),
    }
}

/// Of the addresses assigned to an interface those that the instance has. A lease names the hardware address that
/// its asker gave, which anybody in the network can, and an IPv6 one is only computed from it.
pub(crate) fn confirmed(assigned: &[IpAddr], interfaces: &[wire::Interface]) -> Vec<IpAddr> {
    let has = |address: &&IpAddr| interfaces.iter().flat_map(said).any(|said| said == **address);
    assigned.iter().filter(has).copied().collect()
}

/// The addresses an interface has by the instance's own word, in the order it says them: those it may have so, where
/// `assigned` has none of their family and the server does not filter, and the others.
pub(crate) fn claimed<'a>(
    nic: &Nic,
    network: &Network,
    (leases, assigned): (&[Lease], &[IpAddr]),
    interfaces: impl Iterator<Item = &'a wire::Interface>,
) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let is_own = |interface: &&wire::Interface| {
        nic.hwaddr.as_ref().is_some_and(|own| *own == interface.hwaddr.to_ascii_lowercase())
    };
    let mut found: Vec<IpAddr> = Vec::new();
    for address in interfaces.filter(is_own).flat_map(said) {
        let fits = network.holds(address) && !network.is_gateway(address) && !is_special(address);
        // One that is the interface's own by lease or reservation is among the assigned ones.
        let is_leased = leases.iter().any(|lease| lease.address == address);
        if fits && !is_leased && !found.contains(&address) {
            found.push(address);
        }
    }
    found.into_iter().partition(|address| {
        network.kind == "bridge"
            && !nic.filtered[usize::from(address.is_ipv6())]
            && !assigned.iter().any(|own| own.is_ipv6() == address.is_ipv6())
    })
}

/// What an interface says its addresses are.
fn said(interface: &wire::Interface) -> impl Iterator<Item = IpAddr> {
    interface.addresses.iter().flatten().filter_map(|one| one.address.parse().ok())
}

impl From<wire::Full> for Holder {
    fn from(from: wire::Full) -> Self {
        let keys = from.expanded_devices.values().flat_map(|keys| {
            ["ipv4.address", "ipv6.address"].into_iter().filter_map(|key| keys.get(key)?.parse().ok())
        });
        let interfaces =
            from.state.iter().flat_map(|state| state.network.iter().flat_map(|all| all.values()));
        let addresses = keys.chain(interfaces.flat_map(said)).collect();
        Self { project: from.project, name: from.name, addresses }
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
            filtered: [false; 2],
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

    fn interface(hwaddr: &str, addresses: &[&str]) -> wire::Interface {
        let address = |text: &&str| wire::InterfaceAddress { address: (*text).to_owned() };
        wire::Interface { hwaddr: hwaddr.into(), addresses: Some(addresses.iter().map(address).collect()) }
    }

    /// What an instance says counts where nothing is assigned, nobody else has it, and the server lets it.
    ///
    /// Fails when: any condition of [`claimed`] is left out.
    #[test]
    fn an_instances_own_word_is_the_last_choice() {
        let net = network("10.0.0.1/24", "fd00::1/64");
        let says = |nic: &Nic, leases: &[Lease], hwaddr: &str, addresses: &[&str]| {
            let assigned = super::addresses(nic, &net, leases);
            let (claimed, unlisted) =
                claimed(nic, &net, (leases, &assigned), [interface(hwaddr, addresses)].iter());
            (shown(&claimed), shown(&unlisted))
        };
        let none: (Vec<String>, Vec<String>) = Default::default();
        let own = nic(&[]);
        assert_eq!(says(&own, &[], "AA:00", &["10.0.0.7", "fd00::7", "10.0.0.7"]).0, ["10.0.0.7", "fd00::7"]);
        assert_eq!(says(&own, &[], "bb:00", &["10.0.0.7"]), none, "another interface");
        assert_eq!(says(&own, &[lease("bb:00", "10.0.0.7")], "aa:00", &["10.0.0.7"]), none, "another's");
        let leased = [lease("aa:00", "10.0.0.9")];
        let both = (vec!["fd00::7".to_owned()], vec!["10.0.0.7".to_owned()]);
        assert_eq!(says(&own, &leased, "aa:00", &["10.0.0.7", "fd00::7"]), both, "one is assigned");
        for address in
            ["10.0.0.1", "10.0.0.0", "10.0.0.255", "10.0.1.7", "127.0.0.1", "fe80::7", "fd01::7", "x"]
        {
            assert_eq!(says(&own, &[], "aa:00", &[address]), none, "{address}");
        }
        let filtered = Nic { filtered: [true, false], ..nic(&[]) };
        assert_eq!(says(&filtered, &[], "aa:00", &["10.0.0.7", "fd00::7"]), both);
        let unknown = Nic { hwaddr: None, ..nic(&[]) };
        assert_eq!(says(&unknown, &[], "", &["10.0.0.7"]), none);
    }

    /// Fails when: a lease that somebody else has asked for in the instance's name counts.
    #[test]
    fn what_the_instance_does_not_have_is_not_its_own() {
        let assigned = ["10.0.0.66", "10.0.0.5", "fd00::5"].map(|text| text.parse().expect("an address"));
        let own = [interface("aa:00", &["10.0.0.5", "10.0.0.9", "x"]), interface("bb:00", &[])];
        assert_eq!(shown(&confirmed(&assigned, &own)), ["10.0.0.5"]);
        assert!(confirmed(&assigned, &[]).is_empty());
    }

    /// Fails when: what devices reserve, or what any interface says, is left out.
    #[test]
    fn holders_have_what_is_reserved_and_what_they_say() {
        let text = r#"{"name": "c1", "project": "p", "expanded_devices": {"eth0": {"ipv4.address": "10.0.0.5"}},
            "state": {"network": {"eth0": {"addresses": [{"address": "10.0.0.6"}]}, "lo": {"addresses": null}}}}"#;
        let full: wire::Full = serde_json::from_str(text).expect("an instance");
        assert_eq!(shown(&Holder::from(full).addresses), ["10.0.0.5", "10.0.0.6"]);
        let stopped = r#"{"name": "c1", "project": "p", "state": {"network": null}}"#;
        let full: wire::Full = serde_json::from_str(stopped).expect("an instance");
        assert!(Holder::from(full).addresses.is_empty());
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
