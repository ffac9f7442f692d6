//! A project from its first start to its end.

use portway_testkit::OciImage;

use crate::registry::Shop;

/// A web server that says what it was given.
const WEB: OciImage<'_> = OciImage {
    user: "0:0",
    entrypoint: &[
        "/bin/sh",
        "-c",
        "mkdir -p /www; cp /run/secrets/word /www; echo $GREETING $PLACE $0 >/www/index.html; exec httpd -f -p 80 -h /www",
    ],
    command: &["own"],
    environment: &["GREETING=image", "PLACE=image", "PATH=/bin:/sbin"],
    working_dir: "/",
    archive: None,
};

const SLEEP: OciImage<'_> = OciImage {
    user: "0:0",
    entrypoint: &[],
    command: &["/bin/sleep", "100000"],
    environment: &["PATH=/bin:/sbin"],
    working_dir: "/srv",
    archive: None,
};

fn file(port: u16, greeting: &str) -> String {
    format!(
        "services:
  web:
    image: REGISTRY/web:1
    command: [said]
    environment: {{GREETING: {greeting}}}
    ports: ['127.0.0.1:{port}:80']
    secrets: [word]
    configs: [{{source: notes, target: /etc/notes, uid: '5', mode: 0400}}]
    depends_on: {{db: {{condition: service_healthy}}}}
    stop_grace_period: 0s
  db:
    image: REGISTRY/db
    entrypoint: [sh, -c, 'id -u >/data/uid; pwd >/data/cwd; touch /data/ready; exec sleep 100000']
    user: '1000:1000'
    working_dir: /srv
    healthcheck: {{test: [CMD, test, -e, /data/ready], interval: 200ms, retries: 100}}
    volumes: ['data:/data']
    tmpfs: ['/memory:size=1m,mode=1777']
    extra_hosts: ['elsewhere=192.0.2.7']
    stop_grace_period: 0s
  plain: {{image: REGISTRY/db, networks: [back], stop_grace_period: 0s}}
volumes: {{data: {{x-incus: {{initial.uid: '1000', initial.gid: '1000'}}}}}}
networks: {{back: {{internal: true}}}}
secrets: {{word: {{environment: WORD}}}}
configs: {{notes: {{content: noted}}}}
"
    )
}

/// Fails when a part of the file does not reach an application container, `up` again writes, or anything is left.
#[test]
fn up_and_up_again_and_changed_and_down() {
    let Some(mut shop) = Shop::open("oci") else { return };
    shop.registry.push("web:1", &WEB);
    shop.registry.push("db:latest", &SLEEP);
    let port = shop.scene.free_port();
    std::fs::write(shop.scene.dir().join(".env"), "WORD=secret\n").unwrap();
    shop.write(&file(port, "hello"));
    shop.scene.ok(&["up", "-d", "--allow"]);
    assert_eq!(shop.scene.instances(), ["db-1 Running", "plain-1 Running", "web-1 Running"]);
    assert_eq!(shop.scene.instance("web-1").unwrap()["config"]["volatile.container.oci"], "true");
    assert_eq!(shop.scene.fetch(port, "/"), "hello image said\n", "file, image and command");
    assert_eq!(shop.scene.fetch(port, "/word"), "secret");
    assert_eq!(shop.said("web-1", "cat /etc/notes; stat -c '%u %a' /etc/notes"), "noted5 400\n");
    assert_eq!(shop.said("db-1", "cat /data/uid /data/cwd"), "1000\n/srv\n");
    assert_eq!(shop.said("db-1", "stat -f -c %T /memory"), "tmpfs\n");
    assert_eq!(shop.said("plain-1", "readlink /proc/$(pidof sleep)/cwd"), "/srv\n");
    for (instance, names) in [("web-1", "db db-1 web"), ("db-1", "web")] {
        for name in names.split(' ') {
            // It may be about to get its address.
            let tries =
                format!("seq 30 | while read n; do ping -c 1 -W 1 {name} && echo reached && break; done");
            let said = shop.said(instance, &tries);
            assert!(said.ends_with("reached\n"), "{instance} {name}: {said}");
        }
    }
    assert_eq!(shop.said("db-1", "grep elsewhere /etc/hosts"), "192.0.2.7 elsewhere\n");

    // Nothing new is needed: not even the registry.
    let before = shop.scene.all();
    shop.registry.close();
    let again = shop.scene.events("plain-1", || {
        let again = shop.scene.ok(&["up", "-d"]);
        assert_eq!((again.out.as_str(), again.err.as_str()), ("", ""));
        assert_eq!(shop.scene.all(), before);
    });
    assert_eq!(again, ["instance-updated plain-1"], "no more than the mark");
    let (web, db) = (shop.scene.pid("web-1"), shop.scene.pid("db-1"));
    shop.write(&file(port, "changed"));
    shop.scene.ok(&["up", "-d"]);
    assert_eq!(shop.scene.fetch(port, "/"), "changed image said\n");
    assert_eq!((shop.scene.pid("web-1") == web, shop.scene.pid("db-1") == db), (false, true));
    // What is no longer said is the image's again.
    shop.write(
        &file(port, "hello")
            .replace("    environment: {GREETING: hello}\n", "")
            .replace("    command: [said]\n", ""),
    );
    shop.scene.ok(&["up", "-d"]);
    assert_eq!(shop.scene.fetch(port, "/"), "image image own\n");
    shop.scene.ok(&["down"]);
    assert!(shop.scene.instances().is_empty() && shop.scene.networks().is_empty());
    shop.scene.ok(&["down", "-v"]);
    assert!(shop.scene.is_gone());
}
