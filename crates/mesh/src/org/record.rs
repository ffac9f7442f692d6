//! What an organization says of one device: that it is a member, or that it is one no more.

use std::net::{Ipv4Addr, Ipv6Addr};

use portway_model::Cidr;

use super::label::{DeviceName, OrgName, Tag};
use super::wire::{Malformed, Reader, Writer, canonical, endpoint};
use crate::spec::{Endpoint, PublicKey};

/// A member; one with marks, which readers of the first form refuse rather than misread.
const DEVICE: &[u8; 4] = b"PWd1";
const MARKED: &[u8; 4] = b"PWd2";
const REVOKED: &[u8; 4] = b"PWr1";

/// What a hub is marked with. There are no other marks.
const HUB: &str = "hub";

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Whose member.
    pub org: OrgName,
    /// What it is known by: to the organization and in WireGuard.
    pub key: PublicKey,
    /// Its name, which no other member has.
    pub name: DeviceName,
    /// Its address, which no other member has.
    pub ip4: Ipv4Addr,
    /// The same: of the key that it became a member with.
    pub ip6: Ipv6Addr,
    /// What lies behind it, as the organization allows; no other member has the same block.
    pub routes: Vec<Cidr>,
    /// Its groups.
    pub tags: Vec<Tag>,
    /// Where it says it is reached. A hint: WireGuard asks for proof.
    pub endpoints: Vec<Endpoint>,
    /// When it became a member, seconds since 1970.
    pub created: u64,
    /// Revision of the organization that this was last changed by.
    pub revision: u64,
    /// It passes messages on between members that do not reach each other.
    pub hub: bool,
}

impl Device {
    /// Most routes, tags or endpoints of one device.
    pub const LIST_MAX: usize = 16;
}

/// Who was a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Whose member.
    pub org: OrgName,
    /// Its key, which is never a member's again.
    pub key: PublicKey,
    /// The name it had, which is free.
    pub name: DeviceName,
    /// The address it had.
    pub ip4: Ipv4Addr,
    /// When it was revoked, seconds since 1970.
    pub at: u64,
    /// Until when nobody else gets the address: routes and rules of others may still mean the old one.
    pub quarantine_until: u64,
    /// Revision that it was revoked by.
    pub revision: u64,
}

impl Revoked {
    /// Whether this may be a former key of `device`: the name and the address are the same.
    #[must_use]
    pub(super) fn is_of(&self, device: &Device) -> bool {
        self.name == device.name && self.ip4 == device.ip4
    }
}

/// Either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A member.
    Device(Device),
    /// No member any more.
    Revoked(Revoked),
}

impl Record {
    /// Whose it is.
    #[must_use]
    pub fn org(&self) -> &OrgName {
        match self {
            Record::Device(device) => &device.org,
            Record::Revoked(revoked) => &revoked.org,
        }
    }

    /// Whom it is about.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        match self {
            Record::Device(device) => device.key,
            Record::Revoked(revoked) => revoked.key,
        }
    }

    /// By which revision it came about.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Record::Device(device) => device.revision,
            Record::Revoked(revoked) => revoked.revision,
        }
    }

    /// The member, if it is one.
    #[must_use]
    pub fn device(&self) -> Option<&Device> {
        match self {
            Record::Device(device) => Some(device),
            Record::Revoked(_) => None,
        }
    }

    /// The former member, if it is one.
    #[must_use]
    pub fn revoked(&self) -> Option<&Revoked> {
        match self {
            Record::Device(_) => None,
            Record::Revoked(revoked) => Some(revoked),
        }
    }

    /// What is signed.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Record::Device(device) => device_bytes(device),
            Record::Revoked(revoked) => revoked_bytes(revoked),
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// They are not what [`Record::bytes`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Record, Malformed> {
        const WHAT: &str = "record";
        let record = match bytes.first_chunk() {
            Some(kind @ (DEVICE | MARKED)) => {
                Record::Device(read_device(Reader::new(bytes, kind, WHAT)?, kind == MARKED)?)
            }
            Some(REVOKED) => Record::Revoked(read_revoked(Reader::new(bytes, REVOKED, WHAT)?)?),
            Some([b'P', b'W', b'd' | b'r', _]) => {
                return Err(Malformed("record: it is of a version that is not known here"));
            }
            _ => return Err(Malformed(WHAT)),
        };
        canonical(bytes, WHAT, record, Record::bytes)
    }
}

fn device_bytes(device: &Device) -> Vec<u8> {
    let mut writer = Writer::new(if device.hub { MARKED } else { DEVICE });
    writer.text(device.org.as_str()).fixed(device.key.as_bytes()).text(device.name.as_str());
    writer.fixed(&device.ip4.octets()).fixed(&device.ip6.octets());
    writer.list(&device.routes, |writer, route| {
        writer.block(route);
    });
    writer.list(&device.tags, |writer, tag| {
        writer.text(tag.as_str());
    });
    writer.list(&device.endpoints, |writer, endpoint| {
        writer.text(&endpoint.to_string());
    });
    writer.number(device.created).number(device.revision);
    if device.hub {
        writer.list(&[HUB], |writer, mark| {
            writer.text(mark);
        });
    }
    writer.finish()
}

fn read_device(mut reader: Reader<'_>, is_marked: bool) -> Result<Device, Malformed> {
    let mut device = Device {
        org: reader.parsed()?,
        key: reader.public_key()?,
        name: reader.parsed()?,
        ip4: reader.ip4()?,
        ip6: reader.ip6()?,
        routes: reader.list(Reader::block)?,
        tags: reader.list(Reader::parsed)?,
        endpoints: reader.list(|reader| endpoint(reader.text()?).ok_or(reader.malformed()))?,
        created: reader.number()?,
        revision: reader.number()?,
        hub: false,
    };
    if is_marked {
        // A mark that is not known may be one that must be.
        let marks: Vec<&str> = reader.list(Reader::text)?;
        device.hub = marks == [HUB];
    }
    let longest = device.routes.len().max(device.tags.len()).max(device.endpoints.len());
    if longest > Device::LIST_MAX {
        return Err(reader.malformed());
    }
    reader.end().map(|()| device)
}

fn revoked_bytes(revoked: &Revoked) -> Vec<u8> {
    let mut writer = Writer::new(REVOKED);
    writer.text(revoked.org.as_str()).fixed(revoked.key.as_bytes()).text(revoked.name.as_str());
    writer.fixed(&revoked.ip4.octets());
    writer.number(revoked.at).number(revoked.quarantine_until).number(revoked.revision);
    writer.finish()
}

fn read_revoked(mut reader: Reader<'_>) -> Result<Revoked, Malformed> {
    let revoked = Revoked {
        org: reader.parsed()?,
        key: reader.public_key()?,
        name: reader.parsed()?,
        ip4: reader.ip4()?,
        at: reader.number()?,
        quarantine_until: reader.number()?,
        revision: reader.number()?,
    };
    reader.end().map(|()| revoked)
}
