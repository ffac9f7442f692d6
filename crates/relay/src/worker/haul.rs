//! A second thread, for streams that carry much beside others that carry little.
//!
//! A thread that moves bytes in bulk has used up its share of a processor whenever somebody else wants it, so the
//! scheduler makes it wait, and every small message on it waits along. Where there are both, the streams that carry
//! much therefore move to a thread of their own, which lets others go first: the one that is left sleeps most of the
//! time, and what sleeps is woken at once. Where nothing small is beside them they stay, which costs less.
//!
//! A stream that is lent keeps its place and its descriptors in the engine; the thread has duplicates of them, and
//! what is on its way. It comes back when it is over, when a socket reports a failure, when it has carried little for
//! a while, or when the engine wants it. The thread only moves bytes: it dials nobody, ends no connection and sets no
//! timer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portway_proto::Side;
use portway_sys::sched;
use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};

use super::core::Core;
use super::engine::Engine;
use super::poller::{Poller, Token, Watch};
use super::slab::{Key, Slab};
use super::stream::{End, Progress, Pumped, Stream};
use crate::wire::Slot;

/// Streams that are lent at most: each has two more descriptors meanwhile.
const LOAD_COUNT: usize = 64;

/// Streams with more to do that get their turn between two looks at the event queue.
const READY_COUNT: usize = 16;

/// The thread uses little of it; the default is 2 MiB.
const STACK_BYTES: usize = 128 * 1024;

/// The engine's end.
pub(super) struct Haul {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What both threads hold.
struct Shared {
    yard: Mutex<Yard>,
    /// Those that come back.
    back: Mutex<Vec<Back>>,
    /// How many wait for the yard: the thread lets them go first.
    waiting: AtomicUsize,
    /// Descriptors of the yard.
    fd_count: AtomicUsize,
    /// Tells the thread to end.
    stop: OwnedFd,
    /// Tells the engine that somebody comes back.
    bell: OwnedFd,
}

/// What is lent.
struct Yard {
    core: Core,
    loads: Slab<Load>,
    /// The thread has ended.
    is_closed: bool,
}

struct Load {
    /// Its place in the engine.
    home: Key,
    stream: Stream,
    /// What it had carried at the last look.
    seen: u64,
}

/// Why a stream comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Ends(End),
    /// A socket has failed, or something is short: the engine knows what that means.
    Failed,
    /// It carries little.
    Calm,
}

struct Back {
    home: Key,
    stream: Stream,
    cause: Cause,
}

impl Haul {
    /// Starts the thread, which shares the counters of `core` and lets others go first.
    ///
    /// # Errors
    /// Descriptors, memory or threads are short.
    pub(super) fn start(core: &Core, fd_limit: usize) -> io::Result<Haul> {
        let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let core = core.beside(fd_limit)?;
        let (stop, bell, poller) = (bell()?, bell()?, core.poller.twin()?);
        poller.add(stop.as_fd(), Token::Control, Watch::Level)?;
        let shared = Arc::new(Shared {
            yard: Mutex::new(Yard { core, loads: Slab::new(), is_closed: false }),
            back: Mutex::new(Vec::new()),
            waiting: AtomicUsize::new(0),
            fd_count: AtomicUsize::new(0),
            stop,
            bell,
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("portway-haul".to_owned()).stack_size(STACK_BYTES);
        // A thread begins as the one that starts it.
        note(sched::in_batches());
        let (runs, running) = sync_channel(1);
        let thread = thread.spawn(move || {
            // The other end waits.
            let _ = runs.send(());
            let failing = Failing(&theirs);
            theirs.run(poller);
            drop(failing);
        });
        note(sched::promptly());
        let thread = Some(thread?);
        // What the library does at the start of a thread is not among the system calls of a worker.
        running.recv().map_err(io::Error::other)?;
        Ok(Haul { shared, thread })
    }

    /// Upper bound of the descriptors it has open beside those of a process without it.
    pub(super) fn open_fds(&self) -> usize {
        self.shared.fd_count.load(Ordering::Relaxed)
    }

    /// How far streams have come that are lent: those at home at these keys, which are here at these.
    pub(super) fn progress(&self, lent: &[(Key, Key)]) -> Vec<Option<Progress>> {
        self.shared.ask(|yard| {
            let back = lock(&self.shared.back);
            let look = |(home, load): &(Key, Key)| match yard.loads.get(*load) {
                Some(load) => Some(load.stream.progress()),
                None => back.iter().find(|back| back.home == *home).map(|back| back.stream.progress()),
            };
            lent.iter().map(look).collect()
        })
    }

    /// A device has got a slot; whoever counted in its line does no longer.
    pub(super) fn assign(&self, device: Key, slot: Slot) {
        self.shared.ask(|yard| yard.core.counters.point(device, slot));
    }
}

/// Has the engine carry on with everything when the thread fails.
struct Failing<'a>(&'a Shared);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the thread of heavy streams has failed, they go on without it");
            self.0.close();
        }
    }
}

impl Drop for Haul {
    fn drop(&mut self) {
        ring(&self.shared.stop);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread of heavy streams has failed");
        }
    }
}

/// Makes the other end's queue report `bell`. It fails only when it has been rung 2^64 times.
fn ring(bell: &OwnedFd) {
    if let Err(error) = rustix::io::write(bell, &1_u64.to_ne_bytes()) {
        tracing::debug!(%error, "not told");
    }
}

/// Without it everything works, and waits longer.
fn note(set: io::Result<()>) {
    if let Err(error) = set {
        tracing::debug!(%error, "scheduler not told");
    }
}

/// A thread that failed has left what it held as whole as any error does.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Runs `ask` on the yard, after at most one turn of the thread.
    fn ask<T>(&self, ask: impl FnOnce(&mut Yard) -> T) -> T {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let mut yard = lock(&self.yard);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        let result = ask(&mut yard);
        self.settle(&yard);
        result
    }

    /// The yard, if nobody is at it.
    fn try_yard(&self) -> Option<MutexGuard<'_, Yard>> {
        match self.yard.try_lock() {
            Ok(yard) => Some(yard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Counts the descriptors of the yard anew.
    fn settle(&self, yard: &Yard) {
        let fd_count = 2 * (yard.loads.len() + yard.core.pipes.count());
        self.fd_count.store(fd_count, Ordering::Relaxed);
    }

    /// The thread.
    fn run(&self, mut poller: Poller) {
        let mut more = false;
        loop {
            if let Err(error) = poller.wait(more.then_some(Duration::ZERO)) {
                tracing::error!(%error, "no second thread any more");
                return self.close();
            }
            let now = Instant::now();
            for at in 0..poller.event_count() {
                match poller.event(at) {
                    Some((Token::Control, _)) => return,
                    Some((Token::Downstream(key), flags)) => {
                        self.turn(now, |yard| yard.on_event(key, Side::Downstream, flags));
                    }
                    Some((Token::Upstream(key), flags)) => {
                        self.turn(now, |yard| yard.on_event(key, Side::Upstream, flags));
                    }
                    Some(_) | None => {}
                }
            }
            for _ in 0..READY_COUNT {
                more = self.turn(now, Yard::go_on);
                if !more {
                    break;
                }
            }
        }
    }

    /// Gives everything back, for good.
    fn close(&self) {
        let mut yard = lock(&self.yard);
        yard.is_closed = true;
        for key in yard.loads.keys() {
            if let Some(Load { home, stream, .. }) = yard.unload(key) {
                lock(&self.back).push(Back { home, stream, cause: Cause::Failed });
            }
        }
        ring(&self.bell);
    }

    /// One turn of the thread; true when there is more to do at once.
    fn turn(&self, now: Instant, turn: impl FnOnce(&mut Yard) -> Option<Back>) -> bool {
        while self.waiting.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        let mut yard = lock(&self.yard);
        yard.core.now = now;
        if let Some(back) = turn(&mut yard) {
            // While the yard is locked: whoever does not find it there finds it here.
            lock(&self.back).push(back);
            ring(&self.bell);
        }
        self.settle(&yard);
        !yard.core.ready.is_empty()
    }
}

impl Yard {
    /// Takes a stream in; gives it back at once where it cannot be watched.
    fn load(&mut self, home: Key, stream: Stream) -> Result<Key, Box<Stream>> {
        stream.come_to(&mut self.core.pipes);
        let key = self.loads.insert(Load { home, stream, seen: 0 });
        let Some(load) = self.loads.get(key) else { return Ok(key) };
        let tokens = [Token::Downstream(key), Token::Upstream(key)];
        let poller = &self.core.poller;
        let watched = load
            .stream
            .sockets()
            .zip(tokens)
            .all(|(socket, token)| poller.add(socket.as_fd(), token, Watch::Stream).is_ok());
        let refused = if watched { None } else { self.unload(key) };
        refused.map_or(Ok(key), |load| Err(Box::new(load.stream)))
    }

    /// Gives a stream out; its duplicates are watched no longer.
    fn unload(&mut self, key: Key) -> Option<Load> {
        let load = self.loads.remove(key)?;
        for socket in load.stream.sockets() {
            self.core.poller.delete(socket.as_fd());
        }
        load.stream.leave(&mut self.core.pipes);
        if self.loads.is_empty() {
            self.core.pipes.trim();
        }
        Some(load)
    }

    fn on_event(&mut self, key: Key, side: Side, flags: EventFlags) -> Option<Back> {
        self.loads.get_mut(key)?.stream.socket_mut(side)?.note(flags);
        self.pump(key, flags.intersects(EventFlags::ERR | EventFlags::HUP))
    }

    /// The turn of the next stream with more to do.
    fn go_on(&mut self) -> Option<Back> {
        let key = self.core.ready.pop_front()?;
        self.loads.get_mut(key)?.stream.queued = false;
        self.pump(key, false)
    }

    fn pump(&mut self, key: Key, failed: bool) -> Option<Back> {
        let stream = &mut self.loads.get_mut(key)?.stream;
        if stream.queued && !failed {
            return None;
        }
        let cause = match stream.pump(&mut self.core) {
            Pumped::Ends(end) => Cause::Ends(end),
            Pumped::Later(_) => Cause::Failed,
            Pumped::Waits | Pumped::More if failed => Cause::Failed,
            Pumped::Waits | Pumped::More if stream.is_light() => Cause::Calm,
            Pumped::More => {
                if !stream.queued {
                    stream.queued = true;
                    self.core.ready.push_back(key);
                }
                return None;
            }
            Pumped::Waits => return None,
        };
        let Load { home, stream, .. } = self.unload(key)?;
        Some(Back { home, stream, cause })
    }

    /// Whether a stream has carried nothing since the last look.
    fn is_idle(&mut self, key: Key) -> bool {
        let Some(load) = self.loads.get_mut(key) else { return false };
        let (up, down) = load.stream.totals();
        std::mem::replace(&mut load.seen, up + down) == up + down
    }
}

impl Engine {
    /// Starts the second thread. Without it all streams stay on this one.
    pub(super) fn start_haul(&mut self) {
        let started = Haul::start(&self.core, self.fd_limit).and_then(|haul| {
            self.core.poller.add(haul.shared.bell.as_fd(), Token::Haul, Watch::Level)?;
            Ok(haul)
        });
        match started {
            Ok(haul) => self.haul = Some(haul),
            Err(error) => tracing::warn!(%error, "no thread for heavy streams"),
        }
    }

    /// Lends a stream that carries much to the second thread, if something small is beside it and there is room. True:
    /// its turn here is over.
    pub(super) fn lend(&mut self, key: Key) -> bool {
        if !self.core.mix.is_mixed() || !self.has_room(2) {
            return false;
        }
        let (Some(stream), Some(haul)) = (self.streams.get_mut(key), &self.haul) else { return false };
        let Some(mut yard) = haul.shared.try_yard() else { return false };
        if !stream.may_be_lent() || yard.is_closed || yard.loads.len() >= LOAD_COUNT {
            return false;
        }
        let lent = match stream.lend() {
            Ok(lent) => lent,
            Err(error) => {
                tracing::debug!(%error, "stream not lent");
                return false;
            }
        };
        for socket in stream.sockets() {
            self.core.poller.delete(socket.as_fd());
        }
        lent.leave(&mut self.core.pipes);
        let loaded = yard.load(key, lent);
        haul.shared.settle(&yard);
        drop(yard);
        match loaded {
            Ok(load) => stream.lent = Some(load),
            Err(lent) => {
                self.restore(key, *lent);
                self.watch_again(key);
            }
        }
        true
    }

    /// Takes a stream back that is lent, so that it can be ended here. It is not watched.
    pub(super) fn fetch(&mut self, key: Key) {
        let Some(load) = self.streams.get(key).and_then(|stream| stream.lent) else { return };
        let Some(haul) = &self.haul else { return };
        let lent = haul.shared.ask(|yard| yard.unload(load)).map(|load| load.stream).or_else(|| {
            let mut back = lock(&haul.shared.back);
            let at = back.iter().position(|back| back.home == key)?;
            Some(back.swap_remove(at).stream)
        });
        if let Some(lent) = lent {
            self.restore(key, lent);
        }
    }

    /// Takes a stream back that has carried nothing since the last look: it would keep others out.
    pub(super) fn fetch_idle(&mut self, key: Key) {
        let Some(at) = self.streams.get(key).and_then(|stream| stream.lent) else { return };
        let Some(haul) = &self.haul else { return };
        // Taken at once: one that ended meanwhile comes back by itself, with the reason.
        let idle = haul.shared.try_yard().and_then(|mut yard| {
            let load = if yard.is_idle(at) { yard.unload(at) } else { None };
            haul.shared.settle(&yard);
            load
        });
        if let Some(load) = idle {
            self.restore(key, load.stream);
            self.watch_again(key);
        }
    }

    /// Streams come back.
    pub(super) fn on_back(&mut self) {
        let Some(haul) = &self.haul else { return };
        if let Err(error) = rustix::io::read(&haul.shared.bell, &mut [0; 8]) {
            tracing::trace!(%error, "nobody rang");
        }
        let back = std::mem::take(&mut *lock(&haul.shared.back));
        for Back { home, stream, cause } in back {
            self.restore(home, stream);
            match cause {
                Cause::Ends(end) => self.ended(home, end),
                Cause::Failed => {
                    if let Some(stream) = self.streams.get_mut(home) {
                        stream.stays = true;
                    }
                    self.watch_again(home);
                }
                Cause::Calm => self.watch_again(home),
            }
        }
    }

    /// Puts what was lent in its place.
    fn restore(&mut self, key: Key, lent: Stream) {
        lent.come_to(&mut self.core.pipes);
        match self.streams.get_mut(key) {
            Some(stream) => stream.take_back(lent),
            None => tracing::error!("a stream came back that nobody has lent"),
        }
    }

    /// Watches the sockets of a stream that is here again; what is true of them already is an event, too.
    fn watch_again(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        let tokens = [Token::Downstream(key), Token::Upstream(key)];
        let poller = &self.core.poller;
        let watched = stream
            .sockets()
            .zip(tokens)
            .try_for_each(|(socket, token)| poller.add(socket.as_fd(), token, Watch::Stream));
        if let Err(error) = watched {
            tracing::debug!(%error, "stream not watched");
            self.close(key, End::Reset);
        }
    }
}
