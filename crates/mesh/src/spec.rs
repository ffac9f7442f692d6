//! What is wanted of one network: keys, addresses, peers, rules. [`Spec::load`] reads it from a file, the environment and
//! the command line.
//!
//! Everything here is checked; nothing opens a socket or looks up a name.

mod draft;
mod env;
mod error;
mod fingerprint;
mod ini;
mod key;
mod load;
#[cfg(test)]
mod memory;
mod named;
mod network;
pub mod pair;
mod place;
pub mod proxies;
mod rules;
mod toml_form;
mod wg_quick;
mod wireproxy;

pub use error::SpecError;
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use load::{FileText, FilesAlone, Here, Request, Spec, Surroundings};
pub use network::{Dns, Endpoint, InterfaceAddr, Mtu, Network, Peer, Peering, Rows};
pub use place::{Place, Source, Warning};
pub use proxies::{Login, ProxyKind, ProxyListen};
pub use rules::{Listener, PortRights, RuleEntry, RuleId, Rules};
