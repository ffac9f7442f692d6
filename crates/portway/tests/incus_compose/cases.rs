//! What is rare and must not surprise: devices that fail, what is missing, in use, or gone behind our back.

use portway_testkit::wait_for;
use serde_json::json;

use crate::scene::{Said, Scene};

const SLEEPER: &str = "image: bb, command: [sleep, '100000'], stop_grace_period: 0s";

/// Fails when: what starts is taken back with what does not, the server's reason is lost, or the next `up` begins anew.
#[test]
fn a_device_that_fails_leaves_its_instance_stopped_and_the_rest_running() {
    let Some(scene) = Scene::open("device") else { return };
    let file = |extra: &str| {
        scene.write(&format!(
            "services:\n  bad: {{{SLEEPER}{extra}}}\n  good: {{{SLEEPER}}}\n  needs: {{{SLEEPER}, depends_on: [bad]}}\n"
        ));
    };
    file(", x-incus-compose: {devices: {gone: {type: unix-char, source: /dev/portway-none, path: /dev/x}}}");
    let failed = scene.run(&["up", "-d", "--allow"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.contains("bad-1") && failed.err.contains("device path doesn't exist"), "{failed:?}");
    assert_eq!(scene.instances(), ["bad-1 Stopped", "good-1 Running", "needs-1 Stopped"]);
    let good = scene.pid("good-1");
    file("");
    scene.ok(&["up", "-d"]);
    assert_eq!(scene.instances(), ["bad-1 Running", "good-1 Running", "needs-1 Running"]);
    assert_eq!(scene.pid("good-1"), good);
}

/// Fails when: something is made although what it needs is missing, or what is `external` goes with `down -v`.
#[test]
fn what_is_external_is_there_before_anything_is_made_and_stays() {
    let Some(scene) = Scene::open("external") else { return };
    let write = |network: &str| {
        scene.write(&format!(
            "services:\n  web: {{{SLEEPER}, networks: [shared]}}\nnetworks: {{shared: {{external: true, name: {network}}}}}\n"
        ));
    };
    let names = (0..9).map(|number| format!("pwx{number}{}", std::process::id()));
    let names: Vec<String> = names.collect();
    write(&names[0]);
    let missing = scene.run(&["up", "-d", "--allow"]);
    assert!(missing.code.is_some_and(|code| code != 0) && missing.err.contains(&names[0]), "{missing:?}");
    assert!(scene.is_gone(), "{:#}", scene.all());
    // The server trips over interfaces of others that are just going, and leaves its own behind.
    let is_made = |(number, network): &(usize, &String)| {
        let subnet = format!("10.{}.{}.1/24", 90 + number, std::process::id() % 250);
        let body = json!({"name": network, "type": "bridge",
            "config": {"ipv4.address": subnet, "ipv4.nat": "false", "ipv6.address": "none"}});
        scene.bed.incus().change("POST", "/1.0/networks", Some(&body)).is_ok()
    };
    let (_, network) = names.iter().enumerate().find(is_made).expect("a network");
    write(network);
    let up = scene.run(&["up", "-d", "--allow"]);
    let down = scene.run(&["down", "-v"]);
    let left = scene.bed.incus().find(&format!("/1.0/networks/{network}")).unwrap();
    let gone = || scene.bed.incus().change("DELETE", &format!("/1.0/networks/{network}"), None).ok();
    wait_for("the end of the network", gone).unwrap();
    assert_eq!((up.code, down.code), (Some(0), Some(0)), "{up:?} {down:?}");
    let config = left.expect("it stays")["config"].clone();
    assert!(config.get("user.portway.project").is_none(), "it is nobody's: {config}");
}

/// Fails when: `down` takes away what an instance of somebody else stands in, or fails for it.
#[test]
fn a_network_that_is_in_use_stays_and_is_named() {
    let Some(scene) = Scene::open("used") else { return };
    scene.write(&format!("services:\n  web: {{{SLEEPER}}}\n"));
    scene.ok(&["up", "-d"]);
    let network = scene.networks()[0]["name"].as_str().unwrap().to_owned();
    let guest = format!("pwc-guest-{}", std::process::id());
    let nic = json!({"type": "nic", "network": network, "name": "eth0"});
    let root = json!({"type": "disk", "pool": "default", "path": "/"});
    let body = json!({"name": guest, "profiles": [], "devices": {"eth0": nic, "root": root},
        "source": {"type": "image", "alias": "bb"}});
    scene.bed.incus().change("POST", "/1.0/instances", Some(&body)).unwrap();
    let down = scene.run(&["down"]);
    let kept = scene.networks().len();
    scene.bed.incus().change("DELETE", &format!("/1.0/instances/{guest}"), None).unwrap();
    assert!(down.code == Some(0) && kept == 1 && scene.instances().is_empty(), "{down:?}");
    assert!(down.err.contains(&network), "{down:?}");
    scene.ok(&["down"]);
    assert!(scene.is_gone(), "{:#}", scene.all());
}

/// Fails when: `down` fails half-way for what others have put into the project, or the whole of it is not all of it.
#[test]
fn what_others_have_put_into_a_project_keeps_it_and_goes_with_the_whole_of_it() {
    let Some(scene) = Scene::open("whole") else { return };
    scene.write(&format!("services:\n  web: {{{SLEEPER}, volumes: ['data:/data']}}\nvolumes: {{data: }}\n"));
    scene.ok(&["up", "-d"]);
    let client = |args: &[&str]| {
        let said = scene.bed.client_output(&[args, &["--project", &scene.name]].concat()).unwrap();
        assert!(said.status.success(), "{said:?}");
    };
    client(&["profile", "create", "mine"]);
    client(&["storage", "volume", "create", "default", "blocks", "--type=block", "size=1MiB"]);
    let down = scene.ok(&["down", "-v"]);
    let said = format!("the server's project {} stays: it holds ", scene.name);
    let line = down.err.lines().find(|line| line.contains(&said)).unwrap_or_else(|| panic!("{down:?}"));
    assert!(line.contains("profile mine") && line.contains("volume blocks"), "{line}");
    assert!(scene.instances().is_empty() && scene.networks().is_empty() && !scene.is_gone(), "{down:?}");
    let again = scene.ok(&["down", "-v"]);
    assert!(again.err.contains(&said), "{again:?}");
    scene.ok(&["up", "-d"]);
    let whole = scene.ok(&["down", "--project"]);
    assert!(scene.is_gone() && !whole.err.contains("stays"), "{whole:?} {:#}", scene.all());
}

/// Fails when: a command that only looks changes something, or what is gone behind our back is a failure.
#[test]
fn looking_changes_nothing_and_what_was_removed_by_hand_is_no_fault() {
    let Some(scene) = Scene::open("hand") else { return };
    scene.write(&format!(
        "services:\n  web: {{{SLEEPER}}}\n  db: {{{SLEEPER}, volumes: ['data:/data']}}\nvolumes: {{data: }}\n"
    ));
    // Nothing is there: nothing is made, and nothing is wrong.
    for command in [&["down"] as &[&str], &["down", "-v"], &["ps"], &["stop"]] {
        let said = scene.run(command);
        assert!(scene.is_gone(), "{command:?} {said:?}");
    }
    assert_eq!(scene.run(&["down"]).code, Some(0));
    scene.ok(&["up", "-d", "--scale", "web=2"]);
    let before = scene.all();
    for command in [
        &["ps"] as &[&str],
        &["ps", "-a", "--format", "json"],
        &["ls"],
        &["images"],
        &["volumes"],
        &["top"],
        &["stats", "--no-stream"],
        &["logs"],
        &["config"],
        &["up", "-d", "--dry-run"],
        &["down", "-v", "--dry-run"],
    ] {
        scene.ok(command);
        assert_eq!(scene.all(), before, "{command:?}");
    }
    let change = |method: &str, target: &str, body: Option<serde_json::Value>| {
        scene.bed.incus().change(method, target, body.as_ref()).unwrap();
    };
    let own = |name: &str| format!("/1.0/instances/{name}?project={}", scene.name);
    change("PUT", &own("web-1").replace('?', "/state?"), Some(json!({"action": "stop", "force": true})));
    change("DELETE", &own("web-1"), None);
    scene.ok(&["up", "-d"]);
    assert_eq!(
        scene.instances(),
        ["db-1 Running", "web-1 Running"],
        "made again, and scaled as the file says"
    );
    change("PUT", &own("db-1").replace('?', "/state?"), Some(json!({"action": "stop", "force": true})));
    change("DELETE", &own("db-1"), None);
    scene.ok(&["down", "-v"]);
    assert!(scene.is_gone(), "{:#}", scene.all());
}

/// Fails when: a secret is in what is printed or in what the server keeps, or is not in its file.
#[test]
fn a_secret_is_in_its_file_and_nowhere_else() {
    const SECRET: &str = "s3cr3t-of-the-test";
    let Some(scene) = Scene::open("secret") else { return };
    scene.write(&format!(
        "services:\n  web: {{{SLEEPER}, secrets: [{{source: token, mode: 0400}}]}}\nsecrets: {{token: {{environment: TOKEN}}}}\n"
    ));
    let run = |args: &[&str]| Said::of(scene.command(args).env("TOKEN", SECRET).output().unwrap());
    for args in [&["up", "-d", "--dry-run"] as &[&str], &["up", "-d"], &["ps"], &["config"]] {
        let said = run(args);
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        assert!(!said.out.contains(SECRET) && !said.err.contains(SECRET), "{args:?}: {said:?}");
    }
    assert!(!scene.all().to_string().contains(SECRET));
    let inside = scene.exec("web-1", "cat /run/secrets/token; stat -c ' %a' /run/secrets/token");
    assert_eq!(String::from_utf8_lossy(&inside.stdout), format!("{SECRET} 400\n"));
}

/// Fails when anything is made before an image is missed that nobody can fetch, or when it is not said what to do.
#[test]
fn an_image_that_nobody_has_is_missed_before_anything_is_made() {
    let Some(scene) = Scene::open("imageless") else { return };
    scene.write(
        "services:
  web: {image: bb, command: [sleep, '1000'], stop_grace_period: 0s, volumes: ['data:/data']}
  db: {image: nobody, command: [sleep, '1000']}
volumes: {data: {}}
",
    );
    let up = scene.run(&["up", "-d"]);
    assert!(
        up.code == Some(1) && up.err.contains("error: image nobody is not on the server\nhint: "),
        "{up:?}"
    );
    assert!(scene.is_gone(), "{:#}", scene.all());
    scene.ok(&["up", "-d", "web"]);
    assert_eq!(scene.instances(), ["web-1 Running"]);
}
