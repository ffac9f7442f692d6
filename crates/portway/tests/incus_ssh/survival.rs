//! What a connection's process may do, and what lives on when others end.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use portway_testkit::{Server, process, wait_for};

use crate::scene::Scene;

/// A client that talks to `cat` inside.
fn echo(scene: &Scene, words: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut client = scene.client(&[]);
    client.args([&Scene::at(scene.container.name()), words]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = scene.bed.netns().spawn(&mut client).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    ask(&mut child, &mut output, "hello");
    (child, output)
}

fn ask(child: &mut Child, output: &mut BufReader<std::process::ChildStdout>, word: &str) {
    writeln!(child.stdin.as_mut().unwrap(), "{word}").unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), word);
}

/// Fails when what reads a client's bytes keeps a privilege, or a way to the server.
#[test]
fn a_session_has_no_privilege() {
    let Some(scene) = Scene::start(Server::Incus6, "bare").unwrap() else { return };
    let (mut child, _output) = echo(&scene, "cat");
    let sessions = scene.sessions();
    assert_eq!(sessions.len(), 1);
    let status = fs::read_to_string(format!("/proc/{}/status", sessions[0])).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(field("Uid:").iter().all(|id| id != "0") && field("Gid:").iter().all(|id| id != "0"), "{status}");
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(
        (field("NoNewPrivs:"), field("Seccomp:"), field("Groups:").len()),
        (vec!["1".to_owned()], vec!["2".to_owned()], 0)
    );
    let root: Vec<_> = fs::read_dir(format!("/proc/{}/root", sessions[0])).unwrap().flatten().collect();
    assert_eq!(root.iter().map(|entry| entry.file_name()).collect::<Vec<_>>(), ["proc"]);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A gateway is ended and another started: what ran goes on to its right end, and new clients come in.
///
/// Fails when a byte of a session passes the gateway, or its end is asked for there.
#[test]
fn sessions_outlive_the_gateway() {
    let Some(mut scene) = Scene::start(Server::Incus6, "outlive").unwrap() else { return };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let (mut child, mut output) = echo(&scene, "cat; exit 33");
        scene.stop(signal).unwrap();
        ask(&mut child, &mut output, "alone");
        scene.launch().unwrap();
        ask(&mut child, &mut output, "again");
        assert_eq!(scene.said("echo new").unwrap(), "new\n");
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().code(), Some(33));
    }
}

/// A client that goes leaves nothing behind, whether its program listens to signals or not.
///
/// Fails when a program whose client has gone is left running.
#[test]
fn a_program_ends_with_its_client() {
    let Some(scene) = Scene::start(Server::Incus6, "ends").unwrap() else { return };
    for words in
        ["cat", "trap 'echo $$ hup >/tmp/told' HUP; cat; sleep 1000", "trap '' HUP TERM; cat; sleep 1000"]
    {
        let (mut child, _output) = echo(&scene, words);
        let sessions = scene.sessions();
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for("the end of the session", || {
            sessions.iter().all(|pid| !process::is_alive(*pid)).then_some(())
        })
        .unwrap();
        let left = || scene.container.sh("ps -o comm,args | grep -c '^cat *cat$' || true").unwrap();
        wait_for("the end of the program", || (left().trim() == "0").then_some(())).unwrap();
    }
    assert!(scene.container.sh("cat /tmp/told").unwrap().contains("hup"));
}
