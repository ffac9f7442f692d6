//! A service that echoes on one thread, for more connections than there can be threads.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use socket2::SockRef;

use crate::{Addr, Listener, Site, Stream};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Longest sleep, so that a stop is seen.
const TURN: Duration = Duration::from_millis(20);

/// The listener's place in the event queue.
const LISTENER: u64 = u64::MAX;

/// A running service; it ends, and with it every connection, on drop.
#[derive(Debug)]
pub struct Hall {
    addr: Addr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    accepted: AtomicU64,
    open: AtomicU64,
}

impl Hall {
    /// Starts it at a site; port 0 takes a free one.
    ///
    /// # Errors
    /// When the site is gone or the address is taken.
    pub fn start(site: &Site, addr: &Addr) -> Result<Self> {
        let listener = site.run(|| addr.listen_with_backlog(BACKLOG))?;
        let listener = listener.with_context(|| format!("cannot serve at {addr}"))?;
        let addr = listener.tcp_addr()?.map_or_else(|| addr.clone(), Addr::Tcp);
        SockRef::from(&listener).set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || Room::new(listener, &for_thread)?.run());
        Ok(Self { addr, shared, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // What went wrong there is seen by its clients.
            let _ = thread.join();
        }
    }
}

struct Guest {
    stream: Stream,
    /// What came and could not be sent back yet.
    owed: Vec<u8>,
}

struct Room<'a> {
    listener: Listener,
    shared: &'a Shared,
    epoll: rustix::fd::OwnedFd,
    guests: Vec<Option<Guest>>,
    free: Vec<usize>,
}

impl<'a> Room<'a> {
    fn new(listener: Listener, shared: &'a Shared) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("cannot make an epoll")?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)
            .context("cannot watch a listener")?;
        Ok(Self { listener, shared, epoll, guests: Vec::new(), free: Vec::new() })
    }

    fn run(&mut self) -> Result<()> {
        let turn = Timespec::try_from(TURN).context("a short time")?;
        let mut events: Vec<Event> = Vec::with_capacity(512);
        let mut buffer = vec![0; 64 << 10];
        while !self.shared.stopping.load(Ordering::Relaxed) {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&turn)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait"),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    seat => self.serve(usize::try_from(seat).unwrap_or(usize::MAX), &mut buffer),
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        for _ in 0..64 {
            // Nobody more, somebody who has gone, or no descriptor: the next event tells.
            let Ok(stream) = self.listener.accept() else { return };
            if SockRef::from(&stream).set_nonblocking(true).is_err() {
                continue;
            }
            let seat = self.free.pop().unwrap_or_else(|| {
                self.guests.push(None);
                self.guests.len() - 1
            });
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            if epoll::add(&self.epoll, &stream, EventData::new_u64(seat as u64), flags).is_err() {
                self.free.push(seat);
                continue;
            }
            self.guests[seat] = Some(Guest { stream, owed: Vec::new() });
            self.shared.accepted.fetch_add(1, Ordering::SeqCst);
            self.shared.open.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn serve(&mut self, seat: usize, buffer: &mut [u8]) {
        let Some(guest) = self.guests.get_mut(seat).and_then(Option::as_mut) else { return };
        if !matches!(guest.echo(buffer), Ok(true)) {
            self.guests[seat] = None;
            self.free.push(seat);
            self.shared.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Guest {
    /// Sends back what has come; whether there may be more.
    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            while !self.owed.is_empty() {
                match (&self.stream).write(&self.owed) {
                    Ok(sent) => drop(self.owed.drain(..sent)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            match (&self.stream).read(buffer) {
                Ok(0) => {
                    // Its own end, in order: closing does the rest.
                    let _ = self.stream.shutdown(Shutdown::Write);
                    return Ok(false);
                }
                Ok(length) => self.owed.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check, wait_for};

    #[test]
    fn a_hall_echoes_to_everybody_and_forgets_them() {
        let site = Site::host().unwrap();
        let hall = Hall::start(&site, &Addr::tcp("127.0.0.1:0")).unwrap();
        let held: Vec<_> = (0..50).map(|_| check::dial(&site, hall.addr()).unwrap()).collect();
        for stream in &held {
            check::exchange(stream).unwrap();
        }
        check::echo(&check::dial(&site, hall.addr()).unwrap(), 3 << 20, 1).unwrap();
        wait_for("the end of one", || (hall.open() == 50).then_some(())).unwrap();
        assert_eq!(hall.accepted(), 51);
        drop(held);
        wait_for("an empty hall", || (hall.open() == 0).then_some(())).unwrap();
    }
}
