//! A look at long-lived connections now and then.
//!
//! Most connections are over before anybody would miss a keepalive, so it is set here rather than when they begin.
//!
//! `TCP_USER_TIMEOUT` ends a connection whose bytes stay unacknowledged: that is how a dead peer is found. But
//! the kernel also applies it to a peer that is alive and just does not read (its window stays closed), and cutting
//! a paused download is not what anybody wants. So while a connection waits for nothing but its peer's window the limit
//! is off; the peer then counts as dead when it stops answering the kernel's window probes.

use std::os::fd::AsFd;
use std::time::Duration;

use portway_sys::sockopt;
use portway_sys::tcp_info::{self, SendSide};

use super::engine::Engine;
use super::socket::{Carrier, Socket};
use super::stream::Phase;
use super::timers::Timer;

/// Longest and shortest time between two looks.
const LONGEST: Duration = Duration::from_secs(20);
const SHORTEST: Duration = Duration::from_millis(300);

/// Longest time between two window probes of the kernel (`TCP_RTO_MAX` of net/tcp.h), and some.
const PROBE_INTERVAL: Duration = Duration::from_secs(130);

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
    /// The time between two looks follows the shortest limits of all devices.
    pub(super) fn retune_sweep(&mut self) {
        let specs =
            self.slots.devices().filter_map(|key| self.devices.get(key)).map(|device| device.plan.spec());
        let shortest = specs.map(|spec| (spec.tcp_timeout / 3).min(spec.tcp_keepalive / 2)).min();
        self.sweep.every = shortest.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        if self.sweep.timer.is_some() {
            self.set_sweep(self.sweep.every);
        }
    }

    /// There is something to look at.
    pub(super) fn want_sweep(&mut self) {
        if self.sweep.timer.is_none() {
            self.set_sweep(self.sweep.every);
        }
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
                if !self.streams.is_empty() {
                    self.set_sweep(self.sweep.every);
                }
                return;
            };
            self.sweep.next = key.index().saturating_add(1);
            let Some(stream) = self.streams.get_mut(key) else { continue };
            if stream.phase != Phase::Open {
                continue;
            }
            let Some(device) = self.devices.get(stream.device) else { continue };
            for socket in [Some(&mut stream.down), stream.up.as_mut()].into_iter().flatten() {
                socket.tune(device.plan.spec());
                look(socket, device.plan.spec().tcp_timeout);
            }
            self.fetch_idle(key);
        }
        self.set_sweep(Duration::ZERO);
    }
}

/// Whether nothing is on its way, and what is left does not go because the peer's window is closed; and the peer has
/// answered a probe of it not too long ago.
fn waits_for_window(side: SendSide, limit: Duration) -> bool {
    // Without the window's size (an old kernel) nothing on its way has to do: it also holds while there is no route.
    let closed = side.window_bytes.is_none_or(|window| window < side.segment_bytes);
    side.unacked_count == 0 && side.unsent_bytes > 0 && closed && side.last_ack < limit + PROBE_INTERVAL
}

fn look(socket: &mut Socket, limit: Duration) {
    if socket.carrier != Carrier::Tcp {
        return;
    }
    let waits = tcp_info::send_side(socket.as_fd()).is_ok_and(|side| waits_for_window(side, limit));
    if waits != socket.relaxed {
        let value = if waits { Duration::ZERO } else { limit };
        match sockopt::user_timeout(socket.as_fd(), value) {
            Ok(()) => socket.relaxed = waits,
            Err(error) => tracing::debug!(%error, "limit not changed"),
        }
    }
}
