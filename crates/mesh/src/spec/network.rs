//! A network as one node sees it: its own key and addresses, and its peers.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use portway_model::{Cidr, Host, HostName, Port};

use super::key::{PresharedKey, PrivateKey, PublicKey};

/// A network, checked: every prefix has one owner, every peer stands once, and none of them is this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The key of this node.
    pub private_key: PrivateKey,
    /// Its addresses in the network, at least one, each once.
    pub addresses: Vec<InterfaceAddr>,
    /// UDP port that peers send to; `None` when the kernel may choose one.
    pub listen_port: Option<Port>,
    /// Greatest packet inside the tunnel.
    pub mtu: Mtu,
    /// Whether messages are sent in rows.
    pub rows: Rows,
    /// Who is asked for names of the network.
    pub dns: Dns,
    /// The peers, in the order of the file.
    pub peers: Vec<Peer>,
    /// Whether those are all there will be.
    pub peering: Peering,
}

/// Whether peers come and go while a network runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peering {
    /// They are those of its file.
    Fixed,
    /// They are the members of an organization, now and later.
    Changing,
    /// The same, and its records were not read yet: nothing is known of peers, and of this node no address.
    Unread,
}

impl Network {
    /// The peer that has `ip`: the one with the longest prefix it is in. Looks at every peer, which is for checks; the
    /// tunnel has a table.
    #[must_use]
    pub fn peer_of(&self, ip: IpAddr) -> Option<&Peer> {
        let length = |peer: &Peer| {
            peer.allowed_ips.iter().filter(|block| block.contains(ip)).map(|block| block.prefix()).max()
        };
        let found = self.peers.iter().filter_map(|peer| Some((length(peer)?, peer)));
        found.max_by_key(|(length, _)| *length).map(|(_, peer)| peer)
    }
}

/// Whether several messages are given to the kernel as one datagram to be cut (`UDP_SEGMENT`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rows {
    /// Where the kernel takes them.
    #[default]
    Auto,
    /// Never: Linux 7.0 to 7.1.4 damage some.
    Off,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it is known by.
    pub public_key: PublicKey,
    /// A secret shared with it.
    pub preshared_key: Option<PresharedKey>,
    /// Whose packets it may send, and which ones are sent to it. May be empty.
    pub allowed_ips: Vec<Cidr>,
    /// Where it is reached; `None` when it comes by itself.
    pub endpoint: Option<Endpoint>,
    /// Something is sent to it at least this often; 1 to 65535 whole seconds.
    pub keepalive: Option<Duration>,
}

/// Where a peer is reached over UDP. A name is looked up when it is needed, and again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Address or name.
    pub host: Host,
    /// Port.
    pub port: Port,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// An address of this node and how much of it names the network it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddr {
    /// The address, host bits and all.
    pub ip: IpAddr,
    /// Length of the prefix, bits.
    pub prefix: u8,
}

impl fmt::Display for InterfaceAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// Greatest packet inside the tunnel, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u16);

impl Mtu {
    /// Least one: what every IPv4 host takes (RFC 791, 3.1).
    pub const MIN: Mtu = Mtu(576);

    /// Least one with an IPv6 address (RFC 8200, 5).
    pub const MIN_V6: Mtu = Mtu(1280);

    /// What an IPv6 path of 1500 bytes leaves: 40 of IPv6, 8 of UDP, 32 of WireGuard.
    pub const DEFAULT: Mtu = Mtu(1420);

    /// Greatest one: the payload of a UDP datagram over IPv4, 65507, without the 32 of WireGuard.
    pub const MAX: Mtu = Mtu(65_475);

    /// `bytes`, if it is from [`Mtu::MIN`] to [`Mtu::MAX`].
    #[must_use]
    pub fn new(bytes: u16) -> Option<Mtu> {
        (Mtu::MIN..=Mtu::MAX).contains(&Mtu(bytes)).then_some(Mtu(bytes))
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u16 {
        self.0
    }
}

impl Default for Mtu {
    fn default() -> Mtu {
        Mtu::DEFAULT
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is asked for names of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Servers, in order, asked through the tunnel.
    pub servers: Vec<IpAddr>,
    /// Domains that a name without a dot is tried in.
    pub search: Vec<HostName>,
}
