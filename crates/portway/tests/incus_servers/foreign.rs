//! A server that restarts, hangs, refuses or talks nonsense: what serves goes on serving, nothing is taken
//! for gone, and all is well as soon as the server is.
//!
//! ```text
//!  daemon ──> socket of the test ──> the server's own
//! ```

use std::path::Path;
use std::sync::Arc;

use portway_testkit::{
    Bed, Container, ContainerSpec, Daemon, DaemonSpec, Front, Manner, Ports, Rig, Script, Server, Site, bed,
    check, process, wait_for,
};
use serde_json::{Value, json};

use crate::PORTWAY;
use crate::talk::{add_web, heard, local, say_in, says, wait_for_reason, wait_until_heard};

/// A container, and a daemon that reaches its server through a socket of the test's.
struct Scene {
    front: Front,
    daemon: Daemon,
    container: Container<'static>,
    ports: Ports,
    host: Site,
    _folder: tempfile::TempDir,
}

fn spec(bed: &Bed, socket: &Path) -> DaemonSpec {
    DaemonSpec::new(PORTWAY).within(bed.netns()).env("INCUS_SOCKET", &socket.to_string_lossy())
}

impl Scene {
    fn start(name: &str) -> Option<Self> {
        let bed = bed()?;
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let front = Front::start(&socket, &bed.socket(), Manner::Pass).unwrap();
        let daemon = spec(bed, &socket).start().unwrap();
        Some(Self {
            front,
            daemon,
            container: bed.container(name).unwrap(),
            ports: Ports::claim(bed.netns()).unwrap(),
            host: Site::netns(bed.netns()),
            _folder: folder,
        })
    }

    fn add_web(&self, more: &[&str]) -> u16 {
        let port = self.ports.one().unwrap();
        let listen = format!("listen=tcp:127.0.0.1:{port}");
        let keys = [&[&listen[..], "connect=tcp:127.0.0.1:80"], more].concat();
        self.daemon.add(self.container.name(), "web", &keys).unwrap();
        port
    }

    /// What the daemon thinks of the server: nothing wrong, or what is.
    fn complaint(&self) -> Option<Value> {
        let status = self.daemon.api().get("/1.0").unwrap();
        let providers = status["providers"].as_array().unwrap().iter();
        let error = providers.filter(|one| one["name"] == "incus").map(|one| one["error"].clone()).next();
        error.filter(|error| !error.is_null())
    }

    fn wait_for_complaint(&self) -> String {
        let error = wait_for("a complaint", || self.complaint()).unwrap();
        error.as_str().unwrap().to_owned()
    }

    fn wait_for_peace(&self) {
        wait_for("an answer of the server", || self.complaint().is_none().then_some(())).unwrap();
    }
}

/// Bytes of an answer with a status and a body.
fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The list of leases cannot be read, which a neighbour in the network can bring about: the instance is served by
/// the relay all the same and says why not by the kernel, which follows when the list can be read.
///
/// Fails when: a failed question for addresses makes the instance one that is not known.
#[test]
fn leases_that_cannot_be_read() {
    let Some(scene) = Scene::start("leaseless") else { return };
    scene.container.address(false).unwrap();
    let answers: Script = Arc::new(|target| {
        let failed =
            |code: u16| (code, json!({"type": "error", "error": "no", "error_code": code}).to_string());
        let told = bed().filter(|_| !target.contains("/events")).map(|bed| bed.incus().get(target));
        match told {
            _ if target.contains("/leases") => failed(500),
            Some(Ok(metadata)) => (200, json!({"type": "sync", "metadata": metadata}).to_string()),
            Some(Err(_)) | None => failed(404),
        }
    });
    scene.front.turn(Manner::Script(answers));
    let _service = say_in(&scene.container, 80, "here");
    let port = scene.ports.one().unwrap();
    let keys = [format!("listen=tcp:0.0.0.0:{port}"), "connect=tcp:0.0.0.0:80".into(), "nat=true".to_owned()];
    scene.daemon.add(scene.container.name(), "web", &keys.each_ref().map(String::as_str)).unwrap();
    wait_until_heard(&scene.host, port, "here");
    let device = scene.daemon.device("web").unwrap();
    let reason = device["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("the server does not say which addresses the instance has"), "{device}");
    scene.front.turn(Manner::Pass);
    let led = || (scene.daemon.device("web").ok()?["mode"] == "nat").then_some(());
    wait_for("the kernel to carry it", led).unwrap();
}

/// Everything a server can answer but the truth: a device that serves goes on, a new one is refused with
/// exit code 3, an instance that stops meanwhile is `degraded` and not gone, and the first true answer
/// heals it.
///
/// Fails when: any wrong answer is taken for "no such instance", or an error is not tried again.
#[test]
fn an_answer_that_is_none() {
    let Some(scene) = Scene::start("nonsense") else { return };
    let port = scene.add_web(&["hold=0"]);
    let other = format!("listen=tcp:127.0.0.1:{}", scene.ports.one().unwrap());
    let failure = r#"{"type":"error","error":"broken\u001b[31m\ninside","error_code":500}"#;
    let huge = format!(r#"{{"type":"sync","metadata":"{}"}}"#, "x".repeat(20 << 20));
    let turned_away = r#"{"type":"error","error":"not authorized","error_code":403}"#;
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("no HTTP", b"garbage\r\n\r\n".to_vec(), "not the API"),
        ("nothing", Vec::new(), "cannot reach the server"),
        ("500", answer("500 Internal Server Error", failure), "broken [31m inside"),
        ("404 of something else", answer("404 Not Found", "<html>"), "not the API"),
        ("cut off", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{\"type\":".to_vec(), "cannot reach"),
        ("no JSON", answer("200 OK", "{\"type\": "), "not the API"),
        ("20 MB", answer("200 OK", &huge), "longer than"),
        ("turned away", answer("403 Forbidden", turned_away), "is denied"),
    ];
    for (what, bytes, said) in cases {
        let service = say_in(&scene.container, 80, what);
        wait_until_heard(&scene.host, port, what);
        scene.front.turn(Manner::Say(bytes));
        scene.wait_for_complaint();
        assert_eq!(heard(&scene.host, port).as_deref(), Some(what), "it goes on");
        let args = ["device", "add", "somebody", "web", &other, "connect=tcp::80"];
        says(&scene.daemon.cli(&args).unwrap(), 3, said);
        drop(service);
        scene.container.kill().unwrap();
        scene.daemon.wait_for_state("web", "degraded").unwrap();
        let device = scene.daemon.device("web").unwrap();
        let reason = device["reason"].as_str().unwrap();
        assert!(reason.contains("the server does not answer"), "{what}: {reason}");
        assert!(!reason.contains(['\u{1b}', '\n']), "{what}: {reason:?}");
        scene.front.turn(Manner::Pass);
        scene.wait_for_peace();
        wait_for_reason(&scene.daemon, "web", "the instance is stopped");
        scene.container.start().unwrap();
        scene.daemon.wait_for_state("web", "active").unwrap();
    }
    assert_eq!(scene.daemon.devices().unwrap().len(), 1);
}

/// A server that takes requests and never answers holds nobody up but who waits for it.
///
/// Fails when: an actor waits for the server itself.
#[test]
fn no_answer_at_all() {
    let Some(scene) = Scene::start("hang") else { return };
    let port = scene.add_web(&[]);
    let _service = say_in(&scene.container, 80, "here");
    wait_until_heard(&scene.host, port, "here");
    scene.front.turn(Manner::Hang);
    for _ in 0..3 {
        assert_eq!(heard(&scene.host, port).as_deref(), Some("here"));
        assert_eq!(scene.daemon.devices().unwrap().len(), 1);
    }
    let output = scene.daemon.cli(&["device", "set", scene.container.name(), "web", "connect.timeout=2s"]);
    assert!(output.unwrap().status.success());
    scene.front.turn(Manner::Pass);
    scene.container.restart().unwrap();
    let _service = say_in(&scene.container, 80, "again");
    wait_until_heard(&scene.host, port, "again");
}

/// The server goes, and with it its socket; the container restarts while nobody tells of it; the server
/// comes back. Connections that are open live on, clients that come wait, and are served.
///
/// Fails when: a closed socket ends a run, or nobody looks when it is back.
#[test]
fn a_server_that_is_away_for_a_while() {
    let Some(mut scene) = Scene::start("away") else { return };
    let port = scene.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    scene.daemon.add(scene.container.name(), "web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
    let inside = scene.container.site().unwrap();
    let echo = portway_testkit::Service::start(&inside, &local(80), portway_testkit::Behaviour::Echo);
    let echo = echo.unwrap();
    let open = check::dial(&scene.host, &local(port)).unwrap();
    scene.front.go_away();
    assert!(scene.wait_for_complaint().contains("cannot reach the server"));
    check::echo(&open, 100_000, 1).unwrap();
    check::echo(&check::dial(&scene.host, &local(port)).unwrap(), 1000, 2).unwrap();
    assert_eq!(scene.daemon.device("web").unwrap()["state"], "active");
    drop((echo, inside));
    scene.container.restart().unwrap();
    scene.daemon.wait_for_state("web", "degraded").unwrap();
    let _service = say_in(&scene.container, 80, "back");
    let held = check::dial(&scene.host, &local(port)).unwrap();
    scene.front.come_back().unwrap();
    assert_eq!(check::read_all(&held).unwrap(), b"back");
    scene.daemon.wait_for_state("web", "active").unwrap();
    scene.wait_for_peace();
}

/// The daemon is up before the server is, and before its socket is: devices of the state file wait as
/// `degraded`, a new one is refused, and all are served as soon as the server is there.
///
/// Fails when: the socket is looked for at the start only.
#[test]
fn a_daemon_that_is_earlier_than_its_server() {
    let Some(mut scene) = Scene::start("boot") else { return };
    let port = scene.add_web(&[]);
    scene.daemon.terminate().unwrap();
    for worker in scene.daemon.processes() {
        let pid = nix_pid(worker);
        // As after a boot: nothing of the former life is there.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    scene.front.go_away();
    scene.daemon.launch().unwrap();
    scene.daemon.wait_for_state("web", "degraded").unwrap();
    assert!(scene.wait_for_complaint().contains("cannot reach the server"));
    let args = ["device", "add", "c9", "web", "listen=tcp:127.0.0.1:1", "connect=tcp::80"];
    says(&scene.daemon.cli(&args).unwrap(), 3, "incus does not answer");
    let _service = say_in(&scene.container, 80, "at last");
    scene.front.come_back().unwrap();
    scene.daemon.wait_for_state("web", "active").unwrap();
    wait_until_heard(&scene.host, port, "at last");
}

fn nix_pid(pid: i32) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(pid)
}

/// An event of 10 MB, and ones that are no JSON: the stream is given up and opened again, and the daemon
/// is no larger for it.
///
/// Fails when: the size of a message is not bounded, or the end of the stream is the end of following.
#[test]
fn events_that_are_none() {
    let Some(scene) = Scene::start("events") else { return };
    let port = scene.add_web(&[]);
    let frame = |payload: &[u8]| {
        // A text frame of 64-bit length, unmasked (RFC 6455, section 5.2).
        let length = u64::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0x81, 0x7f][..], &length, payload].concat()
    };
    let large = frame(&vec![b' '; 10 << 20]);
    for bytes in [large, frame(b"{\"type\":"), frame(&[0xff, 0xfe]), vec![0xff; 64]] {
        scene.front.turn(Manner::Inject(bytes));
        // Given up more than once: the next stream begins with the same.
        let ended = || scene.daemon.log().matches("event stream ended").count();
        let before = ended();
        wait_for("the end of streams", || (ended() > before + 1).then_some(())).unwrap();
        scene.container.restart_by_force().unwrap();
        let _service = say_in(&scene.container, 80, "here");
        wait_until_heard(&scene.host, port, "here");
    }
    scene.front.turn(Manner::Pass);
    scene.wait_for_peace();
    let rss = process::rss_bytes(scene.daemon.pid().unwrap()).unwrap();
    assert!(rss < 64 << 20, "{rss} bytes");
}

/// A real server that is stopped and started: Incus 7.0. Nobody notices.
///
/// Fails when: the end of the server is taken for the end of its instances.
#[test]
fn a_real_server_restarts_alone_on_its_bed() {
    let spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:80");
    let Some(rig) = Rig::on(Server::Incus7, DaemonSpec::new(PORTWAY), "server", &spec).unwrap() else {
        return;
    };
    let port = add_web(&rig, &[]);
    let serves = || check::echo(&check::dial(rig.host(), &local(port)).ok()?, 10, 1).ok();
    wait_for("the service", serves).unwrap();
    let (workers, pid) = (rig.daemon.workers(), rig.container.pid().unwrap());
    let open = check::dial(rig.host(), &local(port)).unwrap();
    rig.bed().restart_server().unwrap();
    check::echo(&open, 100_000, 1).unwrap();
    assert_eq!((rig.daemon.workers(), rig.container.pid().unwrap()), (workers, pid));
    // Its events are heard again.
    rig.container.restart().unwrap();
    wait_for("the service", serves).unwrap();
    rig.daemon.wait_for_state("web", "active").unwrap();
}
