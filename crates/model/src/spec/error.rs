//! What can be wrong with the keys of a device. Every text names the key.

use crate::address::Protocol;
use crate::at::{AddrError, ValueError};
use crate::nat::NatObstacle;
use crate::options::ProxyProtocol;
use crate::text::quote;

/// Why keys do not make a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such key.
    #[error("unknown key {}{}", quote(key), nearest.map_or_else(String::new, |nearest| format!(", did you mean `{nearest}`?")))]
    UnknownKey {
        /// The key.
        key: String,
        /// The known one it resembles most, if any does.
        nearest: Option<&'static str>,
    },
    /// A free key of Incus, which would be lost here.
    #[error("key {} is not kept, only keys that a proxy device knows are", quote(key))]
    Foreign {
        /// The key.
        key: String,
    },
    /// `nat=true` for what the kernel cannot carry.
    #[error("nat: {0}; or set nat=auto, which relays it")]
    Nat(NatObstacle),
    /// A key given twice.
    #[error("key {} is given twice", quote(key))]
    Duplicate {
        /// The key.
        key: String,
    },
    /// A required key that is not there.
    #[error("key `{key}` is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A malformed address.
    #[error("{key}: {error}")]
    Address {
        /// The key.
        key: &'static str,
        /// What and where.
        error: AddrError,
    },
    /// A malformed value.
    #[error("{key}: {error}")]
    Value {
        /// The key.
        key: &'static str,
        /// What and where.
        error: ValueError,
    },
    /// Port counts that cannot be paired.
    #[error("connect: {connect} ports for {listen} listening, expected 1 or as many")]
    PortCount {
        /// Sockets the device listens on.
        listen: u32,
        /// Ports it connects to.
        connect: u32,
    },
    /// Datagrams to a stream.
    #[error("connect: udp cannot be carried to {connect} without udp.framing=len16 or udp.framing=raw")]
    UdpToStream {
        /// What `connect` speaks.
        connect: Protocol,
    },
    /// Framing asked for where none is needed.
    #[error("udp.framing: only between udp and tcp, or udp and unix")]
    Framing,
    /// The text header, for a client of udp.
    #[error("proxy_protocol: v1 has no word for a udp client, v2 has")]
    ProxyUdp,
    /// Kinds of sockets that do not fit together.
    #[error("connect: {listen} cannot be carried to {connect}: {why}")]
    Pairing {
        /// What `listen` speaks.
        listen: Protocol,
        /// What `connect` speaks.
        connect: Protocol,
        /// One line.
        why: &'static str,
    },
    /// A header that the target cannot get.
    #[error("proxy_protocol: {version} cannot be sent to {connect}, v1 goes to tcp only, v2 to tcp and unix")]
    ProxyProtocol {
        /// Version.
        version: ProxyProtocol,
        /// What `connect` speaks.
        connect: Protocol,
    },
    /// Ownership of something that is no file.
    #[error("{key}: only for a listen address that is a unix socket with a path")]
    NotASocketFile {
        /// The key.
        key: &'static str,
    },
    /// A key that this listen address cannot honour.
    #[error("{key}: only for a listen address that is {wanted}")]
    Listen {
        /// The key.
        key: &'static str,
        /// What it takes.
        wanted: &'static str,
    },
    /// Group 0 by the way, as nobody's user.
    #[error("security.groups: group 0 needs security.uid=0")]
    GroupZero,
    /// `v6only` without IPv6.
    #[error("v6only: only for a listen address that is IPv6")]
    V6Only,
    /// Descriptors asked for where none can pass.
    #[error("fds: only from a unix listen address to a connect address of the same kind")]
    Fds,
}

impl SpecError {
    /// The key at fault, as given.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::UnknownKey { key, .. } | Self::Foreign { key } | Self::Duplicate { key } => key,
            Self::Missing { key }
            | Self::Address { key, .. }
            | Self::Value { key, .. }
            | Self::Listen { key, .. }
            | Self::NotASocketFile { key } => key,
            Self::GroupZero => "security.groups",
            Self::Nat(_) => "nat",
            Self::PortCount { .. } | Self::UdpToStream { .. } | Self::Pairing { .. } => "connect",
            Self::Framing => "udp.framing",
            Self::ProxyProtocol { .. } | Self::ProxyUdp => "proxy_protocol",
            Self::V6Only => "v6only",
            Self::Fds => "fds",
        }
    }
}
