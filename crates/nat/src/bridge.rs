//! Bridges whose packets pass the host's rules although they only cross the bridge (`br_netfilter`). There a
//! packet that an instance sends to a published port of its own is led back while it is still in the bridge,
//! and a bridge sends nothing back by the port it came, unless that is allowed.

use std::io;

use portway_sys::interface;
use portway_sys::netlink::Family as Netlink;

use crate::netlink::{Connection, FLAG_ACK, NetlinkError, Writer};
use crate::spec::{Family, InterfaceName};

/// `RTM_SETLINK`, `AF_BRIDGE`, `IFLA_PROTINFO`, `IFLA_BRPORT_MODE`.
const SET_LINK: u16 = 19;
const BRIDGE: u8 = 7;
const PORT_OPTIONS: u16 = 12;
const HAIRPIN: u16 = 4;

/// A port of a bridge cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// There is no such interface.
    #[error("cannot find the interface {0}")]
    Missing(InterfaceName, #[source] io::Error),
    /// The kernel refuses: it is no port of a bridge.
    #[error("cannot let the bridge send back by its port {0}")]
    Refused(InterfaceName, #[source] NetlinkError),
}

/// Whether packets that only cross a bridge of the calling thread's namespace pass its rules.
#[must_use]
pub fn bridged_packets_pass(family: Family) -> bool {
    let name = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    // Without the module there is no such file.
    let read = std::fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{name}"));
    read.is_ok_and(|text| text.trim() != "0")
}

/// Lets a bridge of the calling thread's namespace send packets back by the port they came: the host's end
/// of an instance's interface. Stays until the interface goes; nothing else of it changes.
///
/// # Errors
/// When there is no such interface, or it is no port of a bridge.
pub fn allow_hairpin(port: &InterfaceName) -> Result<(), BridgeError> {
    let refused = |error| BridgeError::Refused(port.clone(), error);
    let index = interface::index(port.as_str()).map_err(|e| BridgeError::Missing(port.clone(), e))?;
    let mut connection = Connection::open(Netlink::Route).map_err(refused)?;
    // `ifinfomsg`: family, type, index, flags, which flags.
    let mut head = [0; 16];
    head[0] = BRIDGE;
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut request = Writer::default();
    request.message(SET_LINK, FLAG_ACK, &head, |out| {
        out.nested(PORT_OPTIONS, |out| out.bytes(HAIRPIN, &[1]));
    });
    connection.request(&mut request, |_| Ok(())).map_err(refused)
}
