//! What waits for a program: bytes, up to a bound, and what steers it.
//!
//! The library gives a client a new window as soon as bytes have come, not once a program has read them. So a channel
//! whose program does not keep up gets crowded; then its connection gives windows of a few bytes only, and is read from
//! after a pause each time ([`Crowd`], [`super::paced`]), until there is room again. Nobody ever waits for room: what a
//! program writes goes through the same loop, and one that waits for that to be taken (`cat`) would wait for ever.
//!
//! A channel gets crowded at 11 MiB. Until it is given a small window one half and one whole window may still come,
//! 3 MiB; from there to 15 MiB it is 16 bytes at a time, after that two bytes in a second: the last MiB lasts for days.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use portway_proto::guest::Size;
use tokio::sync::{Notify, mpsc, watch};

/// Bytes that wait for one program, at the very most.
const ROOM_BYTES: usize = 16 << 20;

/// From here on a channel is crowded.
const CROWDED_BYTES: usize = 11 << 20;

/// And from here on nearly full.
const NEARLY_FULL_BYTES: usize = 15 << 20;

/// Bytes that wait for all programs of a connection before all its channels count as crowded.
const CONNECTION_BYTES: usize = 64 << 20;

/// How long nothing may be taken of what crowds a connection, where that is a forward's: whoever does not read there may be
/// a stranger.
const STUCK: Duration = Duration::from_secs(1);

/// Memory of a small piece, bytes: single bytes come to share one.
const PIECE_BYTES: usize = 4 << 10;

/// Signals that wait; the next ones are lost, as the kernel loses them.
const SIGNALS: usize = 32;

/// How crowded a channel or connection is, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Crowd {
    /// There is room.
    None,
    /// A program does not keep up.
    Some,
    /// There is hardly any room left.
    Full,
}

impl Crowd {
    /// What a client may send at a time; `None`: as much as usual. Below two bytes the library would give none for ever.
    pub(super) const fn window_bytes(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Some => Some(16),
            Self::Full => Some(2),
        }
    }

    /// How long its connection is not read from after each time. Long enough for what the programs write to go out in
    /// between.
    pub(super) const fn pause(self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Some => Some(Duration::from_millis(20)),
            Self::Full => Some(Duration::from_secs(1)),
        }
    }
}

/// What waits on all channels of a connection, bytes.
pub(super) type Total = Arc<AtomicUsize>;

/// A client has sent more than anybody may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

/// Bytes that wait.
#[derive(Debug)]
struct Waiting {
    pieces: Mutex<Pending>,
    changed: Notify,
    total: Total,
}

#[derive(Debug, Default)]
struct Pending {
    pieces: VecDeque<BytesMut>,
    /// Memory of all of them.
    bytes: usize,
    /// No more will come.
    ended: bool,
    /// The client has said so, and was not only gone.
    is_said: bool,
    /// Nobody will take them.
    unread: bool,
    /// When something was taken, or had to wait for the first time.
    taken: Option<Instant>,
    /// It was cut for that.
    is_stuck: bool,
}

/// The connection's side.
#[derive(Debug)]
pub(super) struct Inlet {
    waiting: Arc<Waiting>,
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
pub(super) struct Pieces(Arc<Waiting>);

/// What steers a program.
#[derive(Debug)]
pub(super) struct Steering {
    waiting: Arc<Waiting>,
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

/// Both sides of an empty one, of a connection where so much waits.
pub(super) fn inbox(total: &Total) -> (Inlet, Outlet) {
    let waiting = Waiting { pieces: Mutex::default(), changed: Notify::new(), total: Arc::clone(total) };
    let waiting = Arc::new(waiting);
    let (signals, signalled) = mpsc::channel(SIGNALS);
    let (size, sized) = watch::channel(None);
    let input = Pieces(Arc::clone(&waiting));
    let steering = Steering { waiting: Arc::clone(&waiting), signals: signalled, size: sized };
    (Inlet { waiting, signals, size }, Outlet { input, steering })
}

impl Waiting {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees what nobody takes.
    fn clear(&self, pending: &mut Pending) {
        self.total.fetch_sub(pending.bytes, Ordering::Relaxed);
        pending.bytes = 0;
        pending.pieces = VecDeque::new();
    }
}

impl Inlet {
    /// Puts bytes in. What comes when the program has gone is lost.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<(), NoRoom> {
        let mut pending = self.waiting.pending();
        if pending.unread || pending.ended {
            return Ok(());
        }
        if let Some(last) =
            pending.pieces.back_mut().filter(|last| last.capacity() - last.len() >= bytes.len())
        {
            last.extend_from_slice(bytes);
        } else {
            let mut piece = BytesMut::with_capacity(bytes.len().max(PIECE_BYTES));
            piece.extend_from_slice(bytes);
            let memory = piece.capacity();
            if pending.bytes + memory > ROOM_BYTES {
                return Err(NoRoom);
            }
            if pending.pieces.is_empty() {
                pending.taken = Some(Instant::now());
            }
            pending.bytes += memory;
            self.waiting.total.fetch_add(memory, Ordering::Relaxed);
            pending.pieces.push_back(piece);
        }
        drop(pending);
        self.waiting.changed.notify_one();
        Ok(())
    }

    /// Whether its program keeps up.
    pub(super) fn crowd(&self) -> Crowd {
        match self.waiting.pending().bytes {
            NEARLY_FULL_BYTES.. => Crowd::Full,
            CROWDED_BYTES.. => Crowd::Some,
            _ if self.waiting.total.load(Ordering::Relaxed) > CONNECTION_BYTES => Crowd::Some,
            _ => Crowd::None,
        }
    }

    /// Whether it crowds its connection, and nothing of it is taken any more.
    pub(super) fn is_stuck(&self) -> bool {
        let since = {
            let pending = self.waiting.pending();
            pending.taken.filter(|_| pending.bytes > 0)
        };
        since.is_some_and(|since| since.elapsed() >= STUCK) && self.crowd() != Crowd::None
    }

    /// Ends it there, and what waits is lost.
    pub(super) fn cut(self) {
        let mut pending = self.waiting.pending();
        pending.is_stuck = true;
        self.waiting.clear(&mut pending);
        // With the drop comes the end.
    }

    /// There is no more.
    pub(super) fn end(&self) {
        self.waiting.pending().is_said = true;
        self.stop();
    }

    fn stop(&self) {
        self.waiting.pending().ended = true;
        self.waiting.changed.notify_one();
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

impl Drop for Inlet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Pieces {
    /// The next bytes; `None` at their end, or when the connection has gone. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            {
                let mut pending = self.0.pending();
                if let Some(piece) = pending.pieces.pop_front() {
                    pending.bytes -= piece.capacity();
                    pending.taken = Some(Instant::now());
                    self.0.total.fetch_sub(piece.capacity(), Ordering::Relaxed);
                    return Some(piece.freeze());
                }
                if pending.ended {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// Whether the client has said that there is no more, once there is no more.
    pub(super) fn is_whole(&self) -> bool {
        self.0.pending().is_said
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let mut pending = self.0.pending();
        pending.unread = true;
        self.0.clear(&mut pending);
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

    /// Whether it was cut because nothing was read.
    pub(super) fn was_cut(&self) -> bool {
        self.waiting.pending().is_stuck
    }

    /// Waits until nobody is there any more. Cancel safe.
    pub(super) async fn hangup(&mut self) {
        while self.next().await != Steer::Hangup {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(columns: u16) -> Size {
        Size { columns, rows: 24, width: 0, height: 0 }
    }

    /// Fails when pieces of one byte cost much more than one byte, more is taken than there is room for, or room is not
    /// given back.
    #[tokio::test]
    async fn what_waits_is_bounded() {
        for length in [1_usize, 32 << 10] {
            let total = Total::default();
            let (inlet, mut outlet) = inbox(&total);
            let piece = vec![0; length];
            let mut bytes = 0;
            while inlet.bytes(&piece).is_ok() {
                bytes += length;
                assert!(bytes <= ROOM_BYTES && total.load(Ordering::Relaxed) <= ROOM_BYTES);
            }
            assert_eq!((bytes, inlet.crowd()), (ROOM_BYTES, Crowd::Full));
            assert!(outlet.input.next().await.is_some());
            inlet.bytes(&piece).expect("room");
            drop(outlet);
            assert_eq!(total.load(Ordering::Relaxed), 0);
            inlet.bytes(&piece).expect("nobody takes it");
            assert_eq!(total.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn a_channel_is_crowded_until_its_program_has_read() {
        let (inlet, mut outlet) = inbox(&Total::default());
        let mut pieces = 0;
        while inlet.crowd() == Crowd::None {
            inlet.bytes(&vec![0; 1 << 20]).expect("room");
            pieces += 1;
        }
        assert_eq!((pieces, inlet.crowd()), (11, Crowd::Some));
        assert!(outlet.input.next().await.is_some());
        assert_eq!(inlet.crowd(), Crowd::None);
    }

    /// Fails when a connection may fill all its channels.
    #[tokio::test]
    async fn all_channels_together_are_crowded_early() {
        let total = Total::default();
        let all: Vec<_> = (0..9).map(|_| inbox(&total)).collect();
        for (inlet, _) in &all {
            inlet.bytes(&vec![0; 8 << 20]).expect("room");
        }
        assert!(all.iter().all(|(inlet, _)| inlet.crowd() == Crowd::Some));
    }

    /// Fails when a forward that nobody reads of crowds a connection for long, or one that is read of is cut.
    #[tokio::test]
    async fn what_is_stuck_is_cut() {
        let total = Total::default();
        let (inlet, mut outlet) = inbox(&total);
        while inlet.crowd() == Crowd::None {
            inlet.bytes(&vec![0; 1 << 20]).expect("room");
        }
        let back = |inlet: &Inlet| inlet.waiting.pending().taken = Instant::now().checked_sub(STUCK);
        assert!(!inlet.is_stuck(), "not yet");
        back(&inlet);
        assert!(inlet.is_stuck());
        assert!(outlet.input.next().await.is_some());
        inlet.bytes(&vec![0; 1 << 20]).expect("room");
        assert!(inlet.crowd() != Crowd::None && !inlet.is_stuck(), "it goes on");
        back(&inlet);
        inlet.cut();
        assert_eq!((outlet.input.next().await, outlet.input.is_whole()), (None, false));
        assert!(outlet.steering.was_cut() && total.load(Ordering::Relaxed) == 0);
        assert_eq!(outlet.steering.next().await, Steer::Hangup);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_program_that_has_gone() {
        let (inlet, outlet) = inbox(&Total::default());
        drop(outlet);
        inlet.bytes(b"x").expect("it is lost");
        inlet.end();
        inlet.signal(15);
        inlet.resize(size(1));
    }

    #[tokio::test]
    async fn of_many_sizes_the_last_counts_and_the_end_is_a_hangup() {
        let (inlet, mut outlet) = inbox(&Total::default());
        for width in 1..1000 {
            inlet.resize(size(width));
        }
        (0..100).for_each(|_| inlet.signal(2));
        let mut signals = 0;
        let last = loop {
            match outlet.steering.next().await {
                Steer::Signal(number) => signals += number / 2,
                other => break other,
            }
        };
        assert_eq!((signals, last), (32, Steer::Resize(size(999))));
        inlet.bytes(b"last").expect("room");
        assert!(!outlet.input.is_whole());
        drop(inlet);
        assert_eq!(outlet.steering.next().await, Steer::Hangup);
        assert_eq!(outlet.input.next().await.as_deref(), Some(&b"last"[..]));
        assert_eq!(outlet.input.next().await, None);
        assert!(!outlet.input.is_whole(), "it was not said");
        let (inlet, mut outlet) = inbox(&Total::default());
        inlet.end();
        drop(inlet);
        assert_eq!((outlet.input.next().await, outlet.input.is_whole()), (None, true));
    }
}
