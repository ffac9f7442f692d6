//! The table over the ends of the daemon, and over what others do to it.

use portway_testkit::wait_for;

use crate::rivals::{led_by_incus, reserved, set_device};
use crate::scene::{INSIDE, Scene, seen_by_tcp};

/// A daemon that is killed leaves the table, and the next one finds it as it should be. `--purge` ends it.
///
/// Fails when a new daemon begins with an empty table, or a purge succeeds that has left it.
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
    // No connection was cut, and the table was never made anew.
    assert!(!scene.rig.daemon.log().contains("connections forgotten"), "{}", scene.rig.daemon.log());
    scene.wait_until_counted("web", 6);
    scene.rig.daemon.terminate().unwrap();
    assert_eq!(scene.tables(), table);
    // A table that cannot be removed, because it says no more whose it is, is no success.
    let (host, kept) = (scene.rig.host().network(), scene.rig.daemon.dir().join("nat.json"));
    let name = portway_config::Paths::below(&scene.rig.daemon.dir()).unwrap().nft_table();
    let mark = table.split_whitespace().find(|word| word.starts_with("made-by-portway")).unwrap();
    host.nft(&format!("delete set inet {name} {mark}")).unwrap();
    let output = scene.rig.daemon.cli(&["daemon", "--purge"]).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("was not made by portway") && kept.exists(), "{error}");
    host.nft(&format!("add set inet {name} {mark} {{ type mark; }}")).unwrap();
    let output = scene.rig.daemon.cli(&["doctor"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("the table inet {name} leads published ports")), "{said}");
    let output = scene.rig.daemon.cli(&["daemon", "--purge"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scene.tables(), "");
    assert!(!kept.exists());
}

/// A way that no table can hold, in a file that was damaged, is left out alone: the other device is led, and
/// the one is too as soon as its instance has been looked at.
///
/// Fails when: one device's way makes the whole table fail.
#[test]
fn a_way_that_cannot_be_is_left_out_alone() {
    let Some(mut scene) = Scene::start("natbad") else { return };
    scene.serve();
    let [bad, good] = ["bad", "good"].map(|name| scene.publish(name, "tcp", scene.rig.ports.one().unwrap()));
    let table = scene.tables();
    scene.rig.daemon.kill().unwrap();
    let path = scene.rig.daemon.dir().join("nat.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    let name = format!("incus:default/{}/bad", scene.rig.container.name());
    kept["ways"][&name]["leads"][0]["target"] = "224.0.0.1".into();
    std::fs::write(&path, kept.to_string()).unwrap();
    scene.rig.daemon.launch().unwrap();
    let said = || scene.rig.daemon.log().contains("no table can hold this device").then_some(());
    wait_for("the one to be named", said).unwrap();
    assert!(!scene.rig.daemon.log().contains("kernel NAT does not work"), "{}", scene.rig.daemon.log());
    for (name, target) in [("good", good), ("bad", bad)] {
        scene.wait_until_led(name);
        assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]));
    }
    let sorted = |text: &str| {
        let mut words: Vec<String> = text.split_whitespace().map(|word| word.replace(',', "")).collect();
        words.sort_unstable();
        words
    };
    assert_eq!(sorted(&scene.tables()), sorted(&table));
}

/// A table of our name that is somebody else's is neither changed nor removed: `nat=true` is refused with its
/// name, `nat=auto` is relayed and says so, and is led once the table has gone.
///
/// Fails when: the mark is not asked for, or a failure is not shown on the device.
#[test]
fn a_table_of_our_name_that_is_not_ours_is_said() {
    let Some(scene) = Scene::start("natforeign") else { return };
    scene.serve();
    let name = portway_config::Paths::below(&scene.rig.daemon.dir()).unwrap().nft_table();
    let host = scene.rig.host().network();
    host.nft(&format!("add table inet {name}; add chain inet {name} theirs")).unwrap();
    let before = scene.tables();
    let port = scene.rig.ports.one().unwrap();
    let keys = [format!("listen=tcp:0.0.0.0:{port}"), format!("connect=tcp:0.0.0.0:{INSIDE}")];
    let keys = keys.each_ref().map(String::as_str);
    let output = scene.rig.device("add", &[&["web"][..], &keys, &["nat=true"]].concat()).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("the table inet {name} was not made by portway")), "{error}");
    assert!(scene.rig.daemon.devices().unwrap().is_empty());
    scene.rig.add("web", &[&keys[..], &["nat=auto"]].concat()).unwrap_or_else(|why| panic!("{why}"));
    let device = scene.device("web");
    assert_eq!(device["mode"], "relay", "{device}");
    assert!(
        device["reason"].as_str().is_some_and(|reason| reason.contains("not made by portway")),
        "{device}"
    );
    let target = std::net::SocketAddr::new(scene.hosts[0], port);
    assert!(seen_by_tcp(&scene.client, target).is_some(), "relayed");
    assert_eq!(scene.tables(), before);
    host.nft(&format!("delete table inet {name}")).unwrap();
    scene.wait_until_led("web");
    assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]));
}

/// A table that cannot be changed keeps leading: a device that is to be kept from clients is not changed, and says
/// why; one that is removed says so too. Both are done as soon as the table can be changed.
///
/// Fails when: a change or a removal succeeds while the kernel leads as before.
#[test]
fn a_removal_that_the_kernel_does_not_see_is_said() {
    let Some(scene) = Scene::start("natstuck") else { return };
    scene.serve();
    let target = scene.publish("web", "tcp", scene.rig.ports.one().unwrap());
    let (host, table) = (scene.rig.host().network(), scene.tables());
    let name = portway_config::Paths::below(&scene.rig.daemon.dir()).unwrap().nft_table();
    let mark = table.split_whitespace().find(|word| word.starts_with("made-by-portway")).unwrap();
    // Somebody puts a table in its place that leads the same way, without its mark: it counts as his.
    let (port, address) = (target.port(), scene.rig.container.address(false).unwrap());
    let rule = format!("meta nfproto ipv4 tcp dport {port} dnat ip to {address}:{INSIDE};");
    let chain = format!("chain theirs {{ type nat hook prerouting priority -99; {rule} }};");
    host.nft(&format!("delete table inet {name}; table inet {name} {{ {chain} }};")).unwrap();
    let relayed = || (scene.device("web")["mode"] == "relay").then_some(());
    wait_for("the table to be missed", relayed).unwrap();
    assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]), "led by the kernel");
    let says = |verb: &str, words: &[&str]| {
        let output = scene.rig.device(verb, words).unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("the kernel leads its clients as before: the table inet"), "{error}");
    };
    says("set", &["web", "nat=auto", "allow=203.0.113.0/24"]);
    assert!(scene.device("web")["keys"].get("allow").is_none(), "{}", scene.device("web"));
    says("remove", &["web"]);
    assert!(scene.rig.daemon.devices().unwrap().is_empty());
    assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]), "led by the kernel");
    host.nft(&format!("add set inet {name} {mark} {{ type mark; }}")).unwrap();
    wait_for("its end", || scene.tables().is_empty().then_some(())).unwrap();
    assert_eq!(seen_by_tcp(&scene.client, target), None);
}

/// The last device's end is the table's; another table is never touched. A port that is led is no other device's, led or not.
#[test]
fn nothing_is_left_and_nothing_else_is_touched() {
    let Some(scene) = Scene::start("natleft") else { return };
    let others = || scene.chains_of(scene.rig.container.name(), true);
    let before = others();
    assert_eq!(scene.tables(), "");
    for name in ["a", "b"] {
        let target = scene.publish(name, "tcp", scene.rig.ports.one().unwrap());
        for nat in ["true", "false"] {
            let listen = format!("listen=tcp:0.0.0.0:{}", target.port());
            let words = ["c", &listen, "connect=tcp:0.0.0.0:8", &format!("nat={nat}")];
            let refused = scene.rig.device("add", &words).unwrap();
            let error = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(1), "{error}");
            assert!(error.contains(&format!("{}/{name}", scene.rig.container.name())), "{error}");
        }
    }
    assert_eq!(others(), before);
    scene.rig.device_ok("set", &["a", "nat=false"]).unwrap();
    assert_eq!(scene.device("a")["mode"], "relay");
    assert_ne!(scene.tables(), "");
    scene.rig.device_ok("remove", &["b"]).unwrap();
    assert_eq!(scene.tables(), "");
    assert_eq!(others(), before);
}

/// Incus' rules are the same, to the handle, while ours come and go, with a device of Incus' own that leads
/// beside them. A container that starts anew has its rules made anew by Incus, and they say the same.
///
/// Fails when: anything of ours touches a table of others.
#[test]
fn incus_own_rules_are_left_alone() {
    let Some(scene) = Scene::start("natbeside") else { return };
    let (rig, bed) = (&scene.rig, scene.rig.bed());
    let [port, theirs] = [(); 2].map(|()| rig.ports.one().unwrap());
    let (beside, address) = reserved(bed, None, theirs);
    set_device(&beside, bed, "theirs", Some(led_by_incus(&scene.hosts[0].to_string(), theirs, address)));
    let chains = |with_handles| scene.chains_of(beside.name(), with_handles);
    let (before, said) = (chains(true), chains(false));
    assert!(said.contains(&format!("dport {theirs}")) && said.contains("prert."), "{said}");
    scene.serve();
    let target = scene.publish("web", "tcp", port);
    rig.device_ok("set", &["web", "connect=tcp:0.0.0.0:8"]).unwrap();
    rig.device_ok("set", &["web", &format!("connect=tcp:0.0.0.0:{INSIDE}")]).unwrap();
    assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]));
    assert_eq!(chains(true), before);
    rig.container.restart_by_force().unwrap();
    scene.serve();
    // The kernel leads once the service has answered somebody.
    let served = || seen_by_tcp(&scene.client, target).map(drop);
    wait_for("the service", served).unwrap();
    scene.wait_until_led("web");
    assert_eq!(chains(true), before);
    beside.restart_by_force().unwrap();
    wait_for("Incus' rules to be there again", || (chains(false) == said).then_some(())).unwrap();
    let again = chains(true);
    rig.device_ok("remove", &["web"]).unwrap();
    assert_eq!(scene.tables(), "");
    assert_eq!(chains(true), again);
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
