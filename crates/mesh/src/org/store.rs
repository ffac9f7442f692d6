//! Where registrars keep organizations: entries under names, changed all together or not at all.
//!
//! A store is trusted with nothing but to keep: what it has is signed, and [`Ledger`](super::Ledger) finds out what was
//! lost or changed. What it must do is [`Store::commit`]: of two who change the same version, one.

mod etcd;
mod etcd_http;
mod etcd_tls;
mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;

use thiserror::Error;

pub use etcd::{Etcd, EtcdAddress, EtcdAddressError, EtcdTls};
pub use etcd_tls::{EtcdTlsError, etcd_tls};
pub use file::FileStore;

use super::label::OrgName;
use super::ledger::Write;

/// Why a store did not do what it was asked to.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Nobody answers: nothing was changed.
    #[error("the store does not answer: {0}")]
    Unreachable(String),
    /// The answer did not come: it was changed, or it was not.
    #[error("the store did not say whether it has changed: {0}")]
    Unsure(String),
    /// It answers with something else.
    #[error("the store fails: {0}")]
    Broken(String),
}

/// What a store has of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Of the head; 0 when there is none. Means something to the store alone.
    pub version: u64,
    /// By name.
    pub entries: BTreeMap<String, Vec<u8>>,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// It is done, and on disk: this is the version.
    Done(u64),
    /// Somebody else was first: nothing was changed.
    Conflict,
}

/// What a store will have done.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A place for organizations.
pub trait Store: Send + Sync + fmt::Debug {
    /// All that it has of `org`, as of one moment.
    fn load<'a>(&'a self, org: &'a OrgName) -> Answer<'a, Image>;

    /// The version of `org` at this moment; 0 when there is none.
    fn version<'a>(&'a self, org: &'a OrgName) -> Answer<'a, u64>;

    /// Writes all of it, if the version of `org` is `expected`.
    fn commit<'a>(&'a self, org: &'a OrgName, expected: u64, writes: &'a [Write]) -> Answer<'a, Commit>;

    /// Returns once the version of `org` is, or may be, another than `version`; or after a while.
    fn changed<'a>(&'a self, org: &'a OrgName, version: u64) -> Answer<'a, ()>;
}
