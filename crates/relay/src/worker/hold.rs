//! Clients that wait for their target: during a hold, or while something is short.
//!
//! One of them is dialled for every 20 ms on behalf of all who want the same target port; once that works the
//! others follow in the order they came.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::device::Hold;
use super::engine::{Engine, RETRY_PAUSE};
use super::slab::Key;
use super::stream::Phase;
use super::timers::Timer;
use crate::wire::FromWorker;

/// Clients dialled for in one turn once the way is free, and the pause before the next turn: 3,200 a second. All at
/// once they would overflow the queue of a service that listens with the usual 128: those beyond it are called
/// again by the kernel after a second or three, and some are reset by its SYN cookies.
const RELEASE_COUNT: usize = 32;
const RELEASE_PAUSE: Duration = Duration::from_millis(10);

impl Engine {
    /// Calls the target for a new client, or lets it wait behind those that already do.
    pub(super) fn begin(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        let (device_key, index) = (stream.device, stream.index);
        let Some(device) = self.devices.get(device_key) else { return };
        let target = device.plan.target_index(index);
        let held = device.holds(target);
        let crowded = device.waiters.get(&target).is_some_and(|waiters| {
            !waiters.queue.is_empty() || (held && waiters.probe.is_some_and(|probe| self.is_dialing(probe)))
        });
        let Some(device) = self.devices.get_mut(device_key) else { return };
        if !crowded {
            if held {
                device.waiters.entry(target).or_default().probe = Some(key);
            }
            self.dial(key);
            return;
        }
        let patience = device.plan.spec().connect_timeout;
        device.waiters.entry(target).or_default().queue.push_back(key);
        if !held {
            self.set_stream_timer(key, self.core.now + patience);
        }
    }

    fn is_dialing(&self, key: Key) -> bool {
        self.streams.get(key).is_some_and(|stream| stream.phase == Phase::Dialing)
    }

    /// Lets a client wait that has just been dialled for in vain, at the head of the queue; until
    /// `deadline`, or as long as the hold lasts.
    pub(super) fn wait_for_target(&mut self, key: Key, target: u32, deadline: Option<Instant>) {
        let Some(stream) = self.streams.get(key) else { return };
        let device_key = stream.device;
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let waiters = device.waiters.entry(target).or_default();
        waiters.queue.push_front(key);
        waiters.probe = None;
        if let Some(at) = deadline {
            self.set_stream_timer(key, at);
        }
        self.set_probe_timer(device_key, target, self.core.now + RETRY_PAUSE);
    }

    fn set_probe_timer(&mut self, device_key: Key, target: u32, at: Instant) {
        let Some(waiters) =
            self.devices.get_mut(device_key).and_then(|device| device.waiters.get_mut(&target))
        else {
            return;
        };
        if let Some(before) = waiters.timer.replace(at) {
            self.core.timers.cancel(before, Timer::Probe(device_key, target));
        }
        self.core.timers.set(at, Timer::Probe(device_key, target));
    }

    /// Dials for the next ones in the queue.
    pub(super) fn on_probe(&mut self, device_key: Key, target: u32) {
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let held = device.holds(target);
        if let Some(waiters) = device.waiters.get_mut(&target) {
            waiters.timer = None;
        }
        let rounds = if held { 1 } else { RELEASE_COUNT };
        let mut called = 0;
        for _ in 0..rounds {
            let Some(key) = self.next_waiter(device_key, target) else { break };
            self.renew_patience(key);
            if let Some(waiters) =
                self.devices.get_mut(device_key).and_then(|device| device.waiters.get_mut(&target))
            {
                waiters.probe = Some(key);
            }
            if !self.dial(key) {
                // It waits again and has set the timer, or it was told; then it is the next one's turn.
                break;
            }
            called += 1;
        }
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let held = device.holds(target);
        let Some(waiters) = device.waiters.get_mut(&target) else { return };
        let (idle, probe) = (waiters.timer.is_none(), waiters.probe);
        if waiters.queue.is_empty() {
            if idle && !(held && probe.is_some_and(|probe| self.is_dialing(probe))) {
                self.drop_waiters(device_key, target);
            }
        } else if idle && !(held && probe.is_some_and(|probe| self.is_dialing(probe))) {
            let pause = if called == RELEASE_COUNT { RELEASE_PAUSE } else { Duration::ZERO };
            self.set_probe_timer(device_key, target, self.core.now + pause);
        }
    }

    /// A client that was held has not spent its patience with a shortage yet. One that has a deadline has.
    fn renew_patience(&mut self, key: Key) {
        let now = self.core.now;
        if let Some(stream) = self.streams.get_mut(key)
            && stream.timer.is_none()
        {
            stream.patient_since = now;
        }
        self.cancel_stream_timer(key);
    }

    /// A client is gone while its target was being called. If others waited for the outcome, the next one is called
    /// for.
    pub(super) fn probe_lost(&mut self, key: Key, device_key: Key, index: u32) {
        let Some(device) = self.devices.get(device_key) else { return };
        let target = device.plan.target_index(index);
        let waits =
            |waiters: &super::device::Waiters| waiters.probe == Some(key) && !waiters.queue.is_empty();
        if device.waiters.get(&target).is_some_and(waits) {
            self.set_probe_timer(device_key, target, self.core.now);
        }
    }

    fn drop_waiters(&mut self, device_key: Key, target: u32) {
        if let Some(device) = self.devices.get_mut(device_key) {
            device.waiters.remove(&target);
        }
    }

    /// Takes the next client from a queue that is still there and waiting.
    fn next_waiter(&mut self, device_key: Key, target: u32) -> Option<Key> {
        loop {
            let device = self.devices.get_mut(device_key)?;
            let key = device.waiters.get_mut(&target)?.queue.pop_front()?;
            if self.streams.get(key).is_some_and(|stream| stream.phase == Phase::Waiting) {
                return Some(key);
            }
        }
    }

    /// A client of listener `index` has been connected to its target.
    pub(super) fn target_answered(&mut self, device_key: Key, index: u32) {
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let target = device.plan.target_index(index);
        let Some(hold) = &mut device.hold else { return };
        let (first, until) = (hold.reached.is_empty(), hold.until);
        if !hold.reached.insert(target) {
            return;
        }
        if device.plan.spec().connect.address().count() == 1 {
            device.hold = None;
            self.core.timers.cancel(until, Timer::Hold(device_key));
        }
        if self.devices.get(device_key).is_some_and(|device| device.waiters.contains_key(&target)) {
            self.set_probe_timer(device_key, target, self.core.now);
        }
        if first {
            self.tell_hold_ended(device_key, true);
        }
    }

    /// Begins, replaces or ends the hold of a device.
    pub(super) fn set_hold(&mut self, device_key: Key, hold: Option<Duration>) {
        let Some(device) = self.devices.get_mut(device_key) else { return };
        if let Some(before) = device.hold.take() {
            self.core.timers.cancel(before.until, Timer::Hold(device_key));
        }
        if let Some(lasts) = hold {
            let until = self.core.now + lasts;
            device.hold = Some(Hold { until, reached: BTreeSet::new() });
            self.core.timers.set(until, Timer::Hold(device_key));
        }
    }

    /// A hold has run out: those who still wait are told.
    pub(super) fn on_hold_over(&mut self, device_key: Key) {
        let Some(hold) = self.devices.get_mut(device_key).and_then(|device| device.hold.take()) else {
            return;
        };
        if hold.reached.is_empty() {
            self.tell_hold_ended(device_key, false);
        }
        for key in self.take_waiters(device_key) {
            self.give_up(key, Errno::CONNREFUSED);
        }
    }

    /// All clients of a device that wait, in the order they came; they are in no queue afterwards.
    pub(super) fn take_waiters(&mut self, device_key: Key) -> Vec<Key> {
        let Some(device) = self.devices.get_mut(device_key) else { return Vec::new() };
        let mut keys = Vec::new();
        for (target, waiters) in std::mem::take(&mut device.waiters) {
            if let Some(at) = waiters.timer {
                self.core.timers.cancel(at, Timer::Probe(device_key, target));
            }
            keys.extend(waiters.queue);
        }
        keys.retain(|key| self.streams.get(*key).is_some_and(|stream| stream.phase == Phase::Waiting));
        keys
    }

    fn tell_hold_ended(&mut self, device_key: Key, reached: bool) {
        if let Some(slot) = self.devices.get(device_key).and_then(|device| device.slot) {
            self.send(&FromWorker::HoldEnded { slot, reached }, Vec::new());
        }
    }
}
