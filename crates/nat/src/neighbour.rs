//! Whose an address is on a bridge, as the host has learned it. Nobody tells it when an address moves to another
//! instance, and it asks the former one for seconds before it asks all.

use std::net::IpAddr;

use portway_sys::interface;
use portway_sys::netlink::Family as Netlink;

use crate::netlink::{Connection, FLAG_ACK, Malformed, NetlinkError, Writer};
use crate::spec::{Family, InterfaceName};

/// `RTM_DELNEIGH`, `RTM_GETNEIGH`.
const DELETE: u16 = 29;
const GET: u16 = 30;
/// `NDA_DST`, `NDA_LLADDR`.
const ADDRESS: u16 = 1;
const HARDWARE: u16 = 2;
/// `struct ndmsg`: family, three bytes of nothing, interface, state, flags, type.
const HEAD_BYTES: usize = 12;
/// `NUD_PERMANENT`: somebody has set it.
const PERMANENT: u16 = 0x80;
/// `ENOENT`: nothing is known.
const NOT_FOUND: i32 = 2;

/// What the host knows of an address cannot be asked, or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum NeighbourError {
    /// There is no such interface.
    #[error("cannot find the interface {0}")]
    Missing(InterfaceName, #[source] std::io::Error),
    /// The kernel refuses.
    #[error("cannot ask whose {0} is on {1}")]
    Refused(IpAddr, InterfaceName, #[source] NetlinkError),
}

/// Has the host of the calling thread's namespace forget whose `address` is on a bridge, if it believes that it is
/// another's than `owner`'s (`00:16:3e:00:00:01`). Whether it did. What somebody has set for good stays.
///
/// # Errors
/// When there is no such interface, or the kernel refuses.
pub fn forget_neighbour(
    bridge: &InterfaceName,
    address: IpAddr,
    owner: &str,
) -> Result<bool, NeighbourError> {
    let refused = |error| NeighbourError::Refused(address, bridge.clone(), error);
    let index = interface::index(bridge.as_str());
    let index = index.map_err(|error| NeighbourError::Missing(bridge.clone(), error))?;
    let mut connection = Connection::open(Netlink::Route).map_err(refused)?;
    let mut believed = None;
    let asked = connection.request(&mut about(GET, index, address), |message| {
        let hardware = message.attributes_after(HEAD_BYTES)?.find(HARDWARE)?;
        let state = message.body.get(8..10).and_then(|state| state.try_into().ok());
        let state = u16::from_ne_bytes(state.ok_or(Malformed("neighbour"))?);
        believed = hardware.filter(|_| state & PERMANENT == 0).map(|hardware| colons(hardware.value));
        Ok(())
    });
    match asked {
        Err(error) if error.errno() == Some(NOT_FOUND) => return Ok(false),
        asked => asked.map_err(refused)?,
    }
    if believed.is_none_or(|believed| believed == owner.to_ascii_lowercase()) {
        return Ok(false);
    }
    match connection.request(&mut about(DELETE, index, address), |_| Ok(())) {
        Err(error) if error.errno() == Some(NOT_FOUND) => Ok(false),
        gone => gone.map(|()| true).map_err(refused),
    }
}

fn about(kind: u16, index: u32, address: IpAddr) -> Writer {
    let mut head = [0; HEAD_BYTES];
    head[0] = Family::of(address).number();
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut request = Writer::default();
    request.message(kind, FLAG_ACK, &head, |out| match address {
        IpAddr::V4(ip) => out.bytes(ADDRESS, &ip.octets()),
        IpAddr::V6(ip) => out.bytes(ADDRESS, &ip.octets()),
    });
    request
}

/// A hardware address as people write it.
fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
