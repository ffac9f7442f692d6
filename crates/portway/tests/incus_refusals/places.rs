//! Paths, permissions and addresses that are not there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use portway_testkit::{Rig, run};

use crate::PORTWAY;
use crate::expect::{REFUSED, Traces, add_is_refused, heard, local, say, says};

/// Folders that are missing on the host are refused, whether listened in or connected to; a folder
/// that is missing in the container is waited for.
///
/// Fails when: a missing folder of the host is taken for one that will come.
#[test]
fn folders_that_are_missing() {
    let Some(rig) = Rig::start(PORTWAY, "folder").unwrap() else { return };
    let path = rig.path("missing/s");
    let said = format!("the folder of {} does not exist", path.display());
    let listen = format!("listen=unix:{}", path.display());
    add_is_refused(&rig, &[&listen, "connect=tcp::80"], REFUSED, &[&said, "this host"]);
    let connect = format!("connect=unix:{}", path.display());
    let keys = ["bind=instance", "listen=tcp:127.0.0.1:80", &connect];
    add_is_refused(&rig, &keys, REFUSED, &[&said, "this host"]);
    let file = rig.path("file");
    fs::write(&file, "").unwrap();
    let listen = format!("listen=unix:{}/s", file.display());
    add_is_refused(&rig, &[&listen, "connect=tcp::80"], REFUSED, &[&file.display().to_string()]);
    assert!(!path.exists() && file.exists());
    let output =
        rig.device_ok("add", &["late", "bind=instance", "listen=unix:/run/no/s", "connect=tcp::80"]).unwrap();
    assert!(output.contains("waiting: the folder of /run/no/s does not exist in the instance"), "{output}");
}

/// Places where nobody may make a socket, on the host and in the container.
#[test]
fn places_that_are_not_permitted() {
    let Some(rig) = Rig::start(PORTWAY, "denied").unwrap() else { return };
    let target = "connect=tcp::80";
    add_is_refused(&rig, &["listen=unix:/proc/portway-test", target], REFUSED, &["/proc/portway-test"]);
    let keys = ["bind=instance", "listen=unix:/proc/portway-test", target];
    add_is_refused(&rig, &keys, REFUSED, &["/proc/portway-test"]);
    // Root of the container may write there, if the mount lets it.
    rig.container.sh("mount -t tmpfs -o ro tmpfs /srv").unwrap();
    let keys = ["bind=instance", "listen=unix:/srv/s", target];
    add_is_refused(&rig, &keys, REFUSED, &["/srv/s", "ead-only"]);
}

/// A target on the host that the relay's user may not reach is no reason to refuse the device; its
/// clients are told, and so is the owner: `EACCES` in `last_error`, gone when it is permitted.
///
/// Fails when: a dial that is not permitted leaves the client waiting.
#[test]
fn a_target_that_may_not_be_reached() {
    let Some(rig) = Rig::start(PORTWAY, "eacces").unwrap() else { return };
    let path = rig.path("private");
    let service = portway_testkit::Service::start(
        rig.host(),
        &portway_testkit::Addr::unix(&path),
        portway_testkit::Behaviour::Say("reached".to_owned()),
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let connect = format!("connect=unix:{}", path.display());
    rig.add("s", &["bind=instance", "listen=tcp:127.0.0.1:80", &connect]).unwrap();
    let inside = rig.inside().unwrap();
    assert_eq!(heard(&inside, 80), None);
    let told = || rig.daemon.device("s").ok()?["last_error"].as_str().map(str::to_owned);
    let error = portway_testkit::wait_for("an error", told).unwrap();
    assert_eq!(error, format!("cannot connect to unix:{}: permission denied", path.display()));
    assert_eq!(service.accepted(), 0);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(heard(&inside, 80).as_deref(), Some("reached"));
}

/// An address that this host does not have yet: the device waits, says so, and serves when the
/// address comes. After a removal of the address nothing breaks.
///
/// Fails when: `EADDRNOTAVAIL` is an error of `add`, or is never tried again.
#[test]
fn an_address_that_is_not_local() {
    let Some(rig) = Rig::start(PORTWAY, "addr").unwrap() else { return };
    let _service = say(&rig, 80, "here");
    let port = rig.ports.one().unwrap();
    // An address of this claim alone; the bed's namespace is everybody's.
    let address = format!("10.99.{}.{}", port >> 8, port & 0xff);
    let listen = format!("listen=tcp:{address}:{port}");
    let output = rig.device_ok("add", &["web", &listen, "connect=tcp:127.0.0.1:80"]).unwrap();
    assert!(
        output.contains(&format!("waiting: tcp:{address}:{port} is not an address of this host")),
        "{output}"
    );
    let ip = |verb: &str| rig.bed().netns().ip(&format!("addr {verb} {address}/32 dev lo")).unwrap();
    ip("add");
    let served = rig.daemon.wait_for_state("web", "active");
    let said = rig.host().run(|| std::net::TcpStream::connect((address.as_str(), port))).unwrap();
    ip("del");
    served.unwrap();
    let mut text = String::new();
    let mut said = said.unwrap();
    said.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    // The connection is local to the host and outlives the address, or is cut with it.
    let _ = std::io::Read::read_to_string(&mut said, &mut text);
    rig.device_ok("remove", &["web"]).unwrap();
    assert!(rig.daemon.devices().unwrap().is_empty());
}

/// A server that does not answer: exit code 3, nothing left; what was added before is not touched.
///
/// Fails when: no answer counts as no instance.
#[test]
fn a_server_that_does_not_answer() {
    let Some(bed) = portway_testkit::bed() else { return };
    let spec = portway_testkit::DaemonSpec::new(PORTWAY).within(bed.netns());
    let daemon = spec.env("INCUS_SOCKET", "/nonexistent/socket").start().unwrap();
    let args = ["device", "add", "c1", "web", "listen=tcp:127.0.0.1:9999", "connect=tcp::80"];
    let output = daemon.cli(&args).unwrap();
    says(&output, 3, &["incus does not answer"]);
    assert!(daemon.devices().unwrap().is_empty() && daemon.workers().is_empty());
}

/// No daemon at all: exit code 3, and a hint how to start one.
#[test]
fn a_daemon_that_does_not_answer() {
    let Some(mut rig) = Rig::start(PORTWAY, "nodaemon").unwrap() else { return };
    rig.daemon.terminate().unwrap();
    for args in [&["device", "list"][..], &["status"], &["device", "remove", "c1", "web"]] {
        let output = rig.daemon.cli(args).unwrap();
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.starts_with("error: no daemon answers on "), "{error}");
    }
}

/// The bed itself is as it was: nothing of ours is in the way of the server.
#[test]
fn the_server_sees_no_error() {
    let Some(rig) = Rig::start(PORTWAY, "quiet").unwrap() else { return };
    let before = Traces::of(&rig);
    let listener = rig.host().run(|| std::net::TcpListener::bind(local(0))).unwrap().unwrap();
    let taken = listener.local_addr().unwrap().port();
    let output =
        rig.device("add", &["bad", &format!("listen=tcp:127.0.0.1:{taken}"), "connect=tcp::80"]).unwrap();
    assert_eq!(output.status.code(), Some(REFUSED));
    before.check(&rig, "a busy port");
    rig.container.restart().unwrap();
    let name = rig.container.name();
    let mut client: Command = rig.bed().client();
    let listed = run(client.args(["list", name, "--format", "csv", "--columns", "s"])).unwrap();
    assert_eq!(listed.trim(), "RUNNING");
    let errors: Vec<String> = rig
        .bed()
        .log()
        .unwrap()
        .lines()
        .filter(|line| line.contains(name) && line.contains("level=error"))
        .map(str::to_owned)
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}
