//! LXD, whose API is that of Incus before they parted.

use portway_testkit::Server;

use crate::scene::Scene;

/// Fails when what both servers have is asked for in words that only one knows.
#[test]
fn a_project_on_lxd() {
    let Some(scene) = Scene::on(Server::Lxd, "lxd") else { return };
    let port = scene.free_port();
    scene.write(&format!(
        "services:
  web:
    image: bb
    command: [sh, -c, 'mkdir /www; cp /run/secrets/word /www; exec httpd -f -p 80 -h /www']
    ports: ['127.0.0.1:{port}:80']
    secrets: [word]
    volumes: ['data:/data']
    depends_on: {{db: {{condition: service_healthy}}}}
    stop_grace_period: 0s
  db:
    image: bb
    command: [sh, -c, 'touch /ready; exec sleep 100000']
    healthcheck: {{test: [CMD, test, -e, /ready], interval: 100ms, retries: 300}}
    stop_grace_period: 0s
volumes: {{data: {{}}}}
secrets: {{word: {{environment: WORD}}}}
"
    ));
    std::fs::write(scene.dir().join(".env"), "WORD=said\n").unwrap();
    scene.ok(&["up", "-d"]);
    assert_eq!(scene.fetch(port, "/word"), "said");
    assert_eq!(scene.ok(&["ps", "-q"]).out, "db-1\nweb-1\n");
    scene.ok(&["exec", "-T", "web", "ping", "-c", "1", "-w", "5", "db"]);
    let before = scene.all();
    assert_eq!(scene.ok(&["up", "-d"]).err, "");
    assert_eq!(scene.all(), before);
    scene.ok(&["down", "-v"]);
    assert!(scene.is_gone());
}

/// Fails when what LXD cannot do is begun, or refused without the place in the file and a reason.
#[test]
fn what_lxd_cannot_is_refused() {
    let Some(scene) = Scene::on(Server::Lxd, "cannot") else { return };
    scene.write("services: {web: {image: docker.io/library/nginx}}");
    let refused = scene.run(&["up", "-d", "--allow"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let line = refused.err.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(line.contains("compose.yaml:1") && line.contains("docker.io/library/nginx"), "{refused:?}");
    assert!(scene.is_gone());
}
