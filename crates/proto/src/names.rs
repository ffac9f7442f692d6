//! From a name to what is asked about it: hosts(5), resolv.conf(5), and messages of the DNS ([`message`]).
//!
//! What the C library of an instance would make of them, as far as these two files say it. Nothing here asks anybody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

pub mod message;

/// Servers, domains, dots, seconds and tries that count, of however many or much is written (`MAXNS`, `MAXDNSRCH`,
/// `RES_MAXNDOTS`, `RES_MAXRETRANS`, `RES_MAXRETRY` of resolv.h).
const SERVERS_MAX: usize = 3;
const DOMAINS_MAX: usize = 6;
const DOTS_MAX: usize = 15;
const SECONDS_MAX: u64 = 30;
const TRIES_MAX: usize = 5;

/// Addresses of a name that count.
pub const ADDRESSES_MAX: usize = 32;

/// Port of the DNS.
const PORT: u16 = 53;

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Servers, in their order; never none.
    pub servers: Vec<SocketAddr>,
    /// Domains that short names are looked for in.
    pub search: Vec<String>,
    /// A name with so many dots is tried as it is first.
    pub dots: usize,
    /// How long one server has to answer.
    pub timeout: Duration,
    /// How often each is asked.
    pub tries: usize,
}

impl Settings {
    /// As resolv.conf says it. What is not understood counts for nothing.
    #[must_use]
    pub fn read(text: &[u8]) -> Self {
        let mut servers = Vec::new();
        let mut search = Vec::new();
        let (mut dots, mut seconds, mut tries) = (1, 5, 2);
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
                    servers.extend(server.map(|server| SocketAddr::new(server, PORT)));
                }
                Some("domain") => search = words.take(1).map(str::to_owned).collect(),
                Some("search") => search = words.take(DOMAINS_MAX).map(str::to_owned).collect(),
                Some("options") => {
                    for word in words {
                        match word.split_once(':') {
                            Some(("ndots", value)) => dots = value.parse().unwrap_or(dots).min(DOTS_MAX),
                            Some(("timeout", value)) => {
                                seconds = value.parse().unwrap_or(seconds).clamp(1, SECONDS_MAX);
                            }
                            Some(("attempts", value)) => {
                                tries = value.parse().unwrap_or(tries).clamp(1, TRIES_MAX);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        servers.truncate(SERVERS_MAX);
        if servers.is_empty() {
            servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
        }
        Self { servers, search, dots, timeout: Duration::from_secs(seconds), tries }
    }

    /// The names that are asked for when somebody says this one, in their order.
    #[must_use]
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let found = self.search.iter().filter(|domain| *domain != ".");
        let mut all: Vec<String> =
            found.map(|domain| format!("{name}.{}", domain.trim_end_matches('.'))).collect();
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        all.insert(if dots >= self.dots { 0 } else { all.len() }, name.to_owned());
        all
    }
}

/// The addresses that a file of hosts has for a name.
#[must_use]
pub fn in_hosts(text: &[u8], name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let Ok(line) = str::from_utf8(line) else { continue };
        let mut words = line.split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
        if found.len() == ADDRESSES_MAX {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn hosts_are_read_as_they_are() {
        let text = b"127.0.0.1 localhost # db\n10.1.2.3\tDB.internal db\n\xff\xff db\nfd00::7 db\n10.1.2.3 db\nfe80::1%eth0 db\ndb db";
        assert_eq!(in_hosts(text, "db"), [ip("10.1.2.3"), ip("fd00::7")]);
        assert_eq!(in_hosts(text, "db.INTERNAL."), [ip("10.1.2.3")]);
        assert!(in_hosts(text, "d").is_empty());
    }

    /// Fails when each line of a name is compared with all before it: this would take minutes.
    #[test]
    fn a_name_has_so_many_addresses() {
        let lines: String =
            (0..200_000_u32).map(|n| format!("{} db\n", Ipv4Addr::from(0x0a00_0000 + n))).collect();
        let found = in_hosts(lines.as_bytes(), "db");
        assert_eq!((found.len(), found[31]), (ADDRESSES_MAX, ip("10.0.0.31")));
    }

    #[test]
    fn settings_are_those_of_a_resolver() {
        let none = Settings::read(b"");
        assert_eq!((none.servers, none.dots, none.tries), (vec![SocketAddr::new(ip("127.0.0.1"), 53)], 1, 2));
        let text = b"# nameserver 9.9.9.9\nnameserver 10.0.0.1\nnameserver fd00::1\nnameserver x\nnameserver 10.0.0.2\nnameserver \
                     10.0.0.3\ndomain old\nsearch a.example b.example.\noptions ndots:99 timeout:0 attempts:900 rotate x:y\n";
        let read = Settings::read(text);
        assert_eq!(
            read.servers.iter().map(|server| server.ip()).collect::<Vec<_>>(),
            [ip("10.0.0.1"), ip("fd00::1"), ip("10.0.0.2")]
        );
        assert_eq!((read.dots, read.timeout, read.tries), (15, Duration::from_secs(1), 5));
        assert_eq!(read.candidates("c1"), ["c1.a.example", "c1.b.example", "c1"]);
        assert_eq!(read.candidates("c1."), ["c1"]);
        let usual = Settings { dots: 1, ..read };
        assert_eq!(usual.candidates("c1.lan"), ["c1.lan", "c1.lan.a.example", "c1.lan.b.example"]);
    }
}
