//! What nobody reads: how much of it the process of a connection keeps.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use portway_testkit::{Ports, Server};

use crate::forwards::{Client, connect, listen};
use crate::scene::Scene;

/// As many as a connection may have.
const FORWARDS: usize = 400;

/// Memory of such a process at most, beside what it has when it is idle: what waits for all channels of a connection before
/// it is held up, one channel more, what comes in the second until somebody is cut off, and the windows of the other way, twice, as
/// vectors grow.
const BOUND_KIB: usize = (64 + 16 + 16 + 2 * 33) << 10;

/// Most that the only connection's process has had, KiB.
fn peak(scene: &Scene) -> usize {
    let sessions = scene.sessions();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    let status = fs::read_to_string(format!("/proc/{}/status", sessions[0])).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Forwards through a client, each with what `each` does to its inner side.
fn forwards(scene: &Scene, each: impl Fn(TcpStream) + Send + 'static) -> (Client, Vec<TcpStream>) {
    let listener = listen(scene, Ipv4Addr::LOCALHOST, 4001);
    thread::spawn(move || listener.incoming().flatten().for_each(each));
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let port = ports.one().unwrap();
    let client = Client::start(scene, scene.container.name(), &["-L", &format!("{port}:127.0.0.1:4001")]);
    let streams = (0..FORWARDS).map(|_| connect(scene, port)).collect();
    (client, streams)
}

/// Fails when forwards whose services read nothing make the process of their connection grow beyond what is said.
#[test]
fn what_services_do_not_read_is_bounded() {
    let Some(scene) = Scene::start(Server::Incus6, "unread").unwrap() else { return };
    let (hold, held) = mpsc::sync_channel(FORWARDS);
    let (_client, mut streams) = forwards(&scene, move |stream| hold.send(stream).unwrap());
    let idle = peak(&scene);
    let (piece, mut sent, mut quiet) = (vec![7; 64 << 10], 0, 0);
    streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    // Until nothing is taken for five seconds: those that are cut off have gone, and the rest is full.
    while quiet < 50 && !streams.is_empty() {
        let before = sent;
        streams.retain_mut(|stream| match stream.write(&piece) {
            Ok(count) => {
                sent += count;
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        quiet = if sent == before { quiet + 1 } else { 0 };
        if sent == before {
            thread::sleep(Duration::from_millis(100));
        }
    }
    let grown = peak(&scene) - idle;
    println!("{} MiB sent, {} MiB kept at most, {idle} KiB when idle", sent >> 20, grown >> 10);
    assert!(sent >> 20 > 200, "{sent} bytes were taken: {}", scene.log());
    assert!(grown < BOUND_KIB, "{grown} KiB");
    drop(held);
}

/// Fails when a client that reads nothing of its forwards makes the process of its connection grow beyond what is said.
#[test]
fn what_a_client_does_not_read_is_bounded() {
    let Some(scene) = Scene::start(Server::Incus6, "unheard").unwrap() else { return };
    let (_client, mut streams) = forwards(&scene, |mut stream| {
        thread::spawn(move || while stream.write_all(&[9; 64 << 10]).is_ok() {});
    });
    let idle = peak(&scene);
    // Whatever has come in the end, all that is under way is full once nothing moves.
    let mut last = 0;
    let mut quiet = 0;
    while quiet < 20 {
        thread::sleep(Duration::from_millis(200));
        let now = peak(&scene);
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
    println!("{} MiB kept at most", (last - idle.min(last)) >> 10);
    assert!(last < BOUND_KIB, "{last} KiB");
    // And each is served from there on.
    for stream in streams.iter_mut().step_by(40) {
        stream.read_exact(&mut vec![0; 4 << 20]).unwrap();
    }
}
