//! Live connections of a device, over the control socket and the command.

use std::io::Read as _;
use std::net::Shutdown;

use portway_testkit::wait_for;
use serde_json::Value;

use crate::place::Place;

/// What the command prints as JSON.
fn listed(place: &Place, more: &[&str]) -> Value {
    let words = ["device", "connections", &place.instance, "web", "--format", "json"];
    let output = place.daemon.cli(&[&words, more].concat()).unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Fails when: a client is listed for another device, its bytes are another one's, an end is not seen, the limit is
/// not one, or connections of an adopted worker are lost.
#[test]
fn who_is_connected_is_listed() {
    let Some(mut place) = Place::start() else { return };
    place.add("other", 8081);
    assert_eq!(listed(&place, &[])["connections"], Value::Array(Vec::new()));
    let clients: Vec<_> = (0..3).map(|_| place.client(8080)).collect();
    let _other = place.client(8081);
    let found = listed(&place, &[]);
    assert_eq!((&found["connections_now"], &found["unlisted"]), (&Value::from(3), &Value::Null), "{found}");
    let all = found["connections"].as_array().unwrap();
    assert_eq!(all.len(), 3);
    for client in &clients {
        let address = client.local_addr().unwrap().to_string();
        let one = all.iter().find(|one| one["client"] == *address).unwrap();
        assert_eq!((&one["bytes_in"], &one["bytes_out"]), (&Value::from(5), &Value::from(5)), "{one}");
        assert_eq!((&one["state"], &one["target"]), (&Value::from("open"), &Value::from("tcp:127.0.0.1:80")));
    }
    let two = listed(&place, &["--limit", "2"]);
    assert_eq!((two["connections"].as_array().unwrap().len(), &two["connections_now"]), (2, &Value::from(3)));

    // The worker goes on under the next daemon, and tells it.
    place.daemon.kill().unwrap();
    place.daemon.launch().unwrap();
    let mut first = clients.into_iter().next().unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    first.read_to_end(&mut Vec::new()).unwrap();
    let gone = || (listed(&place, &[])["connections"].as_array().unwrap().is_empty()).then_some(());
    wait_for("the end of all of them", gone).unwrap();

    let none = place.daemon.cli(&["device", "connections", &place.instance, "none"]).unwrap();
    assert_eq!(none.status.code(), Some(4));
}
