//! A device in the worker: its options, listeners, hold and flows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use portway_model::{Address, DeviceSpec, FdPassing, Target, UdpFraming, UnixName, Zone};
use portway_proto::udp_flow::FlowTable;
use portway_sys::interface;
use portway_sys::unix_path::Base;

use super::failures::{Failure, Failures, Operation, words};
use super::guard::Guard;
use super::slab::Key;
use super::socket::Carrier;
use super::stream::Relay;
use super::udp::{Blocked, FlowKey};
use crate::wire::{Slot, UnixBase, WireDevice};

/// Why a device cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceError {
    /// The zone of its target does not exist here.
    #[error("no interface {0} for the target address")]
    Zone(String),
    /// A path target came without a directory to resolve it from, or another one with.
    #[error("the directory of the target's path does not fit the target")]
    Base,
    /// The slot is out of range.
    #[error("slot {0} is out of range")]
    Slot(u32),
    /// Listeners are to be kept, and there are not that many.
    #[error("{wanted} listeners are to be kept, there are {present}")]
    Kept {
        /// How many the daemon counts on.
        wanted: u32,
        /// How many there are.
        present: usize,
    },
    /// More listeners came than were announced, or twice the same.
    #[error("listeners {first} and on do not fit")]
    Listeners {
        /// Index of the first.
        first: u32,
    },
    /// Its listeners do not fit.
    #[error("no descriptors left for {0} listeners")]
    Descriptors(u32),
    /// Another request for the same slot came first.
    #[error("replaced by a later request")]
    Superseded,
    /// It was taken out meanwhile.
    #[error("the device was removed")]
    Removed,
    /// There is nothing in the slot.
    #[error("no device in slot {0}")]
    Missing(u32),
    /// Its place has another tenant.
    #[error("slot {0} is taken")]
    Taken(u32),
}

/// Options of a device, ready for use.
pub(super) struct Plan {
    pub(super) wire: WireDevice,
    /// Where a path target is resolved.
    pub(super) base: Option<OwnedFd>,
    /// Where the paths of unix datagram clients are resolved.
    pub(super) replies: Option<(OwnedFd, UnixBase)>,
    /// Interface of a link-local target; 0 otherwise.
    scope: u32,
}

impl Plan {
    /// Checks what came with a device.
    pub(super) fn new(wire: WireDevice, fds: Vec<OwnedFd>) -> Result<Plan, DeviceError> {
        let mut fds = fds.into_iter();
        let base = wire.base.and_then(|_| fds.next());
        let replies = wire.replies.and_then(|kind| Some((fds.next()?, kind)));
        if fds.next().is_some() || replies.is_some() != wire.replies.is_some() {
            return Err(DeviceError::Base);
        }
        let connect = wire.spec.connect.address();
        let needs_base = matches!(connect, Address::Unix(_, UnixName::Path(_)));
        if needs_base != base.is_some() || needs_base != wire.base.is_some() {
            return Err(DeviceError::Base);
        }
        let scope = match connect.host().and_then(|host| host.zone()) {
            Some(zone) => scope_id(zone)?,
            None => 0,
        };
        Ok(Plan { wire, base, replies, scope })
    }

    pub(super) fn spec(&self) -> &DeviceSpec {
        &self.wire.spec
    }

    pub(super) fn listen_carrier(&self) -> Carrier {
        self.spec().listen.address().protocol().into()
    }

    pub(super) fn connect_carrier(&self) -> Carrier {
        self.spec().connect.address().protocol().into()
    }

    /// How its streams are carried.
    pub(super) fn relay(&self) -> Relay {
        match (self.listen_carrier(), self.connect_carrier()) {
            (_, Carrier::Udp) => Relay::Datagrams(self.spec().udp_framing.unwrap_or(UdpFraming::Raw)),
            (Carrier::Packet, Carrier::Packet) => Relay::Records(self.spec().fds),
            (Carrier::Unix, Carrier::Unix) if self.spec().fds == FdPassing::On => Relay::Descriptors,
            _ => Relay::Bytes,
        }
    }

    /// Where to call for a client of listener `index`.
    pub(super) fn place(&self, index: u32) -> Option<TargetPlace<'_>> {
        match self.spec().target(index)? {
            Target::Tcp { mut addr, .. } | Target::Udp { mut addr, .. } => {
                if let SocketAddr::V6(v6) = &mut addr {
                    v6.set_scope_id(self.scope);
                }
                Some(TargetPlace::Inet(addr))
            }
            Target::Unix(_, UnixName::Abstract(name)) => {
                Some(TargetPlace::Abstract(name.as_str().as_bytes()))
            }
            Target::Unix(_, UnixName::Path(path)) => {
                let kind = match self.wire.base? {
                    UnixBase::Root => Base::Root,
                    UnixBase::Parent => Base::Parent,
                };
                let path = self.wire.base_name.as_ref().map_or(path.as_path(), Path::new);
                Some(TargetPlace::Path { base: self.base.as_ref()?.as_fd(), kind, path })
            }
        }
    }

    /// Which of the targets a client of listener `index` gets: all share one, or each has its own.
    pub(super) fn target_index(&self, index: u32) -> u32 {
        if self.spec().connect.address().count() == 1 { 0 } else { index }
    }

    /// One line about `failure`.
    pub(super) fn describe(&self, failure: Failure) -> String {
        let (verb, address, index) = match failure.operation {
            Operation::Connect(index) => {
                ("connect to", self.spec().connect.address(), self.target_index(index))
            }
            Operation::Accept(index) => ("accept on", self.spec().listen.address(), index),
            Operation::Receive(index) => ("receive on", self.spec().listen.address(), index),
        };
        format!("cannot {verb} {}: {}", one(address, index), words(failure.errno))
    }

    /// Where clients of listener `index` come in.
    pub(super) fn listen_text(&self, index: u32) -> String {
        one(self.spec().listen.address(), index)
    }

    /// Where clients of listener `index` are led.
    pub(super) fn connect_text(&self, index: u32) -> String {
        one(self.spec().connect.address(), self.target_index(index))
    }
}

/// The address at `index` among those of `address`.
fn one(address: &Address, index: u32) -> String {
    match address {
        Address::Tcp { host, ports } | Address::Udp { host, ports } => {
            let port = ports.nth(index).map_or(0, portway_model::Port::get);
            format!("{}:{host}:{port}", address.protocol())
        }
        Address::Unix(_, name) => format!("{}:{name}", address.protocol()),
    }
}

/// What a flow remembers of where it goes, to know when its device goes elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// An address and a port.
    Inet(SocketAddr),
    /// A unix socket, or whatever the daemon chose: how often the target had changed.
    Unix(u32),
}

/// A place to call.
pub(super) enum TargetPlace<'a> {
    /// tcp or udp.
    Inet(SocketAddr),
    /// Abstract unix name, without its leading zero.
    Abstract(&'a [u8]),
    /// Unix path.
    Path { base: BorrowedFd<'a>, kind: Base, path: &'a Path },
}

fn scope_id(zone: &Zone) -> Result<u32, DeviceError> {
    interface::index(zone.as_str()).map_err(|_| DeviceError::Zone(zone.to_string()))
}

/// Clients that wait for one target port.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// In the order they came; some may have gone meanwhile.
    pub(super) queue: VecDeque<Key>,
    /// The one that is being dialled for on behalf of all.
    pub(super) probe: Option<Key>,
    /// When its timer is set for.
    pub(super) timer: Option<Instant>,
}

/// A hold: refused clients are kept.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) until: Instant,
    /// Target ports that have answered.
    pub(super) reached: BTreeSet<u32>,
}

/// A listener.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) device: Key,
    /// Listen index.
    pub(super) index: u32,
    pub(super) carrier: Carrier,
    pub(super) attention: Attention,
    /// How many clients are tried for at once.
    pub(super) batch: u32,
    /// Turns in a row that did not empty it (datagrams).
    pub(super) full_turns: u32,
    /// How long the next pause would last, milliseconds.
    pub(super) pause_ms: u32,
    /// When its timer is set for.
    pub(super) timer: Option<Instant>,
    /// The message that its target has no room for (unix datagrams).
    pub(super) blocked: Option<Box<Blocked>>,
}

/// How a listener is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// For clients.
    Clients,
    /// For listening again: it was told to refuse.
    Reopening,
    /// Not at all.
    None,
}

/// See the module.
pub(super) struct Device {
    pub(super) plan: Plan,
    /// Its slot; `None` once it was removed and only finishes its connections.
    pub(super) slot: Option<Slot>,
    pub(super) listeners: Vec<Key>,
    pub(super) hold: Option<Hold>,
    /// By target index.
    pub(super) waiters: BTreeMap<u32, Waiters>,
    pub(super) failures: Failures,
    /// UDP flows; the value is the flow's place in the engine.
    pub(super) flows: FlowTable<FlowKey, Key>,
    /// When the timer of the flows is set for.
    pub(super) flows_timer: Option<Instant>,
    /// Streams of this device.
    pub(super) stream_count: usize,
    /// How often its target has changed.
    generation: u32,
    /// Who is let in; `None`: everybody.
    pub(super) guard: Option<Box<Guard>>,
}

impl Device {
    pub(super) fn new(plan: Plan, slot: Slot) -> Device {
        let guard = Guard::new(plan.spec(), None);
        let flows = FlowTable::new(plan.spec().udp_max_flows, plan.spec().udp_idle);
        Device {
            plan,
            slot: Some(slot),
            listeners: Vec::new(),
            hold: None,
            waiters: BTreeMap::new(),
            failures: Failures::default(),
            flows,
            flows_timer: None,
            stream_count: 0,
            generation: 0,
            guard,
        }
    }

    /// Gives it other options.
    pub(super) fn replan(&mut self, plan: Plan) {
        if plan.spec().connect != self.plan.spec().connect {
            self.generation = self.generation.wrapping_add(1);
        }
        self.plan = plan;
    }

    /// Where a flow that begins at listener `index` goes.
    pub(super) fn destination(&self, index: u32) -> Option<Destination> {
        if self.plan.wire.brokered {
            return Some(Destination::Unix(self.generation));
        }
        Some(match self.plan.place(index)? {
            TargetPlace::Inet(address) => Destination::Inet(address),
            TargetPlace::Abstract(_) | TargetPlace::Path { .. } => Destination::Unix(self.generation),
        })
    }

    /// Whether it keeps frames, or what else is between datagrams and a stream.
    pub(super) fn is_framed(&self) -> bool {
        self.plan.spec().udp_framing.is_some()
    }

    /// Whether refused clients of `target` are kept.
    pub(super) fn holds(&self, target: u32) -> bool {
        self.hold.as_ref().is_some_and(|hold| !hold.reached.contains(&target))
    }
}
