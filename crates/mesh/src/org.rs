//! Organizations: who is in a network, said by signed records, and handed out by a registrar.
//!
//! Every record is signed by the organization's key, and the head that names them all is, and carries a revision that only
//! grows. So a device need not trust whoever brings it the records: the store, the registrar's disk, the way between.
//! A device never writes what others read: it asks the registrar, which signs.
//!
//! A [`registrar`] serves; a device is a [`membership`], which it [`follow`]s.
//!
//! [`Ledger`] is all that a registrar knows of one organization and decides what may change in it; [`View`] is what a device
//! has verified. Neither reads a clock, a file or a socket.

mod api;
mod certificate;
mod change;
mod client;
mod digest;
pub mod disk;
pub mod export;
pub mod follow;
mod head;
mod http;
mod join_key;
mod label;
mod ledger;
pub mod membership;
mod network;
mod owner;
mod pool;
mod proof;
mod record;
mod refusal;
pub mod registrar;
mod registry;
mod signed;
mod snapshot;
pub mod store;
#[cfg(test)]
mod tests;
mod token;
mod view;
mod wire;

pub use change::{Change, KEEPALIVE, changes, changes_of_own, peer};
pub use client::{ClientError, RegistrarUrl, Session};
pub use head::{Head, Settings};
pub use http::Failure;
pub use join_key::{JoinKey, KeyId, Terms};
pub use label::{DeviceName, LabelError, OrgName, Tag};
pub use ledger::{Ledger, LedgerError, Registered, Registration, Step, Write};
pub use network::{network, unread};
pub use owner::Owner;
pub use pool::{Pool, PoolError};
pub use record::{Device, Record, Revoked};
pub use refusal::Refusal;
pub use registry::{Registry, RegistryError, unix_now};
pub use signed::{OrgKey, OrgPublicKey, Signed};
pub use snapshot::{SNAPSHOT_MAX_BYTES, Snapshot};
pub use token::{Pin, Secret, Token, TokenError};
pub use view::{Trust, Unverified, View};
pub use wire::{Malformed, endpoint};
