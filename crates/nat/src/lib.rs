//! Publishing ports by the kernel's NAT: one nf_tables table of our own, written over netlink.
//!
//! [`Want`] says what is published; [`Nat::apply`] makes the table say it, by one transaction;
//! [`Conntrack::sweep`] then forgets the connections that are led elsewhere; [`Watch`] tells when
//! somebody else has touched the table. All of it in the network namespace of the thread that opens
//! them. Nothing here decides which device is published by NAT, or which address is its target.
//!
//! ```no_run
//! use portway_nat::{Conntrack, Nat, TableName, Want};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let want = Want::default();
//! let table = TableName::default();
//! let mut nat = Nat::open(table.clone())?;
//! let applied = nat.apply(&want)?;
//! Conntrack::open(&table)?.sweep(&want.check()?, &applied.affected)?;
//! # Ok(())
//! # }
//! ```

#![warn(clippy::wildcard_enum_match_arm)]

mod apply;
mod bridge;
mod conntrack;
mod forward;
#[doc(hidden)]
pub mod fuzz;
mod neighbour;
mod netlink;
mod nft;
mod observe;
mod plan;
mod spec;
mod watch;

pub use apply::{Applied, Counted, Nat, NatError, TableName};
pub use bridge::{BridgeError, allow_hairpin, bridged_packets_pass};
pub use conntrack::{Affected, Conntrack, ConntrackError, Led, Scope, Swept};
pub use forward::{Obstacle, forward_obstacles, forwards};
pub use neighbour::{NeighbourError, forget_neighbour};
pub use netlink::{Malformed, NetlinkError};
pub use plan::Plan;
pub use spec::{
    Checked, Conflict, Family, InterfaceName, Listen, Publication, PublicationError, Transport, Want,
};
pub use watch::{Event, Watch, WatchError};
