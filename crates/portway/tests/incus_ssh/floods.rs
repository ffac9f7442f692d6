//! Crowds before the door.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use portway_testkit::{Server, wait_for};

use crate::auth::enters;
use crate::scene::Scene;
use crate::survival::echo;

/// Connections to the gateway that say `word` and no more.
fn crowd(scene: &Scene, count: usize, word: &[u8]) -> Vec<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], scene.port));
    let connect = || {
        let mut crowd = Vec::new();
        for _ in 0..count {
            // One that is turned away at once is one less.
            let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(20)) else {
                continue;
            };
            let _turned_away = stream.write_all(word);
            crowd.push(stream);
        }
        crowd
    };
    scene.bed.netns().enter(connect).unwrap()
}

/// One that is logging in keeps its place however many come that say nothing, from the same source: they lose their own.
///
/// Fails when: those who are silent take the places or the turns of those who speak.
#[test]
fn the_silent_keep_nobody_out() {
    let Some(scene) = Scene::start(Server::Incus6, "silent").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let mut slow = crowd(&scene, 1, b"SSH-2.0-slow\r\n").pop().unwrap();
    let mut greeting = [0; 11];
    slow.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"SSH-2.0-Por");
    // Three times as many as have places: most of them have lost theirs when the last one is there.
    let silent = crowd(&scene, 300, b"");
    assert!(enters(&scene, &name, "key", None, &[]).unwrap(), "{}", scene.log());
    let is_open = |stream: &TcpStream| {
        let mut rest = [0; 4096];
        stream.set_nonblocking(true).unwrap();
        loop {
            match (&mut &*stream).read(&mut rest) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    };
    let places = || (silent.iter().filter(|stream| is_open(stream)).count() < 100).then_some(());
    wait_for("the silent to lose their places", places).unwrap();
    assert!(is_open(&slow), "who came first and spoke has lost its place: {}", scene.log());
    assert!(scene.sessions().len() <= 100, "{}", scene.sessions().len());
    drop((silent, slow));
    wait_for("their end", || scene.sessions().is_empty().then_some(())).unwrap();
}

/// Policy of the main thread of a process: field 41 of proc_pid_stat(5), 0 `SCHED_OTHER`, 3 `SCHED_BATCH`.
fn policy(pid: i32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(38).unwrap().to_owned()
}

/// Fails when: whoever knocks is served like somebody who is in.
#[test]
fn who_is_in_goes_before_those_who_knock() {
    let Some(scene) = Scene::start(Server::Incus6, "first").unwrap() else { return };
    let mut knocks = crowd(&scene, 1, b"SSH-2.0-slow\r\n").pop().unwrap();
    knocks.read_exact(&mut [0; 11]).unwrap();
    let [knocking] = scene.sessions()[..] else { panic!("one connection") };
    let (mut child, _output) = echo(&scene, &[], "cat");
    let sessions = scene.sessions();
    let [served] = sessions.iter().filter(|pid| **pid != knocking).collect::<Vec<_>>()[..] else {
        panic!("one more connection: {sessions:?}")
    };
    assert_eq!((policy(knocking), policy(*served)), ("3".into(), "0".into()));
    for gateway in scene.processes().iter().filter(|pid| !sessions.contains(*pid)) {
        assert_eq!(policy(*gateway), "3", "{gateway}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Fails when: somebody who does not log in is never sent away, or has no time to.
#[test]
fn whoever_does_not_log_in_has_to_go() {
    let Some(scene) = Scene::start(Server::Incus6, "grace").unwrap() else { return };
    let begin = Instant::now();
    let mut slow = crowd(&scene, 1, b"SSH-2.0-slow\r\n").pop().unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    let mut said = Vec::new();
    // Its end comes after 30 seconds; a reset is one too.
    let ended = slow.read_to_end(&mut said);
    let timed_out = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out && said.starts_with(b"SSH-2.0-Portway"), "{}", scene.log());
    assert!(begin.elapsed() >= Duration::from_secs(29), "after {:?}: {}", begin.elapsed(), scene.log());
}
