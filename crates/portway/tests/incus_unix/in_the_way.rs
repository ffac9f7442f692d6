//! What is at the listen path already: only a dead socket is replaced.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::process::Output;

use portway_testkit::{Addr, Behaviour, ContainerSpec, DaemonSpec, Rig, Service, check};

use crate::PORTWAY;
use crate::side::{BOTH, Bind, LIMIT, Place};

/// Adds a device that must be refused: exit code 1, one line that says what is in the way, and no
/// device after it.
fn refused(rig: &Rig, place: &Place, bind: Bind, said: &str) {
    let output = rig.device("add", &["s", &place.pair("listen"), "connect=tcp::80", bind.key()]).unwrap();
    assert_says(&output, &[&place.key.display().to_string(), said]);
    assert!(rig.daemon.devices().unwrap().is_empty());
    assert!(rig.daemon.workers().is_empty());
}

fn assert_says(output: &Output, texts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(output.stdout.is_empty());
    let lines = error.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(lines, 1, "{error}");
    for text in texts {
        assert!(error.contains(text), "no `{text}` in: {error}");
    }
}

/// Everything about a file that could have changed, but its last use.
fn looks(place: &Place) -> (u64, u32, u32, u32, u64, i64, i64) {
    let meta = fs::symlink_metadata(&place.path).unwrap();
    (meta.ino(), meta.mode(), meta.uid(), meta.gid(), meta.size(), meta.mtime(), meta.ctime())
}

/// A regular file, an empty folder, a full one, a symbolic link (even to a dead socket), a fifo: each
/// is left as it was, on the host and in the container.
///
/// Fails when: what is at the path is removed without a look at its type.
#[test]
fn what_is_no_socket_is_left_alone() {
    let Some(rig) = Rig::start(PORTWAY, "file").unwrap() else { return };
    for bind in BOTH {
        let place = |name: &str| Place::listen(&rig, bind, name);
        let (file, empty, full, link, fifo) =
            (place("file"), place("empty"), place("full"), place("link"), place("fifo"));
        let dead = place("dead");
        rig.host().run(|| ()).unwrap();
        let make = || {
            fs::write(&file.path, "precious").unwrap();
            fs::create_dir(&empty.path).unwrap();
            fs::create_dir(&full.path).unwrap();
            fs::write(full.path.join("x"), "precious").unwrap();
            drop(std::os::unix::net::UnixListener::bind(&dead.path).unwrap());
            symlink(&dead.key, &link.path).unwrap();
            nix::unistd::mkfifo(&fifo.path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        };
        file.site.run(make).unwrap();
        for place in [&file, &empty, &full, &link, &fifo] {
            let before = looks(place);
            refused(&rig, place, bind, "is taken: it is not a socket");
            assert_eq!(looks(place), before, "{}", place.key.display());
        }
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "precious");
        assert_eq!(fs::read_to_string(full.path.join("x")).unwrap(), "precious");
        assert!(dead.is_socket());
    }
}

/// A socket that somebody listens on, one whose owner has not yet called `listen`, and a datagram
/// socket stay, and their programs do not notice.
///
/// Fails when: the probe takes `EPROTOTYPE` for nobody, or connects to the program behind the socket.
#[test]
fn a_live_socket_is_left_alone() {
    let Some(rig) = Rig::start(PORTWAY, "live").unwrap() else { return };
    for bind in BOTH {
        let place = Place::listen(&rig, bind, "live");
        let service = Service::start(&place.site, &Addr::unix(&place.path), Behaviour::Echo).unwrap();
        let before = looks(&place);
        refused(&rig, &place, bind, "is taken: another program listens there");
        assert_eq!(looks(&place), before);
        check::echo(&place.dial(), 1_000, 1).unwrap();
        // The echo, and nobody who only looked.
        assert_eq!(service.accepted(), 1);

        let place = Place::listen(&rig, bind, "datagrams");
        let socket = place.site.run(|| UnixDatagram::bind(&place.path)).unwrap().unwrap();
        refused(&rig, &place, bind, "is taken: another program listens there");
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"still here", &place.path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 10);
    }
}

/// A dead socket is replaced: what a killed program leaves stops nobody.
///
/// Fails when: an existing path is always refused.
#[test]
fn a_dead_socket_is_replaced() {
    let Some(rig) = Rig::start(PORTWAY, "dead").unwrap() else { return };
    for bind in BOTH {
        let (place, target) = (Place::listen(&rig, bind, "dead"), Place::connect(&rig, bind, "target"));
        place.site.run(|| drop(std::os::unix::net::UnixListener::bind(&place.path).unwrap())).unwrap();
        let before = looks(&place);
        let listener = target.serve();
        let name = if bind == Bind::Host { "host" } else { "instance" };
        let keys = [place.pair("listen"), target.pair("connect"), bind.key().to_owned()];
        crate::side::add(&rig, name, &[&keys[0], &keys[1], &keys[2]]).unwrap();
        assert_ne!(looks(&place), before);
        (&place.dial()).write_all(b"x").unwrap();
        listener.accept_within(LIMIT).unwrap();
    }
}

/// The same for a path on the host when the instance is stopped: nothing is listened on yet, and the
/// answer is given now all the same.
///
/// Fails when: `probe` is left out of `add`.
#[test]
fn a_stopped_instance_makes_no_difference() {
    let spec = ContainerSpec { stopped: true, ..ContainerSpec::default() };
    let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), "stopped", &spec).unwrap() else { return };
    let place = Place::new(&rig, true, "file");
    fs::write(&place.path, "precious").unwrap();
    let before = looks(&place);
    refused(&rig, &place, Bind::Host, "is taken: it is not a socket");
    assert_eq!(looks(&place), before);
    let place = Place::new(&rig, true, "live");
    let _listener = place.serve();
    refused(&rig, &place, Bind::Host, "is taken: another program listens there");
}

/// A file that appears where our socket was, after it was deleted, is left alone too, and so is a
/// stranger's socket when the device is removed.
///
/// Fails when: removal unlinks the path without comparing device and inode.
#[test]
fn what_took_our_place_is_left_alone() {
    let Some(rig) = Rig::start(PORTWAY, "swap").unwrap() else { return };
    for bind in BOTH {
        let place = Place::listen(&rig, bind, "ours");
        crate::side::add(&rig, "s", &[&place.pair("listen"), "connect=tcp::80", bind.key()]).unwrap();
        assert!(place.is_socket());
        let swap = || {
            fs::remove_file(&place.path).unwrap();
            fs::write(&place.path, "precious").unwrap();
        };
        place.site.run(swap).unwrap();
        rig.daemon.wait_for_state("s", "degraded").unwrap();
        let said = rig.daemon.device("s").unwrap()["reason"].to_string();
        assert!(said.contains("is not a socket"), "{said}");
        rig.device_ok("remove", &["s"]).unwrap();
        assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");
    }
}
