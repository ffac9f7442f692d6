//! A worker dies: its connections go with it, and nobody else's.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Ending, Watch, wait_for};

use crate::scene::{LIMIT, Scene, kill_all};

/// Fails when the daemon keeps no duplicate of the listeners (`Listeners` handed over instead of
/// shared): clients are refused until the next worker listens. Fails when the dead worker's place
/// stays taken (`Instance::worker_ended`).
#[test]
fn a_killed_worker_costs_its_own_connections() {
    let Some(mut scene) = Scene::start("wkill") else { return };
    for _ in 0..5 {
        let (worker, talk) = (scene.worker(), scene.talk(1));
        scene.cutting(|_| kill_all(&[worker]));
        scene.go_on();
        assert_ne!(scene.worker(), worker);
        assert_ne!(talk.stop().unwrap().ending, Ending::Mine, "its connections are cut, not left hanging");
    }
    scene.end();
}

/// A worker that hangs is replaced when the daemon that comes next gets no answer from it.
///
/// Fails when `Worker::adopt` waits without a limit, or gives up without ending it.
#[test]
fn a_worker_that_hangs_is_replaced_at_adoption() {
    let Some(mut scene) = Scene::start("whang") else { return };
    let worker = scene.worker();
    scene.cutting(|rig| {
        let watch = Watch::pid(worker).unwrap();
        kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
        rig.daemon.kill().unwrap();
        rig.daemon.launch().unwrap();
        watch.wait(LIMIT).unwrap();
    });
    scene.go_on();
    assert_ne!(scene.worker(), worker);
    scene.end();
}

/// A second device of the same instance that dials as another user has a worker of its own, which does
/// not notice.
///
/// Fails when the end of one worker ends or replaces the others (`Instance::lose_worker` by instance
/// instead of by group).
#[test]
fn another_worker_does_not_notice() {
    let Some(mut scene) = Scene::start("wother") else { return };
    let port = scene.rig.ports.one().unwrap();
    let keys = [&format!("listen=tcp:127.0.0.1:{port}")[..], "connect=tcp:127.0.0.1:7", "security.uid=1000"];
    scene.rig.add("other", &keys).unwrap();
    let addr = portway_testkit::Addr::tcp(&format!("127.0.0.1:{port}"));
    let talk = portway_testkit::Talk::start(scene.rig.host(), &addr, 5).unwrap();
    let web = scene.device()["worker_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap();
    let other = scene.rig.daemon.device("other").unwrap()["worker_pid"].clone();
    assert_ne!(other, web);
    scene.cutting(|_| kill_all(&[web]));
    scene.go_on();
    assert_eq!(scene.rig.daemon.device("other").unwrap()["worker_pid"], other);
    talk.finish().unwrap();
    scene.rig.daemon.wait_until_tidy(2).unwrap();
    scene.rig.device_ok("remove", &["other"]).unwrap();
    wait_for("the end of a worker without devices", || (scene.rig.daemon.workers().len() == 1).then_some(()))
        .unwrap();
    scene.end();
}
