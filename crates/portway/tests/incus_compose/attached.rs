//! What is typed into a service.

use std::io::{PipeWriter, Write as _, pipe};
use std::process::Command;

use portway_testkit::wait_for;

use crate::PORTWAY;
use crate::scene::{Live, Scene};

/// Says what it reads, and ends when it is told to.
fn reader(more: &str) -> String {
    let script = "printf \"who? \"; while read -r line; do echo \"got $$line\"; test \"$$line\" = end && exit 6; done; \
                  echo no more; sleep 100000";
    format!("{{image: bb, command: [sh, -c, '{script}'], stop_grace_period: 0s{more}}}")
}

/// A command whose standard input is ours.
fn start(mut command: Command) -> (Live, PipeWriter) {
    let (ours, typed) = pipe().unwrap();
    (Live::start(command.stdin(ours)), typed)
}

/// Fails when what is typed does not reach the service, when one who goes ends the input of another, when the flag is not
/// heard, or when a service without an input does not find its end.
#[test]
fn what_is_typed_reaches_a_service() {
    let Some(scene) = Scene::open("typed") else { return };
    let none = reader("");
    scene.write(&format!("services:\n  web: {}\n  none: {none}\n", reader(", stdin_open: true")));
    scene.ok(&["up", "-d"]);
    // Its question has no end yet, and is shown all the same.
    wait_for("its question", || scene.ok(&["logs", "web"]).out.contains("| who? \n").then_some(())).unwrap();
    wait_for("the end", || scene.ok(&["logs", "none"]).out.contains("who? no more\n").then_some(())).unwrap();

    let wrong = scene.run(&["attach", "--detach-keys", "ctrl-p,x,", "web"]);
    assert!(wrong.code == Some(2) && wrong.err.contains("--detach-keys"), "{wrong:?}");
    let (mut one, mut typed) = start(scene.command(&["attach", "web"]));
    let (mut other, mut also) = start(scene.command(&["attach", "web"]));
    let (mut deaf, mut unheard) = start(scene.command(&["attach", "--no-stdin", "web"]));
    for live in [&mut one, &mut other, &mut deaf] {
        live.until("attached to web-1");
    }
    unheard.write_all(b"nothing\n").unwrap();
    typed.write_all(b"a\n").unwrap();
    for live in [&mut one, &mut other, &mut deaf] {
        live.until("got a");
    }
    drop(typed);
    also.write_all(b"b\n").unwrap();
    one.until("got b");
    also.write_all(b"end\n").unwrap();
    for live in [one, other, deaf] {
        let (code, said) = live.end();
        assert!(code == Some(6) && !said.contains("nothing"), "{said}");
    }
    let said = scene.ok(&["logs", "--no-log-prefix", "--tail", "2", "web"]).out;
    assert_eq!(said, "got b\ngot end\n");
}

/// Fails when a terminal is not one on both sides, when it has another size, or when the keys to go end the service.
#[test]
fn a_terminal_is_shared() {
    let Some(scene) = Scene::open("tty") else { return };
    let script = "echo ready; while read -r line; do echo \"got $$line\"; stty size; done";
    let web = format!(
        "{{image: bb, tty: true, stdin_open: true, command: [sh, -c, '{script}'], stop_grace_period: 0s}}"
    );
    scene.write(&format!("services:\n  web: {web}\n"));
    scene.ok(&["up", "-d"]);
    let attach = scene.command(&["attach", "web"]);
    let mut on_terminal = Command::new("script");
    on_terminal.env_clear().envs(attach.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let line = format!("stty rows 33 cols 101; {PORTWAY} compose attach web");
    on_terminal.current_dir(scene.dir()).args(["-qefc", &line, "/dev/null"]);
    let (mut live, mut typed) = start(on_terminal);
    live.until("ctrl-p,ctrl-q goes");
    typed.write_all(b"hello\r").unwrap();
    live.until("got hello");
    live.until("33 101");
    typed.write_all(b"\x10\x11").unwrap();
    let (code, said) = live.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.instances(), ["web-1 Running"]);
    // Its own keys: an interrupt is the service's.
    let (mut live, mut typed) = start(scene.command(&["attach", "web"]));
    live.until("attached to web-1");
    typed.write_all(b"\x03").unwrap();
    assert_eq!(live.end().0, Some(130), "128 and SIGINT");
}
