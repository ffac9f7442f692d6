//! Clients as they come: who may wait, whose turn it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::count::bump;
use super::gate::{Entry, Fault};
use super::{Broker, GRACE, child, lock};

/// Pause after the system has run out of descriptors or memory.
pub(super) const SHORTAGE: Duration = Duration::from_millis(100);

/// How long a client may let us speak first. Some tools that only ask for keys do.
const SILENCE: Duration = Duration::from_secs(1);

/// How often a connection that waits for its turn asks for it.
const TURN: Duration = Duration::from_millis(50);

/// What a crowd may cost before a pause is made, and the pause. Without it a flood goes through all places before
/// anybody who has just come can say a word, and takes a whole processor core from those who are in; the others wait
/// in the kernel's queue meanwhile.
const AT_ONCE: u32 = 16;
const PACE: Duration = Duration::from_millis(1);

/// Whether there was a place for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// There was one.
    Free,
    /// Another had to go.
    Made,
    /// There was none: its source has failed too often.
    None,
}

impl Room {
    /// Share of [`AT_ONCE`].
    const fn cost(self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Made => 4,
            Self::None => 1,
        }
    }
}

impl Broker {
    /// Takes clients, for ever.
    pub(super) async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut crowding = 0_u32;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    crowding += self.enter(stream, peer).cost();
                    if crowding >= AT_ONCE {
                        crowding = 0;
                        tokio::time::sleep(PACE).await;
                    }
                }
                // One that has gone before it was taken is no fault of ours; anything else is a shortage.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "no client can be taken");
                    tokio::time::sleep(SHORTAGE).await;
                }
            }
        }
    }

    /// Lets a client in, or not. Whether another has to go for it.
    fn enter(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Room {
        // A client of IPv4 on a listener of both families is written as what it is, everywhere.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let room;
        match lock(&self.gate).enter(id, peer.ip(), Instant::now()) {
            Entry::Penalised => {
                bump(&self.count.turned_away);
                tracing::debug!(%peer, "turned away for its faults");
                return Room::None;
            }
            Entry::Open { instead_of } => {
                room = if instead_of.is_some() { Room::Made } else { Room::Free };
                let ended = instead_of.and_then(|other| lock(&self.waiting).remove(&other));
                if let Some(ended) = ended {
                    ended.notify_one();
                }
            }
        }
        bump(&self.count.connections);
        let end = Arc::new(Notify::new());
        lock(&self.waiting).insert(id, Arc::clone(&end));
        let broker = Arc::clone(self);
        self.drain.attend(async move {
            let fault = match broker.turn(id, &stream, &end).await {
                Ok(()) => child::serve(&broker, id, stream, peer, &end).await,
                Err(fault) => Some(fault),
            };
            broker.leave(id);
            if let Some(fault) = fault {
                lock(&broker.gate).blame(peer.ip(), fault, Instant::now());
            }
        });
        room
    }

    /// Waits until a connection may have its process: at once, if there is no crowd and its client has spoken, as
    /// clients do (RFC 4253, 4.2). What it is to be blamed for, if it does not come to that.
    async fn turn(&self, id: u64, stream: &TcpStream, end: &Notify) -> Result<(), Fault> {
        let late = tokio::time::sleep(GRACE);
        tokio::pin!(late);
        let mut byte = [0];
        let mut is_silent = true;
        let mut tried = false;
        loop {
            let pause = tokio::time::sleep(if tried { TURN } else { SILENCE });
            tokio::select! {
                peeked = stream.peek(&mut byte), if is_silent => {
                    // It has gone, without a word.
                    if !matches!(peeked, Ok(1..)) {
                        return Err(Fault::Nothing);
                    }
                    is_silent = false;
                    lock(&self.gate).speaks(id);
                }
                () = pause => {}
                () = end.notified() => return Err(Fault::Slow),
                () = &mut late => return Err(Fault::Slow),
            }
            tried = true;
            if lock(&self.gate).starts(id, Instant::now()) {
                return Ok(());
            }
        }
    }

    /// A connection has logged in or has gone: another may take its place.
    pub(super) fn leave(&self, id: u64) {
        lock(&self.gate).leave(id);
        lock(&self.waiting).remove(&id);
    }
}
