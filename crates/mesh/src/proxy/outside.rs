//! How this device is seen from outside: whether the translation of addresses before it, if there is one, takes the same
//! port for each destination. One that does not is symmetric: nobody else can send to the port that the registrar sees.
//!
//! | first port says | second port says | first port says again | so it is |
//! |---|---|---|---|
//! | our own public address | not asked | | the same |
//! | A | nothing, or there is none | | unknown |
//! | A | A | | the same, if A is a public address |
//! | A | B | A | symmetric |
//! | A | B | not A | unknown: it has changed meanwhile |
//!
//! An answer counts if it comes from the address that was asked and bears the number of the question ([`Transaction`]).
//!
//! [`Transaction`]: crate::stun::Transaction

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_control::api::{MeshMapping, MeshOutside};
use tokio::task::spawn_blocking;

use super::serve::Shared;
use crate::stun::Mapped;

/// How long what was found is believed while the registrar sees the same address; and how long until it is asked again
/// when nothing was found.
const BELIEVED: Duration = Duration::from_secs(300);

/// What a registrar has said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Where it was asked.
    pub(super) server: SocketAddr,
    /// The address that this host has on its way there, with the port of the tunnel.
    pub(super) local: Option<SocketAddr>,
    /// Its answer.
    pub(super) told: Mapped,
}

/// What was found, by the registrar's address.
#[derive(Debug, Default)]
pub(super) struct Outside {
    found: BTreeMap<SocketAddr, (MeshOutside, Instant)>,
}

impl Outside {
    /// Finds out what is not known of what was `seen`, and forgets the rest.
    pub(super) async fn look(&mut self, shared: &Arc<Shared>, seen: &[Seen]) -> Vec<MeshOutside> {
        let mut found = BTreeMap::new();
        for seen in seen.iter().copied() {
            let address = seen.told.address.to_string();
            let known = self.found.remove(&seen.server);
            let known = known.filter(|(known, at)| known.address == address && at.elapsed() < BELIEVED);
            let known = match known {
                Some(known) => known,
                None => {
                    let asked = Arc::clone(shared);
                    let work = move || judge(&seen, |server| asked.tunnel.mapped(server));
                    let mapping = spawn_blocking(work).await.unwrap_or(MeshMapping::Unknown);
                    (MeshOutside { address, mapping }, Instant::now())
                }
            };
            found.insert(seen.server, known);
        }
        self.found = found;
        self.found.values().map(|(outside, _)| outside.clone()).collect()
    }
}

/// See the table of the module.
fn judge(seen: &Seen, ask: impl Fn(SocketAddr) -> Option<Mapped>) -> MeshMapping {
    let Seen { server, local, told } = seen;
    // Behind an address that means nothing elsewhere another translation may stand, between registrar and world.
    let same = if is_public(told.address.ip()) { MeshMapping::Same } else { MeshMapping::Unknown };
    if *local == Some(told.address) {
        return same;
    }
    let other = told.other_port.filter(|port| *port != server.port());
    let Some(second) = other.and_then(|port| ask(SocketAddr::new(server.ip(), port))) else {
        return MeshMapping::Unknown;
    };
    if second.address == told.address {
        return same;
    }
    match ask(*server) {
        Some(again) if again.address == told.address => MeshMapping::Symmetric,
        _ => MeshMapping::Unknown,
    }
}

/// Whether an address is the same one everywhere (RFC 1918, 6598, 3927, 4193).
const fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(ip) => !(ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn mapped(text: &str, other_port: Option<u16>) -> Mapped {
        Mapped { address: at(text), other_port }
    }

    /// Every line of the table, a registrar of an earlier version, and what forged or misled answers would bring about.
    ///
    /// Fails when: a claim is made that was not seen, or one that was is not.
    #[test]
    fn what_answers_mean() {
        use MeshMapping::{Same, Symmetric, Unknown};
        let (server, a, b) = ("192.0.2.1:51821", "198.51.100.1:51820", "198.51.100.1:1025");
        let judge = |local: &str, first: &str, port, second: Option<&str>, again: Option<&str>| {
            let seen = Seen { server: at(server), local: Some(at(local)), told: mapped(first, port) };
            judge(&seen, |asked| {
                let answer = if asked == at(server) { again } else { second };
                assert!(asked == at(server) || asked == at("192.0.2.1:51822"), "{asked}");
                answer.map(|answer| mapped(answer, None))
            })
        };
        let (own, port) = ("10.1.0.2:51820", Some(51822));
        assert_eq!(judge(own, a, port, Some(a), None), Same);
        assert_eq!(judge(own, a, port, Some(b), Some(a)), Symmetric);
        assert_eq!(judge(own, a, port, Some(b), Some(b)), Unknown, "it has changed meanwhile");
        assert_eq!(judge(own, a, port, Some(b), None), Unknown);
        assert_eq!(judge(own, a, port, None, Some(a)), Unknown, "one port is led on to it");
        assert_eq!(judge(own, a, None, Some(b), Some(a)), Unknown, "it is of an earlier version");
        assert_eq!(judge(own, a, Some(51821), Some(b), Some(a)), Unknown, "the same port twice");
        assert_eq!(judge(a, a, None, None, None), Same, "nothing is translated");
        assert_eq!(judge(own, own, None, None, None), Unknown, "the registrar is in the same network");
        assert_eq!(judge(own, "100.64.0.9:51820", port, Some("100.64.0.9:51820"), None), Unknown);
        let six = "[2001:db8::5]:51820";
        assert_eq!(judge(six, six, None, None, None), Same);
    }
}
