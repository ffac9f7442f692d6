//! A host that stops what the kernel leads, and one whose whole ruleset is flushed: in a namespace of its own, where nobody
//! else is disturbed.

use portway_testkit::{DaemonSpec, Rig, wait_for};

use crate::PORTWAY;

/// With `nat=auto` the relay serves while the host does not forward, or a firewall drops what is forwarded, and the kernel
/// leads again when neither is so. With `nat=true` the kernel leads, and everything that is in the way is said. A rule for
/// the other family is not in the way.
///
/// Fails when: obstacles are looked for once, one alone is named, or those of the other family are.
#[test]
fn what_stops_packets_is_seen_and_said() {
    let Some(rig) = Rig::apart(DaemonSpec::new(PORTWAY), "nathost").unwrap() else { return };
    let host = rig.host().network();
    rig.container.address(false).unwrap();
    for (name, port, nat) in [("auto", 8001, "auto"), ("on", 8002, "true")] {
        let listen = format!("listen=tcp:0.0.0.0:{port}");
        rig.add(name, &[&listen, "connect=tcp:0.0.0.0:7", &format!("nat={nat}")]).unwrap();
    }
    let wait = |name: &str, mode: &str, says: &[&str]| {
        let mut last = serde_json::Value::Null;
        let shown = || {
            last = rig.daemon.device(name).ok()?;
            let reason = last["mode_reason"].as_str()?;
            let is_right = last["mode"] == mode && last["state"] == "active";
            (is_right && says.iter().all(|text| reason.contains(text))).then_some(())
        };
        wait_for(&format!("{name} by {mode}, {says:?}"), shown).unwrap_or_else(|why| panic!("{why}: {last}"));
    };
    let closed = "the host does not forward IPv4";
    host.sysctl("ipv4/ip_forward", "0").unwrap();
    wait("auto", "relay", &[closed]);
    wait("on", "nat", &["to ", closed]);
    let listed = rig.daemon.cli(&["device", "list"]).unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(&format!("relay: {closed}")), "{listed}");
    let drops = |family: &str, table: &str| {
        format!(
            "table {family} {table} {{ chain FORWARD {{ type filter hook forward priority 0; policy drop; }}; }}; "
        )
    };
    host.nft(&[drops("ip", "one"), drops("inet", "two"), drops("ip6", "three")].concat()).unwrap();
    let said = ["table ip one stops", "table inet two stops"];
    wait("on", "nat", &[said[0], said[1], closed]);
    host.sysctl("ipv4/ip_forward", "1").unwrap();
    wait("auto", "relay", &said);
    host.nft("delete table ip one; delete table inet two").unwrap();
    wait("auto", "nat", &["to "]);
    wait("on", "nat", &["to "]);
    for name in ["auto", "on"] {
        let device = rig.daemon.device(name).unwrap();
        assert!(!device["mode_reason"].as_str().unwrap().contains("stops"), "{device}");
    }
}

/// Everything that the host has of rules is flushed, or the table's mark alone is deleted: the table is there again, the
/// device is never called relayed for good, and goes with its element.
///
/// Fails when: a flush is not heard, or a table without its mark counts as somebody else's though it was ours.
#[test]
fn a_flush_of_the_whole_ruleset_is_put_right() {
    let Some(rig) = Rig::apart(DaemonSpec::new(PORTWAY), "natflush").unwrap() else { return };
    let host = rig.host().network();
    rig.container.address(false).unwrap();
    rig.add("web", &["listen=tcp:0.0.0.0:8001", "connect=tcp:0.0.0.0:7", "nat=true"]).unwrap();
    let name = portway_config::Paths::below(&rig.daemon.dir()).unwrap().nft_table();
    let listed = || {
        let mut nft = std::process::Command::new("nft");
        nft.args(["--stateless", "list", "table", "inet", &name]);
        host.run(&mut nft).unwrap_or_default()
    };
    wait_for("the way", || listed().contains("tcp . 8001").then_some(())).unwrap();
    let table = listed();
    for harm in ["flush ruleset".to_owned(), format!("delete set inet {name} made-by-portway-1")] {
        host.nft(&harm).unwrap();
        wait_for(&format!("a repair after {harm}"), || (listed() == table).then_some(())).unwrap();
    }
    rig.daemon.wait_for_state("web", "active").unwrap();
    rig.device_ok("remove", &["web"]).unwrap();
    assert_eq!(listed(), "");
}
