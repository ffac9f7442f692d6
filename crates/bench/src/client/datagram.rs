//! Round trips of datagrams. One that does not come back in time is sent again and counted as lost.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Ask, GLANCE, MESSAGE, Window, nanoseconds};
use crate::histogram::Histogram;
use crate::net::Poll;
use crate::sample::Sample;
use crate::server::order;

/// How long an answer may take: thousands of times as long as it does.
const LOST: Duration = Duration::from_millis(200);

/// One client, and the datagram on its way.
struct Client {
    socket: OwnedFd,
    began: Instant,
    /// First byte: not to be counted; then the number of this one.
    message: [u8; MESSAGE],
    number: u64,
}

/// So many clients, each with one datagram on its way.
pub(super) fn run(ask: &Ask, clients: usize) -> Result<Sample> {
    let mut poll = Poll::new(clients)?;
    let mut all = Vec::with_capacity(clients);
    for index in 0..clients {
        let socket = ask.target.begin().with_context(|| format!("cannot connect to {}", ask.target))?;
        poll.add(&socket, index, EventFlags::IN)?;
        let mut client = Client { socket, began: Instant::now(), message: [order::ECHO; MESSAGE], number: 0 };
        client.start(Instant::now());
        all.push(client);
    }
    let window = Window::after_warming(ask);
    let (mut latencies, mut operations, mut failures) = (Histogram::new(), 0, 0);
    let (mut last, mut looked) = (Instant::now(), Instant::now());
    while !window.is_over(last) {
        for number in 0..poll.wait(Some(GLANCE))? {
            let client = &mut all[poll.event(number).0];
            if client.is_answered() {
                let now = Instant::now();
                operations += 1;
                if window.holds(now) {
                    latencies.record(nanoseconds(client.began, now));
                }
                client.start(now);
            }
        }
        last = Instant::now();
        if last - looked >= GLANCE {
            looked = last;
            for client in all.iter_mut().filter(|client| last - client.began >= LOST) {
                failures += 1;
                client.start(last);
            }
        }
    }
    Ok(Sample {
        rate: Some(window.rate(latencies.total())),
        p50_us: latencies.quantile_us(500),
        p99_us: latencies.quantile_us(990),
        operations,
        failures,
        ..Sample::default()
    })
}

impl Client {
    fn start(&mut self, now: Instant) {
        self.began = now;
        self.number += 1;
        self.message[1..9].copy_from_slice(&self.number.to_le_bytes());
        // What cannot be sent is not answered, and so counted.
        let _ = send(&self.socket, &self.message, SendFlags::NOSIGNAL);
    }

    /// Whether what came is the answer to the last datagram and to none before it.
    fn is_answered(&self) -> bool {
        let mut buffer = [0_u8; MESSAGE];
        let received = recv(&self.socket, &mut buffer[..], RecvFlags::empty());
        matches!(received, Ok((MESSAGE, _))) && buffer == self.message
    }
}
