//! Services of containers in a WireGuard network, and services of that network in a container, without any privilege.
//!
//! [`spec`] is what is wanted: keys, addresses, peers. [`wg`] is the protocol, [`segment`] cuts and joins packets,
//! [`engine`] is where TCP and UDP live, [`udp`] the socket to the peers, and [`tunnel`] all of it together, running.

pub mod engine;
pub mod fuzz;
pub mod org;
pub mod proxy;
pub mod segment;
pub mod spec;
pub mod stun;
pub mod tunnel;
pub mod udp;
pub mod wg;

/// An error and what caused it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
