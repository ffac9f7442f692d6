//! The protocol between the daemon and a relay worker, and between the daemon and the keeper.
//!
//! Transport: `SOCK_SEQPACKET`, one JSON message per packet, file descriptors beside it by
//! `SCM_RIGHTS` (at most [`MAX_FDS`] per packet). Requests that need an answer carry a `seq`;
//! the answer is [`FromWorker::Done`] with the same number. Messages are handled in order. [`BEAT`] is answered by itself.
//!
//! Start: the daemon spawns the worker with the channel as fd 3 and the adoption listener as
//! fd 4, then sends [`ToWorker::Init`]. The worker answers [`FromWorker::Ready`] with its
//! counters memfd once it is sandboxed.
//!
//! Adoption: a later daemon connects to the adoption listener and sends [`ToWorker::Hello`].
//! The worker replaces its control channel by the new connection and answers with
//! [`FromWorker::Ready`] (counters memfd), then one or more [`FromWorker::Entry`] per device
//! (listeners as fds), then [`FromWorker::End`]. An unknown version is answered by
//! [`FromWorker::Version`] and the channel is closed.

mod live;

use std::net::SocketAddr;
use std::time::Duration;

use portway_model::{DeviceSpec, GroupIds};
use portway_sys::process::program;
use serde::{Deserialize, Serialize};

pub use live::{LIVE_COUNT, Live, LiveState};

/// Version of this protocol. Raised with every change that an older peer would misread.
pub const PROTOCOL_VERSION: u32 = 4;

/// The one packet that is no message: a daemon that wants a sign of life sends it, and a worker sends it back. It is
/// short, because every worker gets it every two seconds, and an idle one is to stay small.
pub const BEAT: &[u8] = b"!";

/// Descriptors in one packet: below the kernel's `SCM_MAX_FD` (253, unix(7)).
pub const MAX_FDS: usize = 250;

/// Longest packet either side accepts, bytes.
pub const MAX_PACKET_BYTES: usize = 64 * 1024;

/// Number of counter lines of a worker: the most devices one worker can hold.
pub const SLOT_COUNT: u32 = 1024;

/// Place of a device in a worker. Assigned by the daemon; the place is used again after the device's removal,
/// by a slot of another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot {
    /// Its counter line, below [`SLOT_COUNT`].
    pub index: u32,
    /// Which tenant of the place: no two slots that a daemon assigns in a worker have the same. A message about a
    /// slot is about the device of its generation or about nobody.
    pub generation: u64,
}

impl Slot {
    /// From its parts.
    #[must_use]
    pub const fn new(index: u32, generation: u64) -> Slot {
        Slot { index, generation }
    }
}

/// What a worker is told once, before anything else.
///
/// Descriptors beside it, in this order, each only when its flag is set: the network namespace
/// to enter, the pidfd of the instance's init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// [`PROTOCOL_VERSION`] of the daemon.
    pub version: u32,
    /// A network namespace descriptor comes along; without it the worker stays where it is.
    pub has_netns: bool,
    /// A pidfd comes along: the worker ends within 200 ms of that process' death.
    pub has_pidfd: bool,
    /// Pid of the instance's init as the worker's pid namespace sees it.
    pub init_pid: Option<i32>,
    /// User and group to become. `None` keeps those of the daemon (no other id is mapped).
    pub ids: Option<Ids>,
    /// How much of the sandbox to insist on.
    pub sandbox: Sandbox,
    /// What the end of the control channel means.
    pub lifetime: Lifetime,
    /// Uid that may adopt this worker (the daemon's own).
    pub owner_uid: u32,
    /// Opaque to the worker, handed back in [`FromWorker::Ready`]: which worker this is.
    pub identity: Identity,
}

/// User and groups of a worker, host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ids {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    #[serde(default, skip_serializing_if = "GroupIds::is_empty")]
    pub groups: GroupIds,
}

impl Ids {
    /// As a process becomes them.
    #[must_use]
    pub fn of_process(&self) -> program::Ids<'_> {
        program::Ids { uid: self.uid, gid: self.gid, groups: self.groups.as_slice() }
    }
}

/// How much of the worker's sandbox must hold before it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// Everything, or the worker does not start.
    Full,
    /// As much as an unprivileged user namespace permits: no private root when the kernel refuses it.
    BestEffort,
}

/// What a worker does when its control channel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// Go on and wait for adoption: the daemon may die without a connection noticing.
    Detached,
    /// Exit at once: the daemon is a foreground command and nobody would adopt the worker.
    WithDaemon,
}

/// Names a worker across daemon restarts. The worker only stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Worker name: file name (without `.sock`) of its adoption listener.
    pub name: String,
    /// Instance, canonical text of `InstanceKey`.
    pub instance: String,
    /// Which run of the instance: init's pid and start time, or the namespace's device and inode.
    pub run: String,
    /// Which group of devices inside the instance (connect side, ids, sibling number).
    pub group: String,
    /// Which build of the program runs in the worker; another build is replaced and drained.
    pub build: String,
}

/// A device as a worker needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireDevice {
    /// Canonical text of `DeviceKey`, for logs and adoption.
    pub key: String,
    /// The checked options. Upstream is `spec.connect`, dialled in the worker's own namespace.
    pub spec: DeviceSpec,
    /// What the upstream descriptor is, for a path unix socket. `None` otherwise.
    pub base: Option<UnixBase>,
    /// With [`UnixBase::Parent`]: the component looked up in it, when it is not that of the path
    /// because the path's last component is a symlink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_name: Option<String>,
    /// What the descriptor after that one is, for a listener of unix datagrams: where its clients' paths are
    /// resolved. Without one only clients with abstract names get answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replies: Option<UnixBase>,
    /// The worker asks for each upstream ([`FromWorker::Dial`]) instead of dialling; of `spec.connect` only the protocol
    /// counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub brokered: bool,
    /// Of a brokered device: `spec.connect` counts after all, and is called without asking. Whoever it does not answer is
    /// asked about as if it had not been called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Direct>,
    /// Opaque to the worker, handed back in [`FromWorker::Entry`]: what the daemon must remember of
    /// the listeners (device and inode of a socket file).
    pub note: String,
}

/// A target that the worker of a brokered device calls by itself, because nothing is to be looked up or chosen (tcp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direct {
    /// Number of the target, the daemon's own: comes back in [`FromWorker::Began`], and ends what the target has by
    /// [`ToWorker::Cut`].
    pub target: u64,
    /// As [`ToWorker::Dialed`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// It is called with a socket that was given for that ([`ToWorker::Stock`]); otherwise with one of the worker's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_stock: bool,
    /// Only while the worker has no more connections than this; it asks about others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
}

/// What is known of a client that its socket does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Comes back in its [`FromWorker::Dial`]: its target has been chosen already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u64>,
    /// Where it comes from and where it connected to, of one that was accepted by no socket of the kernel's TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// Meaning of a descriptor that comes with a device, below which unix socket paths are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnixBase {
    /// `O_PATH` of a root directory: the whole path is resolved below it (`RESOLVE_IN_ROOT`).
    Root,
    /// `O_PATH` of the parent directory: only the last component is looked up, without following it.
    Parent,
}

/// Daemon to worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum ToWorker {
    /// First message of the daemon that started the worker.
    Init(Init),
    /// First message of a daemon that adopts the worker.
    Hello {
        /// [`PROTOCOL_VERSION`] of the daemon.
        version: u32,
    },
    /// Adds a device, or replaces the options of the one in that slot, keeping its live
    /// connections. Descriptors: the upstream base if `device.base` is set, then that of `device.replies`. Listeners follow by
    /// [`ToWorker::Listeners`]; the device accepts once `listen_count` of them are there.
    /// With `keep_listeners` the listeners already in the slot stay.
    Put {
        /// Number of this request.
        seq: u64,
        /// Where the device goes.
        slot: Slot,
        /// The device.
        device: Box<WireDevice>,
        /// How many listeners it has in all: one per port, 1 for unix.
        listen_count: u32,
        /// The slot's listeners stay as they are; none follow.
        keep_listeners: bool,
        /// The device starts inside a hold that lasts this long, if any.
        hold: Option<Duration>,
    },
    /// Listeners of the device in `slot`, in order of the listen ports, from index `first`.
    /// Descriptors: the listeners. [`FromWorker::Done`] of the `Put` is sent after the last.
    Listeners {
        /// Where they go.
        slot: Slot,
        /// Listen index of the first descriptor.
        first: u32,
    },
    /// Takes the device out: listeners closed here. `drain` lets live connections finish,
    /// otherwise they are ended at once.
    Remove {
        /// Number of this request.
        seq: u64,
        /// Which.
        slot: Slot,
        /// Let connections finish.
        drain: bool,
    },
    /// Descriptors: accepted clients that nobody has dialled for (an earlier `Orphan`).
    Client {
        /// Device.
        slot: Slot,
        /// Listen index they came in by.
        index: u32,
        /// What is known of them beyond their sockets; of several clients nothing is.
        #[serde(default)]
        known: Known,
    },
    /// Answer to a [`FromWorker::Dial`]. Descriptor, when it worked: a connected socket; for TCP it may be a unix stream
    /// pair instead, which is closed without an end before for a reset, both ways.
    Dialed {
        /// The request's number.
        ticket: u64,
        /// Why there is none, as errno.
        error: Option<i32>,
        /// A counter line, of no device, where its bytes are counted too.
        #[serde(default)]
        line: Option<u32>,
    },
    /// Ends what has one of these tickets or targets, at once: connections are reset.
    Cut {
        /// Numbers of [`FromWorker::Dial`] and [`FromWorker::Began`].
        tickets: Vec<u64>,
        /// Numbers of [`Direct`]: whatever was called by them, told of or not.
        #[serde(default)]
        targets: Vec<u64>,
    },
    /// Answer to a [`FromWorker::Wants`]. Descriptors: tcp sockets that are not connected, as many as could be had.
    Stock {
        /// Of IPv4; else of IPv6.
        v4: bool,
    },
    /// Whether [`FromWorker::Access`] is wanted. Until a daemon has said so once, it is told nothing; what its predecessor
    /// said holds until then.
    Access {
        /// It is.
        on: bool,
    },
    /// Asks for live connections and flows of a device, a part of them at a time. Answered by
    /// [`FromWorker::Connections`]; a worker that does not know it says nothing.
    Connections {
        /// Number of this question.
        seq: u64,
        /// Whose.
        slot: Slot,
        /// Where to go on: 0, or `next` of the part before.
        from: u64,
    },
    /// Stop accepting (close all listeners), let connections finish, exit when none is left or
    /// after `grace`.
    Drain {
        /// Longest wait.
        grace: Duration,
    },
    /// Exit at once.
    Exit,
}

/// Worker to daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum FromWorker {
    /// Sandboxed and serving. Descriptor: the counters memfd ([`SLOT_COUNT`] lines).
    Ready {
        /// [`PROTOCOL_VERSION`] of the worker.
        version: u32,
        /// The worker's pid in its own pid namespace (the daemon's).
        pid: i32,
        /// What `Init` said.
        identity: Identity,
    },
    /// Answer to a request.
    Done {
        /// The request's number.
        seq: u64,
        /// Why it failed; `None` when it worked.
        error: Option<String>,
    },
    /// One device of the table (adoption). Descriptors: listeners from index `first`.
    Entry {
        /// Its slot.
        slot: Slot,
        /// The device.
        device: Box<WireDevice>,
        /// Listeners in all.
        listen_count: u32,
        /// Listen index of the first descriptor here.
        first: u32,
    },
    /// End of the table.
    End,
    /// The worker speaks another version.
    Version {
        /// The worker's.
        version: u32,
    },
    /// Something failed since the last report; at most one per second and device.
    Failure {
        /// Device.
        slot: Slot,
        /// How often since the last report.
        count: u64,
        /// The last failure, one line.
        text: String,
    },
    /// The first dial of a held target port succeeded, or the hold ran out.
    HoldEnded {
        /// Device.
        slot: Slot,
        /// False when it ran out.
        reached: bool,
    },
    /// Descriptors: clients without an upstream because the instance is dying; nothing was read from
    /// them. The daemon keeps them for the next worker.
    Orphan {
        /// Device.
        slot: Slot,
        /// Listen index they came in by.
        index: u32,
    },
    /// The instance's init is dead; the worker ends within 200 ms.
    InstanceGone,
    /// A client of a brokered device wants its upstream. Answered by [`ToWorker::Dialed`], unless it is over before.
    Dial {
        /// Device.
        slot: Slot,
        /// Number of this request, used once in the life of a worker.
        ticket: u64,
        /// [`Known::mark`] of the client.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<u64>,
        /// Where the client is, if it is anywhere in a network.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<SocketAddr>,
    },
    /// Connections of a device with a [`Direct`] target are open. Comes before their [`FromWorker::Over`].
    Began {
        /// Device.
        slot: Slot,
        /// [`Direct::target`].
        target: u64,
        /// A number for each, from those of [`FromWorker::Dial`], and who is at its end in the network: the target of a
        /// socket that was given, the client of one of the worker's own.
        tickets: Vec<(u64, Option<SocketAddr>)>,
    },
    /// Sockets are running low. Answered by one [`ToWorker::Stock`].
    Wants {
        /// Of IPv4; else of IPv6.
        v4: bool,
        /// How many, at most [`MAX_FDS`].
        count: u32,
    },
    /// Some live connections and flows of a device, at most [`LIVE_COUNT`]. Those that come or go between two parts may be
    /// in none of them.
    Connections {
        /// Number of the question.
        seq: u64,
        /// They; also none, when there is a next part.
        listed: Vec<Live>,
        /// Where to go on; `None` at the end.
        next: Option<u64>,
    },
    /// Connections and flows that asked for an upstream have ended, or want none any more.
    Over {
        /// Numbers of their requests.
        tickets: Vec<u64>,
        /// Those among them of whose target the network said that it is not there (udp).
        refused: Vec<u64>,
    },
    /// Connections and flows that are over, where the daemon wants to know.
    Access {
        /// Of each a record, at most [`RECORDS_MAX`].
        records: Vec<AccessRecord>,
        /// How many more there were since the last message, for which there was no room.
        lost: u64,
    },
}

/// Records in one [`FromWorker::Access`]: a packet has room for the longest.
pub const RECORDS_MAX: usize = 32;

/// Records that a worker keeps while it cannot tell them.
pub const RECORDS_KEPT_MAX: usize = 4096;

/// A connection or flow that is over, or a client that was not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRecord {
    /// [`WireDevice::key`].
    pub device: String,
    /// Counts the records of a worker, with those that were lost.
    pub number: u64,
    /// When it was over, milliseconds since 1970.
    pub ended_millis: u64,
    /// Who it was, as far as that is an address: by its PROXY header if it was asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// Who announced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<SocketAddr>,
    /// Where it came in.
    pub listen: String,
    /// Where it was led.
    pub target: String,
    /// Payload from the client.
    pub bytes_in: u64,
    /// Payload to the client.
    pub bytes_out: u64,
    /// How long it lasted, microseconds.
    pub lasted_micros: u64,
    /// How long the target took to answer, microseconds; `None` where it has not, and for datagrams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dial_micros: Option<u64>,
    /// How it ended, one word: `done`, `reset`, `cancelled`, `removed`, `stopped`, `idle`, `evicted`, `denied`,
    /// `limits.connections`, `limits.rate`, `limits.per_source`, `bad-header`, or a [`FailureKind::name`].
    pub end: String,
}

/// Fields of a counter line, in order. Each is a total since the device was put into its slot: the worker sets the
/// line to zero then, so who wants the former device's totals reads them before it assigns the place again.
pub mod field {
    /// Connections (tcp, unix) or flows (udp) taken in.
    pub const OPENED: usize = 0;
    /// Those that have ended. `OPENED - CLOSED` are live.
    pub const CLOSED: usize = 1;
    /// Payload bytes from downstream to upstream.
    pub const BYTES_IN: usize = 2;
    /// Payload bytes from upstream to downstream.
    pub const BYTES_OUT: usize = 3;
    /// Dials that failed; by kind from [`FAILED`] on.
    pub const DIAL_FAILED: usize = 4;
    /// Connections ended by a reset of either side.
    pub const RESET: usize = 5;
    /// Datagrams or descriptors dropped (queue full, cap, refused kind).
    pub const DROPPED: usize = 6;
    /// Flows evicted before their idle time because the table was full.
    pub const EVICTED: usize = 7;
    /// Clients, or datagrams that would have begun a flow, refused by `allow` or `deny`.
    pub const DENIED: usize = 8;
    /// The same by `limits.connections`.
    pub const OVER_CONNECTIONS: usize = 9;
    /// The same by `limits.rate`.
    pub const OVER_RATE: usize = 10;
    /// The same by `limits.per_source`.
    pub const OVER_PER_SOURCE: usize = 11;
    /// Clients that owed a PROXY header and sent none in time, or a malformed one.
    pub const BAD_HEADER: usize = 12;
    /// The first of the failures by kind, in the order of [`super::FailureKind::ALL`]: failed dials, and listeners left
    /// alone because descriptors were short.
    pub const FAILED: usize = 13;
    /// The first of the times that dials took until they were answered, one field for each of
    /// [`super::DIAL_BOUNDS_MICROS`] and one for what is above. A dial counts in one of them.
    pub const DIAL_TIMES: usize = 21;
    /// Sum of these times, microseconds.
    pub const DIAL_MICROS: usize = 30;
    /// Of those in [`OPENED`], how many need no record any more: it has been told, or counted as lost, or was not
    /// wanted. Counts only while records are wanted, from what [`CLOSED`] was then.
    pub const SETTLED: usize = 31;
}

/// Upper bounds of the fields from [`field::DIAL_TIMES`] on, microseconds: powers of 4 of a quarter of a millisecond.
pub const DIAL_BOUNDS_MICROS: [u64; 8] = [250, 1_000, 4_000, 16_000, 64_000, 256_000, 1_024_000, 4_096_000];

/// Why a dial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    TimedOut,
    /// No route, or the network says that there is nobody.
    Unreachable,
    /// The connection was reset before it was open.
    Reset,
    /// There is no such socket.
    Absent,
    /// The socket may not be used.
    Forbidden,
    /// Descriptors, memory or local ports are short.
    NoDescriptors,
    /// Anything else.
    Other,
}

impl FailureKind {
    /// All of them, in the order of their fields.
    pub const ALL: [FailureKind; 8] = [
        FailureKind::Refused,
        FailureKind::TimedOut,
        FailureKind::Unreachable,
        FailureKind::Reset,
        FailureKind::Absent,
        FailureKind::Forbidden,
        FailureKind::NoDescriptors,
        FailureKind::Other,
    ];

    /// Where it is counted.
    #[must_use]
    pub const fn field(self) -> usize {
        field::FAILED + self as usize
    }

    /// Its name in reports: metrics, the access log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FailureKind::Refused => "refused",
            FailureKind::TimedOut => "timed-out",
            FailureKind::Unreachable => "unreachable",
            FailureKind::Reset => "reset",
            FailureKind::Absent => "absent",
            FailureKind::Forbidden => "forbidden",
            FailureKind::NoDescriptors => "no-descriptors",
            FailureKind::Other => "other",
        }
    }
}

/// Daemon to keeper. The keeper answers `List` and `Sync` only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum ToKeeper {
    /// Keep these descriptors under `key`, from index `first`; those there are replaced.
    Keep {
        /// Canonical text of `DeviceKey`.
        key: String,
        /// What the daemon needs to recognise the listeners (listen address, dev and inode of a path).
        note: String,
        /// Index of the first descriptor.
        first: u32,
    },
    /// Close everything under `key`.
    Drop {
        /// Canonical text of `DeviceKey`.
        key: String,
    },
    /// Send everything back.
    List,
    /// Answer with [`FromKeeper::End`] when everything before is done: what was dropped is closed.
    Sync,
    /// Close everything and exit.
    Exit,
}

/// Keeper to daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum FromKeeper {
    /// Descriptors under `key`, from index `first`.
    Kept {
        /// Canonical text of `DeviceKey`.
        key: String,
        /// As given with `Keep`.
        note: String,
        /// Index of the first descriptor.
        first: u32,
    },
    /// End of the list.
    End,
}
