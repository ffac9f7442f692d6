//! Several of our processes die together.

use portway_testkit::{Outcome, check, wait_for};

use crate::scene::{Scene, kill_all};

/// Fails when the keeper holds no listener: with daemon and worker both are gone, and clients are
/// refused.
#[test]
fn daemon_and_worker_killed_together_refuse_nobody() {
    let Some(mut scene) = Scene::start("both") else { return };
    for _ in 0..3 {
        let (worker, keeper) = (scene.worker(), scene.keeper());
        let talk = scene.talk(1);
        scene.cutting(|rig| {
            let daemon = rig.daemon.pid().unwrap();
            kill_all(&[daemon, worker]);
            rig.daemon.kill().unwrap();
        });
        scene.rig.daemon.launch().unwrap();
        scene.go_on();
        assert_ne!(scene.worker(), worker);
        assert_eq!(scene.keeper(), keeper);
        talk.stop().unwrap();
    }
    scene.end();
}

/// Fails when the next daemon needs the keeper to adopt a worker (`Instance::take_over_device`).
#[test]
fn daemon_and_keeper_killed_together_cost_nothing() {
    let Some(mut scene) = Scene::start("dkeeper") else { return };
    let talk = scene.talk(1);
    for _ in 0..3 {
        let (worker, keeper) = (scene.worker(), scene.keeper());
        let daemon = scene.rig.daemon.pid().unwrap();
        kill_all(&[daemon, keeper]);
        scene.rig.daemon.kill().unwrap();
        scene.go_on();
        scene.rig.daemon.launch().unwrap();
        scene.go_on();
        assert_eq!(scene.worker(), worker);
        assert_ne!(scene.keeper(), keeper);
    }
    talk.finish().unwrap();
    let (_rig, report) = scene.end();
    assert_eq!(report.failures(), 0, "{report}");
}

/// A new keeper takes the dead one's place and holds what it held: then even daemon and worker may die.
///
/// Fails when nobody supplies the new one (`Command::Rekeep`), and when a dead one is not noticed.
#[test]
fn a_killed_keeper_is_replaced_and_supplied() {
    let Some(mut scene) = Scene::start("keeper") else { return };
    for _ in 0..3 {
        let keeper = scene.keeper();
        kill_all(&[keeper]);
        let is_new = || (scene.rig.daemon.keepers().first().copied()? != keeper).then_some(());
        wait_for("a new keeper", is_new).unwrap();
        scene.rig.daemon.wait_until_tidy(1).unwrap();
        // It has been supplied when it has a descriptor for the listener beside what every keeper has.
        let has_listener = || (listeners_of(scene.keeper()) > 1).then_some(());
        wait_for("a listener in the new keeper", has_listener).unwrap();
        scene.go_on();
    }
    let worker = scene.worker();
    scene.cutting(|rig| {
        let daemon = rig.daemon.pid().unwrap();
        kill_all(&[daemon, worker]);
        rig.daemon.kill().unwrap();
    });
    scene.rig.daemon.launch().unwrap();
    scene.go_on();
    scene.end();
}

/// Sockets of a process that are neither connected nor standard streams: its own door, and listeners.
fn listeners_of(pid: i32) -> usize {
    let tcp = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let sockets = links.filter_map(|link| std::fs::read_link(link.path()).ok()?.to_str().map(str::to_owned));
    let is_listener = |link: &String| {
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| tcp.lines().any(|line| line.split_whitespace().nth(9) == Some(inode)))
    };
    1 + sockets.filter(is_listener).count()
}

/// Everything of ours is killed: the port is closed, there is nothing else to be done; the next daemon
/// puts it all up again and clears what lies about.
///
/// Fails when a stale socket, record or lock stops a daemon (`record::recorded`, `keeper::start`).
#[test]
fn after_everything_was_killed_the_next_daemon_starts_afresh() {
    let Some(scene) = Scene::start("all") else { return };
    let path = scene.rig.path("front");
    let listen = format!("listen=unix:{}", path.display());
    scene.rig.add("sock", &[&listen, "connect=tcp:127.0.0.1:7", "mode=0666"]).unwrap();
    let (mut rig, report) = scene.end();
    assert_eq!(report.failures(), 0, "{report}");
    for _ in 0..3 {
        kill_all(&rig.daemon.processes());
        rig.daemon.kill().unwrap();
        assert_eq!(rig.daemon.processes(), Vec::<i32>::new());
        assert!(path.exists(), "a dead socket file");
        rig.daemon.launch().unwrap();
        for device in ["web", "sock"] {
            rig.daemon.wait_for_state(device, "active").unwrap();
        }
        let front = check::dial(rig.host(), &portway_testkit::Addr::unix(&path)).unwrap();
        check::echo(&front, 10_000, 1).unwrap();
        rig.daemon.wait_until_tidy(1).unwrap();
    }
    let web = rig.daemon.device("web").unwrap()["listen"].as_str().unwrap().replace("tcp:", "");
    let load =
        portway_testkit::Load::new(&portway_testkit::Addr::tcp(&web), portway_testkit::Pace::InFlight(8));
    let report = load.total(500).run(rig.host()).unwrap();
    assert_eq!(report.count(Outcome::Ok), 500, "{report}");
    rig.device_ok("remove", &["sock"]).unwrap();
    assert!(!path.exists());
}
