//! What is begun when, and what a failure takes with it.

use std::cell::{Cell, RefCell};

use super::*;
use crate::plan::Step;

/// A plan of steps called `0`, `1`, … that need these.
fn plan(needs: &[&[usize]]) -> Plan {
    let step = |(at, needs): (usize, &&[usize])| Step {
        action: Action::Remove { instance: at.to_string() },
        needs: needs.to_vec(),
        after: Vec::new(),
    };
    Plan { steps: needs.iter().enumerate().map(step).collect(), notes: Vec::new() }
}

fn rt() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// Carries a plan out; `fails` says which steps do. The order in which they began and ended.
fn carried(plan: &Plan, workers: usize, fails: &[&str]) -> (Report, Vec<String>) {
    let said = RefCell::new(Vec::new());
    let tell = |step: usize, note: Note<'_>| said.borrow_mut().push(format!("{note:?} {step}"));
    let (_halt, halted) = watch::channel(false);
    let report = rt().block_on(run(
        plan,
        workers,
        halted,
        async |action| {
            tokio::task::yield_now().await;
            if fails.contains(&action.name()) { Err(Failure::Own("no".to_owned())) } else { Ok(()) }
        },
        tell,
    ));
    (report, said.into_inner())
}

#[test]
fn nothing_begins_before_what_it_needs() {
    let plan = plan(&[&[], &[0], &[0], &[1, 2]]);
    let (report, said) = carried(&plan, 8, &[]);
    assert!(report.is_whole());
    let at = |text: &str| said.iter().position(|line| line == text).expect("said");
    for (need, step) in [(0, 1), (0, 2), (1, 3), (2, 3)] {
        assert!(at(&format!("Done {need}")) < at(&format!("Begun {step}")), "{said:?}");
    }
    assert!(at("Begun 2") < at("Done 1"), "side by side: {said:?}");
}

#[test]
fn a_failure_takes_with_it_those_that_need_it() {
    let mut plan = plan(&[&[], &[], &[0], &[2], &[1]]);
    plan.steps.push(Step {
        action: Action::Remove { instance: "5".to_owned() },
        needs: vec![],
        after: vec![3],
    });
    let (report, said) = carried(&plan, 2, &["0"]);
    assert_eq!(report.failed, [(0, "no".to_owned())]);
    assert_eq!(report.skipped, [2, 3]);
    for step in ["Done 4", "Done 5", "Skipped 3"] {
        assert!(said.iter().any(|line| line == step), "{said:?}");
    }
    let (report, _) = carried(&plan, 2, &["0", "1", "5"]);
    assert_eq!(report.failed.len(), 3, "all of them are reported");
}

/// Fails when: more is begun for a server that is gone, or what is under way is dropped.
#[test]
fn nothing_is_begun_once_the_server_is_gone() {
    let plan = plan(&[&[], &[], &[1], &[]]);
    let ended = Cell::new(0);
    let (_halt, halted) = watch::channel(false);
    let report = rt().block_on(run(
        &plan,
        2,
        halted,
        async |action| {
            if action.name() == "0" {
                return Err(Failure::Server("gone".to_owned()));
            }
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            ended.set(ended.get() + 1);
            Ok(())
        },
        |_, _| {},
    ));
    assert_eq!((ended.get(), report.lost, report.skipped), (1, Some((0, "gone".to_owned())), vec![2, 3]));
}

/// Fails when a step that only waits takes a place from those that work.
#[test]
fn no_more_than_the_workers_work_at_once() {
    let mut plan = plan(&[&[][..]; 9]);
    for step in plan.steps.iter_mut().take(3) {
        step.action = Action::Await {
            service: "s".to_owned(),
            condition: crate::want::Condition::Started,
            instances: Vec::new(),
            health: None,
        };
    }
    let (now, most, worked, waited) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let (_halt, halted) = watch::channel(false);
    let report = rt().block_on(run(
        &plan,
        2,
        halted,
        async |action| {
            if matches!(action, Action::Await { .. }) {
                // Ends after the last of those that work; were it counted as one, they would come after it.
                for _ in 0..10_000 {
                    if worked.get() == 6 {
                        waited.set(waited.get() + 1);
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                return Ok(());
            }
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::task::yield_now().await;
            now.set(now.get() - 1);
            worked.set(worked.get() + 1);
            Ok(())
        },
        |_, _| {},
    ));
    assert!(report.is_whole());
    assert_eq!((most.get(), waited.get()), (2, 3));
}

/// Fails when a step that is under way is dropped, or another begun.
#[test]
fn a_halt_awaits_what_is_under_way_and_begins_no_more() {
    let plan = plan(&[&[], &[], &[0], &[1]]);
    let (halt, halted) = watch::channel(false);
    let ended = Cell::new(0);
    let report = rt().block_on(run(
        &plan,
        8,
        halted,
        async |_| {
            halt.send_replace(true);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            ended.set(ended.get() + 1);
            Ok(())
        },
        |_, _| {},
    ));
    assert_eq!((ended.get(), report.halted, report.skipped), (2, true, vec![2, 3]));
}
