//! Half-close of one relayed byte stream.
//!
//! Each direction is on its own: it flows, drains once its source has ended, and is done once its last
//! byte has been written and the write side of its destination shut. The connection is closed when both
//! directions are done, or at once by a reset or a failure of ours.
//!
//! ```text
//!            Eof              Drained -> ShutdownWrite(to)
//! Flowing ---------> Draining ---------------------------> Done
//!                             \ other direction Done -> CloseBoth
//! any, Reset(side) -> ResetOther(other side)     any, Failed -> ResetBoth
//! ```
//! The machine moves no bytes: the caller reports what it saw and does what it is told.

use crate::{Dir, Side};

/// Progress of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leg {
    /// The source may send more.
    Flowing,
    /// The source has ended; bytes on their way to the destination are left.
    Draining,
    /// Everything is written and the destination's write side is shut.
    Done,
}

/// What the caller saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The source of this direction has ended (a read gave 0 bytes). [`Event::Drained`] follows, at once
    /// when nothing of the direction is buffered.
    Eof(Dir),
    /// Nothing of this direction is buffered (pipe, spill and queue are empty). Without effect before
    /// [`Event::Eof`], so it may be reported whenever it is true.
    Drained(Dir),
    /// This side is gone: reset, broken pipe, or given up by the kernel (keepalive, user timeout).
    Reset(Side),
    /// The connection cannot go on for a reason of our own.
    Failed,
}

/// What the caller has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Shut the write side of this side; its read side stays open.
    ShutdownWrite(Side),
    /// Close both sides in order. Nothing is left to write; the last destination sees its end of stream by
    /// the close.
    CloseBoth,
    /// Close both sides, this one with a reset where it can carry one: the opposite side is gone.
    ResetOther(Side),
    /// Close both sides with a reset where they can carry one, so that cut bytes never look like an end.
    ResetBoth,
}

/// State of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HalfClose(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// At least one leg is not [`Leg::Done`].
    Open {
        up: Leg,
        down: Leg,
    },
    Closed,
}

impl HalfClose {
    /// Both directions flow.
    #[must_use]
    pub const fn new() -> Self {
        Self(State::Open { up: Leg::Flowing, down: Leg::Flowing })
    }

    /// Takes in `event`. After an action that closes, every further event is without effect.
    pub const fn on(&mut self, event: Event) -> Action {
        let State::Open { up, down } = self.0 else {
            return Action::Nothing;
        };
        match event {
            Event::Eof(Dir::Up) if matches!(up, Leg::Flowing) => {
                self.0 = State::Open { up: Leg::Draining, down };
                Action::Nothing
            }
            Event::Eof(Dir::Down) if matches!(down, Leg::Flowing) => {
                self.0 = State::Open { up, down: Leg::Draining };
                Action::Nothing
            }
            Event::Drained(Dir::Up) if matches!(up, Leg::Draining) => self.finish(Dir::Up, Leg::Done, down),
            Event::Drained(Dir::Down) if matches!(down, Leg::Draining) => {
                self.finish(Dir::Down, up, Leg::Done)
            }
            Event::Eof(_) | Event::Drained(_) => Action::Nothing,
            Event::Reset(side) => {
                self.0 = State::Closed;
                Action::ResetOther(side.other())
            }
            Event::Failed => {
                self.0 = State::Closed;
                Action::ResetBoth
            }
        }
    }

    /// `dir` has just become done.
    const fn finish(&mut self, dir: Dir, up: Leg, down: Leg) -> Action {
        if matches!((up, down), (Leg::Done, Leg::Done)) {
            self.0 = State::Closed;
            Action::CloseBoth
        } else {
            self.0 = State::Open { up, down };
            Action::ShutdownWrite(dir.to())
        }
    }

    /// Progress of `dir`; [`Leg::Done`] once the connection is closed.
    #[must_use]
    pub const fn leg(&self, dir: Dir) -> Leg {
        match (self.0, dir) {
            (State::Open { up, .. }, Dir::Up) => up,
            (State::Open { down, .. }, Dir::Down) => down,
            (State::Closed, Dir::Up | Dir::Down) => Leg::Done,
        }
    }

    /// Whether the source of `dir` is to be read.
    #[must_use]
    pub const fn reads(&self, dir: Dir) -> bool {
        matches!(self.leg(dir), Leg::Flowing)
    }

    /// Whether the destination of `dir` may still be written to.
    #[must_use]
    pub const fn writes(&self, dir: Dir) -> bool {
        matches!(self.leg(dir), Leg::Flowing | Leg::Draining)
    }

    /// Whether the connection has ended.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.0, State::Closed)
    }
}

impl Default for HalfClose {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
