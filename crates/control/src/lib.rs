//! The control socket: requests and replies shared by the daemon and the command line ([`api`]), and the
//! client's side of it ([`Client`]).

pub mod api;
pub mod client;
mod error;
mod events;
pub mod sse;

pub use client::{Client, Direction, Limits};
pub use error::ClientError;
pub use events::Events;
