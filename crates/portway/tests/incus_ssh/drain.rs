//! An end that waits for connections.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use portway_testkit::{Server, wait_for};

use crate::forwards::Client;
use crate::keep::begin;
use crate::scene::Scene;
use crate::survival::{ask, echo};
use crate::tty::Tty;

/// Asks for it; the command, which waits, and what it says first.
fn drain(scene: &Scene, options: &[&str]) -> (Child, String, BufReader<ChildStdout>) {
    let mut command = scene.operator(&[&["ssh", "serve", "--drain"], options].concat());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    (child, line, output)
}

/// Whether somebody who comes now is turned away by the host itself.
fn is_refused(scene: &Scene) -> bool {
    let port = scene.port;
    let dialled = scene.bed.netns().enter(move || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
    dialled.unwrap().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Fails when somebody new comes in, somebody who is in is cut off or cannot go on as before, or it ends before the last
/// one has left: who only forwards, or looks at a session that stays, is somebody.
#[test]
fn the_last_one_ends_it() {
    let Some(mut scene) = Scene::start(Server::Incus6, "drain").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let (mut shell, mut output) = echo(&scene, &[], "cat");
    let (mut kept, _) = begin(&scene, &format!("keep=work,bob@{name}"));
    let control = scene.path("control").display().to_string();
    let listens = Client::start(&scene, &name, &["-M", "-S", &control, "-R", "5001:127.0.0.1:1"]);
    wait_for("three connections", || are_left(&scene, 3)).unwrap();
    wait_for("the client's socket", || scene.path("control").exists().then_some(())).unwrap();
    let (mut draining, line, _output) = drain(&scene, &[]);
    assert_eq!(line, "draining: nobody new is taken, 3 connections are left\n");
    assert!(is_refused(&scene));
    ask(&mut shell, &mut output, "after");
    // Another program of a connection that is there is no newcomer.
    let more =
        scene.talk(scene.client(&["-S", &control]).args([&Scene::at(&name), "echo more"]), b"").unwrap();
    assert_eq!(String::from_utf8(more.stdout).unwrap(), "more\n");
    // Who asks again is answered again.
    let (mut again, line, _second) = drain(&scene, &["--drain-timeout", "1h"]);
    assert!(line.contains("3 connections are left"), "{line}");
    drop(shell.stdin.take());
    assert!(shell.wait().unwrap().success());
    drop(listens);
    wait_for("two have left", || are_left(&scene, 1)).unwrap();
    assert!(draining.try_wait().unwrap().is_none(), "one is left");
    kept.keys("echo s''een\r");
    kept.shows("seen");
    kept.kill();
    assert!(draining.wait().unwrap().success() && again.wait().unwrap().success());
    assert!(scene.ended().unwrap().success());
    // What stays has stayed.
    scene.launch().unwrap();
    let mut kept = Tty::open(&scene, &format!("keep=work,bob@{name}"), 80, 24);
    kept.shows("seen");
    kept.keys("exit 4\r");
    assert_eq!(kept.end(), Some(4));
    let output = scene.operator(&["ssh", "serve", "--drain", "--replace"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// Whether as many are connected.
fn are_left(scene: &Scene, count: usize) -> Option<()> {
    let sessions = scene.portway(&["ssh", "sessions", "--format", "json"]).unwrap();
    let sessions: Vec<serde_json::Value> = serde_json::from_str(&sessions).unwrap();
    (sessions.len() == count).then_some(())
}

/// Fails when a time that is over ends nobody, who has to go is not told, or something is left of it.
#[test]
fn a_time_ends_it() {
    let Some(mut scene) = Scene::start(Server::Incus6, "hours").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let (mut tty, pid) = begin(&scene, &name);
    let begin = Instant::now();
    let (mut draining, line, _output) = drain(&scene, &["--drain-timeout", "1s"]);
    assert!(line.contains("1 connection is left"), "{line}");
    assert_eq!(tty.end(), Some(255));
    let told = "the gateway is being shut down, and the time for connections is over";
    assert!(tty.lines().concat().contains(told), "{:?}", tty.lines());
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert!(draining.wait().unwrap().success());
    assert!(scene.ended().unwrap().success());
    let lives = || scene.container.sh(&format!("[ ! -e /proc/{pid} ]")).ok().map(|_| ());
    wait_for("the end of its shell", lives).unwrap();
    let output = scene.operator(&["ssh", "serve", "--drain"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.as_str()), (Some(3), "error: no gateway runs\n"));
}

/// Fails when a gateway that ends so cannot be followed by another, which takes who is in, or SIGTERM no longer ends it
/// alone.
#[test]
fn another_takes_its_place() {
    let Some(mut scene) = Scene::start(Server::Incus6, "heir").unwrap() else { return };
    let (mut shell, mut output) = echo(&scene, &[], "cat");
    let (mut draining, _, _output) = drain(&scene, &[]);
    assert!(is_refused(&scene));
    scene.replace().unwrap();
    assert!(draining.wait().unwrap().success());
    ask(&mut shell, &mut output, "two");
    assert_eq!(scene.said("echo new").unwrap(), "new\n");
    let (mut draining, line, mut rest) = drain(&scene, &[]);
    assert!(line.contains("1 connection is left"), "{line}");
    scene.stop(Signal::SIGTERM).unwrap();
    assert!(draining.wait().unwrap().success());
    let mut more = String::new();
    rest.read_to_string(&mut more).unwrap();
    assert_eq!(more, "");
    ask(&mut shell, &mut output, "three");
    scene.launch().unwrap();
    shell.stdin.as_mut().unwrap().write_all(b"four\n").unwrap();
    drop(shell.stdin.take());
    assert!(shell.wait().unwrap().success());
}
