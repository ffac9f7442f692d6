//! `up` that stays with its services.

use portway_testkit::wait_for;

use crate::scene::{Live, Scene};

/// Ends at once, says so, and is depended on by nobody.
const JOBS: &str = "services:
  one: {image: bb, command: [sh, -c, 'echo from one; exit 3']}
  two: {image: bb, command: [sh, -c, 'echo from two'], depends_on: [one]}
";

/// Two services that are ready when a file is there, and say when they end; `web` needs `db`.
fn politely(grace: u32, end: &str) -> String {
    let command = format!("trap \"{end}\" TERM; touch /ready; while :; do sleep 0.1; done");
    let of = |rest: &str| {
        format!("{{image: bb, command: [sh, -c, '{command}'], stop_grace_period: {grace}s{rest}}}")
    };
    format!("services:\n  db: {}\n  web: {}\n", of(""), of(", depends_on: [db]"))
}

/// Waits until they are.
fn ready(scene: &Scene) {
    for instance in ["db-1", "web-1"] {
        let is_ready = || scene.exec(instance, "test -e /ready").status.success().then_some(());
        wait_for("the service", is_ready).unwrap();
    }
}

/// Fails when a line is lost or not its service's, or when the command does not end with them.
#[test]
fn it_shows_what_they_say_and_ends_with_them() {
    let Some(scene) = Scene::open("fg") else { return };
    scene.write(JOBS);
    let unknown = scene.run(&["up", "--attach", "three"]);
    assert!(unknown.code == Some(4) && scene.is_gone(), "{unknown:?}");
    let up = scene.ok(&["up"]);
    assert!(up.out.contains("one-1  | from one\n") && up.out.contains("two-1  | from two\n"), "{up:?}");
    assert!(up.err.contains("one-1 has ended with exit code 3\n"), "{up:?}");
    let plain = scene.ok(&["--progress", "quiet", "up", "--no-log-prefix", "--no-attach", "one"]);
    assert_eq!(plain.out, "from two\n", "{plain:?}");
    assert!(!plain.err.contains("instance one-1  started"), "{plain:?}");
    assert_eq!(scene.instances(), ["one-1 Stopped", "two-1 Stopped"]);
}

/// Fails when one service's end does not end the others, or its exit code is not the command's.
#[test]
fn the_exit_code_of_a_service() {
    let Some(scene) = Scene::open("fgcode") else { return };
    scene.write(&format!("{JOBS}  rest: {{image: bb, command: [sleep, '100000'], stop_grace_period: 0s}}\n"));
    let from = scene.run(&["up", "--exit-code-from", "one"]);
    assert_eq!(from.code, Some(3), "{from:?}");
    assert_eq!(scene.instances(), ["one-1 Stopped", "rest-1 Stopped", "two-1 Stopped"]);
    let failure = scene.run(&["up", "--abort-on-container-failure", "rest", "one"]);
    assert_eq!(failure.code, Some(3), "{failure:?}");
    assert_eq!(scene.instances(), ["one-1 Stopped", "rest-1 Stopped", "two-1 Stopped"]);
}

/// Fails when a signal deletes, kills, or stops in the wrong order, or when what is said last is lost.
#[test]
fn a_signal_stops_them_in_their_order() {
    let Some(scene) = Scene::open("fgstop") else { return };
    scene.write(&politely(60, "echo bye; exit 0"));
    let mut up = Live::start(&mut scene.command(&["up"]));
    up.until("attached to db-1, web-1");
    ready(&scene);
    up.signal("INT");
    let (code, said) = up.end();
    assert_eq!(code, Some(130), "{said}");
    let at = |line: &str| said.find(line).unwrap_or_else(|| panic!("no {line}: {said}"));
    at("web-1  | bye");
    at("db-1   | bye");
    assert!(at("instance web-1  stopped") < at("instance db-1   stopped"), "{said}");
    assert_eq!(scene.instances(), ["db-1 Stopped", "web-1 Stopped"]);
}

/// Fails when the second signal waits for the grace of ten minutes.
#[test]
fn a_second_signal_ends_them_at_once() {
    let Some(scene) = Scene::open("fgkill") else { return };
    scene.write(&politely(600, ""));
    let mut up = Live::start(&mut scene.command(&["up"]));
    up.until("attached to db-1, web-1");
    ready(&scene);
    up.signal("TERM");
    up.until("once more ends them at once");
    up.signal("INT");
    let (code, said) = up.end();
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(scene.instances(), ["db-1 Stopped", "web-1 Stopped"]);
}

/// Fails when waiting has no end.
#[test]
fn waiting_has_a_limit() {
    let Some(scene) = Scene::open("fgwait") else { return };
    scene.write(
        "services:\n  web: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s, \
         healthcheck: {test: [CMD, 'false'], interval: 200ms, retries: 100000}}\n",
    );
    let late = scene.run(&["up", "--wait", "--wait-timeout", "1"]);
    assert_eq!(late.code, Some(1), "{late:?}");
    assert!(late.err.contains("after 1 s not all services run or are healthy"), "{late:?}");
}
