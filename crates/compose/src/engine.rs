//! Carries a plan out: as much at a time as it allows, nothing before what it needs.
//!
//! A step that fails takes with it those that need it and no others, unless it is the server that cannot be reached: then
//! nothing more is begun. Whoever halts it gets no new step begun and those
//! under way awaited: nothing is left running behind the caller's back.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use crate::plan::{Action, Plan};

/// How a step is getting on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note<'n> {
    /// It has begun.
    Begun,
    /// It has succeeded.
    Done,
    /// It has failed, and this is why.
    Failed(&'n str),
    /// The server went away in the middle of it.
    Lost,
    /// It is not begun, because something it needs has failed.
    Skipped,
}

/// Why a step has not succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// For a reason of its own.
    Own(String),
    /// The server cannot be reached: no other step could be done.
    Server(String),
}

/// How a plan has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps that have failed, and why.
    pub failed: Vec<(usize, String)>,
    /// The first step in which the server went away, and how; nothing was begun from there on.
    pub lost: Option<(usize, String)>,
    /// Steps that were not begun: what they need has failed, or they came after the halt.
    pub skipped: Vec<usize>,
    /// Whether it was halted before its end.
    pub halted: bool,
}

impl Report {
    /// Whether all of it was done.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.lost.is_none() && self.skipped.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Begun,
    Done,
    Lost,
}

/// Carries `plan` out, `workers` steps at a time; steps that only wait are not counted.
///
/// `halt` turns true when nothing more is to be begun; a step that only waits should look at it too.
pub async fn run<'p>(
    plan: &'p Plan,
    workers: usize,
    mut halt: watch::Receiver<bool>,
    perform: impl AsyncFn(&'p Action) -> Result<(), Failure>,
    tell: impl Fn(usize, Note<'_>),
) -> Report {
    let mut states = vec![State::Waiting; plan.steps.len()];
    let mut waiting: BTreeSet<usize> = (0..plan.steps.len()).collect();
    let mut report = Report::default();
    let mut busy = 0;
    let mut under_way = FuturesUnordered::new();
    let perform = &perform;
    loop {
        report.halted |= *halt.borrow() && !waiting.is_empty();
        if !report.halted && report.lost.is_none() {
            lose(plan, &mut states, &mut waiting, &mut report, &tell);
            let ready: Vec<usize> =
                waiting.iter().copied().filter(|step| is_ready(plan, &states, *step)).collect();
            for step in ready {
                let Some(action) = plan.steps.get(step).map(|step| &step.action) else { continue };
                let counts = usize::from(!matches!(action, Action::Await { .. }));
                if busy + counts > workers.max(1) {
                    continue;
                }
                busy += counts;
                waiting.remove(&step);
                set(&mut states, step, State::Begun);
                tell(step, Note::Begun);
                under_way.push(async move { (step, counts, perform(action).await) });
            }
        }
        let ended = tokio::select! {
            ended = under_way.next() => ended,
            Ok(()) = halt.changed() => continue,
        };
        let Some((step, counts, done)) = ended else { break };
        busy -= counts;
        match done {
            Ok(()) => {
                set(&mut states, step, State::Done);
                tell(step, Note::Done);
            }
            Err(Failure::Own(why)) => {
                set(&mut states, step, State::Lost);
                tell(step, Note::Failed(&why));
                report.failed.push((step, why));
            }
            Err(Failure::Server(why)) => {
                set(&mut states, step, State::Lost);
                tell(step, Note::Lost);
                report.lost.get_or_insert((step, why));
            }
        }
    }
    report.skipped.extend(waiting);
    report.skipped.sort_unstable();
    report
}

fn set(states: &mut [State], step: usize, state: State) {
    if let Some(one) = states.get_mut(step) {
        *one = state;
    }
}

fn is_ready(plan: &Plan, states: &[State], step: usize) -> bool {
    let Some(step) = plan.steps.get(step) else { return false };
    let state = |step: &usize| states.get(*step).copied().unwrap_or(State::Done);
    let done = step.needs.iter().all(|need| state(need) == State::Done);
    done && step.after.iter().all(|before| matches!(state(before), State::Done | State::Lost))
}

/// Gives up the steps that need one that has failed. Each needs only earlier ones, so one pass finds them all.
fn lose(
    plan: &Plan,
    states: &mut [State],
    waiting: &mut BTreeSet<usize>,
    report: &mut Report,
    tell: &impl Fn(usize, Note<'_>),
) {
    let all: Vec<usize> = waiting.iter().copied().collect();
    for at in all {
        let Some(step) = plan.steps.get(at) else { continue };
        if step.needs.iter().any(|need| states.get(*need) == Some(&State::Lost)) {
            set(states, at, State::Lost);
            waiting.remove(&at);
            report.skipped.push(at);
            tell(at, Note::Skipped);
        }
    }
}

#[cfg(test)]
mod tests;
