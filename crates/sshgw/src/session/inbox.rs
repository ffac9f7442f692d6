//! What waits for a program: bytes, up to a bound, and what steers it.
//!
//! The library gives a client a new window as soon as bytes have come, not once a program has read them. So a channel
//! whose program does not keep up gets crowded; then its connection gives windows of a few bytes only, and takes its
//! time ([`super::handler`]), until there is room again. It must not simply wait: what the program writes goes through
//! the same loop, and one that waits for that to be taken (`cat`) would wait for ever.

use std::sync::Arc;

use bytes::Bytes;
use portway_incus::Size;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// Bytes that wait for one program, at the very most. At the pace of a crowded channel the upper half lasts for
/// a quarter of an hour.
const ROOM_BYTES: usize = 32 << 20;

/// Bytes from which on a channel is crowded. A client may still send one window (2 MiB).
const CROWDED_BYTES: usize = 14 << 20;

/// What a piece costs beside its bytes: else single bytes would fill a hundred times the room.
const PIECE_BYTES: usize = 256;

/// Signals that wait; the next ones are lost, as the kernel loses them.
const SIGNALS: usize = 32;

/// Bytes, or the end of them; with the room they take.
type Piece = (Option<Bytes>, Option<OwnedSemaphorePermit>);

/// The connection's side.
#[derive(Debug)]
pub(super) struct Inlet {
    room: Arc<Semaphore>,
    pieces: mpsc::Sender<Piece>,
    signals: mpsc::Sender<i32>,
    size: watch::Sender<Option<Size>>,
}

/// The program's side.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) input: Pieces,
    pub(super) steering: Steering,
}

/// What a program is to read.
#[derive(Debug)]
pub(super) struct Pieces(mpsc::Receiver<Piece>);

/// What steers a program.
#[derive(Debug)]
pub(super) struct Steering {
    signals: mpsc::Receiver<i32>,
    size: watch::Receiver<Option<Size>>,
}

/// One thing that steers a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Steer {
    /// A signal.
    Signal(i32),
    /// Its terminal has this size.
    Resize(Size),
    /// Nobody is there any more.
    Hangup,
}

/// Both sides of an empty one.
pub(super) fn inbox() -> (Inlet, Outlet) {
    let (pieces, input) = mpsc::channel(ROOM_BYTES / PIECE_BYTES + 1);
    let (signals, signalled) = mpsc::channel(SIGNALS);
    let (size, sized) = watch::channel(None);
    let inlet = Inlet { room: Arc::new(Semaphore::new(ROOM_BYTES)), pieces, signals, size };
    (inlet, Outlet { input: Pieces(input), steering: Steering { signals: signalled, size: sized } })
}

impl Inlet {
    /// Puts bytes in; waits while there is no room. What comes when the program has gone is lost.
    pub(super) async fn bytes(&self, bytes: Bytes) {
        let cost = (bytes.len() + PIECE_BYTES).min(ROOM_BYTES);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = tokio::select! {
            permit = Arc::clone(&self.room).acquire_many_owned(cost) => permit.ok(),
            () = self.pieces.closed() => return,
        };
        let _gone = self.pieces.send((Some(bytes), permit)).await;
    }

    /// Whether its program does not keep up.
    pub(super) fn is_crowded(&self) -> bool {
        self.room.available_permits() < ROOM_BYTES - CROWDED_BYTES
    }

    /// There is no more.
    pub(super) async fn end(&self) {
        let _gone = self.pieces.send((None, None)).await;
    }

    /// Whether its program is gone.
    pub(super) fn is_over(&self) -> bool {
        self.signals.is_closed()
    }

    pub(super) fn signal(&self, number: i32) {
        if self.signals.try_send(number).is_err() {
            tracing::debug!(number, "a signal is lost");
        }
    }

    /// The last of many counts.
    pub(super) fn resize(&self, size: Size) {
        self.size.send_replace(Some(size));
    }
}

impl Pieces {
    /// The next bytes; `None` at their end, or when the connection has gone. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await?.0
    }
}

impl Steering {
    /// The next thing. Cancel safe.
    pub(super) async fn next(&mut self) -> Steer {
        tokio::select! {
            biased;
            signal = self.signals.recv() => signal.map_or(Steer::Hangup, Steer::Signal),
            Ok(()) = self.size.changed() => {
                let size = *self.size.borrow_and_update();
                size.map_or(Steer::Hangup, Steer::Resize)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Fails when pieces of one byte cost one byte, or room is not given back.
    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded() {
        for length in [1_usize, 32 << 10] {
            let (inlet, mut outlet) = inbox();
            let mut pieces = 0;
            let patience = Duration::from_secs(1);
            while tokio::time::timeout(patience, inlet.bytes(Bytes::from(vec![0; length]))).await.is_ok() {
                pieces += 1;
                assert!(pieces * (length + PIECE_BYTES) <= ROOM_BYTES);
            }
            assert!((pieces + 1) * (length + PIECE_BYTES) > ROOM_BYTES && inlet.is_crowded());
            assert!(outlet.input.next().await.is_some());
            tokio::time::timeout(patience, inlet.bytes(Bytes::from(vec![0; length]))).await.expect("room");
        }
    }

    #[tokio::test]
    async fn a_channel_is_crowded_until_its_program_has_read() {
        let (inlet, mut outlet) = inbox();
        let mut pieces = 0;
        while !inlet.is_crowded() {
            inlet.bytes(Bytes::from(vec![0; 1 << 20])).await;
            pieces += 1;
        }
        assert_eq!(pieces, 14);
        assert!(outlet.input.next().await.is_some());
        assert!(!inlet.is_crowded());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_program_that_has_gone() {
        let (inlet, outlet) = inbox();
        inlet.room.forget_permits(ROOM_BYTES);
        drop(outlet);
        inlet.bytes(Bytes::from_static(b"x")).await;
        inlet.end().await;
        inlet.signal(15);
        inlet.resize(Size { width: 1, height: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_sizes_the_last_counts_and_the_end_is_a_hangup() {
        let (inlet, mut outlet) = inbox();
        for width in 1..1000 {
            inlet.resize(Size { width, height: 24 });
        }
        (0..100).for_each(|_| inlet.signal(2));
        let mut signals = 0;
        let last = loop {
            match outlet.steering.next().await {
                Steer::Signal(number) => signals += number / 2,
                other => break other,
            }
        };
        assert_eq!((signals, last), (32, Steer::Resize(Size { width: 999, height: 24 })));
        drop(inlet);
        assert_eq!(outlet.steering.next().await, Steer::Hangup);
        assert_eq!(outlet.input.next().await, None);
    }
}
