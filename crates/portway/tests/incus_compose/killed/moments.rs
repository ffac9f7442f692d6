//! `up` and `down` killed, or told to end, at any moment: by the requests they make, which a gate before the server counts.

use std::panic::{AssertUnwindSafe, catch_unwind};

use portway_testkit::Deed;

use super::stand::{Counts, Moment, Stand};

/// Moments of a command in a run of all tests. A round takes three to five seconds.
const MOMENTS: usize = 8;

/// One step at a time: so the requests come in one order.
const UP: [&str; 4] = ["up", "-d", "--parallel", "1"];
const DOWN: [&str; 6] = ["down", "-v", "-t", "0", "--parallel", "1"];

/// All moments of a command, or as many of them as a run of all tests has time for.
type Choose = fn(&[String]) -> Vec<Moment>;

fn some(requests: &[String]) -> Vec<Moment> {
    Moment::some(requests, MOMENTS)
}

/// Carries a round out for each moment, and says in the end at which it has failed. `round` says whether the command was
/// killed: one or two may have ended before.
fn rounds(moments: &[Moment], mut round: impl FnMut(usize, &Moment) -> bool) {
    let (mut ended, mut failed) = (Vec::new(), Vec::new());
    for (number, moment) in moments.iter().enumerate() {
        match catch_unwind(AssertUnwindSafe(|| round(number, moment))) {
            Ok(true) => {}
            Ok(false) => ended.push(moment),
            Err(_) => failed.push(moment),
        }
    }
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), moments.len());
    // A request that was made once more while a slow server was busy is one that the next run does not make.
    let most = (moments.len() / 10).max(1);
    assert!(ended.len() <= most, "{} of {} had ended before: {ended:#?}", ended.len(), moments.len());
}

/// `up` of a project that is not there.
fn first_up(name: &str, choose: Choose) {
    let Some(stand) = Stand::open(name) else { return };
    let requests = stand.requests(&UP);
    stand.up_is_well(1, &"without a kill");
    let shape = stand.shape();
    stand.down_is_well(&"without a kill");
    rounds(&choose(&requests), |round, moment| {
        let killed = stand.kill(&UP, moment);
        // Every third time it is given up instead.
        if round % 3 != 2 {
            stand.up_is_well(1, moment);
            assert_eq!(stand.shape(), shape, "{moment:?}");
        }
        stand.down_is_well(moment);
        killed
    });
}

/// `up` with changes: `db` is made anew beside the one that is there, `web` is changed.
fn changing_up(name: &str, choose: Choose) {
    let Some(stand) = Stand::open(name) else { return };
    let mut version = 1;
    stand.up_is_well(version, &"at first");
    stand.remember();
    let mut next = || {
        version += 1;
        stand.write(version);
        version
    };
    let mut shapes = Vec::new();
    let mut requests = Vec::new();
    // From one to two and back.
    for _ in 0..2 {
        let version = next();
        requests = stand.requests(&UP);
        stand.up_is_well(version, &"without a kill");
        stand.remembers(&"without a kill");
        shapes.push(stand.shape());
    }
    rounds(&choose(&requests), |round, moment| {
        let version = next();
        let killed = stand.kill(&UP, moment);
        stand.up_is_well(version, moment);
        stand.remembers(moment);
        assert_eq!(stand.shape(), shapes[round % 2], "{moment:?}");
        killed
    });
    stand.down_is_well(&"after all");
}

/// `down -v`.
fn down(name: &str, choose: Choose) {
    let Some(stand) = Stand::open(name) else { return };
    stand.up_is_well(1, &"at first");
    let shape = stand.shape();
    rounds(&choose(&stand.requests(&DOWN)), |round, moment| {
        stand.up_is_well(1, &"again");
        let killed = stand.kill(&DOWN, moment);
        if round % 2 == 0 {
            stand.up_is_well(1, moment);
            assert_eq!(stand.shape(), shape, "{moment:?}");
        } else {
            stand.down_is_well(moment);
        }
        killed
    });
    stand.down_is_well(&"after all");
}

/// Fails when: an `up` that was killed keeps the next one from its end, or leaves anything behind.
#[test]
fn a_first_up_is_killed_at_any_moment() {
    first_up("kill1", some);
}

/// Fails when: the same of an `up` with changes, or the volume has lost what was in it.
#[test]
fn an_up_with_changes_is_killed_at_any_moment() {
    changing_up("kill2", some);
}

/// Fails when: a `down` that was killed keeps the next `down` or `up` from its end, or leaves anything behind.
#[test]
fn a_down_is_killed_at_any_moment() {
    down("kill3", some);
}

#[test]
#[ignore = "every moment takes minutes: by hand"]
fn every_moment_of_a_first_up() {
    first_up("every1", Moment::all);
}

#[test]
#[ignore = "every moment takes minutes: by hand"]
fn every_moment_of_an_up_with_changes() {
    changing_up("every2", Moment::all);
}

#[test]
#[ignore = "every moment takes minutes: by hand"]
fn every_moment_of_a_down() {
    down("every3", Moment::all);
}

/// Fails when: a signal to end leaves a step half done, begins another, or is no failure.
#[test]
fn an_up_that_is_told_to_end_ends_what_is_under_way() {
    let Some(stand) = Stand::open("signal") else { return };
    let requests = stand.requests(&UP);
    stand.up_is_well(1, &"without a signal");
    let shape = stand.shape();
    stand.down_is_well(&"without a signal");
    let changes = requests.iter().filter(|line| !line.starts_with("GET ")).count();
    for (signal, number) in
        [("INT", 4), ("TERM", changes / 2), ("INT", changes * 3 / 4), ("TERM", changes - 3)]
    {
        let moment = Moment { number, counts: Counts::Changes, deed: Deed::HoldBefore };
        let about = (signal, &moment);
        let said = stand.signal(&UP, &moment, signal).expect("it comes that far");
        assert_eq!(said.code, Some(1), "{about:?}: {said:?}");
        assert!(
            said.err.contains("stopping: what is under way is brought to its end"),
            "{about:?}: {said:?}"
        );
        assert!(said.err.contains("steps were not begun"), "{about:?}: {said:?}");
        let project = stand.scene.all()["project"]["config"].clone();
        assert!(project.get("user.portway.lock").is_none(), "{about:?}: {project:#}");
        stand.up_is_well(1, &about);
        assert_eq!(stand.shape(), shape, "{about:?}");
        stand.down_is_well(&about);
    }
}
