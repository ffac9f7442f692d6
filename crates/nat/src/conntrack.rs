//! Connection tracking: forgetting connections that lead where the table no longer does, and
//! counting those that live.
//!
//! The table decides about the first packet of a connection; afterwards the kernel follows its own
//! entry, for a UDP client that keeps sending for ever. So after every change the entries that say
//! something else than the table are deleted, and the client's next packet begins anew.

mod entry;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use portway_sys::netlink::Family as Netlink;

use crate::apply::TableName;
use crate::netlink::{Attributes, Connection, FLAG_ACK, FLAG_DUMP, Malformed, Message, NetlinkError, Writer};
use crate::observe;
use crate::plan::layout::{self, Label};
use crate::spec::{Checked, Family, Listen, Transport};
use entry::{Entry, Rules, kind};

/// `ENOENT`: the entry has gone by itself.
const NOT_FOUND: i32 = 2;

/// Entries that are deleted between two looks at the table: bounds memory, whatever a flood has filled the
/// table with.
const ROUND: usize = 65_536;

/// Looks at the table at most, for each thing that is looked for: a million entries. Some come back as fast
/// as they are deleted, for who comes to an address by an interface that does not have it is never led.
const PASSES: usize = 16;

/// Rounds of looking after one that has deleted something: an answer that is on its way makes an entry anew.
const ROUNDS: usize = 8;

/// Who has so many entries deleted at once is not asking and waiting for answers.
const FLOOD: usize = 1024;

/// Deletions sent at once.
const AT_ONCE: usize = 512;

/// Above so many separate scopes one look at everything is cheaper.
const SCOPES_MAX: usize = 8;

/// What a change of the table has touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affected {
    /// Nothing.
    Nothing,
    /// What these answer for.
    Scopes(Vec<Scope>),
    /// Possibly all.
    Everything,
}

impl Affected {
    /// What two changes have touched.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (Self::Scopes(mut scopes), Self::Scopes(others)) => {
                scopes.extend(others);
                scopes.sort_unstable();
                scopes.dedup();
                Self::Scopes(scopes)
            }
        }
    }
}

/// Ports of one or all addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// What is carried.
    pub transport: Transport,
    /// Which addresses.
    pub listen: Listen,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// What a rule of somebody else's leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Led {
    /// What comes to these ports of the host,
    pub scope: Scope,
    /// to one of these addresses,
    pub targets: Vec<IpAddr>,
    /// at one of these ports.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// What a sweep came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries looked at. The kernel has left out most of those that could not matter.
    pub seen: u64,
    /// Entries deleted.
    pub deleted: u64,
}

/// Connection tracking cannot be asked, or refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} tracked connections")]
pub struct ConntrackError {
    action: &'static str,
    source: NetlinkError,
}

fn failed(action: &'static str) -> impl Fn(NetlinkError) -> ConntrackError {
    move |source| ConntrackError { action, source }
}

/// Access to connection tracking, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack {
    netfilter: Connection,
    route: Connection,
    table: TableName,
}

impl Conntrack {
    /// Opens the sockets, for the connections of one table.
    ///
    /// # Errors
    /// When there can be none.
    pub fn open(table: &TableName) -> Result<Self, ConntrackError> {
        let netfilter = Connection::open(Netlink::Netfilter).map_err(failed("reach"))?;
        let route = Connection::open(Netlink::Route).map_err(failed("reach"))?;
        Ok(Self { netfilter, route, table: table.clone() })
    }

    /// Deletes every entry that leads elsewhere than `want` says: of this table's making, or to one of
    /// its addresses and ports and past it. Connections of others, to others' ports, are not touched, and
    /// neither is a TCP connection to a socket of this host that has been answered. Work has an end, even if
    /// somebody makes such entries without one.
    ///
    /// To be called after the table was changed, with what the change affected.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sweep(&mut self, want: &Checked, affected: &Affected) -> Result<Swept, ConntrackError> {
        let filters = match affected {
            Affected::Nothing => return Ok(Swept::default()),
            Affected::Scopes(scopes) if scopes.len() <= SCOPES_MAX => {
                scopes.iter().flat_map(|scope| Filter::of(*scope)).collect()
            }
            Affected::Scopes(_) | Affected::Everything => {
                vec![Filter::all(Family::V4), Filter::all(Family::V6)]
            }
        };
        let local = addresses(&mut self.route).map_err(failed("list the addresses for"))?;
        let changed = match affected {
            Affected::Scopes(scopes) => &scopes[..],
            Affected::Nothing | Affected::Everything => &[],
        };
        let rules = Rules { want, changed, local: &local, label: self.table.label() };
        let mut swept = Swept::default();
        for _ in 0..ROUNDS {
            let mut round = Swept::default();
            for filter in &filters {
                round.add(passes(|| self.pass(filter, &rules))?);
            }
            swept.add(round);
            let is_flood = usize::try_from(round.deleted).is_ok_and(|deleted| deleted >= FLOOD);
            if round.deleted == 0 || is_flood {
                break;
            }
        }
        Ok(swept)
    }

    /// Deletes the entries of what somebody else's rule has led that is no more: their clients would go on to its
    /// target for as long as they send. What this table leads is not touched, nor what others lead elsewhere. Returns
    /// how many there were.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&mut self, led: &Led) -> Result<u64, ConntrackError> {
        let label = self.table.label();
        let Some(sent) = Filter::of(led.scope).next() else { return Ok(0) };
        let mut request = Filter { translated: true, ..sent }.request();
        let list = self.netfilter.dump(&mut request, Vec::new, |entries, message| {
            if let Some(entry) = read(&message)?.filter(|entry| entry.was_led(label, led))
                && entries.len() < ROUND
            {
                entries.push(entry);
            }
            Ok(())
        });
        self.delete(&list.map_err(failed("list"))?)
    }

    /// Connections and flows that are led by the table at this moment, by device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn live(&mut self, want: &Checked) -> Result<BTreeMap<String, u64>, ConntrackError> {
        let mut sum: BTreeMap<String, u64> = BTreeMap::new();
        let label = self.table.label();
        for family in [Family::V4, Family::V6] {
            let mut request = Filter { translated: true, ..Filter::all(family) }.request();
            let counts = self.netfilter.dump(
                &mut request,
                BTreeMap::new,
                |counts: &mut BTreeMap<&str, u64>, message| {
                    if let Some(entry) = read(&message)?
                        && entry.is_led_by(label)
                        && entry.is_open()
                        && let Some(publication) = entry.leads(want)
                    {
                        *counts.entry(publication.device()).or_default() += 1;
                    }
                    Ok(())
                },
            );
            for (device, count) in counts.map_err(failed("list"))? {
                *sum.entry(device.to_owned()).or_default() += count;
            }
        }
        Ok(sum)
    }

    /// Looks at the entries once, and deletes as many as it may.
    fn pass(&mut self, filter: &Filter, rules: &Rules<'_>) -> Result<Pass, ConntrackError> {
        let (seen, mut stale) = self.stale(filter, rules)?;
        let found = stale.len();
        // After the look: what another table has led before it stands in that table.
        if !stale.is_empty() && rules.label != Label::MAIN {
            let others = self.scopes_of_others().map_err(failed("read the tables beside ours for"))?;
            stale.retain(|entry| {
                !(entry.is_led_by(rules.label) && others.iter().any(|scope| entry.is_within(scope)))
            });
        }
        Ok(Pass { seen, found, deleted: self.delete(&stale)? })
    }

    fn stale(&mut self, filter: &Filter, rules: &Rules<'_>) -> Result<(u64, Vec<Entry>), ConntrackError> {
        let list = self.netfilter.dump(
            &mut filter.request(),
            || (0, Vec::new()),
            |(seen, stale), message| {
                let Some(entry) = read(&message)? else { return Ok(()) };
                *seen += 1;
                if stale.len() < ROUND && entry.is_stale(rules) {
                    stale.push(entry);
                }
                Ok(())
            },
        );
        list.map_err(failed("list"))
    }

    /// What other tables of ours publish that have the same mark.
    fn scopes_of_others(&mut self) -> Result<BTreeSet<Scope>, NetlinkError> {
        let mut scopes = BTreeSet::new();
        for name in observe::tables(&mut self.netfilter)? {
            if name == self.table || name.label() != self.table.label() {
                continue;
            }
            let observed = match observe::table(&mut self.netfilter, name.as_str(), &mut None) {
                Ok(observed) => observed,
                Err(observe::ObserveError::Foreign) => continue,
                Err(observe::ObserveError::Netlink(error)) => return Err(error),
            };
            let observe::Observed::Ours(table) = observed else { continue };
            for (set, content) in &table.sets {
                scopes.extend(content.elements.keys().filter_map(|key| layout::scope(set, key)));
            }
        }
        Ok(scopes)
    }

    fn delete(&mut self, entries: &[Entry]) -> Result<u64, ConntrackError> {
        let mut deleted = 0;
        for chunk in entries.chunks(AT_ONCE) {
            let mut messages = Writer::default();
            for entry in chunk {
                let family = entry.family().number();
                messages.netfilter(kind::DELETE, FLAG_ACK, family, 0, |out| entry.write_identity(out));
            }
            self.netfilter.reserve(messages.length()).map_err(failed("delete"))?;
            let mistakes = self.netfilter.send(&mut messages).map_err(failed("delete"))?;
            let gone = mistakes.iter().filter(|mistake| mistake.errno == NOT_FOUND).count();
            if let Some(mistake) = mistakes.into_iter().find(|mistake| mistake.errno != NOT_FOUND) {
                return Err(failed("delete")(mistake.into()));
            }
            deleted += u64::try_from(chunk.len() - gone).unwrap_or_default();
        }
        Ok(deleted)
    }
}

impl Swept {
    fn add(&mut self, other: Self) {
        self.seen += other.seen;
        self.deleted += other.deleted;
    }
}

/// What one look at the entries came to.
#[derive(Debug, Clone, Copy)]
struct Pass {
    seen: u64,
    found: usize,
    deleted: u64,
}

/// Looks as long as there is more than one look can take, and something comes of it.
fn passes<E>(mut look: impl FnMut() -> Result<Pass, E>) -> Result<Swept, E> {
    let mut swept = Swept::default();
    for _ in 0..PASSES {
        let Pass { seen, found, deleted } = look()?;
        swept.add(Swept { seen, deleted });
        if found < ROUND || deleted == 0 {
            break;
        }
    }
    Ok(swept)
}

fn read(message: &Message<'_>) -> Result<Option<Entry>, Malformed> {
    if message.kind == kind::NEW { Entry::read(message.attributes()?) } else { Ok(None) }
}

/// Reads and drops, for a fuzzer.
pub(crate) fn read_entry(attributes: Attributes<'_>) -> Result<bool, Malformed> {
    Entry::read(attributes).map(|entry| entry.is_some())
}

/// What the kernel is asked to list. One that does not know a filter lists more, so all of it is looked at
/// again.
#[derive(Debug, Clone, Copy)]
struct Filter {
    family: Family,
    transport: Option<Transport>,
    address: Option<Ipv4Addr>,
    port: Option<u16>,
    source_port: Option<u16>,
    translated: bool,
}

impl Filter {
    /// `CTA_FILTER_F_CTA_IP_DST`, `_PROTO_NUM`, `_PROTO_SRC_PORT`, `_PROTO_DST_PORT` of net/netfilter/nf_conntrack_netlink.c.
    const BY_ADDRESS: u32 = 1 << 1;
    const BY_PROTOCOL: u32 = 1 << 3;
    const BY_SOURCE_PORT: u32 = 1 << 4;
    const BY_PORT: u32 = 1 << 5;

    const fn all(family: Family) -> Self {
        Self { family, transport: None, address: None, port: None, source_port: None, translated: false }
    }

    /// What was sent to ports like these; of datagrams also what was answered from them.
    fn of(scope: Scope) -> impl Iterator<Item = Self> {
        let (family, address) = match scope.listen {
            Listen::Address(IpAddr::V4(ip)) => (Family::V4, Some(ip)),
            // Asked for an IPv6 address, the kernel lists all but that one: `ctnetlink_filter_match_tuple`
            // takes "equal" for "different" (seen with Linux 6.18).
            Listen::Address(IpAddr::V6(_)) => (Family::V6, None),
            Listen::Every(family) => (family, None),
        };
        let port = (scope.first == scope.last).then_some(scope.first);
        let sent = Self { transport: Some(scope.transport), address, port, ..Self::all(family) };
        // Of a range everything was asked for already, but for the address.
        let is_apart = scope.transport == Transport::Udp && (port.is_some() || address.is_some());
        let answered = Self { address: None, port: None, source_port: port, ..sent };
        std::iter::once(sent).chain(is_apart.then_some(answered))
    }

    fn request(&self) -> Writer {
        let mut request = Writer::default();
        request.netfilter(kind::GET, FLAG_DUMP, self.family.number(), 0, |out| {
            if self.translated {
                out.u32(entry::STATUS, entry::TRANSLATED);
                out.u32(entry::STATUS_MASK, entry::TRANSLATED);
            }
            let Some(transport) = self.transport else { return };
            let mut flags = Self::BY_PROTOCOL;
            out.nested(entry::ORIGINAL, |out| {
                if let Some(address) = self.address {
                    flags |= Self::BY_ADDRESS;
                    out.nested(entry::ADDRESSES, |out| entry::write_destination(out, address));
                }
                out.nested(entry::PROTOCOL, |out| {
                    out.bytes(entry::PROTOCOL_NUMBER, &[transport.number()]);
                    if let Some(port) = self.source_port {
                        flags |= Self::BY_SOURCE_PORT;
                        out.bytes(entry::SOURCE_PORT, &port.to_be_bytes());
                    }
                    if let Some(port) = self.port {
                        flags |= Self::BY_PORT;
                        out.bytes(entry::DESTINATION_PORT, &port.to_be_bytes());
                    }
                });
            });
            out.nested(entry::FILTER, |out| {
                // The one number here in the host's byte order.
                out.bytes(entry::FILTER_ORIGINAL, &flags.to_ne_bytes());
                out.bytes(entry::FILTER_REPLY, &0_u32.to_ne_bytes());
            });
        });
        request
    }
}

/// `RTM_GETADDR` and its answer, `RTM_NEWADDR`; `IFA_ADDRESS`, `IFA_LOCAL`; length of `ifaddrmsg`.
const GET_ADDRESSES: u16 = 22;
const ADDRESS: u16 = 20;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFADDRMSG_BYTES: usize = 8;

/// Every address of this host.
fn addresses(route: &mut Connection) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut request = Writer::default();
    request.message(GET_ADDRESSES, FLAG_DUMP, &[0; IFADDRMSG_BYTES], |_| {});
    route.dump(&mut request, BTreeSet::new, |addresses, message| {
        if message.kind == ADDRESS {
            let attributes = message.attributes_after(IFADDRMSG_BYTES)?;
            // Of a link between two, the address is the other's.
            let own = match attributes.find(IFA_LOCAL)? {
                Some(own) => Some(own),
                None => attributes.find(IFA_ADDRESS)?,
            };
            addresses.extend(own.and_then(|own| entry::ip(own.value)));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often is looked, and what is counted, when each look finds and deletes so many.
    fn looks(each: impl Fn(usize) -> (usize, u64)) -> (usize, Swept) {
        let mut count = 0;
        let swept = passes(|| {
            let (found, deleted) = each(count);
            count += 1;
            Ok::<_, ()>(Pass { seen: 1, found, deleted })
        });
        (count, swept.unwrap())
    }

    /// Fails when: entries that come back, or that are gone before they are deleted, are looked for without end.
    #[test]
    fn a_sweep_ends() {
        let full = u64::try_from(ROUND).unwrap();
        assert_eq!(looks(|_| (0, 0)), (1, Swept { seen: 1, deleted: 0 }));
        assert_eq!(looks(|_| (7, 7)), (1, Swept { seen: 1, deleted: 7 }));
        assert_eq!(
            looks(|n| if n < 2 { (ROUND, full) } else { (1, 1) }),
            (3, Swept { seen: 3, deleted: 2 * full + 1 })
        );
        assert_eq!(looks(|_| (ROUND, 0)).0, 1);
        assert_eq!(looks(|_| (ROUND, full)).0, PASSES);
    }
}
