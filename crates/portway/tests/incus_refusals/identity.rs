//! Whose a device is: the instance it was added to, by its UUID, whatever that one is called.

use portway_testkit::{Addr, Behaviour, Container, ContainerSpec, Rig, Service, wait_for};

use crate::PORTWAY;
use crate::expect::{REFUSED, heard, local, say, says, wait_until_heard};

fn say_in(container: &Container<'_>, text: &str) -> Service {
    let site = container.site().unwrap();
    Service::start(&site, &Addr::Tcp(local(80)), Behaviour::Say(text.to_owned())).unwrap()
}

fn instance_of(rig: &Rig, device: &str) -> String {
    rig.daemon.device(device).unwrap()["instance"].as_str().unwrap().to_owned()
}

/// A renamed container keeps its devices under its new name; a new one of its old name gets none.
///
/// Fails when: devices are found by name alone.
#[test]
fn a_renamed_instance_keeps_its_devices() {
    let Some(mut rig) = Rig::start(PORTWAY, "rename").unwrap() else { return };
    let (old, new) = (rig.container.name().to_owned(), format!("{}-new", rig.container.name()));
    let port = rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    rig.add("web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
    rig.container.kill().unwrap();
    rig.container.rename(&new).unwrap();
    let moved = || (instance_of(&rig, "web") == format!("incus:default/{new}")).then_some(());
    wait_for("the device goes along", moved).unwrap();
    let namesake = rig.bed().launch_exactly(&old, &ContainerSpec::default()).unwrap();
    let _stranger = say_in(&namesake, "the namesake");
    rig.container.start().unwrap();
    rig.daemon.wait_for_state("web", "active").unwrap();
    let _service = say(&rig, 80, "the renamed");
    wait_until_heard(&rig, port, "the renamed");
    // The old name is free for devices of its own.
    let other = rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{other}");
    rig.daemon.add(&old, "web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
    wait_until_heard(&rig, other, "the namesake");
    assert_eq!(heard(rig.host(), port).as_deref(), Some("the renamed"));
    assert_eq!(rig.daemon.devices().unwrap().len(), 2);
}

/// A rename while no daemon runs is found out at its next start.
///
/// Fails when: only events tell of a rename.
#[test]
fn a_rename_without_a_daemon() {
    let Some(mut rig) = Rig::start(PORTWAY, "away").unwrap() else { return };
    let new = format!("{}-new", rig.container.name());
    let port = rig.ports.one().unwrap();
    rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:80"]).unwrap();
    rig.daemon.terminate().unwrap();
    rig.container.kill().unwrap();
    rig.container.rename(&new).unwrap();
    rig.container.start().unwrap();
    let _service = say(&rig, 80, "the renamed");
    rig.daemon.launch().unwrap();
    wait_until_heard(&rig, port, "the renamed");
    assert_eq!(instance_of(&rig, "web"), format!("incus:default/{new}"));
}

/// A container that is deleted and made again under its name does not get its namesake's devices:
/// they wait and say so, survive a restart of the daemon so, and come with `device adopt`.
///
/// Fails when: the UUID is not compared, or not stored.
#[test]
fn a_namesake_gets_nothing_unless_adopted() {
    let Some(mut rig) = Rig::start(PORTWAY, "again").unwrap() else { return };
    let name = rig.container.name().to_owned();
    let port = rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    rig.add("web", &[&listen, "connect=tcp:127.0.0.1:80", "hold=0"]).unwrap();
    let inside = ["bind=instance", "listen=tcp:127.0.0.1:81", "connect=tcp:127.0.0.1:82"];
    rig.add("in", &inside).unwrap();
    let before = rig.container.uuid().unwrap();
    let again = rig.replace_container().unwrap();
    let _service = say_in(&again, "the namesake");
    let reason = || {
        let web = rig.daemon.device("web").ok()?;
        let reason = web["reason"].as_str()?.to_owned();
        (web["state"] == "waiting" && reason.contains("another instance has this name")).then_some(reason)
    };
    let said = wait_for("the device waits for its own", reason).unwrap();
    assert!(said.contains("portway device adopt"), "{said}");
    assert_eq!(heard(rig.host(), port), None);
    assert!(!again.sh("netstat -ltn").unwrap().contains(":81 "));
    rig.daemon.terminate().unwrap();
    rig.daemon.launch().unwrap();
    wait_for("it still waits", reason_after(&rig)).unwrap();
    assert_eq!(rig.daemon.device("web").unwrap()["instance_uuid"], before.as_str());

    let output = rig.daemon.cli(&["device", "adopt", &name]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for device in ["web", "in"] {
        rig.daemon.wait_for_state(device, "active").unwrap();
        assert_eq!(rig.daemon.device(device).unwrap()["instance_uuid"], again.uuid().unwrap().as_str());
    }
    wait_until_heard(&rig, port, "the namesake");
    assert!(again.sh("netstat -ltn").unwrap().contains(":81 "));
}

fn reason_after(rig: &Rig) -> impl FnMut() -> Option<()> + '_ {
    || {
        let web = rig.daemon.device("web").ok()?;
        web["reason"].as_str()?.contains("another instance has this name").then_some(())
    }
}

/// With `follow=name` the namesake gets the device without a word.
///
/// Fails when: `follow` is not looked at.
#[test]
fn a_device_may_follow_the_name() {
    let Some(mut rig) = Rig::start(PORTWAY, "follow").unwrap() else { return };
    let port = rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    rig.add("web", &[&listen, "connect=tcp:127.0.0.1:80", "follow=name"]).unwrap();
    let again = rig.replace_container().unwrap();
    let _service = say_in(&again, "the namesake");
    rig.daemon.wait_for_state("web", "active").unwrap();
    wait_until_heard(&rig, port, "the namesake");
}

/// Adoption has something to adopt and somebody to adopt it, or says what is missing.
#[test]
fn adoption_that_cannot_be() {
    let Some(mut rig) = Rig::start(PORTWAY, "orphan").unwrap() else { return };
    let name = rig.container.name().to_owned();
    says(&rig.daemon.cli(&["device", "adopt", &name]).unwrap(), 4, &["has no devices"]);
    let port = rig.ports.one().unwrap();
    rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp::80"]).unwrap();
    drop(rig.replace_container().unwrap());
    let absent =
        || rig.daemon.device("web").ok()?["reason"].as_str()?.contains("does not exist").then_some(());
    wait_for("the instance is gone", absent).unwrap();
    says(&rig.daemon.cli(&["device", "adopt", &name]).unwrap(), 4, &["does not exist"]);
    // Its port stays its own, and so does the device.
    let output = rig.daemon.cli(&[
        "device",
        "add",
        "somebody-else",
        "web",
        &format!("listen=tcp:127.0.0.1:{port}"),
        "connect=tcp::80",
    ]);
    says(&output.unwrap(), REFUSED, &[&format!("by device incus:default/{name}/web")]);
}
