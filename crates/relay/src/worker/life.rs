//! How the worker ends: told to, drained, or with its instance.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use portway_sys::pidfd;

use super::device::Attention;
use super::engine::Engine;
use super::guard::Entry;
use super::poller::{Poller, Token, Watch};
use super::slab::Key;
use super::stream::{End, Phase, Stream};
use super::timers::Timer;
use crate::wire::{FromWorker, MAX_FDS, field};

/// How long connections have to finish once the instance is dead. Longer, and what the worker holds of it would
/// keep its network devices from a restart.
const FLUSH_TIME: Duration = Duration::from_millis(200);

/// How long flows are still answered while the worker drains.
const FLOW_DRAIN_TIME: Duration = Duration::from_secs(1);

/// Stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// No new clients; those there finish.
    Draining {
        until: Instant,
        flows_until: Instant,
    },
    /// The instance is dead.
    Flushing {
        until: Instant,
    },
    Over,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    Exit,
}

/// See the module.
pub(super) struct Life {
    stage: Stage,
    /// The instance has begun to die: its services refuse, its init still runs.
    dying: bool,
    /// Clients for the daemon, in the order they came; some may have gone meanwhile.
    orphans: VecDeque<Key>,
    pidfd: Option<OwnedFd>,
    init_pid: Option<i32>,
}

impl Life {
    pub(super) const fn new(pidfd: Option<OwnedFd>, init_pid: Option<i32>) -> Life {
        Life { stage: Stage::Serving, dying: false, orphans: VecDeque::new(), pidfd, init_pid }
    }

    pub(super) fn watch(&self, poller: &Poller) -> io::Result<()> {
        match &self.pidfd {
            Some(pidfd) => poller.add(pidfd.as_fd(), Token::Init, Watch::Level),
            None => Ok(()),
        }
    }

    /// Whether new clients are taken in.
    pub(super) fn accepts(&self) -> bool {
        self.stage == Stage::Serving && !self.dying
    }

    pub(super) fn exit_now(&mut self) {
        self.stage = Stage::Over;
    }
}

impl Engine {
    /// Whether the instance is dying. Once it is, no client is taken in any more: they wait in the backlog, which
    /// the daemon and the keeper hold, for the next worker. Looked at anew each time: an answer from before the
    /// refusal at hand says nothing about it.
    pub(super) fn is_dying(&mut self) -> bool {
        if self.life.dying {
            return true;
        }
        let dead = self.life.pidfd.as_ref().is_some_and(|pidfd| pidfd::exited(pidfd.as_fd()));
        if dead || self.life.init_pid.is_some_and(pidfd::dying) {
            tracing::info!("instance is dying");
            self.life.dying = true;
            self.leave_listeners_alone();
        }
        self.life.dying
    }

    fn leave_listeners_alone(&mut self) {
        for key in self.listeners.keys() {
            self.watch_listener(key, Attention::None);
        }
    }

    /// The instance's init is dead.
    pub(super) fn on_instance_gone(&mut self) {
        // Closed, it is no longer watched: it would stay readable.
        if let Some(pidfd) = self.life.pidfd.take() {
            self.core.poller.delete(pidfd.as_fd());
        }
        self.life.dying = true;
        if self.life.stage == Stage::Over {
            return;
        }
        tracing::info!("instance is gone");
        let until = self.core.now + FLUSH_TIME;
        self.life.stage = Stage::Flushing { until };
        self.core.timers.set(until, Timer::End);
        self.close_listeners();
        for device in self.devices.keys() {
            if let Some(device) = self.devices.get_mut(device) {
                device.plan.base = None;
                device.plan.replies = None;
            }
        }
        self.report_life();
    }

    /// Tells the daemon what it has to know about the end, also one that comes late.
    pub(super) fn report_life(&mut self) {
        if self.life.dying {
            self.hand_over_waiting();
        }
        if matches!(self.life.stage, Stage::Flushing { .. }) {
            self.send(&FromWorker::InstanceGone, Vec::new());
        }
    }

    /// Gives the daemon every client that has no target yet. The next worker takes them as let in, so one that still
    /// owes its header, and has not been judged, is not among them: it is reset.
    fn hand_over_waiting(&mut self) {
        for key in self.streams.keys() {
            let Some((phase, entry)) = self.streams.get(key).map(|stream| (stream.phase, stream.entry))
            else {
                continue;
            };
            match (phase, entry) {
                (Phase::Announcing, Entry::Fresh) => self.close(key, End::Reset),
                (Phase::Announcing, Entry::Returned) | (Phase::Dialing | Phase::Waiting, _) => {
                    self.orphan(key)
                }
                (Phase::Open | Phase::SetAside, _) => {}
            }
        }
    }

    /// Sets a client aside that has lost nothing: the daemon gets it, for the next worker.
    pub(super) fn orphan(&mut self, key: Key) {
        self.cancel_stream_timer(key);
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.up = None;
        stream.phase = Phase::SetAside;
        self.life.orphans.push_back(key);
    }

    /// Gives the daemon those that were set aside, as far as it takes them; they stay here until it has, or
    /// until there is one.
    pub(super) fn hand_over_orphans(&mut self) {
        while self.control.is_connected() && self.control.is_quiet() {
            let keys = self.next_orphans();
            let streams = keys.iter().filter_map(|key| self.streams.get(*key));
            let clients: Vec<BorrowedFd<'_>> = streams.map(|stream| stream.down.as_fd()).collect();
            let Some(first) = keys.first().and_then(|key| self.streams.get(*key)) else { return };
            let (device, index) = (first.device, first.index);
            let Some(slot) = self.devices.get(device).and_then(|device| device.slot) else {
                keys.into_iter().for_each(|key| self.close(key, End::Reset));
                continue;
            };
            let sent = self.send_now(&FromWorker::Orphan { slot, index }, &clients);
            if !self.is_taken(sent) {
                return keys.into_iter().rev().for_each(|key| self.life.orphans.push_front(key));
            }
            for key in keys {
                if let Some(stream) = self.streams.remove(key) {
                    // The daemon has a duplicate from here on: closing ours would not end the watch.
                    self.core.poller.delete(stream.down.as_fd());
                    // The worker that gets it makes its record.
                    self.core.count(stream.device, field::SETTLED);
                    self.forget_stream(&stream);
                }
            }
        }
    }

    /// The next clients of one listener, as many as go into one message.
    fn next_orphans(&mut self) -> Vec<Key> {
        let mut keys = Vec::new();
        let mut place = None;
        while let Some(key) = self.life.orphans.pop_front() {
            let waits = |stream: &&Stream| stream.phase == Phase::SetAside;
            let Some(stream) = self.streams.get(key).filter(waits) else { continue };
            let its = (stream.device, stream.index);
            if keys.contains(&key) {
                continue;
            }
            if *place.get_or_insert(its) != its || keys.len() == MAX_FDS {
                self.life.orphans.push_front(key);
                break;
            }
            keys.push(key);
        }
        keys
    }

    /// Stops accepting; exits when all is finished, or after `grace`.
    pub(super) fn drain(&mut self, grace: Duration) {
        if self.life.stage != Stage::Serving {
            return;
        }
        let until = self.core.now + grace;
        let flows_until = self.core.now + grace.min(FLOW_DRAIN_TIME);
        self.life.stage = Stage::Draining { until, flows_until };
        self.core.timers.set(until, Timer::End);
        self.core.timers.set(flows_until, Timer::End);
        // Datagram listeners stay open, unwatched: replies leave by them.
        self.leave_listeners_alone();
        let streams = |engine: &Engine, key: &Key| {
            engine.listeners.get(*key).is_some_and(|listener| !listener.carrier.is_datagram())
        };
        for device in self.slots.devices().collect::<Vec<Key>>() {
            let is_stream = self
                .devices
                .get(device)
                .is_some_and(|device| device.listeners.first().is_some_and(|key| streams(self, key)));
            if is_stream {
                self.stop_listening(device);
            }
        }
    }

    fn close_listeners(&mut self) {
        for device in self.devices.keys() {
            self.stop_listening(device);
        }
        self.pending.clear();
    }

    /// Whether it is over.
    pub(super) fn verdict(&self) -> Verdict {
        let over = match self.life.stage {
            Stage::Serving => false,
            Stage::Over => true,
            Stage::Draining { until, flows_until } => {
                let flows_done = self.udp.flow_count() == 0 || self.core.now >= flows_until;
                (self.streams.is_empty() && flows_done && self.is_told_all()) || self.core.now >= until
            }
            Stage::Flushing { until } => {
                (self.streams.is_empty() && self.is_told_all()) || self.core.now >= until
            }
        };
        if over { Verdict::Exit } else { Verdict::GoOn }
    }

    /// Whether the daemon has been told everything, if there is one.
    fn is_told_all(&self) -> bool {
        self.control.is_quiet() && (self.access.is_quiet() || !self.control.is_connected())
    }

    /// Ends what is left. Connections that are cut must not look finished.
    pub(super) fn end_all(&mut self) {
        for key in self.streams.keys() {
            self.trace_why(key, "stopped");
            self.close(key, End::Reset);
        }
        if self.access.is_wanted() {
            for place in self.udp.flows.keys() {
                self.close_flow(place, "stopped");
            }
        }
    }
}
