//! Targets that are called without asking: of a device whose one target is an address, so that nothing is to be chosen or
//! looked up.
//!
//! The call is a try. The daemon is told of those that succeed, in batches; of what does not answer it is asked, as if it
//! had not been called. Where the target is in another network the socket is one of a stock that the daemon gives from
//! time to time; when that is empty it is asked, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::super::control::set_nonblocking;
use super::super::device::TargetPlace;
use super::super::dial::{call, call_with};
use super::super::engine::Engine;
use super::super::poller::{Token, Watch};
use super::super::slab::Key;
use super::super::socket::{Carrier, Socket};
use super::super::stream::Phase;
use super::client_of;
use crate::wire::{FromWorker, Slot};

/// How long the target has before the daemon is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sockets that are asked for at once, and below which number of each family more are.
const ORDER_COUNT: u32 = 64;
const LOW_COUNT: usize = 48;

/// Connections in one message that they are open: a packet has room for them.
const BEGAN_COUNT: usize = 800;

/// After this an order counts as forgotten.
const ORDER_TIME: Duration = Duration::from_secs(5);

/// A connection that is open: its ticket, and who is at its end in the network.
type Begun = (u64, Option<SocketAddr>);

/// A call that nobody was asked for. The device may have another target since.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Call {
    pub(super) target: u64,
    /// Where it leads, if that is in the network of the stock.
    inside: Option<SocketAddr>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Those that are open and not told of: by device and target.
    began: BTreeMap<(Slot, u64), Vec<Begun>>,
    /// Of IPv4, of IPv6.
    v4: Shelf,
    v6: Shelf,
}

/// Sockets of one family that are not connected.
#[derive(Debug, Default)]
struct Shelf {
    sockets: Vec<OwnedFd>,
    ordered: Option<Instant>,
}

impl Calls {
    /// Whether there is something to tell. Asked at each turn of the loop.
    pub(super) fn has_begun(&self) -> bool {
        !self.began.is_empty()
    }

    fn shelf(&mut self, v4: bool) -> &mut Shelf {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }
}

impl Engine {
    /// Calls the target of a stream without asking; false: it is to be asked for.
    pub(in super::super) fn call_directly(&mut self, key: Key) -> bool {
        // One that brings a mark has its target already.
        let Some(stream) = self.streams.get(key).filter(|stream| stream.mark.is_none()) else { return false };
        let Some(plan) = self.devices.get(stream.device).map(|device| &device.plan) else { return false };
        let (Some(direct), Some(TargetPlace::Inet(address))) = (plan.wire.direct, plan.place(stream.index))
        else {
            return false;
        };
        let most = direct.most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let asks = self.streams.len() > most || !self.control.keeps_up();
        if asks || plan.connect_carrier() != Carrier::Tcp {
            return false;
        }
        let called = if direct.from_stock {
            self.take_from_stock(address.is_ipv4()).ok_or(Errno::AGAIN).and_then(|fd| call_with(fd, &address))
        } else {
            call(&TargetPlace::Inet(address), Carrier::Tcp)
        };
        let Ok(called) = called else { return false };
        let mut up = Socket::new(called.fd, Carrier::Tcp);
        up.write = called.connected;
        if let Err(error) = self.core.poller.add(up.as_fd(), Token::Upstream(key), Watch::Stream) {
            tracing::debug!(%error, "target not watched");
            return false;
        }
        self.broker.last += 1;
        let ticket = self.broker.last;
        let Some(stream) = self.streams.get_mut(key) else { return false };
        stream.up = Some(up);
        stream.phase = Phase::Dialing;
        let inside = direct.from_stock.then_some(address);
        stream.direct = Some(Box::new(Call { target: direct.target, inside }));
        (stream.ticket, stream.line) = (Some(ticket), direct.line);
        if called.connected {
            self.open(key);
        } else {
            self.set_stream_timer(key, self.core.now + PATIENCE);
        }
        true
    }

    /// The target of a brokered device has not been reached: the daemon is asked, if it has not been.
    pub(in super::super) fn call_failed(&mut self, key: Key, errno: Errno) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.direct.take().is_none() {
            return self.give_up(key, errno);
        }
        tracing::debug!(%errno, "target does not answer");
        (stream.ticket, stream.line) = (None, None);
        self.ask_for_stream(key);
    }

    /// A stream is open; if nobody was asked for its target, it is to be told of.
    pub(in super::super) fn note_began(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        let (Some(call), Some(ticket)) = (stream.direct.as_deref(), stream.ticket) else { return };
        let Some(slot) = self.devices.get(stream.device).and_then(|device| device.slot) else { return };
        let (target, end) = (call.target, call.inside.or_else(|| client_of(stream)));
        self.broker.direct.began.entry((slot, target)).or_default().push((ticket, end));
    }

    /// Tells of those that are open.
    pub(super) fn tell_began(&mut self) {
        while self.control.keeps_up() || !self.control.is_connected() {
            let Some(mut first) = self.broker.direct.began.first_entry() else { return };
            let (slot, target) = *first.key();
            let at = first.get().len().saturating_sub(BEGAN_COUNT);
            let tickets = first.get_mut().split_off(at);
            if first.get().is_empty() {
                first.remove();
            }
            self.send(&FromWorker::Began { slot, target, tickets }, Vec::new());
        }
    }

    fn take_from_stock(&mut self, v4: bool) -> Option<OwnedFd> {
        let now = self.core.now;
        let shelf = self.broker.direct.shelf(v4);
        let taken = shelf.sockets.pop();
        let waits = shelf.ordered.is_some_and(|at| now.saturating_duration_since(at) < ORDER_TIME);
        if shelf.sockets.len() < LOW_COUNT && !waits {
            shelf.ordered = Some(now);
            self.send(&FromWorker::Wants { v4, count: ORDER_COUNT }, Vec::new());
        }
        taken
    }

    /// What was ordered has come.
    pub(in super::super) fn restock(&mut self, v4: bool, fds: Vec<OwnedFd>) {
        // Without room, or when none have come, the next order waits its time: each client would order them in vain.
        if fds.is_empty() || !self.has_room(fds.len()) {
            return;
        }
        let shelf = self.broker.direct.shelf(v4);
        shelf.ordered = None;
        let usable = |fd: &OwnedFd| set_nonblocking(fd.as_fd()).is_ok();
        shelf.sockets.extend(fds.into_iter().filter(usable));
    }

    /// Sockets that wait for a use.
    pub(in super::super) fn stock_count(&self) -> usize {
        self.broker.direct.v4.sockets.len() + self.broker.direct.v6.sockets.len()
    }

    /// Something else needs the descriptors.
    pub(in super::super) fn sell_off(&mut self) {
        for v4 in [true, false] {
            self.broker.direct.shelf(v4).sockets.clear();
        }
    }
}
