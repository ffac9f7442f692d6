//! Commands that do not reach their end, and commands at the same time.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Child;

use portway_testkit::wait_for;
use serde_json::json;

use crate::scene::Scene;

const FILE: &str = "services:
  web:
    image: bb
    command: [sleep, '100000']
    depends_on: [db]
    stop_grace_period: 0s
    volumes: ['data:/data']
    configs: [{source: c, target: /etc/deep/down/c}]
  db: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}
configs: {c: {content: hello}}
volumes: {data: {}}
";

/// Reads so many lines of what it says; fewer when it ends.
fn lines(child: &mut Child, count: usize) -> usize {
    let err = child.stderr.take().unwrap();
    BufReader::new(err).lines().map_while(Result::ok).take(count).count()
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Fails when a step that was done, or half done, cannot be done again.
#[test]
fn killed_anywhere_it_goes_on_from_there() {
    let Some(scene) = Scene::open("killed") else { return };
    scene.write(FILE);
    for count in [1, 2, 3, 4, 5] {
        let mut up = scene.spawn(&["up", "-d"]);
        lines(&mut up, count);
        kill(&mut up);
        // What was asked of the server before may still be under way; the next one waits for it.
        scene.ok(&["up", "-d"]);
        assert_eq!(scene.instances(), ["db-1 Running", "web-1 Running"], "after {count} lines");
        let read = scene.exec("web-1", "cat /etc/deep/down/c");
        assert_eq!(String::from_utf8_lossy(&read.stdout), "hello", "after {count} lines: {read:?}");
        assert_eq!(scene.ok(&["up", "-d", "--dry-run"]).out, "");
        let mut down = scene.spawn(&["down", "-v"]);
        lines(&mut down, count);
        kill(&mut down);
        scene.ok(&["down", "-v"]);
        assert!(scene.is_gone(), "after {count} lines: {:#}", scene.all());
    }
}

/// Fails when a signal loses what is under way, or lets anything else begin.
#[test]
fn a_signal_ends_the_waiting() {
    let Some(scene) = Scene::open("signal") else { return };
    scene.write(
        "services:
  slow:
    image: bb
    command: [sleep, '100000']
    healthcheck: {test: [CMD, 'false'], interval: 1s, retries: 100000}
    stop_grace_period: 0s
  after: {image: bb, command: [sleep, '100000'], depends_on: {slow: {condition: service_healthy}}}
",
    );
    let mut up = scene.spawn(&["up", "-d"]);
    wait_for("the slow one", || scene.instances().contains(&"slow-1 Running".to_owned()).then_some(()))
        .unwrap();
    let err = up.stderr.take().unwrap();
    let mut said = BufReader::new(err);
    let mut text = String::new();
    while !text.lines().any(|line| line.contains("slow-1") && line.ends_with(" started")) {
        assert_ne!(said.read_line(&mut text).unwrap(), 0, "{text}");
    }
    let pid = rustix::process::Pid::from_child(&up);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = up.wait().unwrap();
    said.read_to_string(&mut text).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("waiting was ended"), "{text}");
    assert_eq!(scene.instances(), ["after-1 Stopped", "slow-1 Running"]);
}

/// Fails when two change a project at once, or one that has died keeps it.
#[test]
fn one_at_a_time() {
    let Some(scene) = Scene::open("lock") else { return };
    scene.write("services:\n  db: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}\n");
    scene.ok(&["up", "-d"]);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let start = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let hold = |start: &str| {
        let text = format!("m {} {} {start} 1", boot.trim(), std::process::id());
        let mut project = scene.all()["project"].clone();
        project["config"]["user.portway.lock"] = json!(text);
        let target = format!("/1.0/projects/{}", scene.name);
        scene.bed.incus().change("PUT", &target, Some(&project)).unwrap();
    };
    hold(&start);
    let refused = scene.run(&["stop"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("another command changes project"), "{refused:?}");
    assert_eq!(scene.instances(), ["db-1 Running"]);
    // Nothing to be done needs no right to do it.
    scene.ok(&["up", "-d"]);
    hold("1");
    scene.ok(&["stop"]);
    assert_eq!(scene.instances(), ["db-1 Stopped"]);
    assert!(scene.all()["project"]["config"].get("user.portway.lock").is_none());
}
