//! One entry of the connection tracking table.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Led, Scope};
use crate::netlink::{Attribute, Attributes, Malformed, Writer};
use crate::plan::layout::Label;
use crate::spec::{Checked, Family, Listen, Publication, Transport};

/// Types of messages (`NFNL_SUBSYS_CTNETLINK` and `enum cntl_msg_types`).
pub(super) mod kind {
    pub(crate) const NEW: u16 = 1 << 8;
    pub(crate) const GET: u16 = 1 << 8 | 1;
    pub(crate) const DELETE: u16 = 1 << 8 | 2;
}

// Attributes (the enums of linux/netfilter/nfnetlink_conntrack.h).
pub(super) const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
pub(super) const STATUS: u16 = 3;
const PROTOCOL_STATE: u16 = 4;
const ID: u16 = 12;
const ZONE: u16 = 18;
const LABELS: u16 = 22;
pub(super) const FILTER: u16 = 25;
pub(super) const STATUS_MASK: u16 = 26;
pub(super) const FILTER_ORIGINAL: u16 = 1;
pub(super) const FILTER_REPLY: u16 = 2;
pub(super) const ADDRESSES: u16 = 1;
pub(super) const PROTOCOL: u16 = 2;
const SOURCE4: u16 = 1;
const DESTINATION4: u16 = 2;
const SOURCE6: u16 = 3;
const DESTINATION6: u16 = 4;
pub(super) const PROTOCOL_NUMBER: u16 = 1;
pub(super) const SOURCE_PORT: u16 = 2;
pub(super) const DESTINATION_PORT: u16 = 3;
const TCP: u16 = 1;
const TCP_STATE: u16 = 1;

/// `IPS_SEEN_REPLY`: the other side has answered.
const ANSWERED: u32 = 1 << 1;
/// `IPS_SRC_NAT`: the source was changed.
const SOURCE_TRANSLATED: u32 = 1 << 4;
/// `IPS_DST_NAT`: the destination was changed.
pub(super) const TRANSLATED: u32 = 1 << 5;

/// `TCP_CONNTRACK_LAST_ACK`: from here on a connection only waits to be forgotten.
const TCP_LAST_ACK: u8 = 6;

/// One direction of a connection: who sends, to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    source: SocketAddr,
    destination: SocketAddr,
}

/// By what a connection is judged.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    /// What the table says.
    pub(super) want: &'a Checked,
    /// What of it was changed, so far as that is known.
    pub(super) changed: &'a [Scope],
    /// The addresses of this host.
    pub(super) local: &'a BTreeSet<IpAddr>,
    /// The mark of what the table has led.
    pub(super) label: Label,
}

/// A tracked TCP connection or UDP flow.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    transport: Transport,
    original: Tuple,
    reply: Tuple,
    status: u32,
    tcp_state: Option<u8>,
    labels: Vec<u8>,
    id: Option<u32>,
    zone: Option<u16>,
    /// The original direction as it came: what it is deleted by.
    identity: Vec<u8>,
}

impl Entry {
    /// Reads one; `None` of another protocol.
    pub(super) fn read(attributes: Attributes<'_>) -> Result<Option<Self>, Malformed> {
        let identity = attributes.need(ORIGINAL, "connection")?;
        let Some((transport, original)) = read_tuple(identity)? else { return Ok(None) };
        let Some((_, reply)) = read_tuple(attributes.need(REPLY, "connection")?)? else { return Ok(None) };
        let tcp_state = match attributes.find(PROTOCOL_STATE)? {
            Some(state) => match state.nested().find(TCP)? {
                Some(tcp) => tcp.nested().find(TCP_STATE)?.map(|state| state.u8()).transpose()?,
                None => None,
            },
            None => None,
        };
        Ok(Some(Self {
            transport,
            original,
            reply,
            status: attributes.find(STATUS)?.map_or(Ok(0), |status| status.u32())?,
            tcp_state,
            labels: attributes.find(LABELS)?.map(|labels| labels.value.to_vec()).unwrap_or_default(),
            id: attributes.find(ID)?.map(|id| id.u32()).transpose()?,
            zone: attributes.find(ZONE)?.map(|zone| zone.u16()).transpose()?,
            identity: identity.value.to_vec(),
        }))
    }

    /// Writes what names it for deletion: were it gone and another in its place, that one stays.
    pub(super) fn write_identity(&self, out: &mut Writer) {
        out.bytes(ORIGINAL | 0x8000, &self.identity);
        if let Some(id) = self.id {
            out.u32(ID, id);
        }
        if let Some(zone) = self.zone {
            out.bytes(ZONE, &zone.to_be_bytes());
        }
    }

    /// Its address family.
    pub(super) fn family(&self) -> Family {
        Family::of(self.original.destination.ip())
    }

    /// Whether a table of this mark has led it. Labels are free for all to use, so the mark alone does not say
    /// it: what we lead is translated, and in the zone that all connections are in unless somebody sorts them.
    pub(super) fn is_led_by(&self, label: Label) -> bool {
        self.is_in_our_zone() && self.status & TRANSLATED != 0 && label.is_in(&self.labels)
    }

    fn is_in_our_zone(&self) -> bool {
        self.zone.unwrap_or_default() == 0
    }

    /// Whether it was made to ports like these.
    pub(super) fn is_within(&self, scope: &Scope) -> bool {
        let (ip, port) = (self.original.destination.ip(), self.original.destination.port());
        let listens = match scope.listen {
            Listen::Address(own) => own == ip,
            Listen::Every(family) => family == Family::of(ip),
        };
        listens && scope.transport == self.transport && (scope.first..=scope.last).contains(&port)
    }

    /// Whether somebody else's rule has led it this way.
    pub(super) fn was_led(&self, label: Label, led: &Led) -> bool {
        let to = self.reply.source;
        self.is_in_our_zone()
            && self.status & TRANSLATED != 0
            && !label.is_in(&self.labels)
            && self.is_within(&led.scope)
            && led.targets.contains(&to.ip())
            && led.ports.iter().any(|ports| ports.contains(&to.port()))
    }

    /// Whether bytes may still pass.
    pub(super) fn is_open(&self) -> bool {
        self.tcp_state.is_none_or(|state| state < TCP_LAST_ACK)
    }

    /// The publication it was made by, if that still leads there. In a range the kernel takes another port of
    /// it when the connection would look the same to the target as one it has.
    pub(super) fn leads<'a>(&self, want: &'a Checked) -> Option<&'a Publication> {
        let (ip, port) = (self.original.destination.ip(), self.original.destination.port());
        let publication = want.find(self.transport, ip, port)?;
        let (ports, to) = (publication.target_ports(), self.reply.source);
        let within = (ports.first().get()..=ports.last().get()).contains(&to.port());
        (to.ip() == publication.target() && within).then_some(publication)
    }

    /// Whether the table leads it where it goes. Of a publication that was changed only the port itself is
    /// right: the range it had before may lie within the one it has.
    fn is_led_rightly(&self, rules: &Rules<'_>) -> bool {
        let Some(publication) = self.leads(rules.want) else { return false };
        let port = publication.target_port(self.original.destination.port());
        let touched = |scope: &Scope| {
            let is_its_own =
                matches!(scope.listen, Listen::Address(_)) || scope.listen == publication.listen();
            is_its_own && self.is_within(scope)
        };
        port == Some(self.reply.source.port()) || !rules.changed.iter().any(touched)
    }

    /// Whether it began with an answer of this host's from a port that is published: a socket here had been asked
    /// before. What its client sends from then on would belong to it, and never be led.
    fn is_answer(&self, rules: &Rules<'_>) -> bool {
        let source = self.original.source;
        self.transport == Transport::Udp
            && self.status & (TRANSLATED | SOURCE_TRANSLATED) == 0
            && rules.local.contains(&source.ip())
            && rules.want.find(self.transport, source.ip(), source.port()).is_some()
    }

    /// Whether the table would lead it elsewhere.
    pub(super) fn is_stale(&self, rules: &Rules<'_>) -> bool {
        if !self.is_in_our_zone() || self.is_led_rightly(rules) {
            return false;
        }
        if self.is_led_by(rules.label) {
            return true;
        }
        let Tuple { source, destination } = self.original;
        if self.is_answer(rules) {
            return true;
        }
        // What begins at a loopback address passes the table by, and what goes through to another host is
        // not ours, whatever its port.
        if source.ip().is_loopback() || !rules.local.contains(&destination.ip()) {
            return false;
        }
        if rules.want.find(self.transport, destination.ip(), destination.port()).is_none() {
            return false;
        }
        // Who translated it goes before this table, now as then. And a TCP connection that a socket of this host has
        // answered would not survive its entry: the next packet would be led to a target that knows nothing of it.
        let translated = self.status & TRANSLATED != 0;
        let own = self.transport == Transport::Tcp && self.status & ANSWERED != 0;
        !translated && !own
    }
}

fn read_tuple(tuple: Attribute<'_>) -> Result<Option<(Transport, Tuple)>, Malformed> {
    let parts = tuple.nested();
    let protocol = parts.need(PROTOCOL, "protocol")?.nested();
    let number = protocol.need(PROTOCOL_NUMBER, "protocol")?.u8()?;
    let Some(transport) = Transport::of_number(number) else { return Ok(None) };
    let addresses = parts.need(ADDRESSES, "addresses")?.nested();
    let address = |v4, v6| -> Result<IpAddr, Malformed> {
        let found = match addresses.find(v4)? {
            Some(found) => found,
            None => addresses.need(v6, "address")?,
        };
        ip(found.value).ok_or(Malformed("address"))
    };
    let port = |kind| protocol.need(kind, "port")?.u16();
    let source = SocketAddr::new(address(SOURCE4, SOURCE6)?, port(SOURCE_PORT)?);
    let destination = SocketAddr::new(address(DESTINATION4, DESTINATION6)?, port(DESTINATION_PORT)?);
    Ok(Some((transport, Tuple { source, destination })))
}

/// Writes an address as the destination of a direction.
pub(super) fn write_destination(out: &mut Writer, ip: Ipv4Addr) {
    out.bytes(DESTINATION4, &ip.octets());
}

/// An address of four or sixteen bytes.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}
