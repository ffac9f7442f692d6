//! Devices that the kernel carries: who gets a way through the table, and who keeps the table.
//!
//! Every instance's actor says which ways its devices want ([`way`]); one thread makes the table say so
//! ([`table`]). A device that has a way keeps its listener: it holds the port, serves the host's own
//! loopback clients, and takes over when the table is missing.

mod file;
mod grace;
pub(crate) mod leader;
pub(crate) mod leases;
pub(crate) mod obstacles;
pub(crate) mod table;
mod watch;
pub(crate) mod way;
mod ways;

pub(crate) use leader::{Failures, Leader};
pub(crate) use table::Change;
pub(crate) use way::{Verdict, Way};
