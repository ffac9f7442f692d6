//! Services of containers in a WireGuard network, and services of that network in a container, without any privilege.
//!
//! [`spec`] is what is wanted: keys, addresses, peers. [`wg`] is the protocol, [`segment`] cuts and joins packets.

pub mod segment;
pub mod spec;
pub mod wg;
