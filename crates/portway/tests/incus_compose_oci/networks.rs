//! Services on images of a registry in several networks: who reaches whom, by name, and which way leads out.

use portway_testkit::{OciImage, wait_for};

use crate::registry::Shop;

const SLEEP: OciImage<'_> = OciImage {
    user: "0:0",
    entrypoint: &["/bin/sleep", "100000"],
    command: &[],
    environment: &["PATH=/bin:/sbin"],
    working_dir: "/",
    archive: None,
};

/// Fails when who is in two networks has no address in one of them, knows nobody there, or leaves by the wrong one; when
/// those who are in one reach those in the other that is internal.
#[test]
fn who_is_in_two_networks_reaches_both() {
    let Some(shop) = Shop::open("nets") else { return };
    shop.registry.push("sleep:1", &SLEEP);
    let file = |networks: &str| {
        let service = |name: &str, networks: &str| {
            format!("  {name}: {{image: 'REGISTRY/sleep:1', networks: {networks}, stop_grace_period: 0s}}\n")
        };
        let services = service("app", "{aback: , front: {priority: 5}}")
            + &service("one", "[front]")
            + &service("two", "[aback]");
        shop.write(&format!("services:\n{services}networks: {networks}\n"));
    };
    let reaches =
        |from: &str, name: &str| shop.scene.exec(from, &format!("ping -c 1 -W 2 {name}")).status.success();
    for networks in ["{front: , aback: }", "{front: , aback: {internal: true}}"] {
        file(networks);
        shop.scene.ok(&["up", "-d"]);
        for (from, name) in
            [("app-1", "one"), ("app-1", "two"), ("one-1", "app"), ("two-1", "app"), ("app-1", "two-1")]
        {
            let does = || reaches(from, name).then_some(());
            wait_for(&format!("{from} reaches {name}, {networks}"), does).unwrap();
        }
        let two = shop.scene.instance("two-1").unwrap()["devices"]["eth0"]["ipv4.address"].clone();
        assert!(!(networks.contains("internal") && reaches("one-1", two.as_str().unwrap())), "{networks}");
        for _ in 0..3 {
            let ways = shop.said("app-1", "ip route | grep -c ^default; ip route | grep -c 'default.*eth0'");
            assert_eq!(ways, "1\n1\n", "the more important one");
            assert_eq!(shop.said("app-1", "grep -c ^nameserver /etc/resolv.conf"), "1\n");
            shop.scene.ok(&["restart", "app"]);
        }
        let again = shop.scene.ok(&["up", "-d"]);
        assert_eq!((again.out.as_str(), again.err.as_str()), ("", ""));
        shop.scene.ok(&["down"]);
    }
}
