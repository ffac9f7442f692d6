//! Every state with every event.

use super::*;
use Action::{CloseBoth, Nothing, ResetBoth, ResetOther, ShutdownWrite};
use Leg::{Done, Draining, Flowing};
use Side::{Downstream, Upstream};

const EVENTS: [Event; 7] = [
    Event::Eof(Dir::Up),
    Event::Eof(Dir::Down),
    Event::Drained(Dir::Up),
    Event::Drained(Dir::Down),
    Event::Reset(Downstream),
    Event::Reset(Upstream),
    Event::Failed,
];

const fn open(up: Leg, down: Leg) -> State {
    State::Open { up, down }
}

const CLOSED: State = State::Closed;
const RESET_UP: (Action, State) = (ResetOther(Upstream), CLOSED);
const RESET_DOWN: (Action, State) = (ResetOther(Downstream), CLOSED);
const FAILED: (Action, State) = (ResetBoth, CLOSED);

const fn stays(up: Leg, down: Leg) -> (Action, State) {
    (Nothing, open(up, down))
}

/// One row per state, one column per event of [`EVENTS`].
fn table() -> Vec<(State, [(Action, State); 7])> {
    let row = |up, down, eof_up, eof_down, drained_up, drained_down| {
        (open(up, down), [eof_up, eof_down, drained_up, drained_down, RESET_UP, RESET_DOWN, FAILED])
    };
    let shut_up = |down| (ShutdownWrite(Upstream), open(Done, down));
    let shut_down = |up| (ShutdownWrite(Downstream), open(up, Done));
    let close = (CloseBoth, CLOSED);
    let (f, d, x) = (Flowing, Draining, Done);
    vec![
        row(f, f, stays(d, f), stays(f, d), stays(f, f), stays(f, f)),
        row(f, d, stays(d, d), stays(f, d), stays(f, d), shut_down(f)),
        row(f, x, stays(d, x), stays(f, x), stays(f, x), stays(f, x)),
        row(d, f, stays(d, f), stays(d, d), shut_up(f), stays(d, f)),
        row(d, d, stays(d, d), stays(d, d), shut_up(d), shut_down(d)),
        row(d, x, stays(d, x), stays(d, x), close, stays(d, x)),
        row(x, f, stays(x, f), stays(x, d), stays(x, f), stays(x, f)),
        row(x, d, stays(x, d), stays(x, d), stays(x, d), close),
        (CLOSED, [(Nothing, CLOSED); 7]),
    ]
}

#[test]
fn every_state_with_every_event() {
    for (state, row) in table() {
        for (event, (action, next)) in EVENTS.into_iter().zip(row) {
            let mut machine = HalfClose(state);
            assert_eq!((machine.on(event), machine.0), (action, next), "{state:?} on {event:?}");
        }
    }
}

#[test]
fn the_table_has_every_reachable_state() {
    let mut seen = vec![HalfClose::new().0];
    let mut next = 0;
    while let Some(&state) = seen.get(next) {
        next += 1;
        for event in EVENTS {
            let mut machine = HalfClose(state);
            let _ = machine.on(event);
            if !seen.contains(&machine.0) {
                seen.push(machine.0);
            }
        }
    }
    let mut states: Vec<State> = table().into_iter().map(|(state, _)| state).collect();
    let order = |state: &State| format!("{state:?}");
    states.sort_by_key(order);
    seen.sort_by_key(order);
    assert_eq!(seen, states);
}

#[test]
fn sides_of_directions() {
    assert_eq!((Dir::Up.from(), Dir::Up.to()), (Downstream, Upstream));
    assert_eq!((Dir::Down.from(), Dir::Down.to()), (Upstream, Downstream));
    for dir in Dir::ALL {
        assert_eq!(dir.from(), dir.other().to());
        assert_eq!(dir.from().other(), dir.to());
    }
}

#[test]
fn what_may_be_read_and_written_follows_the_leg() {
    for (leg, reads, writes) in [(Flowing, true, true), (Draining, false, true), (Done, false, false)] {
        let machine = HalfClose(open(leg, Flowing));
        assert_eq!(
            (machine.leg(Dir::Up), machine.reads(Dir::Up), machine.writes(Dir::Up)),
            (leg, reads, writes)
        );
        assert!(machine.reads(Dir::Down) && !machine.is_closed());
        let machine = HalfClose(open(Flowing, leg));
        assert_eq!((machine.reads(Dir::Down), machine.writes(Dir::Down)), (reads, writes));
    }
    let closed = HalfClose(CLOSED);
    assert!(closed.is_closed());
    assert!(Dir::ALL.into_iter().all(|dir| !closed.reads(dir) && !closed.writes(dir)));
}
