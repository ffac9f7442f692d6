//! The SSH gateway: lets people and tools into an instance without an SSH server inside it.
//!
//! Who someone is, what that person may do, and which instance is meant are decided apart from each other, in this
//! order; nothing here reads bytes of a client with a privilege.

mod audit;
pub mod auth;
pub mod broker;
mod confine;
pub mod create;
pub mod explain;
pub mod fuzz;
mod greeting;
pub mod guest;
pub mod hostkey;
pub mod import;
mod logging;
pub mod options;
pub mod policy;
pub mod recording;
pub mod remotes;
pub mod session;
mod shell;
pub mod tunnel;
mod watched;
mod wire;
