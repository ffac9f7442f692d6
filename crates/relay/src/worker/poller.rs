//! epoll(7) and the tokens of its events.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::slab::Key;

/// Events taken at once: bounds how long a turn of the loop lasts (each may move 256 KiB each way).
const EVENT_COUNT: usize = 64;

/// What an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// The daemon's channel.
    Control,
    /// The listener a later daemon connects to.
    Adoption,
    /// A channel that has not said hello.
    Newcomer(Key),
    /// Death of the instance's init.
    Init,
    /// Streams come back from the second thread.
    Haul,
    /// A listener, of streams or datagrams.
    Listener(Key),
    /// The client's socket of a stream.
    Downstream(Key),
    /// The target's socket of a stream.
    Upstream(Key),
    /// The target's socket of a UDP flow.
    Flow(Key),
}

/// 4 bits of kind, 28 of generation, 32 of index.
const KIND_SHIFT: u32 = 60;

impl Token {
    fn pack(self) -> u64 {
        let none = Key::from_parts(0, 0);
        let (kind, key) = match self {
            Token::Control => (0_u64, none),
            Token::Adoption => (1, none),
            Token::Init => (2, none),
            Token::Newcomer(key) => (3, key),
            Token::Listener(key) => (4, key),
            Token::Downstream(key) => (5, key),
            Token::Upstream(key) => (6, key),
            Token::Flow(key) => (7, key),
            Token::Haul => (8, none),
        };
        kind << KIND_SHIFT | u64::from(key.generation()) << 32 | u64::from(key.index())
    }

    fn unpack(token: u64) -> Option<Token> {
        let [i0, i1, i2, i3, g0, g1, g2, g3] = token.to_le_bytes();
        let key = Key::from_parts(u32::from_le_bytes([i0, i1, i2, i3]), u32::from_le_bytes([g0, g1, g2, g3]));
        Some(match token >> KIND_SHIFT {
            0 => Token::Control,
            1 => Token::Adoption,
            2 => Token::Init,
            3 => Token::Newcomer(key),
            4 => Token::Listener(key),
            5 => Token::Downstream(key),
            6 => Token::Upstream(key),
            7 => Token::Flow(key),
            8 => Token::Haul,
            _ => return None,
        })
    }
}

/// How a descriptor is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// Both directions of a stream, each change once. Registered once for the life of the stream.
    Stream,
    /// Readable, as long as it is.
    Level,
    /// Readable or writable, as long as it is.
    LevelBoth,
    /// Readable, as long as it is; of several processes that watch it one is woken.
    Shared,
    /// Readable, each change once.
    Edge,
}

impl Watch {
    fn flags(self) -> EventFlags {
        match self {
            Watch::Stream => {
                EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET
            }
            Watch::Level => EventFlags::IN,
            Watch::LevelBoth => EventFlags::IN | EventFlags::OUT,
            Watch::Shared => EventFlags::IN | EventFlags::EXCLUSIVE,
            Watch::Edge => EventFlags::IN | EventFlags::ET,
        }
    }
}

/// The event queue.
pub(super) struct Poller {
    epoll: OwnedFd,
    /// Of the last wait: token and flags.
    events: Vec<(u64, EventFlags)>,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Poller { epoll, events: Vec::with_capacity(EVENT_COUNT) })
    }

    /// The same queue for another thread, to wait at while this one adds to it.
    pub(super) fn twin(&self) -> io::Result<Poller> {
        Ok(Poller { epoll: self.epoll.try_clone()?, events: Vec::with_capacity(EVENT_COUNT) })
    }

    pub(super) fn add(&self, fd: BorrowedFd<'_>, token: Token, watch: Watch) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), watch.flags())?)
    }

    pub(super) fn modify(&self, fd: BorrowedFd<'_>, token: Token, watch: Watch) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token.pack()), watch.flags())?)
    }

    /// Stops watching `fd`. Needed before closing a descriptor that others hold duplicates of: the
    /// queue watches what is open, not the number. That it was not watched is no error.
    pub(super) fn delete(&self, fd: BorrowedFd<'_>) {
        match epoll::delete(&self.epoll, fd) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => tracing::debug!(%error, "descriptor was not watched"),
        }
    }

    /// Waits at most `timeout` (`None`: for ever; rounded up to milliseconds) and stores what happened.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs().min(86_400)).unwrap_or(0),
            tv_nsec: time.subsec_nanos().into(),
        });
        let mut room = [MaybeUninit::<Event>::uninit(); EVENT_COUNT];
        match epoll::wait(&self.epoll, &mut room, timeout.as_ref()) {
            Ok((events, _)) => {
                self.events.extend(events.iter().map(|event| (event.data.u64(), event.flags)));
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Number of events of the last wait.
    pub(super) fn event_count(&self) -> usize {
        self.events.len()
    }

    /// Event `at` of the last wait.
    pub(super) fn event(&self, at: usize) -> Option<(Token, EventFlags)> {
        let (token, flags) = *self.events.get(at)?;
        Some((Token::unpack(token)?, flags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        let key = Key::from_parts(u32::MAX, (1 << 28) - 1);
        for token in [
            Token::Control,
            Token::Adoption,
            Token::Init,
            Token::Haul,
            Token::Newcomer(key),
            Token::Listener(Key::from_parts(7, 9)),
            Token::Downstream(key),
            Token::Upstream(key),
            Token::Flow(Key::from_parts(0, 1)),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
