//! What an earlier daemon has left in the table, while nobody says where the instances are.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{DaemonSpec, Front, Manner, wait_for};

use crate::PORTWAY;
use crate::scene::{INSIDE, Scene};

/// Patience for bytes that must come.
const LIMIT: Duration = Duration::from_secs(20);

/// The element of a tcp port of all IPv4 addresses.
fn has(scene: &Scene, port: u16) -> bool {
    scene.tables().contains(&format!("tcp . {port} counter"))
}

/// The server is away when the daemon starts anew, and the container does not run: a device whose way is in the table is
/// shown so. One that is changed is led nowhere until the server says where, and whoever gets the port it had is served
/// himself; the port of one that is led is refused with its name.
///
/// Fails when: a way of other options stands, in the file or after a change, or what the kernel leads is called relayed.
#[test]
fn what_the_kernel_leads_is_known_without_the_server() {
    let Some(mut scene) = Scene::start("natkept") else { return };
    let socket = scene.rig.path("s");
    let bed = scene.rig.bed();
    let mut front = Front::start(&socket, &bed.socket(), Manner::Pass).unwrap();
    let spec = DaemonSpec::new(PORTWAY).within(bed.netns()).env("INCUS_SOCKET", &socket.to_string_lossy());
    scene.rig.daemon = spec.start().unwrap();
    scene.serve();
    let [first, second, other] = [(); 3].map(|()| scene.rig.ports.one().unwrap());
    scene.publish("a", "tcp", first);
    scene.publish("c", "tcp", second);
    scene.rig.daemon.kill().unwrap();
    front.go_away();
    scene.rig.container.stop().unwrap();
    scene.rig.daemon.launch().unwrap();
    let shown = || {
        let device = scene.device("a");
        let reason = device["mode_reason"].as_str()?;
        (device["mode"] == "nat" && reason.contains("the last known address; the server does not answer"))
            .then_some(())
    };
    wait_for("what the kernel leads to be shown", shown)
        .unwrap_or_else(|why| panic!("{why}: {}", scene.device("a")));
    assert_eq!(scene.device("a")["state"], "degraded");
    assert!(has(&scene, first) && has(&scene, second), "{}", scene.tables());

    scene.rig.device_ok("set", &["a", &format!("listen=tcp:0.0.0.0:{other}")]).unwrap();
    assert!(!has(&scene, first) && !has(&scene, other), "{}", scene.tables());
    assert_eq!(scene.device("a")["mode"], "relay", "{}", scene.device("a"));
    let process = format!("pid:{}", std::process::id());
    let add = |port: u16| {
        let listen = format!("listen=tcp:0.0.0.0:{port}");
        scene.rig.daemon.cli(&["device", "add", &process, "z", &listen, "connect=tcp:127.0.0.1:9"]).unwrap()
    };
    let refused = add(second);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("{}/c", scene.rig.container.name())), "{error}");
    let added = add(first);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    assert!(!has(&scene, first), "{}", scene.tables());

    // A file that somebody has changed is no better.
    scene.rig.daemon.kill().unwrap();
    let path = scene.rig.daemon.dir().join("nat.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&format!("[{second},{second}]"), &format!("[{first},{first}]")))
        .unwrap();
    scene.rig.daemon.launch().unwrap();
    let gone = || (!has(&scene, first) && !has(&scene, second)).then_some(());
    wait_for("a way of no device to go", gone).unwrap();

    front.come_back().unwrap();
    scene.rig.container.start().unwrap();
    scene.serve();
    let led = || (has(&scene, other) && has(&scene, second)).then_some(());
    // The kernel leads once the service has answered somebody.
    let asked = || {
        for port in [other, second] {
            let target = SocketAddr::new(scene.hosts[0], port);
            let _ =
                scene.client.run(|| TcpStream::connect_timeout(&target, LIMIT)).unwrap().map(|mut stream| {
                    let _ = stream.set_read_timeout(Some(LIMIT));
                    stream.read(&mut [0; 64])
                });
        }
        led()
    };
    wait_for("both to be led", asked).unwrap();
}

/// The newest state is lost with the keeper and the worker, and the one before has one device of two: the other's way goes,
/// because nobody could ever take it away.
///
/// Fails when: a way stands whose device is in no state.
#[test]
fn a_way_of_no_device_goes() {
    let Some(mut scene) = Scene::start("natlost") else { return };
    scene.serve();
    let [known, lost] = [(); 2].map(|()| scene.rig.ports.one().unwrap());
    scene.publish("a", "tcp", known);
    scene.publish("e", "tcp", lost);
    let daemon = &mut scene.rig.daemon;
    let left: Vec<i32> = daemon.keepers().into_iter().chain(daemon.workers()).collect();
    daemon.kill().unwrap();
    for pid in left {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let path = daemon.dir().join("state.json");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..40]).unwrap();
    daemon.launch().unwrap();
    let names: Vec<String> = scene
        .rig
        .daemon
        .devices()
        .unwrap()
        .iter()
        .map(|device| device["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a"]);
    wait_for("the other's way to go", || (has(&scene, known) && !has(&scene, lost)).then_some(())).unwrap();
}

/// The file of ways is one of another version: nobody's connection is cut for that, and the table is what it should be as
/// soon as the instance has been looked at.
///
/// Fails when: the table is emptied before anybody was asked.
#[test]
fn ways_that_are_not_known_cut_no_connection() {
    let Some(mut scene) = Scene::start("natversion") else { return };
    let mut held = Held::connected(&scene);
    for damage in ["\"version\":0", "version"] {
        scene.rig.daemon.kill().unwrap();
        let path = scene.rig.daemon.dir().join("nat.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let rest = text.split_once(',').unwrap().1;
        std::fs::write(&path, format!("{{{damage},{rest}")).unwrap();
        scene.rig.daemon.launch().unwrap();
        scene.wait_until_led("web");
        let kept = || std::fs::read_to_string(&path).ok().filter(|text| text.contains("\"leads\"")).map(drop);
        wait_for("the file to be made anew", || kept().filter(|()| !text.is_empty())).unwrap();
        held.exchange(b"more");
    }
    let log = scene.rig.daemon.log();
    assert!(log.contains("ways not known") && !log.contains("connections forgotten"), "{log}");
}

/// Daemon and worker die together, and the keeper alone keeps the port: the next daemon leaves the way as it is, though it
/// has clients wait behind the port until a worker is there.
///
/// Fails when: a service counts as not started that the kernel has led to all the time.
#[test]
fn a_connection_outlives_daemon_and_worker() {
    let Some(mut scene) = Scene::start("natalone") else { return };
    let mut held = Held::connected(&scene);
    let workers = scene.rig.daemon.workers();
    scene.rig.daemon.kill().unwrap();
    for pid in workers {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    scene.rig.daemon.launch().unwrap();
    scene.wait_until_led("web");
    held.exchange(b"more");
    let log = scene.rig.daemon.log();
    assert!(!log.contains("connections forgotten"), "{log}");
}

/// A connection by the kernel, and its other end inside the container.
struct Held {
    client: TcpStream,
    served: TcpStream,
}

impl Held {
    /// Publishes the service as `web` and connects.
    fn connected(scene: &Scene) -> Held {
        let inside = scene.rig.inside().unwrap();
        let listener = inside.run(|| TcpListener::bind(("::", INSIDE))).unwrap().unwrap();
        let target = scene.publish("web", "tcp", scene.rig.ports.one().unwrap());
        let client = scene.client.run(|| TcpStream::connect_timeout(&target, LIMIT)).unwrap().unwrap();
        let (served, _) = listener.accept().unwrap();
        for stream in [&client, &served] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
        }
        let mut held = Held { client, served };
        held.exchange(b"here");
        held
    }

    /// Sends a word there and back.
    fn exchange(&mut self, word: &[u8; 4]) {
        let mut heard = [0; 4];
        self.client.write_all(word).unwrap();
        self.served.read_exact(&mut heard).unwrap();
        self.served.write_all(&heard).unwrap();
        self.client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, word);
    }
}
