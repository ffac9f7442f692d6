//! Limits that a process sets itself, for good.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Allows none of it from here on, and nobody to allow more.
pub(super) fn forbid(what: Resource) -> io::Result<()> {
    Ok(setrlimit(what, Rlimit { current: Some(0), maximum: Some(0) })?)
}
