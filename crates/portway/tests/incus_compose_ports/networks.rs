//! Networks: who is found, who is cut off, and who is let in.

use crate::scene::Scene;

const SLEEPER: &str = "image: bb, command: [sleep, '100000'], stop_grace_period: 0s";

/// A service in two networks finds who is in either; the internal one leads nowhere, also for who makes a route.
///
/// Fails when names of the second network are unknown, or when anything outside of an internal one is reached.
#[test]
fn two_networks_and_one_of_them_internal() {
    let Some(scene) = Scene::open("two") else { return };
    scene.write(&format!(
        "services:\n  web: {{{SLEEPER}, networks: [front, back]}}\n  \
         db: {{{SLEEPER}, networks: {{back: {{aliases: [database]}}}}}}\n  mate: {{{SLEEPER}, networks: [back]}}\n\
         networks: {{front: , back: {{internal: true}}}}\n"
    ));
    scene.ok(&["up", "-d"]);
    let ok = |instance: &str, script: &str| {
        let done = scene.exec(instance, script);
        assert!(done.status.success(), "{instance}: {script}: {done:?}");
    };
    for name in ["db", "database", "mate", "web"] {
        ok("web-1", &format!("nslookup {name} && ping -c 1 -w 5 {name}"));
    }
    ok("db-1", "ping -c 1 -w 5 mate && ping -c 1 -w 5 web && ! ip route | grep default");
    let front =
        scene.networks().into_iter().find(|one| one["config"]["user.portway.key"] == "front").unwrap();
    let gateway = front["config"]["ipv4.address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    ok("web-1", &format!("ping -c 1 -w 5 {gateway} && ip route | grep default"));
    ok("db-1", &format!("ip route add {gateway} via $(awk '/nameserver/ {{print $2}}' /etc/resolv.conf)"));
    ok("db-1", &format!("! ping -c 1 -w 2 {gateway}"));
    assert_eq!(scene.ok(&["up", "-d"]).err, "", "up again changes nothing");
    let acls = || scene.bed.incus().get("/1.0/network-acls").unwrap().to_string();
    let back = scene.networks().into_iter().find(|one| one["config"]["user.portway.key"] == "back").unwrap();
    let list = back["config"]["security.acls"].as_str().unwrap().to_owned();
    assert!(acls().contains(&list), "{}", acls());
    scene.ok(&["down", "-t", "0"]);
    assert!(!acls().contains(&list), "{}", acls());
}

/// Fails when a file joins another project's network unasked, or under a name that is taken there, or when an external
/// volume that was put where the error says is not found.
#[test]
fn what_is_external_is_found_asked_for_or_refused() {
    let Some(first) = Scene::open("ext1") else { return };
    let Some(second) = Scene::open("ext2") else { return };
    first.write(&format!("services:\n  web: {{{SLEEPER}}}\n"));
    first.ok(&["up", "-d"]);
    let name = first.networks()[0]["name"].as_str().unwrap().to_owned();
    let volume = format!("{}-data", second.name);
    let file = |service: &str, rest: &str| {
        format!(
            "services:\n  {service}: {{{SLEEPER}{rest}}}\nnetworks: {{default: {{external: true, name: {name}}}}}\n\
             volumes: {{data: {{external: true, name: {volume}}}}}\n"
        )
    };
    second.write(&file("web", ""));
    let asked = second.run(&["up", "-d"]);
    let line = format!("web: be in the network {name} of the project {}", first.name);
    assert!(asked.code == Some(1) && asked.err.contains(&line), "{asked:?}");
    let taken = second.run(&["up", "-d", "--allow"]);
    assert!(taken.code == Some(1) && taken.err.contains("has that name there"), "{taken:?}");
    second.write(&file("other", ", volumes: ['data:/data']"));
    let missing = second.run(&["up", "-d", "--allow"]);
    assert!(missing.code == Some(1) && missing.err.contains("is not in the server's project"), "{missing:?}");
    assert!(second.is_gone(), "refused before anything is made");
    let client = |args: &str| {
        let output = second.bed.client_output(&args.split(' ').collect::<Vec<_>>()).unwrap();
        assert!(output.status.success(), "{args}: {output:?}");
    };
    let (_, how) = missing.err.split_once("hint: copy it there: incus ").unwrap();
    let (make, copy) = how.trim_end().split_once(", then incus ").unwrap();
    client(&format!("storage volume create default {volume}"));
    client(make);
    client(copy);
    client(&format!("storage volume delete default {volume}"));
    let up = second.ok(&["up", "-d", "--allow"]);
    assert!(up.err.contains("service other is not found by its name in the network default"), "{up:?}");
    let found = second.exec("other-1", "mount | grep ' /data ' && nslookup web-1");
    assert!(found.status.success(), "{found:?}");
    second.ok(&["down", "-v", "-t", "0"]);
    assert!(!second.is_gone(), "what is external stays");
    client(&format!("storage volume delete default {volume} --project {}", second.name));
}
