//! The PROXY protocol header of a connection.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use portway_model::{DeviceSpec, ProxyProtocol, UnixName};
use portway_proto::proxy_protocol::{Endpoints, MAX_BYTES, encode};
use rustix::net::{SocketAddrAny, SocketAddrUnix, getpeername, getsockname};

/// Writes the header for the client behind `client` to the beginning of `out`; returns its length, 0 for none.
pub(super) fn write(spec: &DeviceSpec, client: BorrowedFd<'_>, out: &mut [u8; MAX_BYTES]) -> usize {
    if spec.proxy_protocol == ProxyProtocol::Off {
        return 0;
    }
    let bound = unix_client(client);
    let endpoints = match spec.listen.address().unix() {
        Some(local) => Endpoints::Unix { client: bound.as_ref(), local },
        None => match (inet(getpeername(client).ok().flatten()), inet(getsockname(client).ok())) {
            (Some(client), Some(local)) => Endpoints::Tcp { client, local },
            // It has gone already; its connection ends at the first read.
            _ => Endpoints::Unknown,
        },
    };
    encode(spec.proxy_protocol, endpoints, out).len()
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
