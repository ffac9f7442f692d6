//! Client of the Incus API on its unix socket, and of LXD's, which is the same where we use it.
//!
//! It reads: the server, instances, their run-time state, and the stream of lifecycle events. It
//! changes nothing, keeps no state between calls and spawns no task; dropping a future ends its
//! connection.

mod client;
mod discover;
mod error;
mod events;
mod transport;
mod types;

pub use client::{Client, Limits};
pub use error::IncusError;
pub use events::{Event, Events};
pub use types::{Instance, InstanceKind, Server, State, Summary, status_code};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, IncusError>;
