//! Devices of Portway.

use portway_testkit::{Daemon, DaemonSpec, wait_for};

use crate::outside::Outside;
use crate::scene::Scene;
use crate::{PORTWAY, server};

fn wait_until_led(daemon: &Daemon, device: &str) {
    let led = || (daemon.device(device).ok()?["mode"] == "nat").then_some(());
    wait_for("the kernel to lead", led).unwrap();
}

/// Fails when the key, or `nat` of a port alone, leaves a device that the kernel does not lead.
#[test]
fn the_daemon_has_the_kernel_lead() {
    let Some(scene) = Scene::open("lead") else { return };
    let daemon = DaemonSpec::new(PORTWAY).on(scene.bed).start().unwrap();
    let scene = scene.with_daemon(&daemon.dir());
    let outside = Outside::beside(scene.bed);
    let [one, two, off] = [(); 3].map(|()| outside.ports.one().unwrap());
    scene.write(&format!(
        "services:\n  a:\n    {}    ports: ['{one}:80', '127.0.0.1:{off}:80']\n    x-incus: {{nat-proxy: true}}\n  \
         b:\n    {}    ports: [{{target: 80, published: {two}, x-portway: {{nat: auto}}}}]\n",
        server("first"),
        server("second")
    ));
    let up = scene.ok(&["up", "-d"]);
    let line = format!("nat-proxy: service a port 127.0.0.1:{off}/tcp is relayed: loopback (");
    assert_eq!(up.err.matches("is relayed").count(), 1, "{up:?}");
    assert!(up.err.contains(&line), "{up:?}");
    for (port, instance, says) in [(one, "a-1", "first"), (two, "b-1", "second")] {
        wait_until_led(&daemon, &format!("proxy-{port}"));
        assert_eq!(outside.fetch(outside.host, port), says);
        let address = scene.instance(instance).unwrap()["devices"]["eth0"]["ipv4.address"].clone();
        assert!(outside.is_led(port, address.as_str().unwrap()), "{:?}", outside.tracked(port));
        assert_eq!(scene.fetch(port, "/"), format!("{says}\n"), "by loopback, relayed");
        assert_eq!(daemon.device(&format!("proxy-{port}-ipv6")).unwrap()["mode"], "relay");
    }
    assert_eq!(scene.fetch(off, "/"), "first\n");
    let ps = scene.ok(&["ps"]).out;
    assert!(ps.contains(&format!("0.0.0.0:{two}->80/tcp, [::]:{two}->80/tcp")), "{ps}");
    let again = scene.ok(&["up", "-d"]);
    assert_eq!(again.err.lines().count(), 1, "the warning and nothing else: {again:?}");
}
