//! What this instance is called, and its addresses.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;

use rustix::net::{AddressFamily, SocketType};

/// Addresses that count.
const ADDRESSES_MAX: usize = 32;

/// What is local, as the kernel has it: IPv4 by its table of routes, IPv6 by its list.
const V4: &str = "/proc/net/fib_trie";
const V6: &str = "/proc/net/if_inet6";

/// Whether somebody who says this means the instance itself.
pub(crate) fn is_name(host: &str) -> bool {
    rustix::system::uname().nodename().to_str().is_ok_and(|own| own.eq_ignore_ascii_case(host))
}

/// The loopback addresses, and then all others.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let v4 = fs::read_to_string(V4).map(|text| in_routes(&text)).unwrap_or_default();
    let v6 = fs::read_to_string(V6).map(|text| in_list(&text)).unwrap_or_default();
    for address in v4.into_iter().map(IpAddr::from).chain(v6.into_iter().map(IpAddr::from)) {
        if !all.contains(&address) && !address.is_loopback() {
            all.push(address);
        }
    }
    all.truncate(ADDRESSES_MAX);
    all
}

/// Number of an interface: by that itself, or by its name.
pub(crate) fn zone(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let socket = rustix::net::socket(AddressFamily::INET6, SocketType::DGRAM, None).ok()?;
    rustix::net::netdevice::name_to_index(socket.as_fd(), text).ok()
}

/// An address stands on the line before the one that says whose it is.
fn in_routes(text: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last);
        }
    }
    found
}

/// Without those that are of one link alone: they need a zone.
fn in_list(text: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (digits, scope) = (words.next()?, words.nth(2)?);
        let number = u128::from_str_radix(digits, 16).ok()?;
        (scope != "20").then(|| Ipv6Addr::from(number))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_what_the_kernel_says() {
        let routes = "Local:\n  +-- 0.0.0.0/1 2 0 2\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.5.5.7\n        \
                      /32 host LOCAL\n     |-- 10.5.5.255\n        /32 link BROADCAST\n";
        assert_eq!(in_routes(routes), [Ipv4Addr::new(10, 5, 5, 7)]);
        let list = "fd420000000000000000000000000007 02 40 00 80     eth0\nfe800000000000000216 3 x\n\
                    fe8000000000000002163efffe000001 02 40 20 80     eth0\n";
        assert_eq!(in_list(list), ["fd42::7".parse::<Ipv6Addr>().expect("an address")]);
    }

    #[test]
    fn loopback_comes_first() {
        let all = addresses();
        assert_eq!(all[..2], [IpAddr::from([127, 0, 0, 1]), IpAddr::from(Ipv6Addr::LOCALHOST.octets())]);
        assert_eq!((zone("7"), zone("lo").is_some(), zone("no such one")), (Some(7), true, None));
    }
}
