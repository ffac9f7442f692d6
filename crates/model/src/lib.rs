//! The domain's words: ports, addresses, device options and instance names.
//!
//! Everything here is parsed once, at the edge, and cannot exist unless it is valid. Each type
//! prints one canonical text that parses back to the same value; serde uses that text. Nothing
//! here does I/O, resolves a name or reads a clock.
//!
//! An error of a text names the place: [`At`] carries the byte offset and the 1-based column.

#![warn(clippy::wildcard_enum_match_arm)]

mod address;
mod at;
mod cidr;
mod device;
mod duration;
mod host;
mod instance;
mod limits;
mod listeners;
mod name;
mod nat;
mod nearest;
mod options;
mod port;
mod rings;
mod rule;
mod spec;
mod text;
mod time;
mod unix;

pub use address::{Address, ConnectAddr, ListenAddr, Protocol, Side};
pub use at::{AddrError, AddrErrorKind, At, RefError, RefErrorKind, ValueError, ValueErrorKind};
pub use cidr::{AcceptProxy, Cidr, CidrList};
pub use device::{DeviceKey, DeviceName};
pub use duration::{format_duration, parse_duration};
pub use host::{IpHost, Zone};
pub use instance::{InstanceKey, InstanceName, InstanceRef, ProjectName, Provider};
pub use limits::{GroupIds, Limits, Rate};
pub use listeners::{ListenIndex, Place};
pub use name::{Host, HostError, HostErrorKind, HostName};
pub use nat::{Nat, NatObstacle};
pub use nearest::nearest;
pub use options::{Bind, FdPassing, Follow, ProxyProtocol, RunAs, SocketMode, SocketOwner, UdpFraming};
pub use port::{Port, PortList, PortRange};
pub use rings::Ways;
pub use rule::{Direction, MeshRule, RuleError, RuleErrorKind, RuleListen, Transport};
pub use spec::{DeviceSpec, KeyDoc, SpecError, Target};
pub use time::{read_rfc3339, rfc3339};
pub use unix::{AbstractName, UNIX_NAME_MAX_BYTES, UnixKind, UnixName, UnixPath};
