//! Why a registrar does not do what it is asked to.

use std::net::Ipv4Addr;

use portway_model::Cidr;
use thiserror::Error;

use super::join_key::KeyId;
use super::label::DeviceName;

/// Why not. Who owns what is in the way is not said.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No key to join with has this secret.
    #[error("the key to join with is not known: it is another organization's, or was revoked")]
    UnknownJoinKey,
    /// Its time is over.
    #[error("the key to join with has expired")]
    Expired,
    /// As many devices as may have joined with it.
    #[error("the key to join with is used up")]
    UsedUp,
    /// The device was a member and was revoked.
    #[error("this device was revoked: it can join again with a new key pair only")]
    Revoked,
    /// No member.
    #[error("this device is no member")]
    NoMember,
    /// The key that a device would have instead of its own.
    #[error("the new key is a device's already, or was one's")]
    KeyTaken,
    /// Each leaves a record.
    #[error("this device has had {0} new keys within a day: try again later")]
    TooOften(usize),
    /// Another member has it.
    #[error("the name {0} is another device's")]
    NameTaken(DeviceName),
    /// Another member has it, or had it not long ago.
    #[error("the address {0} is taken")]
    AddressTaken(Ipv4Addr),
    /// Not one that devices get.
    #[error("the address {0} is not one that devices of this organization have")]
    AddressOutside(Ipv4Addr),
    /// The device is a member already and has another one.
    #[error("this device is a member already and has the address {0}")]
    AddressFixed(Ipv4Addr),
    /// Every address is somebody's.
    #[error("no address is left")]
    NoAddress,
    /// Another member has the same block behind it, or it is of the organization's own.
    #[error("the route {0} is another device's, or of the organization's own addresses")]
    RouteTaken(Cidr),
    /// Too many of something.
    #[error("the organization has as many {0} as it can")]
    Full(&'static str),
    /// No such device.
    #[error("there is no device {0}")]
    NoDevice(DeviceName),
    /// No such key.
    #[error("there is no key {0}")]
    NoJoinKey(KeyId),
}

impl Refusal {
    /// One word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::UnknownJoinKey => "unknown_key",
            Refusal::Expired => "key_expired",
            Refusal::UsedUp => "key_used_up",
            Refusal::Revoked => "revoked",
            Refusal::NoMember => "no_member",
            Refusal::KeyTaken => "key_taken",
            Refusal::TooOften(_) => "too_often",
            Refusal::NameTaken(_) => "name_taken",
            Refusal::AddressTaken(_) => "address_taken",
            Refusal::AddressOutside(_) => "address_outside",
            Refusal::AddressFixed(_) => "address_fixed",
            Refusal::NoAddress => "no_address",
            Refusal::RouteTaken(_) => "route_taken",
            Refusal::Full(_) => "full",
            Refusal::NoDevice(_) => "no_device",
            Refusal::NoJoinKey(_) => "no_key",
        }
    }

    /// Status of the answer over HTTP (RFC 9110, 15).
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Refusal::UnknownJoinKey
            | Refusal::Expired
            | Refusal::UsedUp
            | Refusal::Revoked
            | Refusal::NoMember => 403,
            Refusal::NoDevice(_) | Refusal::NoJoinKey(_) => 404,
            Refusal::KeyTaken
            | Refusal::NameTaken(_)
            | Refusal::AddressTaken(_)
            | Refusal::AddressOutside(_)
            | Refusal::AddressFixed(_)
            | Refusal::RouteTaken(_) => 409,
            Refusal::TooOften(_) => 429,
            Refusal::NoAddress | Refusal::Full(_) => 507,
        }
    }
}
