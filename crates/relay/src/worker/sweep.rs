//! A look at long-lived connections now and then.
//!
//! `TCP_USER_TIMEOUT` ends a connection whose bytes stay unacknowledged: that is how a dead peer is found. But
//! the kernel also applies it to a peer that is alive and just does not read (its window stays closed), and cutting
//! a paused download is not what anybody wants. So while a connection waits for nothing but its peer's window the limit
//! is off; the peer then counts as dead when it stops answering the kernel's window probes.

use std::os::fd::AsFd;
use std::time::Duration;

use portway_sys::{sockopt, tcp_info};

use super::engine::Engine;
use super::socket::{Carrier, Socket};
use super::stream::Phase;
use super::timers::Timer;

/// Longest and shortest time between two looks.
const LONGEST: Duration = Duration::from_secs(20);
const SHORTEST: Duration = Duration::from_millis(300);

/// Connections looked at in one turn.
const TURN_COUNT: usize = 256;

/// Where the look has come to.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Place of the next connection.
    next: u32,
    /// When its timer is set for.
    timer: Option<std::time::Instant>,
    every: Duration,
}

impl Engine {
    /// The time between two looks follows the shortest limit of all devices.
    pub(super) fn retune_sweep(&mut self) {
        let limits = self.slots.values().filter_map(|key| self.devices.get(*key));
        let shortest = limits.map(|device| device.plan.spec().tcp_timeout / 3).min().unwrap_or(LONGEST);
        self.sweep.every = shortest.clamp(SHORTEST, LONGEST);
        self.set_sweep(self.sweep.every);
    }

    fn set_sweep(&mut self, after: Duration) {
        if let Some(at) = self.sweep.timer.take() {
            self.core.timers.cancel(at, Timer::Sweep);
        }
        let at = self.core.now + after;
        self.sweep.timer = Some(at);
        self.core.timers.set(at, Timer::Sweep);
    }

    pub(super) fn on_sweep(&mut self) {
        self.sweep.timer = None;
        for _ in 0..TURN_COUNT {
            let Some(key) = self.streams.next_from(self.sweep.next) else {
                self.sweep.next = 0;
                return self.set_sweep(self.sweep.every);
            };
            self.sweep.next = key.index().saturating_add(1);
            let Some(stream) = self.streams.get_mut(key) else { continue };
            if stream.phase != Phase::Open {
                continue;
            }
            let limit = self.devices.get(stream.device).map(|device| device.plan.spec().tcp_timeout);
            for socket in [Some(&mut stream.down), stream.up.as_mut()].into_iter().flatten() {
                look(socket, limit.unwrap_or(LONGEST));
            }
        }
        self.set_sweep(Duration::ZERO);
    }
}

fn look(socket: &mut Socket, limit: Duration) {
    if socket.carrier != Carrier::Tcp {
        return;
    }
    let waits = tcp_info::waits_for_window(socket.as_fd()).unwrap_or(false);
    if waits != socket.relaxed {
        let value = if waits { Duration::ZERO } else { limit };
        match sockopt::user_timeout(socket.as_fd(), value) {
            Ok(()) => socket.relaxed = waits,
            Err(error) => tracing::debug!(%error, "limit not changed"),
        }
    }
}
