//! The registrar is killed while devices join.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::place::Place;

/// Fails when: a device that was told that it is a member is none afterwards, one is there twice, two have one address, or
/// the key was used more or less often than devices have joined.
#[test]
fn a_registrar_that_is_killed_has_lost_and_doubled_nothing() {
    const DEVICES: usize = 40;
    let mut place = Place::new();
    place.start(&[]);
    place.run("registrar", &["mesh", "org", "create", "acme", "--network", "10.77.0.0/24"]);
    let token = place.token(&["--uses", "100"]);
    let mut waiting: Vec<String> = (0..DEVICES).map(|number| format!("d{number}")).collect();
    let mut rounds = 0;
    while !waiting.is_empty() {
        assert!(rounds < 60, "{} have not joined", waiting.len());
        let url = place.url();
        let several: Vec<_> = waiting.iter().rev().take(4).cloned().collect();
        let spawn = |name: &String| {
            let child = place.command(name, &["mesh", "join", &url, "--key", &token, "--name", name]).spawn();
            (name.clone(), child.unwrap())
        };
        let running: Vec<_> = several.iter().map(spawn).collect();
        // From before the first connection to after the last commit.
        std::thread::sleep(Duration::from_millis(5 + 7 * (rounds % 12)));
        if rounds % 2 == 0 {
            place.kill();
        }
        for (name, child) in running {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.code() {
                Some(0) => waiting.retain(|other| *other != name),
                code => assert_eq!(code, Some(3), "{said}"),
            }
        }
        if rounds % 2 == 0 {
            place.start(&[]);
        }
        rounds += 1;
    }
    let list = place.run("registrar", &["mesh", "device", "list", "--org", "acme", "--format", "json"]);
    let devices: serde_json::Value = serde_json::from_str(&list).unwrap();
    let devices = devices.as_array().unwrap();
    assert_eq!(devices.len(), DEVICES);
    for what in ["name", "key", "ip4", "ip6"] {
        let all: BTreeSet<&str> = devices.iter().map(|device| device[what].as_str().unwrap()).collect();
        assert_eq!(all.len(), DEVICES, "{what}");
    }
    let keys = place.run("registrar", &["mesh", "key", "list", "--org", "acme", "--format", "json"]);
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    assert_eq!(keys[0]["uses_left"], 100 - DEVICES);
}
