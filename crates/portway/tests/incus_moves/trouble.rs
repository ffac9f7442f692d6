//! Ports that are taken, somebody else who edits, and death at any moment.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portway_testkit::{Server, wait_for};

use crate::scene::Scene;

portway_testkit::on_every_server!(
    a_device_that_does_not_come_up_goes_back,
    a_port_that_is_about_to_be_free_is_waited_for,
    killed_at_any_moment_nothing_is_lost,
);

/// The port is that of another device here: the server gets back exactly what it had, the next device
/// is imported all the same, and the command says 1.
///
/// Fails when `import` does not put back what it took out.
fn a_device_that_does_not_come_up_goes_back(server: Server) {
    let Some(scene) = Scene::on(server, "moves", true) else { return };
    let (taken, free) = (scene.rig.ports.one().unwrap(), scene.rig.ports.one().unwrap());
    let taken_listen = format!("listen=tcp:127.0.0.1:{taken}");
    let elsewhere = scene.rig.bed().reference("elsewhere");
    scene.rig.daemon.add(&elsewhere, "owner", &[&taken_listen, "connect=tcp:127.0.0.1:7"]).unwrap();
    scene.incus_device("a", &[&taken_listen, "connect=tcp:127.0.0.1:7"]);
    let before = scene.definition();
    scene.incus_device("b", &[&format!("listen=tcp:127.0.0.1:{free}"), "connect=tcp:127.0.0.1:7"]);
    let output = scene.device("import", &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let (key, title) = if server == Server::Lxd { ("lxd", "LXD") } else { ("incus", "Incus") };
    assert!(said.contains(&format!("is in use by device {key}:default/elsewhere/owner")), "{said}");
    assert!(said.contains(&format!("{title} has the device back")), "{said}");
    assert!(said.contains("imported  "), "{said}");
    assert_eq!(scene.definition(), before);
    assert_eq!(scene.ours(), ["b", "owner"]);
}

/// A server ends its own relay after it has said that the device is gone, so the port is taken a moment longer.
///
/// Fails when `import` takes the first answer for the last.
fn a_port_that_is_about_to_be_free_is_waited_for(server: Server) {
    let Some(scene) = Scene::on(server, "moves", true) else { return };
    let port = scene.rig.ports.one().unwrap();
    scene.incus_device("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]);
    let taken = scene.rig.host().run(|| std::net::TcpListener::bind(("127.0.0.1", port))).unwrap().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            drop(taken);
        });
        scene.done("import", &[]);
    });
    assert_eq!(scene.ours(), ["web"]);
}

/// Somebody edits the instance all the time: nobody's change is lost.
///
/// Fails when the definition is put back without `If-Match`.
#[test]
fn who_edits_meanwhile_is_not_overwritten() {
    let Some(scene) = Scene::start("moves", true) else { return };
    let port = scene.rig.ports.one().unwrap();
    scene.incus_device("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]);
    let done = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let editor = scope.spawn(|| {
            let mut written = Vec::new();
            for count in 0.. {
                let key = format!("user.test.{count}");
                let words = ["config", "set", scene.name(), &format!("{key}=x")];
                // The client is told, too, when somebody was faster.
                if scene.rig.bed().client_output(&words).unwrap().status.success() {
                    written.push(key);
                }
                if done.load(Ordering::Relaxed) && written.len() > 2 {
                    break;
                }
            }
            written
        });
        for _ in 0..3 {
            let output = scene.device("import", &[]);
            // It gives up after some tries; then nothing has moved, and one can try again.
            if output.status.success() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        editor.join().unwrap()
    });
    scene.done("import", &[]);
    let definition = scene.definition();
    for key in written {
        assert_eq!(definition["config"][&key], "x", "{key}: {definition}");
    }
    assert_eq!(definition["devices"].get("web"), None, "{definition}");
    assert_eq!(scene.ours(), ["web"]);
}

/// The daemon is killed while it imports or exports. The device is always defined somewhere, and the
/// same command brings it to its end.
///
/// Fails when the note is written after the device was taken out, or is lost with the daemon.
fn killed_at_any_moment_nothing_is_lost(server: Server) {
    let Some(mut scene) = Scene::on(server, "moves", true) else { return };
    let port = scene.rig.ports.one().unwrap();
    scene.incus_device("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]);
    let before = scene.definition();
    for pause in [4, 9, 16, 25, 40] {
        for verb in ["import", "export"] {
            let mut command = scene.rig.daemon.command();
            command
                .args(["device", verb, &scene.rig.reference()])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut moving = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(pause));
            scene.rig.daemon.kill().unwrap();
            moving.wait().unwrap();
            scene.rig.daemon.launch().unwrap();
            let there = scene.definition();
            let noted = there["config"].to_string().contains("user.portway.moving.web");
            let defined = there["devices"].get("web").is_some() || noted || scene.ours() == ["web"];
            assert!(defined, "{verb} killed after {pause} ms: {there}");
            // What was begun is ended by an import, whichever way it went; by the next one when the
            // dead daemon's last request was still on its way.
            let ended = || {
                scene.done("import", &[]);
                (scene.ours() == ["web"] && scene.definition()["config"] == before["config"]).then_some(())
            };
            wait_for(&format!("the end of {verb}, killed after {pause} ms"), ended).unwrap();
            if verb == "export" {
                scene.done("export", &[]);
                assert_eq!(scene.definition(), before);
            }
        }
    }
}
