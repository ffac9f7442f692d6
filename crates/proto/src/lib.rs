//! Protocol logic without I/O and without a clock: half-close of byte streams, the table of UDP
//! flows, PROXY protocol headers, datagrams in a byte stream, admission of clients, what clients of a SOCKS5 or HTTP proxy
//! say; of the SSH gateway: login names, frames to and from its program inside an instance, the names it looks up there, requests of SFTP, what begins a connection to an X server; what a
//! service of a Compose project runs and keeps. Time is an argument of every call that needs it.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod admission;
pub mod guest;
pub mod half_close;
pub mod http_connect;
pub mod len16;
pub mod login;
pub mod names;
pub mod proxy_protocol;
pub mod service;
pub mod sftp;
pub mod socks5;
pub mod target;
pub mod udp_flow;
pub mod x11;

/// One end of a relayed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who called us.
    Downstream,
    /// Whom we call.
    Upstream,
}

impl Side {
    /// The opposite end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }
}

/// Which way bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dir {
    /// From downstream to upstream.
    Up,
    /// From upstream to downstream.
    Down,
}

impl Dir {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Up, Self::Down];

    /// Where the bytes come from.
    #[must_use]
    pub const fn from(self) -> Side {
        match self {
            Self::Up => Side::Downstream,
            Self::Down => Side::Upstream,
        }
    }

    /// Where the bytes go to.
    #[must_use]
    pub const fn to(self) -> Side {
        self.from().other()
    }

    /// The opposite way.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}
