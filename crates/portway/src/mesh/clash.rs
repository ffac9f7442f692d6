//! Addresses of a network that this host has elsewhere too, as where Tailscale or a carrier uses 100.64.0.0/10.
//!
//! It is a warning and no refusal. A network has a namespace of its own, so nothing of this host breaks: an egress rule
//! dials in the network, an ingress rule on the host, whatever the address is. But who reads a rule cannot see that, and
//! a kernel that the network is exported to has one table of routes for both.

use std::net::{IpAddr, Ipv4Addr};

use nix::ifaddrs::getifaddrs;
use portway_model::Cidr;

use crate::failure::printable;

/// What would mend it.
pub(super) const MEND: &str = "`portway mesh org create --network` gives an organization other addresses";

/// What this host has: an interface and a block of it.
type Had = (String, Cidr);

/// The first overlap of these blocks with what this host has, in its namespace. What cannot be read is no overlap.
pub(super) fn with_host(blocks: impl IntoIterator<Item = Cidr>) -> Option<String> {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    overlap(blocks, &addresses().into_iter().chain(routes_of(&routes)).collect::<Vec<_>>())
}

fn overlap(blocks: impl IntoIterator<Item = Cidr>, had: &[Had]) -> Option<String> {
    blocks.into_iter().find_map(|block| {
        let clashes = |(_, other): &&Had| block.contains(other.ip()) || other.contains(block.ip());
        let (interface, other) = had.iter().find(clashes)?;
        let interface = printable(interface);
        Some(format!(
            "{block} of the network overlaps {other} of {interface} on this host: which of the two is meant depends on \
             who dials"
        ))
    })
}

/// Blocks of the interfaces, without loopback's own and link-local ones.
fn addresses() -> Vec<Had> {
    let Ok(found) = getifaddrs() else { return Vec::new() };
    let block = |interface: nix::ifaddrs::InterfaceAddress| {
        let (address, mask) = (interface.address?, interface.netmask?);
        let (ip, prefix) = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => (IpAddr::from(v4.ip()), u32::from(mask.as_sockaddr_in()?.ip()).count_ones()),
            (None, Some(v6)) => {
                (IpAddr::from(v6.ip()), u128::from(mask.as_sockaddr_in6()?.ip()).count_ones())
            }
            (None, None) => return None,
        };
        let is_own = ip.is_loopback() || matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let block = Cidr::around(ip, u8::try_from(prefix).ok()?)?;
        (!is_own).then_some((interface.interface_name, block))
    };
    found.filter_map(block).collect()
}

/// Blocks of the routes in `/proc/net/route` (proc_net(5)), whose words are hexadecimal in host order; not the default one.
fn routes_of(text: &str) -> Vec<Had> {
    let route = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
        let (ip, mask) = (Ipv4Addr::from(number(1)?.to_ne_bytes()), number(7)?);
        let prefix = u8::try_from(mask.count_ones()).ok().filter(|prefix| *prefix > 0)?;
        Some(((*words.first()?).to_owned(), Cidr::around(ip.into(), prefix)?))
    };
    text.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        let (ip, prefix) = text.split_once('/').unwrap();
        Cidr::new(ip.parse().unwrap(), prefix.parse().unwrap()).unwrap()
    }

    /// Fails when: a block within another is no overlap, whichever is the wider one, or the default route is one.
    #[test]
    fn overlaps_are_seen_both_ways() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            tun0\t00004064\t00000000\t0001\t0\t0\t0\t0000C0FF\t0\t0\t0\nodd\n";
        let had = routes_of(routes);
        if cfg!(target_endian = "little") {
            assert_eq!(had, [("tun0".to_owned(), cidr("100.64.0.0/10"))]);
            assert_eq!(
                overlap([cidr("10.0.0.0/8"), cidr("100.77.0.0/16")], &had).unwrap(),
                "100.77.0.0/16 of the network overlaps 100.64.0.0/10 of tun0 on this host: which of the two is meant \
                 depends on who dials"
            );
        }
        let had = [("eth0".to_owned(), cidr("10.77.3.0/24")), ("eth0".to_owned(), cidr("fd09::/64"))];
        assert!(overlap([cidr("10.77.0.0/16")], &had).is_some());
        assert!(overlap([cidr("fd09::1/128")], &had).is_some());
        assert!(overlap([cidr("10.78.0.0/16"), cidr("fd0a::/48")], &had).is_none());
        // Of what runs here nothing is read wrongly: what this host has overlaps itself.
        let here = addresses();
        assert!(here.iter().all(|(_, block)| with_host([*block]).is_some()));
    }
}
