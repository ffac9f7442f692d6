//! Whose a device is, on every server: the instance's that it was added to, whatever becomes of it.

use portway_testkit::{ContainerSpec, DaemonSpec, Rig, Server};
use serde_json::json;

use crate::PORTWAY;
use crate::talk::{add_web, heard, say_in, says, wait_for_reason, wait_until_heard};

portway_testkit::on_every_server!(
    renamed,
    deleted_and_made_again,
    copied,
    moved_to_another_project,
    restored_from_a_snapshot,
);

fn rig(server: Server, name: &str) -> Option<Rig> {
    Rig::on(server, DaemonSpec::new(PORTWAY), name, &ContainerSpec::default()).unwrap()
}

fn instance_of(rig: &Rig) -> String {
    rig.daemon.device("web").unwrap()["instance"].as_str().unwrap().to_owned()
}

/// A container that was renamed keeps its devices; its namesake gets none.
///
/// Fails when: devices are found by name alone.
fn renamed(server: Server) {
    let Some(mut rig) = rig(server, "rename") else { return };
    let port = add_web(&rig, &[]);
    let (old, new) = (rig.container.name().to_owned(), format!("{}-new", rig.container.name()));
    // A running one keeps its name: the servers refuse.
    assert!(rig.container.rename(&new).is_err());
    assert_eq!(rig.container.name(), old);
    rig.container.kill().unwrap();
    rig.container.rename(&new).unwrap();
    let there = || instance_of(&rig).ends_with(&format!(":default/{new}")).then_some(());
    portway_testkit::wait_for("the device goes along", there).unwrap();
    let namesake = rig.bed().launch_exactly(&old, &ContainerSpec::default()).unwrap();
    let _stranger = say_in(&namesake, 80, "the namesake");
    rig.container.start().unwrap();
    let _service = say_in(&rig.container, 80, "the renamed");
    wait_until_heard(rig.host(), port, "the renamed");
}

/// A container of the same name as a deleted one gets nothing, until it is told to by `device adopt`.
///
/// Fails when: the UUID is not read, or not compared.
fn deleted_and_made_again(server: Server) {
    let Some(mut rig) = rig(server, "again") else { return };
    let port = add_web(&rig, &["hold=0"]);
    let reference = rig.reference();
    let again = rig.replace_container().unwrap();
    let _service = say_in(&again, 80, "the namesake");
    wait_for_reason(&rig.daemon, "web", "another instance has this name");
    assert_eq!(heard(rig.host(), port), None);
    let output = rig.daemon.cli(&["device", "adopt", &reference]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_until_heard(rig.host(), port, "the namesake");
}

/// A copy has no devices, and takes none from its original: neither while both run, nor when the original
/// is gone and the copy gets its name.
///
/// Fails when: a copy's UUID is taken for its original's.
fn copied(server: Server) {
    let Some(mut rig) = rig(server, "copy") else { return };
    let port = add_web(&rig, &["hold=0"]);
    let name = rig.container.name().to_owned();
    let copy = format!("{name}-copy");
    let wanted = json!({"name": copy, "type": "container", "source": {"type": "copy", "source": name}});
    rig.bed().incus().change("POST", "/1.0/instances?project=default", Some(&wanted)).unwrap();
    let copy = rig.bed().take("default", &copy);
    copy.start().unwrap();
    let _copied = say_in(&copy, 80, "the copy");
    let service = say_in(&rig.container, 80, "the original");
    wait_until_heard(rig.host(), port, "the original");
    assert_ne!(copy.uuid().unwrap(), rig.container.uuid().unwrap());
    let listed = rig.daemon.cli(&["device", "list", &rig.bed().reference(copy.name()), "--format", "csv"]);
    assert!(!String::from_utf8_lossy(&listed.unwrap().stdout).contains("web"));
    drop(service);
    copy.kill().unwrap();
    let mut copy = copy;
    let spec = ContainerSpec { stopped: true, ..ContainerSpec::default() };
    let other = rig.bed().launch("placeholder", &spec).unwrap();
    std::mem::replace(&mut rig.container, other).delete().unwrap();
    copy.rename(&name).unwrap();
    copy.start().unwrap();
    let _copied = say_in(&copy, 80, "the copy");
    wait_for_reason(&rig.daemon, "web", "another instance has this name");
    assert_eq!(heard(rig.host(), port), None);
}

/// A container that moves to another project takes its devices along.
///
/// Fails when: it is looked for in its old project only.
fn moved_to_another_project(server: Server) {
    let Some(bed) = portway_testkit::bed_of(server) else { return };
    let project = bed.project("away").unwrap();
    let Some(mut rig) = rig(server, "move") else { return };
    let port = add_web(&rig, &[]);
    let name = rig.container.name().to_owned();
    rig.container.kill().unwrap();
    rig.container.move_to(project.name()).unwrap();
    let full = format!(":{}/{name}", project.name());
    let there = || instance_of(&rig).ends_with(&full).then_some(());
    portway_testkit::wait_for("the device goes along", there).unwrap();
    rig.container.start().unwrap();
    let _service = say_in(&rig.container, 80, "moved");
    wait_until_heard(rig.host(), port, "moved");
    // On one bridge the server refuses a second one of that name.
    let namesake = rig.bed().launch_exactly(&name, &ContainerSpec::default().with_macvlan()).unwrap();
    let _stranger = say_in(&namesake, 80, "the namesake");
    assert_eq!(heard(rig.host(), port).as_deref(), Some("moved"));
    // The project is empty again before it goes.
    let spec = ContainerSpec { stopped: true, ..ContainerSpec::default() };
    let other = rig.bed().launch("placeholder", &spec).unwrap();
    std::mem::replace(&mut rig.container, other).delete().unwrap();
}

/// A container that is put back to a snapshot is the same one.
///
/// Fails when: the generation of its UUID is taken for its identity.
fn restored_from_a_snapshot(server: Server) {
    let Some(rig) = rig(server, "snap") else { return };
    let port = add_web(&rig, &[]);
    let uuid = rig.container.uuid().unwrap();
    rig.container.request("POST", "/snapshots", &json!({"name": "before"})).unwrap();
    // Once while it runs, when the server stops and starts it, and once while it does not.
    for text in ["restored running", "restored stopped"] {
        if text == "restored stopped" {
            rig.container.kill().unwrap();
        }
        rig.container.request("PUT", "", &json!({"restore": "before"})).unwrap();
        assert_eq!(rig.container.uuid().unwrap(), uuid);
        if rig.container.pid().is_err() {
            rig.container.start().unwrap();
        }
        let _service = say_in(&rig.container, 80, text);
        wait_until_heard(rig.host(), port, text);
        rig.daemon.wait_for_state("web", "active").unwrap();
    }
    rig.container.kill().unwrap();
}

/// A container whose files are made anew from an image is the same one. LXD 5.0 cannot do it.
///
/// Fails when: an instance whose files change is taken for another.
fn rebuilt(server: Server) {
    let Some(rig) = rig(server, "rebuild") else { return };
    let port = add_web(&rig, &[]);
    rig.container.kill().unwrap();
    let image = json!({"source": {"type": "image", "alias": "bb"}});
    rig.container.request("POST", "/rebuild", &image).unwrap();
    rig.container.start().unwrap();
    let _service = say_in(&rig.container, 80, "rebuilt");
    wait_until_heard(rig.host(), port, "rebuilt");
}

#[test]
fn rebuilt_on_incus6() {
    rebuilt(Server::Incus6);
}

#[test]
fn rebuilt_on_incus7() {
    rebuilt(Server::Incus7);
}

/// An instance that is known to one server is not looked for at the other.
///
/// Fails when: the provider is left out of an instance's key.
#[test]
fn two_servers_beside_each_other() {
    let Some(rig) = rig(Server::Lxd, "beside") else { return };
    let Some(incus) = portway_testkit::bed_of(Server::Incus7) else { return };
    let socket = incus.socket();
    let netns = rig.bed().netns();
    let daemon = DaemonSpec::new(PORTWAY).on(rig.bed()).within(netns);
    let daemon = daemon.env("INCUS_SOCKET", &socket.to_string_lossy()).start().unwrap();
    let twin = incus.launch_exactly(rig.container.name(), &ContainerSpec::default()).unwrap();
    let (_one, _two) = (say_in(&rig.container, 80, "of lxd"), say_in(&twin, 80, "of incus"));
    let mut ports = Vec::new();
    for provider in ["lxd", "incus"] {
        let port = rig.ports.one().unwrap();
        let name = format!("{provider}:{}", rig.container.name());
        let listen = format!("listen=tcp:127.0.0.1:{port}");
        daemon.add(&name, "web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
        ports.push(port);
    }
    wait_until_heard(rig.host(), ports[0], "of lxd");
    wait_until_heard(rig.host(), ports[1], "of incus");
    rig.container.kill().unwrap();
    assert_eq!(heard(rig.host(), ports[1]).as_deref(), Some("of incus"));
    let status = daemon.api().get("/1.0").unwrap();
    let providers = status["providers"].as_array().unwrap();
    assert!(providers.iter().all(|provider| provider["reachable"] == true), "{providers:?}");
    assert_eq!(providers.len(), 2);
    let doctor = daemon.cli(&["doctor"]).unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("5.0") && said.contains("7.0"), "{said}");
    says(&daemon.cli(&["device", "show", "lxd:nobody", "web"]).unwrap(), 4, "lxd:default/nobody");
}
