//! What the commands say where there is nothing to do, or nothing that could be done.

use serde_json::Value;

use crate::support::Place;

/// Exit code, and what was said on both streams.
fn run(place: &Place, args: &[&str]) -> (i32, String, String) {
    let output = place.daemon.cli(args).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A change that leaves every key as it is says so and does nothing: the generation stays.
///
/// Fails when: what was asked for is taken for what was changed.
#[test]
fn a_change_of_nothing_says_so() {
    let Some(place) = Place::start() else { return };
    let name = &place.instance;
    let keys = ["listen=tcp:127.0.0.1:8001", "connect=tcp::7", "hold=5s"];
    place.daemon.add(name, "web", &keys).unwrap();
    let generation = || place.daemon.api().get("/1.0").unwrap()["generation"].clone();
    let before = generation();
    for words in [
        &["set", name, "web", "hold=5000ms"] as &[&str],
        &["set", name, "web", "listen=tcp:127.0.0.1:8001", "nat=false"],
        &["unset", name, "web", "udp.idle"],
    ] {
        let (code, said, _) = run(&place, &[&["device"], words].concat());
        assert_eq!((code, said), (0, format!("Device web unchanged on {name}\n")), "{words:?}");
        let (code, said, _) = run(&place, &[&["device"], words, &["--format", "json"]].concat());
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((code, &said["changed"], &said["name"]), (0, &false.into(), &"web".into()), "{words:?}");
    }
    assert_eq!(generation(), before);
    let (code, said, _) = run(&place, &["device", "unset", name, "web", "hold", "--format", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["changed"]), (0, &true.into()));
    let (code, said, _) = run(&place, &["device", "set", name, "web", "hold=1s"]);
    assert_eq!((code, said), (0, format!("Device web changed on {name}\n")));
}

/// Fails when: a device of a namespace, which is there, is said to have none.
#[test]
fn a_namespace_has_nothing_to_adopt() {
    let Some(place) = Place::start() else { return };
    place.daemon.add(&place.instance, "web", &["listen=tcp:127.0.0.1:8001", "connect=tcp::7"]).unwrap();
    let (code, _, said) = run(&place, &["device", "adopt", &place.instance]);
    assert!(code == 1 && said.contains("nothing to adopt"), "{said}");
}

/// There is no server that a device of a namespace could come from or go to: both ways are refused in the same words,
/// with or without devices there.
///
/// Fails when: one of the two looks for devices first.
#[test]
fn a_namespaces_devices_do_not_move() {
    let Some(place) = Place::start() else { return };
    let name = place.instance.clone();
    for _ in 0..2 {
        for words in [&["import", &name] as &[&str], &["export", &name], &["export", &name, "--dry-run"]] {
            let (code, said, error) = run(&place, &[&["device"], words].concat());
            assert_eq!((code, said.as_str()), (2, ""), "{words:?}: {error}");
            assert!(error.starts_with(&format!("error: {name} is no instance of Incus or LXD\n")), "{error}");
        }
        place.daemon.add(&name, "web", &["listen=tcp:127.0.0.1:8001", "connect=tcp::7"]).unwrap_or_default();
    }
    let (code, _, error) = run(&place, &["device", "import", "--all"]);
    assert!(code == 3 && error.starts_with("error: no socket of Incus or LXD was found\n"), "{error}");
}
