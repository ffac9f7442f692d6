//! A web server and what it needs, both of a registry, published by the kernel: the server's own devices.

use portway_testkit::OciImage;
use serde_json::Value;

use crate::outside::Outside;
use crate::registry::Shop;

/// Says what it hears of `db`, to web clients.
const WEB: OciImage<'_> = OciImage {
    user: "0:0",
    entrypoint: &[
        "/bin/sh",
        "-c",
        "mkdir -p /www; until nc -w 2 db 5432 </dev/null >/www/index.html; do sleep 0.1; done; exec httpd -f -p 80 -h /www",
    ],
    command: &[],
    environment: &["PATH=/bin:/sbin"],
    working_dir: "/",
    archive: None,
};

/// Says one word to whoever comes.
const DB: OciImage<'_> =
    OciImage { entrypoint: &["/bin/sh", "-c", "exec nc -ll -p 5432 -e echo kept"], ..WEB };

/// Fails when a client is relayed that the kernel could lead, when nobody reaches the service after a restart, or when `up`
/// again writes.
#[test]
fn the_kernel_leads_to_an_application_container() {
    let Some(shop) = Shop::open("led") else { return };
    let outside = Outside::beside(shop.scene.bed);
    let port = outside.ports.one().unwrap();
    shop.registry.push("web:1", &WEB);
    shop.registry.push("db:1", &DB);
    shop.write(&format!(
        "services:
  web:
    image: REGISTRY/web:1
    ports: ['{port}:80']
    networks: [front, back]
    depends_on: [db]
    x-incus: {{nat-proxy: true}}
    stop_grace_period: 0s
  db: {{image: 'REGISTRY/db:1', networks: [back], stop_grace_period: 0s}}
networks: {{front: , back: {{internal: true}}}}
"
    ));
    let up = shop.scene.ok(&["up", "-d", "--proxy-engine", "incus"]);
    assert!(!up.err.contains("is relayed"), "{up:?}");
    let web = || shop.scene.instance("web-1").unwrap();
    let address = web()["devices"]["eth0"]["ipv4.address"].as_str().unwrap().to_owned();
    let listen = format!("tcp:{}:{port}", outside.host);
    let devices = web()["devices"].clone();
    let leads = |device: &&Value| device["listen"] == listen.as_str();
    let led = devices.as_object().unwrap().values().find(leads).unwrap();
    assert_eq!(
        (&led["nat"], &led["connect"]),
        (&"true".into(), &format!("tcp:{address}:80").into()),
        "{led}"
    );
    assert_eq!(outside.fetch(outside.host, port), "kept");
    assert!(outside.is_led(port, &address), "{:?}", outside.tracked(port));
    assert_eq!(shop.scene.fetch(port, "/").trim(), "kept", "by loopback, relayed");
    shop.scene.ok(&["restart", "web"]);
    assert_eq!(outside.fetch(outside.host, port), "kept");
    let again = shop.scene.ok(&["up", "-d"]);
    assert_eq!((again.out.as_str(), again.err.as_str()), ("", ""));
    assert_eq!(web()["devices"], devices);
}
