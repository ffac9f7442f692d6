//! Client of the Incus API on its unix socket, and of LXD's, which is the same where we use it. Who reaches a server
//! otherwise brings the connections ([`Dial`]).
//!
//! It reads: the server, instances, their run-time state, addresses and proxy devices, network forwards, and the
//! stream of lifecycle events, and files of an instance. It changes the definition of an instance ([`Definition`]), runs
//! programs inside ([`Client::exec`]), makes and ends instances ([`NewInstance`], [`StateChange`]) and what they need
//! ([`ResourceId`], [`Image`]); what takes the server a while is an [`Operation`]. It keeps no state between calls and spawns no task;
//! dropping a future ends its connection.
//!
//! # What the requests cost
//!
//! Incus 6.0.4, two cores, one running container, a connection of its own per request, median of
//! 200:
//!
//! | request | ms | remarks |
//! |---|---|---|
//! | [`Client::server`] | 0.4 | |
//! | [`Client::instance`] | 1.9 | 90 ms when it falls into a stop or a start |
//! | [`Client::state`] | 4.9 | the only one with init's pid; 90 to 650 ms, or a 500, during a stop or a start |
//! | [`Client::instances`] | 2.3 | about 0.5 ms more per running instance |
//! | [`Client::with_uuid`] | 3.0 | filtered by the server |
//!
//! Keeping connections open would save 0.1 to 0.3 ms.
//!
//! # When a container's init dies and is born
//!
//! Milliseconds around a restart, from a container whose init exits at once on its stop signal:
//!
//! | ms | `incus restart` (forced or not), `reboot` inside | `incus stop`, `poweroff` inside |
//! |---|---|---|
//! | 0 | init is dead: a pidfd tells | the same |
//! | 0 to 80 | `state` and `instance` wait | the same |
//! | 80 | `state` says stopped, or is a 500 (`Invalid PID`) until the operation ends | the same |
//! | 630 | | `instance-shutdown`, or `instance-stopped` when forced; `state` says stopped |
//! | 700 | a process is in the container's cgroup; `state` waits | |
//! | 735 | it executes the container's init | |
//! | 740 | `instance-restarted`; waiting `state` requests are answered | |
//! | 745 | `state` asked after the event has given the pid | |
//!
//! From this follows what a caller does:
//! - **death** is seen by the pidfd of init; every event is later by more than half a second, and
//!   a restart has no event of its own for the stop;
//! - **birth** is seen by the event, then one [`Client::state`]. Polling `state` is never earlier,
//!   because the server answers neither before: poll slowly, for the case that events are lost;
//! - an error of `state` means "not known", never "stopped"; only `pid: None` means that;
//! - a **pid** is a number: open the pidfd, then ask again or check that the process is the first
//!   of its pid namespace, before trusting that both are one process.
//!
//! The container's cgroup shows the new process 45 ms earlier than the API and is 100 times
//! cheaper to read, and is of no use: for the first 20 ms that process is in the host's network
//! namespace and for 40 ms its root is the host's, so whoever opened `/proc/PID/ns/net` or
//! `/proc/PID/root` then would hold the host's. LXC's own command socket would be exact, but its
//! protocol is private to each version of liblxc.
//!
//! # What the events say
//!
//! | done | events, in order |
//! |---|---|
//! | create; create and start | `instance-created`; then `instance-started` |
//! | start, stop, forced stop | `instance-started`, `instance-shutdown`, `instance-stopped` |
//! | restart of any sort, `reboot` inside | `instance-restarted` alone |
//! | `poweroff` inside, init exits | `instance-shutdown` |
//! | pause, resume; snapshot of a running instance | `instance-paused`, `instance-resumed`; the pid stays |
//! | rename (only when stopped) | `instance-renamed` with the new name, the old one in `old_name`; for 7 ms before it the old name is already a 404 |
//! | move to another project | `instance-created` there, some 200 ms later `instance-deleted` here; both have the UUID meanwhile |
//! | delete; forced delete | `instance-deleted`; `instance-stopped` before it |
//! | stop of an ephemeral instance | `instance-deleted`, **then** `instance-stopped` |
//! | configuration | `instance-updated` |
//! | restore of a snapshot | `instance-restored` |
//!
//! The UUID (`volatile.uuid`) stays through restart, rename, restore and move; delete and create,
//! and copy, make a new one. `volatile.uuid.generation` changes at each restore: not an identity.
//! The server pings every 10 s. When it stops, the stream ends at once; containers run on.
//! LXD 5.0.2 answers alike and sends the same events.

mod acls;
mod client;
mod definition;
mod discover;
mod encode;
mod error;
mod events;
mod exec;
mod files;
mod forwards;
#[doc(hidden)]
pub mod fuzz;
mod hardware;
mod images;
mod import;
mod lifecycle;
mod network;
mod operation;
mod proxies;
mod resources;
mod sftp;
mod snapshots;
mod transport;
mod types;

pub use client::{Client, Limits};
pub use definition::{Definition, Device};
pub use error::{IncusError, Refusal};
pub use events::{Event, Events};
pub use exec::{
    Control, Ended, Exec, ExecEnd, ExecSockets, ExecSpec, Input, Outcome, Output, Pipe, Size, Whole,
};
pub use files::{FileContent, FileOwner, InstanceFile};
pub use forwards::Forward;
pub use images::{Image, ImageProtocol, RemoteImage};
pub use import::ImageFiles;
pub use lifecycle::{InstanceSource, Interface, Listed, Measured, NewInstance, Pulled, StateChange};
pub use network::{Assigned, Holder, Lease};
pub use operation::{Left, Operation, Progress};
pub use proxies::LedProxy;
pub use resources::{Keys, Pool, Resource, ResourceId, Shelf, User};
pub use sftp::{FileFacts, FileHandle, FileKind, Open, PIECE_BYTES, Sftp, SftpError};
pub use snapshots::Snapshot;
pub use transport::Dial;
pub use types::{Instance, InstanceKind, Server, State, Summary, status_code};

/// Whether the servers take the text of a key for yes.
#[must_use]
pub fn is_true(text: &str) -> bool {
    ["true", "1", "yes", "on"].iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, IncusError>;
