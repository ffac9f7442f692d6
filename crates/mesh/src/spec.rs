//! What is wanted of one network: keys, addresses, peers.
//!
//! Everything here is checked; nothing opens a socket or looks up a name.

mod key;
mod network;

pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use network::{Dns, Endpoint, InterfaceAddr, Mtu, Network, Peer};
