//! The worker's table of devices: put, replaced, removed.
//!
//! A device changes as a whole: new options and listeners take effect when all listeners are there, and until
//! then what was there before goes on.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use portway_sys::listen;

use super::broker::carrier_of;
use super::control::set_nonblocking;
use super::device::{Device, DeviceError, Listener, Plan};
use super::engine::Engine;
use super::failures::{Failure, Report};
use super::guard::Entry;
use super::slab::Key;
use super::socket::Carrier;
use super::stream::{End, Phase};
use super::timers::Timer;
use crate::wire::{FromWorker, Known, SLOT_COUNT, Slot, WireDevice};

/// A request to put a device into a slot.
pub(super) struct Put {
    pub(super) seq: u64,
    pub(super) slot: Slot,
    pub(super) wire: WireDevice,
    pub(super) listen_count: u32,
    pub(super) keep_listeners: bool,
    pub(super) hold: Option<Duration>,
}

/// A device whose listeners are still coming.
pub(super) struct PendingPut {
    seq: u64,
    slot: Slot,
    plan: Plan,
    hold: Option<Duration>,
    listeners: Vec<OwnedFd>,
    count: usize,
}

impl Engine {
    /// Takes a device.
    pub(super) fn put(&mut self, put: Put, fds: Vec<OwnedFd>) {
        let (seq, slot) = (put.seq, put.slot);
        if let Some(before) = self.pending.remove(&slot.index) {
            self.answer(before.seq, Some(DeviceError::Superseded.to_string()));
        }
        if let Err(error) = self.try_put(put, fds) {
            tracing::warn!(slot = slot.index, %error, "device not taken");
            self.answer(seq, Some(error.to_string()));
        }
    }

    fn try_put(&mut self, put: Put, fds: Vec<OwnedFd>) -> Result<(), DeviceError> {
        let slot = put.slot;
        if slot.index >= SLOT_COUNT {
            return Err(DeviceError::Slot(slot.index));
        }
        if self.slots.is_anothers(slot) {
            return Err(DeviceError::Taken(slot.index));
        }
        let plan = Plan::new(put.wire, fds)?;
        let count = usize::try_from(put.listen_count).unwrap_or(usize::MAX);
        if !put.keep_listeners && !self.has_room(count) {
            return Err(DeviceError::Descriptors(put.listen_count));
        }
        if put.keep_listeners {
            let key = self.slots.device(slot).ok_or(DeviceError::Missing(slot.index))?;
            let present = self.devices.get(key).map_or(0, |device| device.listeners.len());
            if usize::try_from(put.listen_count) != Ok(present) {
                return Err(DeviceError::Kept { wanted: put.listen_count, present });
            }
            self.replace(key, plan, put.hold);
            self.answer(put.seq, None);
            return Ok(());
        }
        let pending = PendingPut { seq: put.seq, slot, plan, hold: put.hold, listeners: Vec::new(), count };
        if count == 0 {
            self.complete(pending);
        } else {
            self.pending.insert(slot.index, pending);
        }
        Ok(())
    }

    /// Takes listeners of a device, in order.
    pub(super) fn take_listeners(&mut self, slot: Slot, first: u32, fds: Vec<OwnedFd>) {
        let Some(mut pending) = self.take_pending(slot) else {
            tracing::warn!(slot = slot.index, "listeners of no device");
            return;
        };
        let in_order = usize::try_from(first) == Ok(pending.listeners.len());
        if !in_order || fds.is_empty() || pending.listeners.len() + fds.len() > pending.count {
            return self.answer(pending.seq, Some(DeviceError::Listeners { first }.to_string()));
        }
        pending.listeners.extend(fds);
        if pending.listeners.len() == pending.count {
            self.complete(pending);
        } else {
            self.pending.insert(slot.index, pending);
        }
    }

    /// The device for `slot` whose listeners are still coming.
    fn take_pending(&mut self, slot: Slot) -> Option<PendingPut> {
        self.pending.get(&slot.index).filter(|pending| pending.slot == slot)?;
        self.pending.remove(&slot.index)
    }

    /// A message with descriptors could not be received whole; it cannot be known whose it was.
    pub(super) fn fail_pending(&mut self) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            let count = u32::try_from(pending.count).unwrap_or(u32::MAX);
            self.answer(pending.seq, Some(DeviceError::Descriptors(count).to_string()));
        }
    }

    /// All listeners of a device are there: it takes effect.
    fn complete(&mut self, pending: PendingPut) {
        let PendingPut { seq, slot, plan, hold, listeners, .. } = pending;
        let carrier = plan.listen_carrier();
        let key = match self.slots.device(slot) {
            Some(key) => {
                self.replace(key, plan, hold);
                key
            }
            None => {
                let key = self.devices.insert(Device::new(plan, slot));
                if let Some(haul) = &self.haul {
                    haul.assign(key, slot);
                }
                self.core.counters.assign(key, slot);
                self.slots.insert(slot, key);
                self.begin_hold(key, hold);
                key
            }
        };
        self.swap_listeners(key, listeners, carrier);
        self.retune();
        self.answer(seq, None);
    }

    /// Gives a device new options; its connections stay.
    fn replace(&mut self, key: Key, plan: Plan, hold: Option<Duration>) {
        let Some(device) = self.devices.get_mut(key) else { return };
        device.replan(plan);
        self.recount_sources(key);
        self.begin_hold(key, hold);
        self.adjust_flows(key);
        let listeners = self.devices.get(key).map(|device| device.listeners.clone()).unwrap_or_default();
        for listener in listeners {
            self.start_listener(listener);
        }
        // Those who waited for the former target are served by this one.
        for waiter in self.take_waiters(key) {
            self.cancel_stream_timer(waiter);
            self.begin(waiter);
        }
        self.retune();
    }

    /// What the devices share follows from all of them.
    fn retune(&mut self) {
        self.retune_sweep();
        let keys = self.devices.keys();
        let devices = || keys.iter().filter_map(|key| self.devices.get(*key));
        let framed = devices().filter(|device| device.is_framed()).count();
        let brokered = devices()
            .filter(|device| device.plan.wire.brokered && device.plan.listen_carrier().is_datagram());
        let brokered = brokered.count();
        self.core.frames.divide(framed);
        self.broker.divide(brokered);
    }

    /// A datagram target cannot refuse, and no datagram waits, so there is nothing to hold for.
    fn begin_hold(&mut self, key: Key, hold: Option<Duration>) {
        let Some(device) = self.devices.get(key) else { return };
        let plan = &device.plan;
        let datagrams = plan.listen_carrier().is_datagram() || plan.connect_carrier().is_datagram();
        if let (Some(_), true, Some(slot)) = (hold, datagrams, device.slot) {
            self.set_hold(key, None);
            self.send(&FromWorker::HoldEnded { slot, reached: true }, Vec::new());
        } else {
            self.set_hold(key, hold);
        }
    }

    /// Puts `fresh` in the place of a device's listeners.
    fn swap_listeners(&mut self, device_key: Key, fresh: Vec<OwnedFd>, carrier: Carrier) {
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let before = std::mem::take(&mut device.listeners);
        let mut keys = Vec::with_capacity(fresh.len());
        for (index, fd) in (0..).zip(fresh) {
            if let Err(error) = set_nonblocking(fd.as_fd()) {
                tracing::warn!(%error, "listener may block");
            }
            keys.push(self.listeners.insert(Listener::new(fd, device_key, index, carrier)));
        }
        if carrier.is_datagram() {
            self.settle_flows(device_key, &before, &keys);
        }
        for key in before {
            self.close_listener(key);
        }
        if let Some(device) = self.devices.get_mut(device_key) {
            device.listeners.clone_from(&keys);
        }
        for key in keys {
            self.start_listener(key);
        }
    }

    /// Flows go on where the socket is the same one, and end elsewhere.
    fn settle_flows(&mut self, device: Key, before: &[Key], after: &[Key]) {
        let cookie = |engine: &Engine, key: Option<&Key>| {
            let listener = engine.listeners.get(*key?)?;
            listen::socket_cookie(listener.fd.as_fd()).ok()
        };
        for (at, old) in before.iter().enumerate() {
            let same = cookie(self, Some(old));
            match after.get(at) {
                Some(new) if same.is_some() && same == cookie(self, Some(new)) => self.move_flows(*old, *new),
                Some(_) | None => self.end_flows(device, &[*old]),
            }
        }
    }

    /// Takes a device out.
    pub(super) fn remove(&mut self, seq: u64, slot: Slot, drain: bool) {
        if let Some(before) = self.take_pending(slot) {
            self.answer(before.seq, Some(DeviceError::Removed.to_string()));
        }
        let Some(key) = self.slots.remove(slot) else {
            return self.answer(seq, Some(DeviceError::Missing(slot.index).to_string()));
        };
        self.stop_listening(key);
        self.set_hold(key, None);
        for waiter in self.take_waiters(key) {
            self.trace_why(waiter, "removed");
            self.close(waiter, End::Reset);
        }
        let doomed = |phase: Phase| !drain || phase != Phase::Open;
        for stream_key in self.streams.keys() {
            let stream = self.streams.get(stream_key).filter(|stream| stream.device == key);
            if stream.is_some_and(|stream| doomed(stream.phase)) {
                self.trace_why(stream_key, "removed");
                self.close(stream_key, End::Reset);
            }
        }
        if let Some(device) = self.devices.get_mut(key) {
            device.slot = None;
            if device.stream_count == 0 {
                self.forget_device(key);
            }
        }
        self.retune();
        self.answer(seq, None);
    }

    /// Closes the listeners of a device, and its flows, which could not be answered any more.
    pub(super) fn stop_listening(&mut self, key: Key) {
        let Some(device) = self.devices.get_mut(key) else { return };
        let listeners = std::mem::take(&mut device.listeners);
        self.flush_replies();
        self.end_flows(key, &listeners);
        for listener in listeners {
            self.close_listener(listener);
        }
    }

    /// Nothing is left of a device that was taken out.
    pub(super) fn forget_device(&mut self, key: Key) {
        let Some(device) = self.devices.remove(key) else { return };
        if let Some(at) = device.flows_timer {
            self.core.timers.cancel(at, Timer::Flows(key));
        }
        if let Some(at) = device.failures.timer {
            self.core.timers.cancel(at, Timer::Failures(key));
        }
        for (target, waiters) in device.waiters {
            if let Some(at) = waiters.timer {
                self.core.timers.cancel(at, Timer::Probe(key, target));
            }
        }
    }

    /// Takes clients that an earlier worker could not serve.
    pub(super) fn take_clients(&mut self, slot: Slot, index: u32, known: Known, fds: Vec<OwnedFd>) {
        let Some(key) = self.slots.device(slot) else { return };
        let Some(device) = self.devices.get(key) else { return };
        let (carrier, brokered) = (device.plan.listen_carrier(), device.plan.wire.brokered);
        if carrier.is_datagram() || index >= device.plan.spec().listen_count() {
            return;
        }
        for fd in fds {
            // The daemon may have taken it in from something that is no socket of the kernel's TCP.
            let carrier = if brokered { carrier_of(&fd, carrier) } else { Ok(carrier) };
            if let Ok(carrier) = carrier
                && set_nonblocking(fd.as_fd()).is_ok()
            {
                self.admit(key, index, carrier, fd, Entry::Returned, known);
            }
        }
    }

    /// Something of a device has failed.
    pub(super) fn fail(&mut self, key: Key, failure: Failure) {
        let Some(device) = self.devices.get_mut(key) else { return };
        match device.failures.add(failure, self.core.now) {
            Report::Now => self.report_failures(key),
            Report::At(at) => self.core.timers.set(at, Timer::Failures(key)),
            Report::Coming => {}
        }
    }

    pub(super) fn report_failures(&mut self, key: Key) {
        let Some(device) = self.devices.get_mut(key) else { return };
        let Some((count, last)) = device.failures.take(self.core.now) else { return };
        let text = device.plan.describe(last);
        tracing::debug!(device = device.plan.wire.key, count, text, "failures");
        if let Some(slot) = device.slot {
            self.send(&FromWorker::Failure { slot, count, text }, Vec::new());
        }
    }
}
