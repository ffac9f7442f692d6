//! Netlink messages and the conversation with the kernel: nothing here knows nf_tables.

mod attributes;
mod connection;
mod message;

pub(crate) use attributes::{Attribute, Attributes};
pub(crate) use connection::Connection;
pub use connection::NetlinkError;
pub(crate) use message::{
    FLAG_ACK, FLAG_APPEND, FLAG_CREATE, FLAG_DUMP, FLAG_EXCL, Message, Messages, Writer,
};

/// What was read is not what such a message looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub(crate) &'static str);
