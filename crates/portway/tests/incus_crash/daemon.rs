//! The daemon dies or is restarted: nobody notices.

use std::time::Duration;

use portway_testkit::Daemon;

use crate::scene::{Scene, kill_all};

/// Ends the daemon so and starts it again, three times over.
fn nobody_notices(name: &str, end: fn(&mut Daemon)) {
    let Some(mut scene) = Scene::start(name) else { return };
    let (worker, keeper) = (scene.worker(), scene.keeper());
    let talks: Vec<_> = (0..3).map(|seed| scene.talk(seed)).collect();
    let mut total = 0;
    for _ in 0..3 {
        end(&mut scene.rig.daemon);
        scene.go_on();
        scene.rig.daemon.launch().unwrap();
        scene.rig.daemon.wait_for_state("web", "active").unwrap();
        assert_eq!((scene.worker(), scene.keeper()), (worker, keeper), "the same processes go on");
        let device = scene.device();
        assert_eq!(device["worker_pid"], worker, "{device}");
        assert!(device["connections_now"].as_u64() >= Some(3), "{device}");
        assert!(device["connections_total"].as_u64() > Some(total), "counters go on: {device}");
        total = device["connections_total"].as_u64().unwrap();
        talks.iter().for_each(|talk| talk.wait_for_rounds(5).unwrap());
        scene.go_on();
        scene.rig.daemon.wait_until_tidy(1).unwrap();
    }
    for talk in talks {
        talk.finish().unwrap();
    }
    let (_rig, report) = scene.end();
    assert_eq!(report.failures(), 0, "{report}");
}

/// Fails when a worker ends with its channel (`Engine::lose_daemon` with `Lifetime::WithDaemon`), when
/// the daemon starts a new one instead of adopting it (`Instance::take_over`), or when the actor's end
/// kills what it holds (a `Drop` of `Worker` that kills).
#[test]
fn a_killed_daemon_costs_nothing() {
    nobody_notices("dkill", |daemon| daemon.kill().unwrap());
}

/// Fails when SIGTERM drains (`Instance::shut_down` with `Ending::Leave`).
#[test]
fn a_restarted_daemon_costs_nothing() {
    nobody_notices("dterm", |daemon| assert!(daemon.terminate().unwrap().success()));
}

/// Starts the daemon and kills it after a few milliseconds, again and again, each time with these
/// others of ours dead beforehand: any moment of the start must do.
fn killed_during_its_start(scene: &mut Scene, others: fn(&Daemon) -> Vec<i32>) {
    for delay in (0..40).step_by(3) {
        if scene.rig.daemon.pid().is_ok() {
            scene.rig.daemon.kill().unwrap();
        }
        scene.cutting(|rig| kill_all(&others(&rig.daemon)));
        scene.rig.daemon.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        scene.rig.daemon.kill().unwrap();
    }
    scene.rig.daemon.launch().unwrap();
    scene.go_on();
    scene.rig.daemon.wait_until_tidy(1).unwrap();
}

/// The worker has died with the daemon before, so that each start begins one anew. Whatever a daemon was
/// doing, the next one knows everything that is there.
///
/// Fails when a worker is recorded only once it serves (`Worker::start`): it is never found again.
#[test]
fn a_daemon_killed_while_it_starts_a_worker_leaves_nobody_behind() {
    let Some(mut scene) = Scene::start("dstart") else { return };
    killed_during_its_start(&mut scene, Daemon::workers);
    scene.end();
}

/// The same with the keeper.
///
/// Fails when a keeper without a record is left alone (`keeper::connect`).
#[test]
fn a_daemon_killed_while_it_starts_a_keeper_costs_nothing() {
    let Some(mut scene) = Scene::start("kstart") else { return };
    let talk = scene.talk(1);
    killed_during_its_start(&mut scene, Daemon::keepers);
    talk.finish().unwrap();
    let (_rig, report) = scene.end();
    assert_eq!(report.failures(), 0, "{report}");
}
