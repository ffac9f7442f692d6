//! A project from its first start to its end.

use portway_testkit::{DaemonSpec, Server};

use crate::PORTWAY;
use crate::scene::Scene;

fn file(port: u16, greeting: &str) -> String {
    format!(
        "services:
  web:
    image: local:bb
    command: [sh, -c, 'echo begun; mkdir -p /www; echo $$GREETING > /www/index.html; exec httpd -f -p 80 -h /www']
    environment: {{GREETING: {greeting}}}
    ports: ['127.0.0.1:{port}:80']
    depends_on: {{db: {{condition: service_healthy}}}}
    stop_grace_period: 1s
  db:
    image: local:bb
    command: [sh, -c, 'touch /data/ready; exec sleep 100000']
    healthcheck: {{test: [CMD, test, -e, /data/ready], interval: 200ms, retries: 100}}
    volumes: ['data:/data']
    stop_grace_period: 1s
volumes: {{data: {{}}}}
"
    )
}

/// Fails when `up` again writes, when a change of one service touches another, or when anything is left after `down`.
fn life(server: Server) {
    let Some(scene) = Scene::on(server, "life") else { return };
    let port = scene.free_port();
    scene.write(&file(port, "hello"));
    let dry = scene.ok(&["up", "-d", "--dry-run"]);
    assert!(dry.out.contains("create instance web-1\n") && scene.is_gone(), "{dry:?}");
    let up = scene.ok(&["up", "-d"]);
    assert!(up.err.contains("proxy devices of Incus from here on"), "said once: {up:?}");
    assert_eq!(scene.instances(), ["db-1 Running", "web-1 Running"]);
    assert_eq!(scene.fetch(port, "/"), "hello\n");
    // The resolver of LXD refuses to say that there is no IPv6 address of it.
    let asked = if server == Server::Lxd { "ping -c 1 -w 5 db" } else { "nslookup db" };
    scene.ok(&["exec", "-T", "web", "sh", "-c", &format!("{asked} && ping -c 1 -w 5 db-1")]);
    let logs = scene.ok(&["logs", "--no-log-prefix", "web"]).out;
    assert_eq!(logs, "begun\n");

    let before = scene.all();
    let again = scene.events("web-1", || {
        let again = scene.ok(&["up", "-d"]);
        assert_eq!((again.out.as_str(), again.err.as_str()), ("", ""));
        assert_eq!(scene.all(), before);
    });
    assert_eq!(again, ["instance-updated web-1"], "no more than the mark");

    let (web, db) = (scene.pid("web-1"), scene.pid("db-1"));
    scene.write(&file(port, "changed"));
    scene.ok(&["up", "-d"]);
    assert_eq!(scene.fetch(port, "/"), "changed\n");
    assert_eq!((scene.pid("web-1") == web, scene.pid("db-1") == db), (false, true));

    let ps = scene.ok(&["ps"]).out;
    assert!(ps.contains("web-1") && ps.contains(&format!("127.0.0.1:{port}->80/tcp")), "{ps}");
    scene.ok(&["stop", "web"]);
    assert_eq!(scene.instances(), ["db-1 Running", "web-1 Stopped"]);
    assert_eq!(scene.ok(&["ps", "-q"]).out, "db-1\n");
    scene.ok(&["start"]);
    scene.ok(&["restart", "-t", "0", "db"]);
    assert_ne!(scene.pid("db-1"), db);
    scene.ok(&["down"]);
    assert!(scene.instances().is_empty() && scene.networks().is_empty());
    assert!(!scene.is_gone(), "the volume stays");
    scene.ok(&["down", "-v"]);
    assert!(scene.is_gone());
    scene.ok(&["down", "-v"]);
}

#[test]
fn up_and_up_again_and_changed_and_down() {
    life(Server::Incus6);
}

#[test]
fn up_and_up_again_and_changed_and_down_on_incus_7() {
    life(Server::Incus7);
}

#[test]
fn up_and_up_again_and_changed_and_down_on_lxd() {
    life(Server::Lxd);
}

#[test]
fn ports_are_devices_of_the_daemon_when_it_answers() {
    devices(Server::Incus6);
}

#[test]
fn ports_are_devices_of_the_daemon_on_lxd() {
    devices(Server::Lxd);
}

/// Fails when the engine is chosen anew, or a device of Portway stays behind.
fn devices(server: Server) {
    let Some(scene) = Scene::on(server, "devices") else { return };
    let daemon = DaemonSpec::new(PORTWAY).on(scene.bed).start().unwrap();
    let scene = scene.with_daemon(&daemon.dir());
    let port = scene.free_port();
    scene.write(&file(port, "hello"));
    scene.ok(&["up", "-d"]);
    assert_eq!(scene.fetch(port, "/"), "hello\n");
    assert_eq!(daemon.devices().unwrap().len(), 1);
    assert_eq!(scene.ok(&["port", "web", "80"]).out, format!("127.0.0.1:{port}\n"));
    assert!(scene.ok(&["ps"]).out.contains(&format!("127.0.0.1:{port}->80/tcp")));
    let devices = scene.instance("web-1").unwrap()["devices"].clone();
    assert!(devices.as_object().unwrap().values().all(|device| device["type"] != "proxy"), "{devices}");
    assert_eq!(scene.ok(&["up", "-d"]).err, "");
    let other = scene.run(&["up", "-d", "--proxy-engine", "incus"]);
    assert_eq!(other.code, Some(1), "{other:?}");
    scene.ok(&["up", "-d", "--force-recreate"]);
    assert_eq!(scene.fetch(port, "/"), "hello\n");
    scene.ok(&["down", "-v"]);
    assert!(daemon.devices().unwrap().is_empty() && !scene.is_open(port));
}
