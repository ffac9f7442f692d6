//! Instances that are stopped, or do not exist yet: the device is taken and waits.

use portway_testkit::{ContainerSpec, DaemonSpec, Rig};

use crate::PORTWAY;
use crate::expect::{REFUSED, heard, local, say, says, wait_until_heard};

fn stopped(name: &str) -> Option<Rig> {
    let spec = ContainerSpec { stopped: true, ..ContainerSpec::default() };
    Rig::launch(DaemonSpec::new(PORTWAY), name, &spec).unwrap()
}

/// A stopped container: exit code 0, `waiting` and why, on both sides; served when it starts, and
/// again after the daemon was started anew meanwhile.
///
/// Fails when: `add` needs a running instance.
#[test]
fn a_stopped_instance() {
    let Some(mut rig) = stopped("stopped") else { return };
    let port = rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    let said = rig.device_ok("add", &["out", &listen, "connect=tcp:127.0.0.1:80"]).unwrap();
    assert!(said.contains("waiting: the instance is stopped"), "{said}");
    let inside = ["in", "bind=instance", "listen=tcp:127.0.0.1:81", "connect=tcp:127.0.0.1:82"];
    let said = rig.device_ok("add", &inside).unwrap();
    assert!(said.contains("waiting: the instance is stopped"), "{said}");
    assert!(rig.daemon.workers().is_empty());
    rig.daemon.terminate().unwrap();
    rig.daemon.launch().unwrap();
    for device in ["out", "in"] {
        rig.daemon.wait_for_state(device, "waiting").unwrap();
    }
    rig.container.start().unwrap();
    for device in ["out", "in"] {
        rig.daemon.wait_for_state(device, "active").unwrap();
    }
    let _service = say(&rig, 80, "here");
    wait_until_heard(&rig, port, "here");
    rig.container.stop().unwrap();
    for device in ["out", "in"] {
        rig.daemon.wait_for_state(device, "waiting").unwrap();
    }
}

/// An instance that does not exist yet, in a project that does not exist either: it waits, and serves
/// the first one of that name.
///
/// Fails when: an unknown name is an error, or the first instance is taken for a stranger.
#[test]
fn an_instance_that_does_not_exist_yet() {
    let Some(rig) = Rig::start(PORTWAY, "first").unwrap() else { return };
    let name = format!("{}-later", rig.container.name());
    let port = rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    let add = ["device", "add", &name, "web", &listen, "connect=tcp:127.0.0.1:80"];
    let output = rig.daemon.cli(&add).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(said.contains("waiting: the instance does not exist"), "{said}");
    assert!(rig.daemon.device("web").unwrap()["instance_uuid"].is_null());
    let later = rig.bed().launch_exactly(&name, &ContainerSpec::default()).unwrap();
    rig.daemon.wait_for_state("web", "active").unwrap();
    assert_eq!(rig.daemon.device("web").unwrap()["instance_uuid"], later.uuid().unwrap().as_str());
    let site = later.site().unwrap();
    let addr = portway_testkit::Addr::Tcp(local(80));
    let behaviour = portway_testkit::Behaviour::Say("the first".to_owned());
    let _service = portway_testkit::Service::start(&site, &addr, behaviour).unwrap();
    wait_until_heard(&rig, port, "the first");

    let elsewhere = ["device", "add", "nowhere/c1", "web", "listen=tcp:127.0.0.1:1", "connect=tcp::80"];
    let output = rig.daemon.cli(&elsewhere).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("waiting"));
}

/// What can be seen to be wrong is refused while the instance is stopped as well: a busy port of the
/// host, a missing folder of the host.
#[test]
fn what_is_wrong_anyway() {
    let Some(rig) = stopped("wrong") else { return };
    let listener = rig.host().run(|| std::net::TcpListener::bind(local(0))).unwrap().unwrap();
    let busy = format!("listen=tcp:{}", listener.local_addr().unwrap());
    let output = rig.device("add", &["bad", &busy, "connect=tcp::80"]).unwrap();
    says(&output, REFUSED, &["is in use", "(pid "]);
    let listen = format!("listen=unix:{}", rig.path("no/s").display());
    let output = rig.device("add", &["bad", &listen, "connect=tcp::80"]).unwrap();
    says(&output, REFUSED, &["does not exist"]);
    let connect = format!("connect=unix:{}", rig.path("no/s").display());
    let keys = ["bad", "bind=instance", "listen=tcp:127.0.0.1:80", &connect];
    let output = rig.device("add", &keys).unwrap();
    says(&output, REFUSED, &["does not exist"]);
    assert!(rig.daemon.devices().unwrap().is_empty());
    assert!(rig.daemon.workers().is_empty());
}

/// A frozen container is a running one: the device is added, and served when it thaws.
#[test]
fn a_frozen_instance() {
    let Some(rig) = Rig::start(PORTWAY, "frozen").unwrap() else { return };
    let port = rig.ports.one().unwrap();
    let name = rig.container.name();
    let state = format!("/1.0/instances/{name}/state");
    let act = |action: &str| {
        let change = serde_json::json!({"action": action, "timeout": 30});
        rig.bed().incus().change("PUT", &state, Some(&change)).unwrap();
    };
    act("freeze");
    rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:80"]).unwrap();
    rig.daemon.wait_for_state("web", "active").unwrap();
    act("unfreeze");
    let _service = say(&rig, 80, "thawed");
    assert_eq!(heard(rig.host(), port).as_deref(), Some("thawed"));
}
