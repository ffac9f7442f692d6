//! What client and service do while a worker is counted: both in one thread, in rounds, each round the same.
//!
//! A round is begun, and gone on with whenever the worker is held, until everything has come where it belongs.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, recvfrom, send, sendto};

use crate::net::Target;

/// Bytes of a message that goes there and back.
pub(crate) const MESSAGE: usize = 64;

/// Bytes of a read: more than is ever on its way.
const READ: usize = 512 << 10;

/// How long a connection may take to come through.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// One kind of work.
pub(crate) trait Script {
    /// Begins a round: what is sent before the worker's first turn.
    fn begin(&mut self) -> Result<()>;

    /// Does what client and service can do; whether that was anything.
    fn go_on(&mut self) -> Result<bool>;

    /// Whether everything of this round has come where it belongs.
    fn is_over(&self) -> bool;

    /// Operations of a round.
    fn operations(&self) -> usize;
}

/// Bytes that are there, `None` where nothing is; the end of a stream is a length of zero.
fn take(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    match recv(socket, buffer, RecvFlags::DONTWAIT) {
        Ok((length, _)) => Ok(Some(length)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).context("cannot receive"),
    }
}

/// Sends all of it: the queue of a socket holds more than a script sends at a time.
fn put(socket: &OwnedFd, bytes: &[u8]) -> Result<()> {
    let sent = send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).context("cannot send")?;
    ensure!(sent == bytes.len(), "{sent} of {} bytes sent", bytes.len());
    Ok(())
}

/// A connection through the worker.
pub(crate) struct Pair {
    client: OwnedFd,
    service: OwnedFd,
}

impl Pair {
    /// So many of them, each of which has carried a byte.
    ///
    /// # Errors
    /// When the worker does not carry it.
    pub(crate) fn open(target: &Target, listener: &OwnedFd, count: usize) -> Result<Vec<Self>> {
        let one = |_| {
            let client = target.connect().with_context(|| format!("cannot connect to {target}"))?;
            put(&client, &[0])?;
            wait_for(listener)?;
            let service = accept(listener)?.context("nobody has called")?;
            wait_for(&service)?;
            ensure!(take(&service, &mut [0; 2])? == Some(1), "not the byte that was sent");
            Ok(Self { client, service })
        };
        (0..count).map(one).collect()
    }
}

fn accept(listener: &OwnedFd) -> Result<Option<OwnedFd>> {
    match accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).context("cannot accept"),
    }
}

fn wait_for(socket: &OwnedFd) -> Result<()> {
    let ready = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&PATIENCE)).context("cannot wait")?;
    ensure!(ready > 0, "nothing came through the worker in {} s", Duration::from_secs(10).as_secs());
    Ok(())
}

/// A message there and back on each of some connections.
pub(crate) struct RoundTrips {
    pub(crate) pairs: Vec<Pair>,
    pub(crate) returned: usize,
}

impl Script for RoundTrips {
    fn begin(&mut self) -> Result<()> {
        self.returned = 0;
        self.pairs.iter().try_for_each(|pair| put(&pair.client, &[0x5a; MESSAGE]))
    }

    fn go_on(&mut self) -> Result<bool> {
        let mut moved = false;
        let mut buffer = [0; MESSAGE];
        for pair in &self.pairs {
            if let Some(length) = take(&pair.service, &mut buffer)? {
                ensure!(length > 0, "the worker has ended a connection");
                put(&pair.service, &buffer[..length])?;
                moved = true;
            }
            if let Some(length) = take(&pair.client, &mut buffer)? {
                ensure!(length > 0, "the worker has ended a connection");
                self.returned += length;
                moved = true;
            }
        }
        Ok(moved)
    }

    fn is_over(&self) -> bool {
        self.returned == self.operations() * MESSAGE
    }

    fn operations(&self) -> usize {
        self.pairs.len()
    }
}

/// New connections, all of them at once: connect, a byte there and back, close.
pub(crate) struct Connections {
    pub(crate) target: Target,
    pub(crate) listener: OwnedFd,
    pub(crate) count: usize,
    pub(crate) clients: Vec<OwnedFd>,
    pub(crate) services: Vec<OwnedFd>,
    pub(crate) ended: usize,
}

impl Script for Connections {
    fn begin(&mut self) -> Result<()> {
        self.ended = 0;
        for _ in 0..self.count {
            let client = self.target.connect().context("cannot connect")?;
            put(&client, &[0x5a])?;
            self.clients.push(client);
        }
        Ok(())
    }

    fn go_on(&mut self) -> Result<bool> {
        let mut moved = false;
        let mut buffer = [0; 2];
        while let Some(socket) = accept(&self.listener)? {
            self.services.push(socket);
        }
        for place in (0..self.services.len()).rev() {
            let Some(length) = take(&self.services[place], &mut buffer)? else { continue };
            moved = true;
            if length > 0 {
                put(&self.services[place], &buffer[..length])?;
            } else {
                self.services.swap_remove(place);
                self.ended += 1;
            }
        }
        for place in (0..self.clients.len()).rev() {
            if take(&self.clients[place], &mut buffer)?.is_some() {
                self.clients.swap_remove(place);
                moved = true;
            }
        }
        Ok(moved)
    }

    fn is_over(&self) -> bool {
        self.ended == self.count
    }

    fn operations(&self) -> usize {
        self.count
    }
}

/// A stream in one direction: so many bytes, and the next ones when they have come.
pub(crate) struct Stream {
    pub(crate) from: OwnedFd,
    pub(crate) to: OwnedFd,
    pub(crate) payload: Vec<u8>,
    pub(crate) times: usize,
    pub(crate) sent: usize,
    pub(crate) received: usize,
    pub(crate) buffer: Vec<u8>,
}

impl Stream {
    /// Over this connection, towards the client or away from it.
    pub(crate) fn new(pair: Pair, is_down: bool, bytes: usize, times: usize) -> Self {
        let (from, to) = if is_down { (pair.service, pair.client) } else { (pair.client, pair.service) };
        let (payload, buffer) = (vec![0x5a; bytes], vec![0; READ]);
        Self { from, to, payload, times, sent: 0, received: 0, buffer }
    }
}

impl Script for Stream {
    fn begin(&mut self) -> Result<()> {
        (self.sent, self.received) = (0, 0);
        self.go_on().map(|_| ())
    }

    fn go_on(&mut self) -> Result<bool> {
        let before = self.received;
        while let Some(length) = take(&self.to, &mut self.buffer)? {
            ensure!(length > 0, "the worker has ended a connection");
            self.received += length;
        }
        let is_due = self.received == self.sent && self.sent < self.times * self.payload.len();
        if is_due {
            put(&self.from, &self.payload)?;
            self.sent += self.payload.len();
        }
        Ok(is_due || self.received > before)
    }

    fn is_over(&self) -> bool {
        self.received == self.times * self.payload.len()
    }

    fn operations(&self) -> usize {
        self.times
    }
}

/// A datagram there and back for each of some clients.
pub(crate) struct Datagrams {
    pub(crate) clients: Vec<OwnedFd>,
    pub(crate) service: OwnedFd,
    pub(crate) returned: usize,
}

impl Script for Datagrams {
    fn begin(&mut self) -> Result<()> {
        self.returned = 0;
        self.clients.iter().try_for_each(|client| put(client, &[0x5a; MESSAGE]))
    }

    fn go_on(&mut self) -> Result<bool> {
        let mut moved = false;
        let mut buffer = [0; MESSAGE];
        loop {
            match recvfrom(&self.service, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _, from)) => {
                    let from = from.context("a datagram of nobody")?;
                    sendto(&self.service, &buffer[..length], SendFlags::DONTWAIT, &from)
                        .context("cannot answer")?;
                    moved = true;
                }
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        for client in &self.clients {
            if take(client, &mut buffer)?.is_some() {
                self.returned += 1;
                moved = true;
            }
        }
        Ok(moved)
    }

    fn is_over(&self) -> bool {
        self.returned == self.operations()
    }

    fn operations(&self) -> usize {
        self.clients.len()
    }
}

/// Datagrams of one client, one way, all of them at once.
pub(crate) struct Flood {
    pub(crate) client: OwnedFd,
    pub(crate) service: OwnedFd,
    pub(crate) payload: Vec<u8>,
    pub(crate) count: usize,
    pub(crate) received: usize,
}

impl Script for Flood {
    fn begin(&mut self) -> Result<()> {
        self.received = 0;
        (0..self.count).try_for_each(|_| put(&self.client, &self.payload))
    }

    fn go_on(&mut self) -> Result<bool> {
        let before = self.received;
        let mut buffer = [0; 2048];
        while let Some(length) = take(&self.service, &mut buffer)? {
            ensure!(length == self.payload.len(), "{length} bytes of a datagram came");
            self.received += 1;
        }
        Ok(self.received > before)
    }

    fn is_over(&self) -> bool {
        self.received == self.count
    }

    fn operations(&self) -> usize {
        self.count
    }
}
