//! Streams that carry as much as they can.

use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Ask, GLANCE, Window};
use crate::net::{Poll, unblock};
use crate::sample::Sample;
use crate::server::{READ, SMALL, order};
use crate::workload::Direction;

/// Streams in one direction; `write` is what the sender hands to the kernel at a time.
pub(super) fn run(ask: &Ask, direction: Direction, streams: usize, write: usize) -> Result<Sample> {
    let (command, flags) = match direction {
        Direction::Up => (order::SINK, EventFlags::OUT),
        Direction::Down if write <= SMALL => (order::SOURCE, EventFlags::IN),
        Direction::Down => (order::LARGE_SOURCE, EventFlags::IN),
    };
    let mut poll = Poll::new(streams)?;
    let mut sockets = Vec::with_capacity(streams);
    for index in 0..streams {
        let socket = ask.target.connect().with_context(|| format!("cannot connect to {}", ask.target))?;
        send(&socket, &[command], SendFlags::NOSIGNAL).context("cannot send")?;
        unblock(&socket)?;
        poll.add(&socket, index, flags)?;
        sockets.push(socket);
    }
    let payload = vec![0x5a_u8; write];
    let mut buffer = vec![0_u8; READ];
    let window = Window::after_warming(ask);
    let (mut all, mut counted, mut now) = (0, 0, Instant::now());
    while !window.is_over(now) {
        let mut moved = 0;
        for number in 0..poll.wait(Some(GLANCE))? {
            let socket = &sockets[poll.event(number).0];
            moved += match direction {
                Direction::Up => push(socket, &payload)?,
                Direction::Down => pull(socket, &mut buffer)?,
            };
        }
        now = Instant::now();
        all += moved;
        // What was moved while the window opened is counted; it is one turn of thousands.
        if window.holds(now) && !window.is_over(now) {
            counted += moved;
        }
    }
    let gbps = window.rate(counted) * 8.0 / 1e9;
    Ok(Sample { gbps: Some(gbps), bytes: all, ..Sample::default() })
}

fn push(socket: &OwnedFd, payload: &[u8]) -> Result<u64> {
    match send(socket, payload, SendFlags::NOSIGNAL) {
        Ok(length) => Ok(length as u64),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error).context("cannot send"),
    }
}

fn pull(socket: &OwnedFd, buffer: &mut [u8]) -> Result<u64> {
    match recv(socket, &mut *buffer, RecvFlags::empty()) {
        Ok((0, _)) => bail!("the connection was closed"),
        Ok((length, _)) => Ok(length as u64),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error).context("cannot receive"),
    }
}
