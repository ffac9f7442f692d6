//! A relay made of the state machine and two bounded buffers, between two ends that send, shut, stop
//! reading, answer after the end and reset in any order, against what a direct connection would do.

use std::collections::VecDeque;

use portway_proto::half_close::{Action, Event, HalfClose};
use portway_proto::{Dir, Side};
use proptest::prelude::*;

const BUFFER_BYTES: usize = 5;

/// How an end's stream of bytes stands at its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    Ended,
    Reset,
}

/// A socket of the relay with the peer behind it.
#[derive(Debug)]
struct End {
    /// Sent by the peer, not yet read by the relay.
    sent: VecDeque<u8>,
    /// The peer has shut its write side.
    shut: bool,
    /// The peer has reset.
    reset: bool,
    /// Arrived at the peer.
    received: Vec<u8>,
    /// What the peer sees after the last byte.
    ending: Ending,
    /// All the peer ever sent.
    log: Vec<u8>,
}

impl End {
    fn new() -> Self {
        Self {
            sent: VecDeque::new(),
            shut: false,
            reset: false,
            received: Vec::new(),
            ending: Ending::Open,
            log: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The peer sends this many bytes.
    Send(Side, u8),
    /// The peer shuts its write side.
    Shut(Side),
    /// The peer resets.
    Reset(Side),
    /// The relay reads up to this many bytes.
    Read(Dir, usize),
    /// The relay writes up to this many bytes.
    Write(Dir, usize),
    /// A failure of the relay's own.
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    let side = || prop_oneof![Just(Side::Downstream), Just(Side::Upstream)];
    let dir = || prop_oneof![Just(Dir::Up), Just(Dir::Down)];
    prop_oneof![
        60 => (side(), 1..9u8).prop_map(|(side, count)| Step::Send(side, count)),
        10 => side().prop_map(Step::Shut),
        2 => side().prop_map(Step::Reset),
        80 => (dir(), 1..9usize).prop_map(|(dir, count)| Step::Read(dir, count)),
        80 => (dir(), 1..9usize).prop_map(|(dir, count)| Step::Write(dir, count)),
        1 => Just(Step::Fail),
    ]
}

struct Relay {
    machine: HalfClose,
    downstream: End,
    upstream: End,
    up: VecDeque<u8>,
    down: VecDeque<u8>,
    closed_by: Option<Action>,
    next_byte: u8,
}

impl Relay {
    fn new() -> Self {
        Self {
            machine: HalfClose::new(),
            downstream: End::new(),
            upstream: End::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            closed_by: None,
            next_byte: 0,
        }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Downstream => &mut self.downstream,
            Side::Upstream => &mut self.upstream,
        }
    }

    fn buffer(&mut self, dir: Dir) -> &mut VecDeque<u8> {
        match dir {
            Dir::Up => &mut self.up,
            Dir::Down => &mut self.down,
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Send(side, count) => {
                for _ in 0..count {
                    self.next_byte = self.next_byte.wrapping_add(1);
                    let byte = self.next_byte;
                    let end = self.end(side);
                    if !end.shut && !end.reset {
                        end.sent.push_back(byte);
                        end.log.push(byte);
                    }
                }
                Ok(())
            }
            Step::Shut(side) => {
                self.end(side).shut = true;
                Ok(())
            }
            Step::Reset(side) => {
                self.end(side).reset = true;
                Ok(())
            }
            Step::Read(dir, count) => self.read(dir, count),
            Step::Write(dir, count) => self.write(dir, count),
            Step::Fail => self.report(Event::Failed),
        }
    }

    fn read(&mut self, dir: Dir, count: usize) -> Result<(), TestCaseError> {
        if !self.machine.reads(dir) {
            return Ok(());
        }
        if self.end(dir.from()).reset {
            return self.report(Event::Reset(dir.from()));
        }
        let room = BUFFER_BYTES - self.buffer(dir).len();
        if room == 0 {
            return Ok(());
        }
        let mut ended = false;
        for _ in 0..count.min(room) {
            let Some(byte) = self.end(dir.from()).sent.pop_front() else {
                ended = self.end(dir.from()).shut;
                break;
            };
            self.buffer(dir).push_back(byte);
        }
        if ended {
            self.report(Event::Eof(dir))?;
        }
        self.report_drained(dir)
    }

    fn write(&mut self, dir: Dir, count: usize) -> Result<(), TestCaseError> {
        if !self.machine.writes(dir) || self.buffer(dir).is_empty() {
            return Ok(());
        }
        if self.end(dir.to()).reset {
            return self.report(Event::Reset(dir.to()));
        }
        for _ in 0..count {
            let Some(byte) = self.buffer(dir).pop_front() else { break };
            prop_assert_eq!(self.end(dir.to()).ending, Ending::Open, "a byte after the end");
            self.end(dir.to()).received.push(byte);
        }
        self.report_drained(dir)
    }

    fn report_drained(&mut self, dir: Dir) -> Result<(), TestCaseError> {
        if self.buffer(dir).is_empty() { self.report(Event::Drained(dir)) } else { Ok(()) }
    }

    fn report(&mut self, event: Event) -> Result<(), TestCaseError> {
        let was_closed = self.machine.is_closed();
        let action = self.machine.on(event);
        prop_assert!(!was_closed || action == Action::Nothing);
        let finish = |relay: &mut Self, downstream, upstream| {
            for (side, ending) in [(Side::Downstream, downstream), (Side::Upstream, upstream)] {
                let end = relay.end(side);
                if end.ending == Ending::Open || ending == Ending::Reset {
                    end.ending = ending;
                }
            }
            relay.closed_by = Some(action);
        };
        match action {
            Action::Nothing => {}
            Action::ShutdownWrite(side) => {
                prop_assert_eq!(self.end(side).ending, Ending::Open, "shut twice");
                self.end(side).ending = Ending::Ended;
            }
            Action::CloseBoth => finish(self, Ending::Ended, Ending::Ended),
            Action::ResetOther(Side::Downstream) => finish(self, Ending::Reset, Ending::Ended),
            Action::ResetOther(Side::Upstream) => finish(self, Ending::Ended, Ending::Reset),
            Action::ResetBoth => finish(self, Ending::Reset, Ending::Reset),
        }
        prop_assert_eq!(self.machine.is_closed(), self.closed_by.is_some());
        Ok(())
    }

    /// What a direct connection guarantees at every moment.
    fn check(&self) -> Result<(), TestCaseError> {
        for (from, to) in [(&self.downstream, &self.upstream), (&self.upstream, &self.downstream)] {
            prop_assert!(from.log.starts_with(&to.received), "bytes changed");
            let whole = from.log == to.received;
            match to.ending {
                // An end that is no reset comes after every byte of a peer that shut its side, unless this
                // very side has reset and sees nothing any more.
                Ending::Ended if !to.reset => prop_assert!(from.shut && whole, "a false end"),
                Ending::Reset => {
                    let ours = self.closed_by == Some(Action::ResetBoth);
                    prop_assert!(from.reset || ours, "a false reset");
                }
                Ending::Ended | Ending::Open => {}
            }
        }
        Ok(())
    }

    /// Lets everything run until nothing moves.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..1000 {
            for dir in Dir::ALL {
                self.read(dir, 8)?;
                self.write(dir, 8)?;
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_relay_is_like_a_direct_connection(steps in prop::collection::vec(step(), 1..200)) {
        let mut relay = Relay::new();
        for &step in &steps {
            relay.step(step)?;
            relay.check()?;
        }
        relay.settle()?;
        relay.check()?;
        let (a, b) = (&relay.downstream, &relay.upstream);
        if relay.closed_by.is_none() {
            // Nothing is held back: each direction is whole, and ended exactly when its source has.
            for (from, to) in [(a, b), (b, a)] {
                prop_assert_eq!(&from.log, &to.received);
                prop_assert_eq!(to.ending == Ending::Ended, from.shut);
            }
            prop_assert!(!(a.shut && b.shut));
        }
        if relay.closed_by == Some(Action::CloseBoth) {
            prop_assert_eq!((&a.log, &b.log), (&b.received, &a.received));
        }
    }

    #[test]
    fn without_resets_every_byte_arrives(steps in prop::collection::vec(step(), 1..300)) {
        let mut relay = Relay::new();
        for &step in steps.iter().filter(|step| !matches!(step, Step::Reset(_) | Step::Fail)) {
            relay.step(step)?;
        }
        relay.step(Step::Shut(Side::Downstream))?;
        relay.settle()?;
        prop_assert_eq!(&relay.upstream.received, &relay.downstream.log);
        prop_assert_eq!(relay.upstream.ending, Ending::Ended);
        // The answer after the end still gets through.
        if !relay.upstream.shut {
            relay.step(Step::Send(Side::Upstream, 8))?;
            relay.step(Step::Shut(Side::Upstream))?;
            relay.settle()?;
        }
        prop_assert_eq!(&relay.downstream.received, &relay.upstream.log);
        prop_assert_eq!(relay.closed_by, Some(Action::CloseBoth));
    }
}
