//! The table over the ends of the daemon, and over what others do to it.

use std::process::Command;

use portway_testkit::wait_for;

use crate::scene::{Scene, seen_by_tcp};

/// A daemon that is killed leaves the table, and the next one finds it as it should be. `--purge` ends it.
///
/// Fails when a new daemon begins with an empty table.
#[test]
fn the_table_stays_while_no_daemon_runs() {
    let Some(mut scene) = Scene::start("natstay") else { return };
    scene.serve();
    let target = scene.publish("web", "tcp", scene.rig.ports.one().unwrap());
    let table = scene.tables();
    assert!(table.contains("map every4"), "{table}");
    for _ in 0..3 {
        scene.rig.daemon.kill().unwrap();
        assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]));
        assert_eq!(scene.tables(), table);
        scene.rig.daemon.launch().unwrap();
        scene.wait_until_led("web");
        assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]));
        assert_eq!(scene.tables(), table);
    }
    // The table was never made anew.
    scene.wait_until_counted("web", 6);
    scene.rig.daemon.terminate().unwrap();
    assert_eq!(scene.tables(), table);
    let output = scene.rig.daemon.cli(&["daemon", "--purge"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scene.tables(), "");
}

/// The last device's end is the table's; another table is never touched.
#[test]
fn nothing_is_left_and_nothing_else_is_touched() {
    let Some(scene) = Scene::start("natleft") else { return };
    let others = || {
        let mut nft = Command::new("nft");
        nft.args(["--stateless", "list", "table", "inet", "incus"]);
        scene.rig.host().network().run(&mut nft).unwrap()
    };
    let before = others();
    assert_eq!(scene.tables(), "");
    for name in ["a", "b"] {
        scene.publish(name, "tcp", scene.rig.ports.one().unwrap());
    }
    assert_eq!(others(), before);
    scene.rig.device_ok("set", &["a", "nat=false"]).unwrap();
    assert_eq!(scene.device("a")["mode"], "relay");
    assert_ne!(scene.tables(), "");
    scene.rig.device_ok("remove", &["b"]).unwrap();
    assert_eq!(scene.tables(), "");
    assert_eq!(others(), before);
}

/// Somebody deletes the table, or an element of it: it is put right, and counted.
///
/// Fails when the announcements of the firewall are not heard.
#[test]
fn what_somebody_else_changes_is_put_right() {
    let Some(scene) = Scene::start("natdrift") else { return };
    scene.serve();
    let target = scene.publish("web", "tcp", scene.rig.ports.one().unwrap());
    let table = scene.tables();
    let name = portway_config::Paths::below(&scene.rig.daemon.dir()).unwrap().nft_table();
    let element = format!("tcp . {}", target.port());
    let harms = [
        format!("delete table inet {name}"),
        format!("delete element inet {name} every4 {{ {element} }}"),
        format!("flush chain inet {name} prerouting"),
    ];
    for (harm, repairs) in harms.iter().zip(1..) {
        scene.rig.host().network().nft(harm).unwrap();
        wait_for(&format!("a repair after {harm}"), || (scene.tables() == table).then_some(())).unwrap();
        let counted =
            || scene.metrics().contains(&format!("portway_nat_repairs_total {repairs}\n")).then_some(());
        wait_for("the count", counted).unwrap();
        assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]), "after {harm}");
    }
}
