//! Where a client of a gate may go, and how it gets there: through the tunnel, to what peers have.
//!
//! Judged is the address that is dialled, after a name was looked up: a name that leads to this host's own addresses, or
//! to the next link, leads nowhere.

use std::io;
use std::net::{IpAddr, SocketAddr};

use portway_proto::http_connect::Status;
use portway_proto::socks5::Reply;
use portway_proto::target::{Target, TargetHost};
use portway_relay::wire::Slot;
use rustix::io::Errno;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::super::dial::{PATIENCE, through_tunnel};
use super::super::room::Places;
use super::super::serve::Shared;
use super::super::table::Upstream;

/// Why a client does not get where it wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    #[error("{0}: nobody goes there")]
    NotAllowed(Target),
    #[error("{0}: no peer has that address")]
    NoPeer(Target),
    #[error("{0}: name not found")]
    NoName(Target),
    #[error("{0}: connection refused")]
    Refused(Target),
    #[error("{0}: no answer")]
    TimedOut(Target),
    #[error("{0}: {1}")]
    Failed(Target, Errno),
    #[error("port 0 is nobody's")]
    NoPort,
}

impl Refusal {
    pub(super) fn reply(&self) -> Reply {
        match self {
            Refusal::NotAllowed(_) => Reply::NotAllowed,
            Refusal::NoPeer(_) | Refusal::Failed(_, Errno::NETUNREACH) => Reply::NetworkUnreachable,
            Refusal::NoName(_) | Refusal::Failed(_, Errno::HOSTUNREACH) => Reply::HostUnreachable,
            Refusal::Refused(_) => Reply::ConnectionRefused,
            Refusal::TimedOut(_) => Reply::TtlExpired,
            Refusal::Failed(..) | Refusal::NoPort => Reply::GeneralFailure,
        }
    }

    pub(super) fn status(&self) -> Status {
        match self {
            Refusal::NotAllowed(_) => Status::Forbidden,
            Refusal::NoPort => Status::BadRequest,
            Refusal::TimedOut(_) => Status::GatewayTimeout,
            Refusal::NoPeer(_) | Refusal::NoName(_) | Refusal::Refused(_) | Refusal::Failed(..) => {
                Status::BadGateway
            }
        }
    }

    fn of(target: &Target, error: &io::Error) -> Refusal {
        let target = target.clone();
        match (error.kind(), Errno::from_io_error(error)) {
            (io::ErrorKind::TimedOut, _) => Refusal::TimedOut(target),
            (io::ErrorKind::ConnectionRefused, _) => Refusal::Refused(target),
            (_, errno) => Refusal::Failed(target, errno.unwrap_or(Errno::IO)),
        }
    }
}

/// Connects to a target; all of it has one deadline. What the client has `held` until here goes when it has places to be
/// dialled for, so that others are heard; those it holds until it is answered.
pub(super) async fn connect(
    shared: &Shared,
    slot: Slot,
    target: &Target,
    held: &mut Places,
) -> Result<Upstream, Refusal> {
    let port = shared.table().room(slot).unwrap_or_default();
    let attempt = async {
        let places = shared.room.dial(&port, Instant::now() + PATIENCE).await;
        *held = places.map_err(|error| Refusal::of(target, &error))?;
        let addresses = addresses(shared, target).await?;
        let mut last = Refusal::TimedOut(target.clone());
        for (number, address) in addresses.iter().enumerate() {
            // The last one has all the time that is left.
            let patience = if number + 1 == addresses.len() { PATIENCE } else { PATIENCE / 8 };
            last = match timeout(patience, through_tunnel(shared, *address)).await {
                Ok(Ok(fd)) => return Ok(Upstream { fd, member: address.ip().to_canonical() }),
                Ok(Err(error)) => Refusal::of(target, &error),
                Err(_) => Refusal::TimedOut(target.clone()),
            };
        }
        Err(last)
    };
    timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err(Refusal::TimedOut(target.clone())))
}

/// The addresses of a target that a client may go to; at least one.
pub(super) async fn addresses(shared: &Shared, target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
    if target.port == 0 {
        return Err(Refusal::NoPort);
    }
    let found = match &target.host {
        TargetHost::Ip(ip) => vec![SocketAddr::new(*ip, target.port)],
        TargetHost::Name(name) if name.is_loopback() => return Err(Refusal::NotAllowed(target.clone())),
        TargetHost::Name(name) => {
            let found = shared.names.lookup(shared, name.as_str(), target.port).await;
            match found {
                Ok(found) if found.is_empty() => return Err(Refusal::NoName(target.clone())),
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(Refusal::TimedOut(target.clone()));
                }
                Err(_) => return Err(Refusal::NoName(target.clone())),
            }
        }
    };
    let mut allowed = Vec::new();
    let mut last = Refusal::NotAllowed(target.clone());
    for address in found {
        match judge(shared, address.ip().to_canonical(), target) {
            Ok(()) => allowed.push(address),
            Err(refusal) => last = refusal,
        }
    }
    if allowed.is_empty() { Err(last) } else { Ok(allowed) }
}

fn judge(shared: &Shared, ip: IpAddr, target: &Target) -> Result<(), Refusal> {
    let network = &shared.about.network;
    let is_own = network.addresses.iter().any(|own| own.ip == ip);
    if is_own || is_nobodys(ip) {
        return Err(Refusal::NotAllowed(target.clone()));
    }
    let has_family = network.addresses.iter().any(|own| own.ip.is_ipv4() == ip.is_ipv4());
    if !has_family || !has_peer(shared, ip) {
        return Err(Refusal::NoPeer(target.clone()));
    }
    Ok(())
}

/// Whether some peer has an address, of those that there are now.
pub(in super::super) fn has_peer(shared: &Shared, ip: IpAddr) -> bool {
    match &shared.organization {
        Some(organization) => organization.has(ip),
        None => shared.about.network.peer_of(ip).is_some(),
    }
}

/// Addresses that mean something else at the other end of a tunnel, or nobody in particular.
fn is_nobodys(ip: IpAddr) -> bool {
    let special = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    special
        || match ip {
            // `0.0.0.0/8` is this host's (RFC 1122, 3.2.1.3).
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast() || ip.octets().first() == Some(&0),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a client reaches the host it is on, or the next link, through the tunnel's own stack.
    #[test]
    fn where_nobody_goes() {
        for ip in [
            "127.0.0.1",
            "127.8.9.1",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(is_nobodys(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["10.9.0.2", "192.0.2.1", "fd09::2", "8.8.8.8"] {
            assert!(!is_nobodys(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn what_a_client_is_told() {
        let target = || Target { host: TargetHost::read("a.example").unwrap(), port: 1 };
        for (refusal, reply, status) in [
            (Refusal::NotAllowed(target()), Reply::NotAllowed, Status::Forbidden),
            (Refusal::NoPeer(target()), Reply::NetworkUnreachable, Status::BadGateway),
            (Refusal::NoName(target()), Reply::HostUnreachable, Status::BadGateway),
            (Refusal::Refused(target()), Reply::ConnectionRefused, Status::BadGateway),
            (Refusal::TimedOut(target()), Reply::TtlExpired, Status::GatewayTimeout),
            (Refusal::Failed(target(), Errno::HOSTUNREACH), Reply::HostUnreachable, Status::BadGateway),
            (Refusal::Failed(target(), Errno::NOBUFS), Reply::GeneralFailure, Status::BadGateway),
            (Refusal::NoPort, Reply::GeneralFailure, Status::BadRequest),
        ] {
            assert_eq!((refusal.reply(), refusal.status()), (reply, status), "{refusal}");
        }
    }
}
