//! All or nothing, and one at a time.

use std::time::{Duration, Instant};

use portway_testkit::{Addr, Talk};
use serde_json::json;

use crate::place::{Place, local};

/// Catalogue: one bad listener of a hundred. The old set serves, its connections live on.
///
/// Fails when `stage` does not take back what it did, or `apply` stores before all have answered.
#[test]
fn one_bad_listener_of_a_hundred_changes_nothing() {
    let Some(place) = Place::start() else { return };
    let old: Vec<String> = (0..5).map(|n| place.line(&format!("old{n}"), 8000 + n)).collect();
    place.applied(&old, &[]);
    let talk = Talk::start(&place.host, &Addr::Tcp(local(8000)), 1).unwrap();
    let before = place.daemon.devices().unwrap().len();
    let generation = place.daemon.api().get("/1.0").unwrap()["generation"].clone();
    let taken = place.host.run(|| Addr::Tcp(local(8150)).listen()).unwrap().unwrap();

    // Some change, some go, one gets the address of one that goes, and one cannot be had.
    let mut new: Vec<String> = (0..98).map(|n| place.line(&format!("new{n:02}"), 8100 + n)).collect();
    new.push(place.line("old0", 8000).replace("connect", "hold: 5s, connect"));
    new.push(place.line("heir", 8004));
    let output = place.apply(&new, &["--prune"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("/new50: tcp:127.0.0.1:8150 is in use by"), "{error}");
    assert!(error.contains("nothing was changed"), "{error}");
    assert!(output.stdout.is_empty());

    assert_eq!(place.daemon.devices().unwrap().len(), before);
    assert_eq!(place.daemon.api().get("/1.0").unwrap()["generation"], generation);
    assert!((8000..8005).all(|port| place.serves(port)));
    assert!(!place.serves(8100) && !place.serves(8149));
    talk.wait_for_rounds(5).unwrap();

    drop(taken);
    place.applied(&new, &["--prune"]);
    assert_eq!(place.daemon.devices().unwrap().len(), 100);
    assert!((8100..8198).step_by(10).all(|port| place.serves(port)) && place.serves(8004));
    talk.wait_for_rounds(5).unwrap();
    talk.finish().unwrap();
}

/// Catalogue: two concurrent applies. One wins; the other is told that the devices have changed.
///
/// Fails when `check_generation` compares nothing.
#[test]
fn of_two_files_made_from_the_same_state_one_wins() {
    let Some(place) = Place::start() else { return };
    let api = place.daemon.api();
    let generation = api.get("/1.0").unwrap()["generation"].as_u64().unwrap();
    let body = |name: &str, port: u16| {
        let keys = json!({"listen": format!("tcp:127.0.0.1:{port}"), "connect": "tcp::7"});
        json!({"devices": [{"instance": place.instance(), "name": name, "keys": keys}], "generation": generation})
    };
    let call = |body: &serde_json::Value| {
        api.call("POST", "/1.0/apply", Some(body), Duration::from_secs(30)).unwrap()
    };
    let (one, other) = (body("a", 8001), body("b", 8002));
    let mut answers = std::thread::scope(|scope| {
        let first = scope.spawn(|| call(&one));
        let second = scope.spawn(|| call(&other));
        [first.join().unwrap(), second.join().unwrap()]
    });
    answers.sort_by_key(|answer| answer.status);
    assert_eq!((answers[0].status, answers[1].status), (200, 409), "{answers:?}");
    assert!(answers[1].body["error"].as_str().unwrap().contains("generation"), "{answers:?}");
    assert_eq!(place.names().len(), 1);
}

/// A daemon that is killed while it applies has the old devices or the new ones, and serves them.
#[test]
fn killed_while_it_applies_it_has_the_old_set_or_the_new_one() {
    let Some(mut place) = Place::start() else { return };
    let old: Vec<String> = (0..20).map(|n| place.line(&format!("old{n:02}"), 8000 + n)).collect();
    let new: Vec<String> = (0..20).map(|n| place.line(&format!("new{n:02}"), 8010 + n)).collect();
    for pause in [5, 15, 40] {
        place.applied(&old, &["--prune"]);
        let file = place.file(&new);
        let mut command = place.daemon.command();
        command.args(["apply", "--prune", "-f", file.to_str().unwrap()]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut applying = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        place.daemon.kill().unwrap();
        applying.wait().unwrap();
        place.daemon.launch().unwrap();
        let names = place.names();
        let all = |word: &str| names.len() == 20 && names.iter().all(|name| name.starts_with(word));
        assert!(all("old") || all("new"), "{names:?}");
        for name in &names {
            place.daemon.wait_for_state(name, "active").unwrap();
        }
    }
}

/// A thousand devices are one write of the state, and so is their removal.
///
/// Fails when each device is planned, stored or looked for by itself: minutes instead of seconds.
#[test]
fn a_thousand_devices_are_applied_at_once() {
    let Some(place) = Place::start() else { return };
    let generation = || place.daemon.api().get("/1.0").unwrap()["generation"].as_u64().unwrap();
    let before = generation();
    let lines: Vec<String> = (0..1000).map(|n| place.line(&format!("d{n:03}"), 9000 + n)).collect();
    let begin = Instant::now();
    let said = place.applied(&lines, &[]);
    let taken = begin.elapsed();
    assert!(said.ends_with("1000 devices: 1000 added, 0 changed, 0 removed, 0 kept\n"), "{said:.300}");
    assert_eq!(generation(), before + 1);
    assert!((9000..10_000).step_by(50).all(|port| place.serves(port)));
    let begin = Instant::now();
    place.applied(&lines[..500], &["--prune"]);
    println!("1000 added in {taken:?}, 500 removed in {:?}", begin.elapsed());
    assert_eq!(generation(), before + 2);
    assert_eq!(place.names().len(), 500);
    // Seconds; a stall is the fault.
    assert!(taken < Duration::from_secs(60), "{taken:?}");
}
