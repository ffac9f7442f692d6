//! New connections: connect, one byte there and back, close.

use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Ask, GLANCE, Window, nanoseconds};
use crate::histogram::Histogram;
use crate::net::Poll;
use crate::sample::Sample;
use crate::server::order;

/// So many failures in a row end the measurement.
const FAILURES: u64 = 1000;

/// A connection under way.
struct Slot {
    socket: OwnedFd,
    began: Instant,
    is_sent: bool,
}

struct Run<'a> {
    ask: &'a Ask,
    poll: Poll,
    slots: Vec<Slot>,
    failures: u64,
}

/// Keeps `in_flight` connections under way.
pub(super) fn run(ask: &Ask, in_flight: usize) -> Result<Sample> {
    let mut run = Run { ask, poll: Poll::new(in_flight)?, slots: Vec::with_capacity(in_flight), failures: 0 };
    for index in 0..in_flight {
        let slot = run.begin(index)?;
        run.slots.push(slot);
    }
    let window = Window::after_warming(ask);
    let (mut latencies, mut operations, mut counted) = (Histogram::new(), 0, 0);
    loop {
        let ready = run.poll.wait(Some(GLANCE))?;
        let now = Instant::now();
        if window.is_over(now) {
            break;
        }
        for number in 0..ready {
            let index = run.poll.event(number).0;
            if let Some(began) = run.go_on(index)? {
                operations += 1;
                if window.holds(now) {
                    counted += 1;
                    latencies.record(nanoseconds(began, now));
                }
            }
        }
    }
    Ok(Sample {
        rate: Some(window.rate(counted)),
        p50_us: latencies.quantile_us(500),
        p99_us: latencies.quantile_us(990),
        operations,
        failures: run.failures,
        ..Sample::default()
    })
}

impl Run<'_> {
    fn begin(&mut self, index: usize) -> Result<Slot> {
        let began = Instant::now();
        loop {
            match self.ask.target.begin() {
                Ok(socket) => {
                    self.poll.add(&socket, index, EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
                    return Ok(Slot { socket, began, is_sent: false });
                }
                Err(error) if self.failures >= FAILURES => return Err(error).context("cannot connect"),
                Err(_) => self.failures += 1,
            }
        }
    }

    /// One step of a connection; when it began, if that was its last one.
    fn go_on(&mut self, index: usize) -> Result<Option<Instant>> {
        let slot = &mut self.slots[index];
        let step = if slot.is_sent {
            recv(&slot.socket, &mut [0_u8], RecvFlags::empty()).map(|(length, _)| length)
        } else {
            send(&slot.socket, &[order::ECHO], SendFlags::NOSIGNAL)
        };
        match step {
            Ok(1) if slot.is_sent => {
                let began = slot.began;
                self.slots[index] = self.begin(index)?;
                Ok(Some(began))
            }
            Ok(1) => {
                slot.is_sent = true;
                Ok(None)
            }
            Err(Errno::AGAIN) => Ok(None),
            Ok(_) | Err(_) => {
                self.failures += 1;
                if self.failures > FAILURES {
                    bail!("{FAILURES} connections failed");
                }
                self.slots[index] = self.begin(index)?;
                Ok(None)
            }
        }
    }
}
