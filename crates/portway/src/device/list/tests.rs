//! Snapshots of every format.

use std::collections::BTreeMap;

use super::*;

/// A device that serves.
fn serving() -> Device {
    Device {
        instance: "incus:default/c1".parse().unwrap(),
        name: "web".parse().unwrap(),
        listen: "tcp:0.0.0.0:8080".to_owned(),
        connect: "tcp:127.0.0.1:80".to_owned(),
        bind: "host".to_owned(),
        state: DeviceState::Active,
        mode: DeviceMode::Relay,
        mode_reason: None,
        connections_now: 3,
        connections_total: 120_456,
        bytes_in: Some(1_258_291),
        bytes_out: Some(4_831_838_208),
        last_error: None,
        since: "2026-11-20T10:00:00Z".to_owned(),
        reason: None,
        keys: keys(&[("listen", "tcp:0.0.0.0:8080"), ("connect", "tcp:127.0.0.1:80")]),
        instance_uuid: Some("6a1f3c9e-5d0b-4a53-9a4e-1f6b8f2f9e01".to_owned()),
        dials_failed: 2,
        resets: 1,
        dropped: 0,
        evicted: 0,
        denied: 0,
        over_connections: 0,
        over_rate: 0,
        over_per_source: 0,
        bad_headers: 0,
        failures: portway_control::api::DeviceFailures::default(),
        dial_time: portway_control::api::DialTime::default(),
        worker_pid: Some(4711),
    }
}

/// Devices of every state, with hostile text in places a server may fill.
pub(in crate::device) fn devices() -> [Device; 4] {
    let base = serving();
    let waiting = Device {
        name: "agent".parse().unwrap(),
        listen: "unix:/run/agent.sock".to_owned(),
        connect: "unix:/run/host.sock".to_owned(),
        bind: "instance".to_owned(),
        state: DeviceState::Waiting,
        reason: Some("the instance is stopped".to_owned()),
        connections_now: 0,
        connections_total: 0,
        bytes_in: Some(0),
        bytes_out: Some(0),
        keys: keys(&[
            ("listen", "unix:/run/agent.sock"),
            ("connect", "unix:/run/host.sock"),
            ("bind", "instance"),
            ("mode", "0660"),
            ("uid", "1000"),
        ]),
        worker_pid: None,
        ..base.clone()
    };
    let degraded = Device {
        instance: "incus:dev/db".parse().unwrap(),
        name: "ports".parse().unwrap(),
        listen: "tcp:[::]:5000-5009,5432".to_owned(),
        state: DeviceState::Degraded,
        reason: Some("10 of 11 ports listen".to_owned()),
        last_error: Some(
            "cannot bind [::]:5432/tcp: address in use, \"postgres\" (pid 99)\u{1b}[2J".to_owned(),
        ),
        ..base.clone()
    };
    let failed = Device {
        instance: "netns:blue".parse().unwrap(),
        name: "dns".parse().unwrap(),
        listen: "udp:127.0.0.1:53".to_owned(),
        connect: "udp:127.0.0.1:53".to_owned(),
        state: DeviceState::Failed,
        last_error: Some("no namespace blue".to_owned()),
        ..base.clone()
    };
    [base, waiting, degraded, failed]
}

fn keys(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

const WIDE: Look = Look { width: None, colour: false };

#[test]
fn the_table_is_as_wide_as_its_text() {
    insta::assert_snapshot!("table", table_text(&devices(), Provider::Incus, WIDE));
    insta::assert_snapshot!("table_empty", table_text(&[], Provider::Incus, WIDE));
}

#[test]
fn the_table_fits_a_narrow_terminal() {
    let text = table_text(&devices(), Provider::Incus, Look { width: Some(120), colour: false });
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    insta::assert_snapshot!("table_narrow", text);
}

#[test]
fn colours_are_for_the_state_alone() {
    let text = table_text(&devices()[..1], Provider::Incus, Look { width: None, colour: true });
    assert_eq!(text.matches("\u{1b}[38;5;10m").count(), 1, "{text:?}");
    assert!(!table_text(&devices(), Provider::Incus, WIDE).contains('\u{1b}'));
}

#[test]
fn json_has_the_documented_fields() {
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&row(&devices()[2])).unwrap());
}

#[test]
fn yaml_is_what_is_wanted_and_nothing_else() {
    insta::assert_snapshot!("yaml", crate::output::yaml::document(&wanted(&devices())).unwrap());
}

#[test]
fn csv_quotes_what_it_must() {
    insta::assert_snapshot!("csv", csv_text(&devices()));
}

/// Fails when: the reason of a choice is left out, or said a second time beside a state that says it.
#[test]
fn the_reason_of_a_choice_stands_beside_it() {
    let text = |mode, why: Option<&str>, reason: Option<&str>| {
        let [why, reason] = [why, reason].map(|text| text.map(str::to_owned));
        mode_text(&Device { mode, mode_reason: why, reason, ..serving() })
    };
    let to = "to 10.0.0.5 (eth0 in br0)";
    assert_eq!(text(DeviceMode::Nat, Some(to), None), format!("nat: {to}"));
    assert_eq!(text(DeviceMode::Relay, None, None), "relay");
    assert_eq!(text(DeviceMode::Relay, Some("it is down"), Some("stopped")), "relay: it is down");
    let said = "relayed instead of NAT: it is down";
    assert_eq!(text(DeviceMode::Relay, Some("it is down"), Some(said)), "relay");
}
