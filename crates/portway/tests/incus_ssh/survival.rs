//! What a connection's process may do, and what lives on when others end.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use portway_testkit::{ContainerSpec, Server, process, wait_for};

use crate::scene::Scene;

/// A client of root's that talks to `cat` inside.
pub(crate) fn echo(
    scene: &Scene,
    options: &[&str],
    words: &str,
) -> (Child, BufReader<std::process::ChildStdout>) {
    echo_as(scene, scene.container.name(), options, words)
}

/// The same of another login.
fn echo_as(
    scene: &Scene,
    login: &str,
    options: &[&str],
    words: &str,
) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut client = scene.client(options);
    client.args([&Scene::at(login), words]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = scene.bed.netns().spawn(&mut client).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    ask(&mut child, &mut output, "hello");
    (child, output)
}

pub(crate) fn ask(child: &mut Child, output: &mut BufReader<std::process::ChildStdout>, word: &str) {
    writeln!(child.stdin.as_mut().unwrap(), "{word}").unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), word);
}

/// Fails when what reads a client's bytes keeps a privilege, or a way to the server.
#[test]
fn a_session_has_no_privilege() {
    let Some(scene) = Scene::start(Server::Incus6, "bare").unwrap() else { return };
    let (mut child, _output) = echo(&scene, &[], "cat");
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

/// A gateway is ended and another started: what ran goes on to its right end, which is written down, and new clients come
/// in. Root's program is the server's, the user's is the helper's.
///
/// Fails when a byte of a session passes the gateway, its end is asked for there, or is not in the log.
#[test]
fn sessions_outlive_the_gateway() {
    let Some(mut scene) = Scene::start(Server::Incus6, "outlive").unwrap() else { return };
    let bob = format!("bob@{}", scene.container.name());
    for (signal, [one, two]) in [(Signal::SIGTERM, [33, 34]), (Signal::SIGKILL, [35, 36])] {
        let mut root = echo(&scene, &[], &format!("cat; exit {one}"));
        let mut user = echo_as(&scene, &bob, &[], &format!("cat; exit {two}"));
        scene.stop(signal).unwrap();
        for (child, output) in [&mut root, &mut user] {
            ask(child, output, "alone");
        }
        scene.launch().unwrap();
        for (child, output) in [&mut root, &mut user] {
            ask(child, output, "again");
        }
        assert_eq!(scene.said("echo new").unwrap(), "new\n");
        for ((child, _), status) in [(&mut root, one), (&mut user, two)] {
            drop(child.stdin.take());
            assert_eq!(child.wait().unwrap().code(), Some(status));
            let ended = || {
                scene
                    .audit()
                    .ok()?
                    .into_iter()
                    .find(|line| line["event"] == "ended" && line["status"] == status)
            };
            wait_for("the end in the audit log", ended).unwrap();
        }
    }
}

/// A connection that was there before a gateway is the gateway's all the same: it starts programs there, is listed,
/// its ends are written down, and it can be ended.
///
/// Fails when a gateway takes over no connection, or what was asked for while there was none is forgotten.
#[test]
fn a_gateway_takes_over_the_connections_of_the_last() {
    let Some(mut scene) = Scene::start(Server::Incus6, "over").unwrap() else { return };
    let at = Scene::at(scene.container.name());
    let path = format!("ControlPath={}", scene.path("cm").display());
    let (mut child, mut output) = echo(&scene, &["-o", "ControlMaster=yes", "-o", &path], "cat");
    let second = |scene: &Scene, words: &str| {
        let mut client = scene.client(&["-o", "ControlMaster=no", "-o", &path]);
        client.args([&at, words]).stdin(Stdio::null()).stdout(Stdio::piped());
        scene.bed.netns().spawn(&mut client).unwrap()
    };
    for (signal, status) in [(Signal::SIGTERM, 41), (Signal::SIGKILL, 42)] {
        let connection = scene.sessions();
        assert_eq!(connection.len(), 1);
        scene.stop(signal).unwrap();
        let waiting = second(&scene, &format!("echo asked; exit {status}"));
        ask(&mut child, &mut output, "alone");
        scene.launch().unwrap();
        let waited = waiting.wait_with_output().unwrap();
        let told = (waited.status.code(), String::from_utf8_lossy(&waited.stdout).into_owned());
        assert_eq!(told, (Some(status), "asked\n".to_owned()), "{}", scene.log());
        assert_eq!(scene.sessions(), connection, "no new connection was made for it");
        let ended = || {
            scene.audit().ok()?.into_iter().find(|line| line["event"] == "ended" && line["status"] == status)
        };
        wait_for("the end in the audit log", ended).unwrap();
    }
    let listed: serde_json::Value =
        serde_json::from_str(&scene.portway(&["ssh", "sessions", "--format", "json"]).unwrap()).unwrap();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    scene.portway(&["ssh", "kill", listed[0]["id"].as_str().unwrap()]).unwrap();
    wait_for("the end of the connection", || scene.sessions().is_empty().then_some(())).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(255));
}

/// An instance that was deleted and made again under its name is another one: a connection to the first does not reach it,
/// neither with the gateway that has let it in nor with the next one.
///
/// Fails when an instance is known by its name alone.
#[test]
fn a_namesake_inherits_no_connection() {
    let Some(mut scene) = Scene::start(Server::Incus6, "namesake").unwrap() else { return };
    let first = scene.bed.container("twin").unwrap();
    let name = first.name().to_owned();
    let path = format!("ControlPath={}", scene.path("cm").display());
    let options = ["-o", "ControlMaster=auto", "-o", "ControlPersist=120", "-o", &path];
    let on = |scene: &Scene| {
        let output = scene.talk(scene.client(&options).args([&Scene::at(&name), "echo in"]), b"").unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert_eq!(on(&scene), (Some(0), "in\n".to_owned()), "{}", scene.log());
    let noted = || {
        let names = fs::read_dir(scene.path("p/ssh")).unwrap().flatten().map(|entry| entry.path());
        let mut records = names.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
        fs::read_to_string(records.next()?).ok()?.contains("\"identity\":\"").then_some(())
    };
    wait_for("the instance in the record", noted).unwrap();
    drop(first);
    let _second = scene.bed.launch_exactly(&name, &ContainerSpec::default()).unwrap();
    let refused = (Some(1), format!("portway: instance {name} is another than it was\n"));
    assert_eq!(on(&scene), refused, "{}", scene.log());
    scene.stop(Signal::SIGTERM).unwrap();
    scene.launch().unwrap();
    assert_eq!(on(&scene), refused, "{}", scene.log());
    scene.talk(scene.client(&options).args(["-O", "exit", &Scene::at(&name)]), b"").unwrap();
    assert_eq!(on(&scene), (Some(0), "in\n".to_owned()), "a new connection");
    scene.talk(scene.client(&options).args(["-O", "exit", &Scene::at(&name)]), b"").unwrap();
}

/// A client that goes leaves no program behind, whether that one listens to signals or not. None of them reads, so
/// that an end of input ends nobody.
///
/// Fails when a program whose client has gone is left running, or is not asked before it is killed.
#[test]
fn a_program_ends_with_its_client() {
    let Some(scene) = Scene::start(Server::Incus6, "ends").unwrap() else { return };
    let traps = [
        // It notes HUP however late it gets to it, and ends by TERM.
        "trap 'echo hup >>/tmp/a' HUP; trap exit TERM",
        "trap '' HUP; trap 'echo term >>/tmp/b; exit' TERM",
        "trap '' HUP TERM",
    ];
    let clients: Vec<Child> = traps
        .iter()
        .zip(["a", "b", "c"])
        .map(|(traps, name)| {
            let words = format!("echo $$ >/tmp/{name}; {traps}; echo ready; while :; do sleep 0.1; done");
            let mut client = scene.client(&[]);
            client
                .args([&Scene::at(scene.container.name()), &words])
                .stdin(Stdio::null())
                .stdout(Stdio::piped());
            let mut child = scene.bed.netns().spawn(&mut client).unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n", "{}", scene.log());
            child
        })
        .collect();
    let told = |name: &str| scene.container.sh(&format!("cat /tmp/{name}")).unwrap();
    let pids: Vec<String> = ["a", "b", "c"].map(|name| told(name).trim().to_owned()).into();
    let sessions = scene.sessions();
    for mut child in clients {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let gone = || sessions.iter().all(|pid| !process::is_alive(*pid)).then_some(());
    wait_for("the end of the sessions", gone).unwrap();
    let left = || {
        scene
            .container
            .sh(&format!("for pid in {}; do test -d /proc/$pid && echo $pid; done; true", pids.join(" ")))
    };
    wait_for("the end of the programs", || left().ok()?.is_empty().then_some(())).unwrap();
    let notes = ["a", "b"].map(told);
    assert!(notes[0].ends_with("hup\n") && notes[1].ends_with("term\n"), "{notes:?}");
}
