//! What the owner of a registrar and the registrar say to one another, as JSON on its unix socket.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// A new organization.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrg {
    /// Its name.
    pub name: String,
    /// Its IPv4 addresses, a block.
    pub network: String,
    /// Blocks of them that no device gets.
    #[serde(default)]
    pub reserved: Vec<String>,
    /// How long the address of a revoked device rests.
    pub quarantine_seconds: u64,
}

/// An organization.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Org {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: String,
    /// Its IPv4 addresses.
    pub network: String,
    /// Its IPv6 addresses.
    pub network6: String,
    /// Its members.
    pub devices: usize,
    /// Its revision.
    pub revision: u64,
}

/// A new key to join with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// How many devices may join with it; `None` for any number.
    pub uses: Option<u32>,
    /// How long; `None` for ever.
    pub expires_seconds: Option<u64>,
    /// Groups of the devices.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What lies behind the device.
    #[serde(default)]
    pub routes: Vec<String>,
}

/// Whether a device is a hub.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetHub {
    /// It passes messages on for others.
    pub hub: bool,
}

/// A key to join with, and, just after it was made, its token.
#[derive(Clone, Serialize, Deserialize)]
pub struct Key {
    /// What it is called.
    pub id: String,
    /// The token: nobody is told again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<zeroize::Zeroizing<String>>,
    /// How many devices may still join.
    pub uses_left: Option<u32>,
    /// The last second it may be used in, since 1970.
    pub not_after: Option<u64>,
    /// Groups of the devices.
    pub tags: Vec<String>,
    /// What lies behind the device.
    pub routes: Vec<String>,
    /// When it was made, seconds since 1970.
    pub created: u64,
}

/// A member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: String,
    /// Its address.
    pub ip4: Ipv4Addr,
    /// The same.
    pub ip6: std::net::Ipv6Addr,
    /// What lies behind it.
    pub routes: Vec<String>,
    /// Its groups.
    pub tags: Vec<String>,
    /// Where it says it is reached.
    pub endpoints: Vec<String>,
    /// When it joined, seconds since 1970.
    pub created: u64,
    /// It passes messages on for others.
    #[serde(default)]
    pub hub: bool,
}
