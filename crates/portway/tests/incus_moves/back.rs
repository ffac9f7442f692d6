//! There and back again.

use std::fs;

use portway_testkit::{Addr, Bed, Behaviour, ContainerSpec, Server, Service, wait_for};
use serde_json::json;

use crate::scene::{Scene, echoes, proxy};

/// `127.0.0.1` and a port.
fn local(port: u16) -> std::net::SocketAddr {
    ([127, 0, 0, 1], port).into()
}

portway_testkit::on_every_server!(
    a_device_moves_and_comes_back_as_it_was,
    a_device_of_a_profile_is_hidden_and_shown_again
);

/// A device of a running container, with connections through the server's own relay before and after.
/// What the server has at the end is what it had at the beginning.
///
/// Fails when `exportable` forgets the origin: `tcp::PORT` comes back as `tcp:[::]:PORT`.
fn a_device_moves_and_comes_back_as_it_was(server: Server) {
    let Some(scene) = Scene::on(server, "moves", false) else { return };
    let (web, own) = (scene.rig.ports.one().unwrap(), scene.rig.ports.one().unwrap());
    scene
        .incus_device("web", &[&format!("listen=tcp:0.0.0.0:{web}"), "connect=tcp:127.0.0.1:7", "bind=host"]);
    scene.incus_device(
        "own",
        &[&format!("listen=tcp::{own}"), "connect=tcp:0.0.0.0:7", "proxy_protocol=false"],
    );
    scene.wait_until_served(web);
    let before = scene.definition();

    let planned = scene.done("import", &["--dry-run"]);
    assert!(planned.contains(&format!("listen=tcp:[::]:{web}")), "{planned}");
    let title = if server == Server::Lxd { "LXD" } else { "Incus" };
    let note = format!("takes IPv6 too in {title}: ");
    assert!(planned.contains("would import") && planned.contains(&note), "{planned}");
    let listed = scene.rig.daemon.cli(&["device", "import", "--all", "--dry-run"]).unwrap().stdout;
    assert!(String::from_utf8_lossy(&listed).contains(scene.name()), "all of them");
    assert_eq!(scene.definition(), before);
    assert!(scene.ours().is_empty());

    let said = scene.done("import", &[]);
    assert_eq!(said.matches("imported").count(), 2, "{said}");
    assert_eq!(scene.ours(), ["own", "web"]);
    let away = scene.definition();
    assert_eq!(away["devices"].get("web"), None, "{away}");
    assert!(!away["config"].to_string().contains("portway"), "{away}");
    scene.wait_until_served(web);
    scene.wait_until_served(own);
    assert_eq!(scene.rig.daemon.device("web").unwrap()["state"], "active");
    assert!(scene.rig.daemon.device("web").unwrap()["connections_total"].as_u64().unwrap() > 0);
    let again = scene.done("import", &[]);
    assert_eq!(again, "No devices to move\n");

    let said = scene.done("export", &[]);
    assert_eq!(said.matches("exported").count(), 2, "{said}");
    assert_eq!(scene.definition(), before);
    assert!(scene.ours().is_empty());
    scene.wait_until_served(web);
}

/// A device of a profile: the instance hides it, the profile stays, and the way back shows it again.
fn a_device_of_a_profile_is_hidden_and_shown_again(server: Server) {
    let Some(scene) = Scene::on(server, "moves", true) else { return };
    let port = scene.rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    let web = json!({"web": proxy(&[&listen, "connect=tcp:127.0.0.1:7"])});
    let profile = Profile::make(scene.rig.bed(), &format!("{}-profile", scene.name()), &web);
    scene.rig.container.request("PATCH", "", &json!({"profiles": ["default", profile.name]})).unwrap();
    let before = scene.definition();
    let said = scene.done("import", &[]);
    assert!(said.contains("imported") && said.contains("(of a profile)"), "{said}");
    assert!(said.contains("waiting: the instance is stopped"), "{said}");
    assert_eq!(scene.definition()["devices"]["web"], serde_json::json!({"type": "none"}));
    assert_eq!(profile.devices(), web);
    scene.rig.container.start().unwrap();
    scene.wait_until_served(port);
    scene.rig.container.kill().unwrap();
    scene.done("export", &[]);
    assert_eq!(scene.definition(), before);
    // What was changed here goes to the instance.
    scene.done("import", &[]);
    scene.done("set", &["web", "connect=tcp:127.0.0.1:8"]);
    scene.done("export", &[]);
    let local = scene.definition()["devices"]["web"].clone();
    assert_eq!((&local["type"], &local["connect"]), (&"proxy".into(), &"tcp:127.0.0.1:8".into()), "{local}");
    scene.rig.container.request("PATCH", "", &json!({"profiles": ["default"]})).unwrap();
}

/// Two containers have one device of one profile: each gets its own, both serve at once, and the way back
/// leaves neither the other's; what is done to one is no business of the other.
///
/// Fails when: a device of a profile is taken out of the profile, or two of one name are one device.
#[test]
fn one_profile_of_two_containers() {
    let Some(scene) = Scene::start("moves", false) else { return };
    let spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:7\n");
    let other = scene.rig.bed().launch("moves", &spec).unwrap();
    let port = scene.rig.ports.one().unwrap();
    let service = Service::start(scene.rig.host(), &Addr::Tcp(local(port)), Behaviour::Echo).unwrap();
    let connect = format!("connect=tcp:127.0.0.1:{port}");
    // A port of the host could be listened on by one of them only.
    let agent = json!({"agent": proxy(&["bind=instance", "listen=tcp:127.0.0.1:81", &connect])});
    let profile = Profile::make(scene.rig.bed(), &format!("{}-both", scene.name()), &agent);
    for name in [scene.name(), other.name()] {
        scene.incus(&["profile", "add", name, &profile.name]);
    }
    let both = [scene.rig.inside().unwrap(), other.site().unwrap()];
    let serve = |count: u64| {
        let before = service.accepted();
        for site in &both {
            wait_for("an echo", || echoes(site, 81).then_some(())).unwrap();
        }
        assert!(service.accepted() >= before + count);
    };
    serve(2);
    let before =
        [scene.rig.container.read().unwrap(), other.read().unwrap()].map(|all| all["devices"].clone());

    let output = scene.rig.daemon.cli(&["device", "import", scene.name(), other.name()]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("imported").count(), 2, "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(scene.ours(), ["agent", "agent"]);
    serve(2);
    scene.done("remove", &["agent"]);
    assert!(!echoes(&both[0], 81));
    wait_for("an echo", || echoes(&both[1], 81).then_some(())).unwrap();
    // The way back of a device that was removed here is Incus' own.
    scene.incus(&["config", "device", "remove", scene.name(), "agent"]);
    let output = scene.rig.daemon.cli(&["device", "export", other.name()]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("exported").count(), 1, "{said}{}", String::from_utf8_lossy(&output.stderr));
    serve(2);
    let after =
        [scene.rig.container.read().unwrap(), other.read().unwrap()].map(|all| all["devices"].clone());
    assert_eq!(after, before);
    for name in [scene.name(), other.name()] {
        scene.incus(&["profile", "remove", name, &profile.name]);
    }
}

/// What cannot move is listed with the reason and stays, both ways.
#[test]
fn what_cannot_move_stays_and_is_said() {
    let Some(scene) = Scene::start("moves", true) else { return };
    let port = scene.rig.ports.one().unwrap();
    scene.incus_device("zero", &["listen=tcp:127.0.0.1:0", "connect=tcp:127.0.0.1:7"]);
    scene.incus_device(
        "note",
        &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7", "user.note=x"],
    );
    let before = scene.definition();
    let said = scene.done("import", &[]);
    assert!(said.contains("skipped") && said.contains("port 0 is not allowed"), "{said}");
    assert!(said.contains("key `user.note` is not kept"), "{said}");
    assert_eq!(scene.definition(), before);

    scene
        .rig
        .add("ours", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7", "hold=5s"])
        .unwrap();
    let said = scene.done("export", &[]);
    assert!(said.contains("skipped") && said.contains("reason: Incus has no hold"), "{said}");
    assert_eq!(scene.ours(), ["ours"]);
    let listed = scene.done("import", &["--dry-run", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert!(listed.as_array().unwrap().iter().all(|one| one["progress"] == "skipped"), "{listed}");

    let output = scene.rig.daemon.cli(&["device", "import"]).unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let output = scene.rig.daemon.cli(&["device", "import", "nobody"]).unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::metadata(scene.rig.daemon.dir()).is_ok());
}

/// A profile of this test, deleted when no instance has it.
struct Profile {
    bed: &'static Bed,
    name: String,
}

impl Profile {
    fn make(bed: &'static Bed, name: &str, devices: &serde_json::Value) -> Profile {
        let body = json!({"name": name, "devices": devices});
        bed.incus().change("POST", "/1.0/profiles", Some(&body)).unwrap();
        Profile { bed, name: name.to_owned() }
    }

    fn path(&self) -> String {
        format!("/1.0/profiles/{}", self.name)
    }

    fn devices(&self) -> serde_json::Value {
        self.bed.incus().get(&self.path()).unwrap()["devices"].clone()
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // While the container has it, it stays: a failed test is told otherwise.
        let _ = self.bed.incus().change("DELETE", &self.path(), None);
    }
}
