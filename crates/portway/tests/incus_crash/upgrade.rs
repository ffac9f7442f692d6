//! Another build takes over.

use portway_testkit::wait_for;

use crate::PORTWAY;
use crate::scene::Scene;

/// The old worker finishes its connections and takes no more; a new one serves from then on. Neither
/// notices a daemon's restart, nor the way back to the first build.
///
/// Fails when a worker of another build is killed instead of drained (`Instance::take_over`), when one
/// that drains is taken for one that serves (`Recorded::draining`), and when adopting it takes the
/// devices from the one that does serve.
#[test]
fn an_upgrade_and_the_way_back_cost_nothing() {
    let Some(mut scene) = Scene::start("upgrade") else { return };
    // The same program with another time.
    let other = scene.rig.path("portway");
    std::fs::copy(PORTWAY, &other).unwrap();
    let first = scene.worker();
    let mut talks = vec![scene.talk(0)];
    let mut workers = vec![first];
    for (round, program) in [other.to_str().unwrap(), PORTWAY, other.to_str().unwrap()].iter().enumerate() {
        let daemon = &mut scene.rig.daemon;
        if round == 0 {
            assert!(daemon.terminate().unwrap().success());
        } else {
            daemon.kill().unwrap();
        }
        daemon.replace_program(program);
        for _ in 0..2 {
            let daemon = &mut scene.rig.daemon;
            if daemon.pid().is_ok() {
                daemon.kill().unwrap();
            }
            daemon.launch().unwrap();
            daemon.wait_for_state("web", "active").unwrap();
            scene.go_on();
            talks.iter().for_each(|talk| talk.wait_for_rounds(3).unwrap());
        }
        let serving = scene.device()["worker_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap();
        assert!(!workers.contains(&serving), "round {round}: {serving} is one of {workers:?}");
        workers.push(serving);
        let mut alive = scene.rig.daemon.workers();
        alive.sort_unstable();
        let mut expected = workers.clone();
        expected.sort_unstable();
        assert_eq!(alive, expected, "round {round}: those with connections live on");
        talks.push(scene.talk(round as u64 + 1));
    }
    for (talk, worker) in talks.into_iter().zip(&workers) {
        talk.finish().unwrap();
        let has_ended = || (!scene.rig.daemon.workers().contains(worker)).then_some(());
        if Some(worker) != workers.last() {
            wait_for("the end of a worker that has finished", has_ended).unwrap();
        }
    }
    let (_rig, report) = scene.end();
    assert_eq!(report.failures(), 0, "{report}");
}
