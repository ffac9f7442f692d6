//! A client's connection, read at the pace of its programs, and ended when the client neither takes what it is sent nor
//! goes.
//!
//! The library's own loop does without time limits of this kind: while it writes it does nothing else, and after a
//! goodbye it reads until the client has closed.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a client may take nothing at all: as long as one that says nothing is asked whether it is there.
const STUCK: Duration = Duration::from_secs(120);

/// How long a client may stay after the goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// Read in one go, bytes, before the programs have their turn: they work on one part while the next one comes, and find it
/// in the processor's cache. Without an end to it a fast client's whole window was read first (measured: 200 MB sent by
/// SFTP took 1.25 times as long as with OpenSSH's server).
const TURN_BYTES: usize = 128 << 10;

/// Waits for a client after which its bytes are acknowledged at once. A login takes fewer; OpenSSH's client sends its first
/// messages by Nagle's rule, each held back until the one before it is acknowledged (measured: 40 ms of 80 of a login).
const PROMPT_WAITS: u8 = 64;

/// Says when the connection is to rest.
#[derive(Debug, Default, Clone)]
pub(super) struct Pace(Arc<Mutex<Option<Duration>>>);

impl Pace {
    /// Nothing is read for this long, from the next time on that something would be.
    pub(super) fn rest(&self, pause: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pause);
    }

    fn take(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    rest: Option<Pin<Box<Sleep>>>,
    stuck: Option<Pin<Box<Sleep>>>,
    goodbye: Option<Pin<Box<Sleep>>>,
    idle: Option<Idle>,
    /// Read since others had their turn, bytes.
    turn: usize,
    /// Acknowledges what has come, so many times more.
    prompt: Option<Prompt<S>>,
}

/// Waits that are left, and what is done before each.
type Prompt<S> = (u8, fn(&S));

/// When nothing has gone either way for long enough.
#[derive(Debug)]
struct Idle {
    limit: Duration,
    /// When something did.
    last: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Idle {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let until = self.last + self.limit;
            if until <= Instant::now() {
                return true;
            }
            self.sleep.as_mut().reset(until);
        }
        false
    }
}

impl<S> Paced<S> {
    pub(super) const fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace, rest: None, stuck: None, goodbye: None, idle: None, turn: 0, prompt: None }
    }

    /// Ends as if the client had closed when nothing has gone either way for this long.
    pub(super) fn idle_after(mut self, limit: Option<Duration>) -> Self {
        self.idle = limit.map(|limit| Idle {
            limit,
            last: Instant::now(),
            sleep: Box::pin(tokio::time::sleep(limit)),
        });
        self
    }

    /// Has `acknowledge` called while the connection is young, each time before the client is waited for.
    pub(super) fn prompt(mut self, acknowledge: fn(&S)) -> Self {
        self.prompt = Some((PROMPT_WAITS, acknowledge));
        self
    }

    fn moved(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.last = Instant::now();
        }
    }

    fn acknowledge(&mut self) {
        if let Some((left, acknowledge)) = &mut self.prompt {
            acknowledge(&self.stream);
            *left -= 1;
            if *left == 0 {
                self.prompt = None;
            }
        }
    }

    /// Not for ever.
    fn limit<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stuck = None;
            return polled;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(STUCK)));
        stuck.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(goodbye) = &mut this.goodbye
            && goodbye.as_mut().poll(cx).is_ready()
        {
            // As if it had closed.
            return Poll::Ready(Ok(()));
        }
        if let Some(idle) = &mut this.idle
            && idle.is_over(cx)
        {
            tracing::info!("a connection was idle for too long");
            return Poll::Ready(Ok(()));
        }
        if this.rest.is_none() {
            this.rest = this.pace.take().map(|pause| Box::pin(tokio::time::sleep(pause)));
        }
        if let Some(rest) = &mut this.rest {
            ready!(rest.as_mut().poll(cx));
            this.rest = None;
        }
        if this.turn >= TURN_BYTES {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if polled.is_ready() {
            this.turn += buf.filled().len() - before;
            this.moved();
        } else {
            this.turn = 0;
            this.acknowledge();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if polled.is_ready() {
            self.moved();
        }
        self.limit(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.limit(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.goodbye.get_or_insert_with(|| Box::pin(tokio::time::sleep(GOODBYE)));
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    /// Fails when a client that takes nothing is waited for without end, or one that takes a little is not.
    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut paced = Paced::new(ours, Pace::default());
        let slow = tokio::spawn(async move {
            let mut byte = [0];
            for _ in 0..10 {
                tokio::time::sleep(STUCK / 2).await;
                theirs.read_exact(&mut byte).await.expect("a byte");
            }
            theirs
        });
        paced.write_all(&[0; 20]).await.expect("it is slow");
        let _theirs = slow.await.expect("no panic");
        let begin = Instant::now();
        assert_eq!(paced.write_all(&[0]).await.expect_err("it is stuck").kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= STUCK);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_after_the_goodbye_has_gone() {
        let (ours, _theirs) = tokio::io::duplex(10);
        let mut paced = Paced::new(ours, Pace::default());
        paced.shutdown().await.expect("it closes");
        let begin = Instant::now();
        assert_eq!(paced.read(&mut [0; 8]).await.expect("an end"), 0);
        assert!(begin.elapsed() >= GOODBYE);
    }

    /// Fails when what has come is not acknowledged before a wait, or is for ever.
    #[tokio::test]
    async fn a_young_connection_is_prompt() {
        thread_local!(static TOLD: Cell<u8> = const { Cell::new(0) });
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut paced = Paced::new(ours, Pace::default()).prompt(|_| TOLD.set(TOLD.get() + 1));
        for wait in 1..=PROMPT_WAITS + 1 {
            let (read, ()) = tokio::join!(paced.read_u8(), async {
                assert_eq!(TOLD.get(), wait.min(PROMPT_WAITS));
                theirs.write_all(b"a").await.expect("room");
            });
            assert_eq!(read.expect("a byte"), b'a');
        }
    }

    /// Fails when a client that sends as fast as it is read keeps everybody else from their turn.
    #[tokio::test]
    async fn others_have_their_turn() {
        let (ours, mut theirs) = tokio::io::duplex(2 * TURN_BYTES);
        theirs.write_all(&vec![0; 2 * TURN_BYTES]).await.expect("room");
        let mut paced = Paced::new(ours, Pace::default());
        let other = tokio::spawn(async {});
        paced.read_exact(&mut vec![0; TURN_BYTES]).await.expect("what was sent");
        assert!(!other.is_finished(), "a turn is not cut short");
        paced.read_exact(&mut [0]).await.expect("what was sent");
        assert!(other.is_finished());
    }

    /// Fails when a connection on which something moves is ended, in either direction, or one that is idle is not.
    #[tokio::test(start_paused = true)]
    async fn who_says_and_hears_nothing_is_ended() {
        const LIMIT: Duration = Duration::from_secs(60);
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut paced = Paced::new(ours, Pace::default()).idle_after(Some(LIMIT));
        for _ in 0..3 {
            let (read, ()) = tokio::join!(paced.read_u8(), async {
                tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
                theirs.write_all(b"a").await.expect("room");
            });
            assert_eq!(read.expect("a byte"), b'a');
            tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
            paced.write_all(b"b").await.expect("room");
        }
        let begin = Instant::now();
        assert_eq!(paced.read(&mut [0; 8]).await.expect("an end"), 0);
        assert_eq!(begin.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_one_rest() {
        let (ours, mut theirs) = tokio::io::duplex(10);
        let pace = Pace::default();
        let mut paced = Paced::new(ours, pace.clone());
        theirs.write_all(b"ab").await.expect("room");
        pace.rest(Duration::from_secs(9));
        let begin = Instant::now();
        assert_eq!(paced.read_u8().await.expect("a byte"), b'a');
        assert_eq!(begin.elapsed(), Duration::from_secs(9));
        assert_eq!(paced.read_u8().await.expect("a byte"), b'b');
        assert_eq!(begin.elapsed(), Duration::from_secs(9));
    }
}
