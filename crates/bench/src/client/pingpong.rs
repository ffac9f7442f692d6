//! Round trips of a small message on connections that stay.

use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Ask, GLANCE, MESSAGE, Window, nanoseconds};
use crate::histogram::Histogram;
use crate::net::{Poll, unblock};
use crate::sample::Sample;
use crate::server::order;

/// A connection and the message on its way.
struct Trip {
    socket: OwnedFd,
    began: Instant,
    received: usize,
}

/// One connection, without a loop around: send, receive.
pub(super) fn run_one(ask: &Ask) -> Result<Sample> {
    let trip = open(ask)?;
    let window = Window::after_warming(ask);
    let mut latencies = Histogram::new();
    let (mut operations, mut began) = (0, Instant::now());
    while !window.is_over(began) {
        exchange(&trip.socket)?;
        let now = Instant::now();
        operations += 1;
        if window.holds(began) {
            latencies.record(nanoseconds(began, now));
        }
        began = now;
    }
    Ok(sample(&window, &latencies, operations))
}

/// Many connections, each with one message on its way.
pub(super) fn run(ask: &Ask, connections: usize) -> Result<Sample> {
    let mut trips = Vec::with_capacity(connections);
    let mut poll = Poll::new(connections.min(256))?;
    for index in 0..connections {
        let trip = open(ask)?;
        unblock(&trip.socket)?;
        poll.add(&trip.socket, index, EventFlags::IN)?;
        trips.push(trip);
    }
    let window = Window::after_warming(ask);
    for trip in &mut trips {
        trip.start(Instant::now())?;
    }
    let (mut latencies, mut operations, mut last) = (Histogram::new(), 0, Instant::now());
    while !window.is_over(last) {
        for number in 0..poll.wait(Some(GLANCE))? {
            let trip = &mut trips[poll.event(number).0];
            if trip.is_complete()? {
                let now = Instant::now();
                operations += 1;
                if window.holds(now) {
                    latencies.record(nanoseconds(trip.began, now));
                }
                trip.start(now)?;
            }
        }
        last = Instant::now();
    }
    Ok(sample(&window, &latencies, operations))
}

fn sample(window: &Window, latencies: &Histogram, operations: u64) -> Sample {
    Sample {
        rate: Some(window.rate(latencies.total())),
        p50_us: latencies.quantile_us(500),
        p99_us: latencies.quantile_us(990),
        operations,
        ..Sample::default()
    }
}

/// A connection that has answered once.
fn open(ask: &Ask) -> Result<Trip> {
    let socket = ask.target.connect().with_context(|| format!("cannot connect to {}", ask.target))?;
    exchange(&socket)?;
    Ok(Trip { socket, began: Instant::now(), received: 0 })
}

/// There and back on a socket that blocks.
fn exchange(socket: &OwnedFd) -> Result<()> {
    send_message(socket)?;
    let (mut buffer, mut received) = ([0_u8; MESSAGE], 0);
    while received < MESSAGE {
        match recv(socket, &mut buffer[received..], RecvFlags::empty()) {
            Ok((0, _)) => bail!("the connection was closed"),
            Ok((length, _)) => received += length,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("no answer"),
        }
    }
    Ok(())
}

fn send_message(socket: &OwnedFd) -> Result<()> {
    // The first one is the order, those that follow only have to come back.
    let sent = send(socket, &[order::ECHO; MESSAGE], SendFlags::NOSIGNAL).context("cannot send")?;
    if sent < MESSAGE {
        bail!("{sent} bytes of a message sent");
    }
    Ok(())
}

impl Trip {
    fn start(&mut self, now: Instant) -> Result<()> {
        (self.began, self.received) = (now, 0);
        send_message(&self.socket)
    }

    /// Reads what is there; whether the message is back.
    fn is_complete(&mut self) -> Result<bool> {
        let mut buffer = [0_u8; MESSAGE];
        match recv(&self.socket, &mut buffer[self.received..], RecvFlags::empty()) {
            Ok((0, _)) => bail!("the connection was closed"),
            Ok((length, _)) => self.received += length,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error).context("no answer"),
        }
        Ok(self.received == MESSAGE)
    }
}
