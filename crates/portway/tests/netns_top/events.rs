//! `portway events` of a real daemon.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;

use crate::place::Place;

/// The command, as it prints line by line. Drop ends it.
struct Reader {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Reader {
    fn start(place: &Place, words: &[&str]) -> Reader {
        let mut command = place.daemon.command();
        command.arg("events").args(words).args(["--format", "json"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Reader { child, lines }
    }

    /// Kind and device of the next one.
    fn next(&mut self) -> (String, String) {
        let event: Value = serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap();
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        (text("kind"), text("device"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pair(kind: &str, device: &str) -> (String, String) {
    (kind.to_owned(), device.to_owned())
}

/// Fails when: the daemon sends what is not asked for, forgets what was, or the command does not end where it should.
#[test]
fn events_are_those_that_are_asked_for() {
    let Some(place) = Place::start() else { return };
    place.add("one", 8081);
    place.add("two", 8082);
    let kinds = ["--kind", "device-added"];
    let printed = |words: &[&str]| {
        let output = place.daemon.cli(&[&["events", "--format", "csv"], words].concat()).unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap().lines().count())
    };
    assert_eq!(printed(&[&kinds[..], &["--recent", "9", "--no-follow"]].concat()), (Some(0), 4));
    assert_eq!(printed(&[&kinds[..], &["--recent", "2", "--no-follow"]].concat()), (Some(0), 3));
    assert_eq!(
        printed(&["--recent", "9", "--device", "one", "--kind", "device-added", "-n", "1"]),
        (Some(0), 2)
    );
    assert_eq!(printed(&["--recent", "9", "--instance", "netns:other", "--no-follow"]), (Some(0), 1));
    assert_eq!(printed(&["--kind", "device-add"]).0, Some(2));

    let mut reader = Reader::start(
        &place,
        &["--device", "three", "--kind", "device-added,device-removed", "--recent", "9"],
    );
    place.add("three", 8083);
    place.add("four", 8084);
    let remove = |name: &str| place.daemon.cli(&["device", "remove", &place.instance, name]).unwrap();
    assert!(remove("four").status.success() && remove("three").status.success());
    assert_eq!(reader.next(), pair("device-added", "three"));
    assert_eq!(reader.next(), pair("device-removed", "three"));
}

/// Fails when: the end of a daemon is the end of the command, or what the next one tells at its start is missed.
#[test]
fn a_reader_goes_on_with_the_next_daemon() {
    let Some(mut place) = Place::start() else { return };
    let mut reader = Reader::start(&place, &["--kind", "device-added", "--reconnect", "--recent", "9"]);
    assert_eq!(reader.next(), pair("device-added", "web"));
    place.daemon.kill().unwrap();
    place.daemon.launch().unwrap();
    place.add("later", 8081);
    assert_eq!(reader.next(), pair("device-added", "later"));

    let mut plain = Reader::start(&place, &["--recent", "1", "--kind", "device-added"]);
    plain.next();
    place.daemon.kill().unwrap();
    assert_eq!(plain.child.wait().unwrap().code(), Some(3));
    place.daemon.launch().unwrap();
}
