//! The PROXY protocol header of a connection.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use portway_model::{DeviceSpec, ProxyProtocol, UnixName};
use portway_proto::proxy_protocol::{Endpoints, MAX_BYTES, encode};
use rustix::net::{SocketAddrAny, SocketAddrUnix, getpeername, getsockname};

use super::guard::Origin;

/// Writes the header for the client behind `client` to the beginning of `out`; returns its length, 0 for none. What is
/// known of its origin goes before what its socket says.
pub(super) fn write(
    spec: &DeviceSpec,
    client: BorrowedFd<'_>,
    origin: Option<&Origin>,
    out: &mut [u8; MAX_BYTES],
) -> usize {
    if spec.proxy_protocol == ProxyProtocol::Off {
        return 0;
    }
    let bound = unix_client(client);
    let endpoints = match (spec.listen.address().unix(), origin) {
        (Some(local), _) => Endpoints::Unix { client: bound.as_ref(), local },
        (None, Some(origin)) => Endpoints::Tcp { client: origin.client, local: origin.local },
        (None, None) => match ends(client) {
            Some((client, local)) => Endpoints::Tcp { client, local },
            // It has gone already; its connection ends at the first read.
            None => Endpoints::Unknown,
        },
    };
    encode(spec.proxy_protocol, endpoints, out).len()
}

/// Both ends of an accepted tcp socket: the client's, ours.
pub(super) fn ends(client: BorrowedFd<'_>) -> Option<(SocketAddr, SocketAddr)> {
    Some((self::client(client)?, inet(getsockname(client).ok())?))
}

/// The client's end alone.
pub(super) fn client(client: BorrowedFd<'_>) -> Option<SocketAddr> {
    inet(getpeername(client).ok().flatten())
}

fn inet(address: Option<SocketAddrAny>) -> Option<SocketAddr> {
    SocketAddr::try_from(address?).ok()
}

/// The name a unix client has bound itself to; most have none.
fn unix_client(client: BorrowedFd<'_>) -> Option<UnixName> {
    let address = SocketAddrUnix::try_from(getpeername(client).ok().flatten()?).ok()?;
    let text = match (address.path(), address.abstract_name()) {
        (Some(path), _) => format!("unix:{}", path.to_str().ok()?),
        (None, Some(name)) => format!("unix:@{}", str::from_utf8(name).ok()?),
        (None, None) => return None,
    };
    let address = portway_model::Address::parse(&text, portway_model::Side::Connect).ok()?;
    address.unix().cloned()
}
