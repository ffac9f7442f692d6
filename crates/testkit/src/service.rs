//! Stream servers for the far end of a device: a thread per connection, all ended on drop.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};

use crate::{Addr, Listener, Pattern, Site, Stream};

/// What a service does with a connection.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Sends back what comes, as it comes; ends its side after the client's end.
    Echo,
    /// Reads to the client's end, then sends everything back and closes: works only where
    /// half-close does.
    AnswerAtEnd,
    /// Reads to the client's end, then sends the number of bytes in eight, little endian, and
    /// closes.
    Count,
    /// Sends a pattern of this length and ends its side at once, then reads to the client's end
    /// and remembers what came: half-close from this end.
    Source {
        /// What it sends.
        pattern: Pattern,
        /// How much.
        length: u64,
    },
    /// Sends this text and closes: which service was reached?
    Say(String),
    /// Keeps the connection and neither reads nor writes.
    Silent,
    /// Reads one byte and resets the connection.
    Reset,
    /// As `Echo`, and remembers what came: for headers in front of the client's bytes.
    Record,
    /// Never accepts; the queue holds this many connections (and one more, by listen(2)).
    NeverAccept {
        /// Length of the queue.
        backlog: i32,
    },
}

/// How much a connection's record may hold.
const RECORD_BYTES: usize = 16 << 20;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// A running service.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    addr: Addr,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    listener: Listener,
    behaviour: Behaviour,
    stopping: AtomicBool,
    accepted: AtomicU64,
    open: Mutex<HashMap<u64, Stream>>,
    records: Mutex<Vec<Vec<u8>>>,
}

impl Service {
    /// Starts a service at a site. Port 0 takes a free one; a socket file that is in the way is an
    /// error, and the one made is left on drop, as a killed server leaves it.
    ///
    /// # Errors
    /// When the site is gone or the address is taken.
    pub fn start(site: &Site, addr: &Addr, behaviour: Behaviour) -> Result<Self> {
        let listener = site.run(|| match behaviour {
            Behaviour::NeverAccept { backlog } => addr.listen_with_backlog(backlog),
            // The library's own 128 are too few for a thousand clients at once: those beyond them are
            // called again a second later.
            _ => addr.listen_with_backlog(BACKLOG),
        })?;
        let listener = listener.with_context(|| format!("cannot serve at {addr}"))?;
        let addr = listener.tcp_addr()?.map_or_else(|| addr.clone(), Addr::Tcp);
        let accepts = !matches!(behaviour, Behaviour::NeverAccept { .. });
        let shared = Arc::new(Shared {
            listener,
            behaviour,
            stopping: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            open: Mutex::default(),
            records: Mutex::default(),
        });
        let acceptor = accepts.then(|| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept())
        });
        Ok(Self { shared, addr, acceptor })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// Its port; 0 for a unix socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        match &self.addr {
            Addr::Tcp(address) => SocketAddr::port(address),
            Addr::Unix(_) | Addr::Abstract(_) => 0,
        }
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What finished connections of [`Behaviour::Record`] and [`Behaviour::Source`] had sent.
    #[must_use]
    pub fn records(&self) -> Vec<Vec<u8>> {
        self.shared.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.listener.wake();
        if let Some(acceptor) = self.acceptor.take() {
            // It has no way to panic that would not be seen in the test's output.
            let _ = acceptor.join();
        }
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>) {
        loop {
            let accepted = self.listener.accept();
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            // Out of descriptors, or a client that has gone: the next one may work.
            let Ok(stream) = accepted else {
                thread::yield_now();
                continue;
            };
            let number = self.accepted.fetch_add(1, Ordering::SeqCst);
            let Ok(copy) = stream.try_clone() else { continue };
            self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, copy);
            let shared = Arc::clone(self);
            let small = thread::Builder::new().stack_size(256 << 10);
            let started = small.spawn(move || {
                // Taken out before the connection ends: the copy would keep it open.
                let forget = || shared.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
                let record = shared.serve(stream, &forget);
                forget();
                if let Some(record) = record {
                    shared.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
                }
            });
            if started.is_err() {
                self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            }
        }
    }

    /// Errors are the client's business: it checks what it gets.
    fn serve(&self, stream: Stream, forget: &dyn Fn() -> Option<Stream>) -> Option<Vec<u8>> {
        match &self.behaviour {
            Behaviour::Echo => {
                echo(&stream, None);
                None
            }
            Behaviour::Record => {
                let mut record = Vec::new();
                echo(&stream, Some(&mut record));
                Some(record)
            }
            Behaviour::AnswerAtEnd => {
                let mut all = Vec::new();
                (&stream).read_to_end(&mut all).ok()?;
                let _ = (&stream).write_all(&all);
                let _ = stream.shutdown(Shutdown::Write);
                None
            }
            Behaviour::Count => {
                let count = std::io::copy(&mut &stream, &mut std::io::sink()).ok()?;
                let _ = (&stream).write_all(&count.to_le_bytes());
                let _ = stream.shutdown(Shutdown::Write);
                None
            }
            Behaviour::Source { pattern, length } => {
                let _ = pattern.write(*length, &stream);
                let _ = stream.shutdown(Shutdown::Write);
                let mut all = Vec::new();
                (&stream).take(RECORD_BYTES as u64).read_to_end(&mut all).ok()?;
                Some(all)
            }
            Behaviour::Say(text) => {
                let _ = (&stream).write_all(text.as_bytes());
                let _ = stream.shutdown(Shutdown::Write);
                // Closing with bytes unread would be a reset.
                let _ = std::io::copy(&mut &stream, &mut std::io::sink());
                None
            }
            Behaviour::Silent | Behaviour::NeverAccept { .. } => {
                while !self.stopping.load(Ordering::SeqCst) {
                    thread::sleep(std::time::Duration::from_millis(20));
                }
                None
            }
            Behaviour::Reset => {
                let _ = (&stream).read(&mut [0]);
                drop(forget());
                stream.reset();
                None
            }
        }
    }
}

fn echo(mut stream: &Stream, mut record: Option<&mut Vec<u8>>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = stream.read(&mut buffer) {
        if let Some(record) = record.as_deref_mut() {
            let room = RECORD_BYTES.saturating_sub(record.len());
            record.extend_from_slice(&buffer[..length.min(room)]);
        }
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests;
