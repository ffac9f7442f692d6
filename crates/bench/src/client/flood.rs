//! Datagrams one way: the highest rate at which at most one in a thousand is lost.
//!
//! The rate rises until a step fails, then the search closes in between the last that passed and the
//! first that did not. The service counts; the client asks it, past the peer, after each step.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Ask;
use crate::net::Target;
use crate::sample::Sample;
use crate::server::order;

/// First rate, per second; each next one is so much higher.
const FIRST: f64 = 20_000.0;
const GROWTH: f64 = 1.5;

/// Halvings of the last interval: the answer is good to 1.5 %.
const HALVINGS: u32 = 5;

/// Share that may be lost.
const LOSS: f64 = 0.001;

/// A sender that manages less than this share of its rate has come to its own end.
const PACE: f64 = 0.95;

/// Sleep between bursts.
const PAUSE: Duration = Duration::from_micros(30);

/// A step that fails is tried once more: one hiccup of the machine is no limit.
const TRIES: u32 = 2;

/// Time for what is on its way, in pauses.
const SETTLE: Duration = Duration::from_millis(5);

/// One step.
struct Step {
    sent: u64,
    received: u64,
    /// Per second.
    rate: f64,
}

impl Step {
    fn is_loss_free(&self) -> bool {
        self.received as f64 >= self.sent as f64 * (1.0 - LOSS)
    }
}

struct Search {
    socket: OwnedFd,
    counter: OwnedFd,
    payload: Vec<u8>,
    /// Of one step.
    span: Duration,
    received: u64,
}

/// Finds the rate; a quarter of the window is one step.
pub(super) fn run(ask: &Ask, bytes: usize) -> Result<Sample> {
    let counter = ask.counter.context("no address of the counter")?;
    let mut search = Search {
        socket: ask.target.begin()?,
        counter: Target::Tcp(counter).connect().context("cannot reach the counter")?,
        payload: vec![order::COUNT_DATAGRAM; bytes],
        span: ask.span / 4,
        received: 0,
    };
    // The flow is made before anything is counted.
    search.step(1000.0)?;
    let (mut good, mut wanted) = (0.0, FIRST);
    let bad = loop {
        match search.attempt(wanted)? {
            Some(rate) if rate >= wanted * PACE => (good, wanted) = (rate, wanted * GROWTH),
            // The sender can do no more, and nothing is lost.
            Some(rate) => return Ok(search.sample(rate)),
            None => break wanted,
        }
    };
    let (mut low, mut high) = (if good > 0.0 { bad / GROWTH } else { 0.0 }, bad);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        match search.attempt(middle)? {
            Some(rate) => (good, low) = (rate.max(good), middle),
            None => high = middle,
        }
    }
    Ok(search.sample(good))
}

impl Search {
    fn sample(&self, rate: f64) -> Sample {
        Sample { rate: Some(rate), operations: self.received, ..Sample::default() }
    }

    /// The rate reached, if nothing was lost at it.
    fn attempt(&mut self, rate: f64) -> Result<Option<f64>> {
        for _ in 0..TRIES {
            let step = self.step(rate)?;
            if step.is_loss_free() {
                return Ok(Some(step.rate));
            }
        }
        Ok(None)
    }

    fn step(&mut self, rate: f64) -> Result<Step> {
        let before = self.count()?;
        let begin = Instant::now();
        let mut sent = 0;
        let elapsed = loop {
            let elapsed = begin.elapsed();
            if elapsed >= self.span {
                break elapsed;
            }
            let due = rate * elapsed.as_secs_f64();
            // As many at a time as are due: a sender that is late does not look at the clock for each.
            while (sent as f64) < due {
                // A full queue of our own is no loss of the peer's: the datagram has not been sent.
                if send(&self.socket, &self.payload, SendFlags::DONTWAIT).is_err() {
                    break;
                }
                sent += 1;
            }
            std::thread::sleep(PAUSE);
        };
        let received = self.settle(before, sent)?;
        self.received += received;
        Ok(Step { sent, received, rate: sent as f64 / elapsed.as_secs_f64() })
    }

    /// Waits until all have come, or no more come.
    fn settle(&self, before: u64, sent: u64) -> Result<u64> {
        let (mut last, mut still) = (0, 0);
        loop {
            let received = self.count()? - before;
            still = if received == last { still + 1 } else { 0 };
            if received >= sent || still > 4 {
                return Ok(received.min(sent));
            }
            last = received;
            std::thread::sleep(SETTLE);
        }
    }

    fn count(&self) -> Result<u64> {
        send(&self.counter, &[order::COUNTER], SendFlags::NOSIGNAL).context("cannot ask the counter")?;
        let (mut answer, mut length) = ([0_u8; 8], 0);
        while length < answer.len() {
            match recv(&self.counter, &mut answer[length..], RecvFlags::empty()) {
                Ok((0, _)) => bail!("the counter was closed"),
                Ok((more, _)) => length += more,
                Err(error) => return Err(error).context("no answer of the counter"),
            }
        }
        Ok(u64::from_le_bytes(answer))
    }
}
