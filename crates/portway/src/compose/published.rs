//! Published ports as `ps` shows them: `0.0.0.0:8080->80/tcp`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portway_compose::want::Keys;

/// Where a device listens and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    /// Ports of the host, then those inside.
    ports: (u16, String, String),
    protocol: String,
    /// An address, or a wildcard.
    host: String,
}

/// The ports that devices publish on the host, each once, in the order of their numbers.
pub(super) fn shown<'a>(devices: impl Iterator<Item = &'a Keys> + Clone) -> Vec<String> {
    let is_led = |keys: &Keys| keys.contains_key("type") && keys.get("nat").is_some_and(|nat| nat == "true");
    let relayed: BTreeSet<Way> = devices.clone().filter(|keys| !is_led(keys)).flat_map(ways).collect();
    // What leads beside a device that takes everything adds nothing to be told.
    let is_there = |way: &Way| {
        relayed.iter().any(|one| {
            let everywhere = one.host == "0.0.0.0" || one.host == "[::]";
            (everywhere || one.host == way.host) && one.ports == way.ports && one.protocol == way.protocol
        })
    };
    let led = devices.filter(|keys| is_led(keys)).flat_map(ways).filter(|way| !is_there(way));
    let mut all = relayed.clone();
    all.extend(led);
    let line = |Way { ports: (_, from, to), protocol, host }: &Way| format!("{host}:{from}->{to}/{protocol}");
    all.iter().map(line).collect()
}

fn ways(keys: &Keys) -> Vec<Way> {
    let is_host = keys.get("bind").is_none_or(|bind| bind == "host");
    let sides = keys.get("listen").zip(keys.get("connect")).filter(|_| is_host);
    let Some((protocol, host, from)) = sides.and_then(|(listen, _)| side(listen)) else { return Vec::new() };
    let Some((_, _, to)) = sides.and_then(|(_, connect)| side(connect)) else { return Vec::new() };
    let digits = |c: &char| c.is_ascii_digit();
    let first: String = from.chars().take_while(digits).collect();
    let way = |host: &str| Way {
        ports: (first.parse().unwrap_or(0), from.to_owned(), to.to_owned()),
        protocol: protocol.to_owned(),
        host: host.to_owned(),
    };
    let v6only = keys.get("v6only").is_some_and(|value| value == "true");
    let is_all = host.is_empty() || host.trim_matches(['[', ']']).parse() == Ok(IpAddr::from([0_u16; 8]));
    if is_all && !v6only { vec![way("0.0.0.0"), way("[::]")] } else { vec![way(host)] }
}

/// Protocol, address and ports: `tcp`, `0.0.0.0`, `80-82`.
fn side(text: &str) -> Option<(&str, &str, &str)> {
    let (protocol, rest) = text.split_once(':').filter(|(word, _)| matches!(*word, "tcp" | "udp"))?;
    let (host, ports) = rest.rsplit_once(':')?;
    Some((protocol, host, ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a port is told twice, or as one that it is not.
    #[test]
    fn each_port_is_told_once() {
        let device = |words: &str| -> Keys {
            let pairs = words.split(' ').filter_map(|word| word.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let devices = [
            "listen=tcp:[::]:8080 connect=tcp:127.0.0.1:80",
            "listen=tcp:0.0.0.0:9000 connect=tcp:0.0.0.0:90 nat=auto",
            "listen=tcp:[::]:9000 connect=tcp:127.0.0.1:90 v6only=true",
            "type=proxy listen=tcp:0.0.0.0:70 connect=tcp:127.0.0.1:7",
            "type=proxy listen=tcp:192.0.2.1:70 connect=tcp:10.0.0.5:7 nat=true",
            "type=proxy listen=tcp:192.0.2.1:71 connect=tcp:10.0.0.5:7 nat=true",
            "listen=udp:[::1]:53 connect=udp:127.0.0.1:53",
            "listen=tcp:127.0.0.1:100-102 connect=tcp:127.0.0.1:200-202",
            "bind=instance listen=tcp:127.0.0.1:1 connect=tcp:127.0.0.1:1",
            "listen=unix:/run/x connect=tcp:127.0.0.1:1",
        ]
        .map(device);
        assert_eq!(
            shown(devices.iter()),
            [
                "[::1]:53->53/udp",
                "0.0.0.0:70->7/tcp",
                "192.0.2.1:71->7/tcp",
                "127.0.0.1:100-102->200-202/tcp",
                "0.0.0.0:8080->80/tcp",
                "[::]:8080->80/tcp",
                "0.0.0.0:9000->90/tcp",
                "[::]:9000->90/tcp",
            ]
        );
    }
}
