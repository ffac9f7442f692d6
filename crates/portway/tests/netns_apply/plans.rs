//! What a file changes, and what it leaves.

use portway_testkit::{Addr, Talk};

use crate::place::{Place, local};

/// Fails when `plan` takes a device that is as wanted for a change, or prunes without being told.
#[test]
fn only_what_differs_is_touched_and_the_list_reads_back() {
    let Some(place) = Place::start() else { return };
    let (a, b) = (place.line("a", 8001), place.line("b", 8002));
    let said = place.applied(&[a.clone(), b.clone()], &["--dry-run"]);
    assert!(
        said.ends_with("2 devices: 2 added, 0 changed, 0 removed, 0 kept (nothing was changed)\n"),
        "{said}"
    );
    assert!(place.names().is_empty());

    let said = place.applied(&[a.clone(), b.clone()], &[]);
    assert!(said.contains("+ INSTANCE a\n    listen=tcp:127.0.0.1:8001\n"), "{said}");
    assert!(place.serves(8001) && place.serves(8002));
    let talk = Talk::start(&place.host, &Addr::Tcp(local(8001)), 1).unwrap();

    // A changed target keeps listener and connections; what is not named stays.
    let changed = place.line("b", 8002).replace("connect", "hold: 5s, connect");
    let said = place.applied(&[a.clone(), changed], &[]);
    assert!(
        said.starts_with("~ INSTANCE b\n    hold: (default) -> 5s\n2 devices: 0 added, 1 changed"),
        "{said}"
    );
    let said = place.applied(&[place.line("c", 8003)], &[]);
    assert!(said.ends_with("1 device: 1 added, 0 changed, 0 removed, 0 kept\n"), "{said}");
    assert_eq!(place.names(), ["a", "b", "c"]);

    // The list is a file: nothing differs from it.
    let listed = place.daemon.cli(&["device", "list", "--format", "yaml"]).unwrap().stdout;
    let path = place.file(&[]);
    std::fs::write(&path, listed).unwrap();
    let output = place.daemon.cli(&["apply", "--prune", "-f", path.to_str().unwrap()]).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3 devices: 0 added, 0 changed, 0 removed, 3 kept\n");

    // A list without an instance has no scope to prune.
    let said = place.applied(&[], &["--prune"]);
    assert_eq!(said, "0 devices: 0 added, 0 changed, 0 removed, 0 kept\n");
    let said = place.applied(&[a], &["--prune"]);
    assert!(said.starts_with("- INSTANCE b\n- INSTANCE c\n"), "{said}");
    assert_eq!(place.names(), ["a"]);
    assert!(!place.serves(8002) && !place.serves(8003));
    talk.wait_for_rounds(5).unwrap();
    talk.finish().unwrap();
}

/// An address goes from a device that is removed to one that is new, and two devices exchange theirs.
///
/// Fails when `in_the_way` finds nothing: the new listener meets the old one.
#[test]
fn addresses_change_hands() {
    let Some(place) = Place::start() else { return };
    place.applied(&[place.line("a", 8001), place.line("b", 8002), place.line("c", 8003)], &[]);
    let kept = Talk::start(&place.host, &Addr::Tcp(local(8003)), 1).unwrap();
    let lines = [place.line("new", 8001), place.line("b", 8002), place.line("c", 8003)];
    place.applied(&lines, &["--prune"]);
    assert_eq!(place.names(), ["b", "c", "new"]);
    let lines = [place.line("new", 8002), place.line("b", 8001)];
    place.applied(&lines, &[]);
    assert!([8001, 8002, 8003].into_iter().all(|port| place.serves(port)));
    kept.wait_for_rounds(5).unwrap();
    kept.finish().unwrap();
    let listen = |name: &str| place.daemon.device(name).unwrap()["listen"].clone();
    assert_eq!((listen("new"), listen("b")), ("tcp:127.0.0.1:8002".into(), "tcp:127.0.0.1:8001".into()));
}

/// A file from standard input, in JSON, and one in TOML.
#[test]
fn other_forms_of_the_same_file() {
    let Some(place) = Place::start() else { return };
    let instance = place.instance();
    let toml = format!(
        "[[devices]]\ninstance = \"{instance}\"\nname = \"a\"\nlisten = \"tcp:127.0.0.1:8001\"\nconnect = \"tcp::7\"\nhold = 5\n"
    );
    let path = place.file(&[]).with_extension("toml");
    std::fs::write(&path, toml).unwrap();
    let output = place.daemon.cli(&["apply", "--format", "json", "-f", path.to_str().unwrap()]).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["applied"], &said["plan"][0]["action"]), (&true.into(), &"add".into()), "{said}");
    assert_eq!(said["plan"][0]["state"], "active", "{said}");
    let json = serde_json::json!({"devices": [
        {"instance": instance, "name": "a", "listen": "tcp:127.0.0.1:8001", "connect": "tcp::7", "hold": "5s"}
    ]});
    let path = place.file(&[]).with_extension("json");
    std::fs::write(&path, json.to_string()).unwrap();
    let mut command = place.daemon.command();
    let file = std::fs::File::open(&path).unwrap();
    let output = command.args(["apply", "-f", "-"]).stdin(file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1 device: 0 added, 0 changed, 0 removed, 1 kept\n");
}
