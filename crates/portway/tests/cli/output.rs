//! What the commands print of a daemon's answers, in every format, and what they ask it.

use crate::support::{FakeDaemon, Place, Request, device};
use serde_json::{Value, json};

fn answers(request: &Request) -> (u16, String) {
    let devices =
        || json!([device("web", "active", None), device("ssh", "waiting", Some("the instance is stopped"))]);
    let answer = match request.line.as_str() {
        "GET /1.0/devices" | "GET /1.0/devices?instance=incus%3Adefault%2Fc1" => devices(),
        "POST /1.0/devices" if request.body.contains("netns:blue") => {
            device("web", "waiting", Some("no namespace blue"))
        }
        "DELETE /1.0/devices/incus%3Adefault%2Fc1/web" => json!({}),
        "POST /1.0/devices/incus%3Adefault%2Fc1/web/rename" => device("www", "active", None),
        "POST /1.0/instances/incus%3Adefault%2Fc1/adopt" => devices(),
        "GET /1.0" => json!({
            "api": "1.0", "version": "0.1.0", "pid": 812, "uptime_seconds": 185, "generation": 17,
            "devices": {"active": 1, "waiting": 1, "degraded": 0, "failed": 0},
            "providers": [{"name": "incus", "endpoint": "/i.sock", "reachable": true, "error": null}],
            "workers": [{"pid": 4711, "instance": "incus:default/c1", "uid": 998, "devices": 2}],
            "keeper_pid": 813, "warnings": [],
        }),
        "PATCH /1.0/devices/incus%3Adefault%2Fc1/web" if request.body.contains("fds") => unchanged(),
        line if line.starts_with("GET /1.0/events") => return (200, events()),
        "GET /1.0/devices/incus%3Adefault%2Fc1/web/connections" => connections(),
        line if line.contains("/web") || line.starts_with("POST") => device("web", "active", None),
        _ => json!({"kind": "missing", "error": format!("no {}", request.line)}),
    };
    (if answer.get("kind").is_some() { 404 } else { 200 }, answer.to_string())
}

fn unchanged() -> Value {
    let mut device = device("web", "active", None);
    device["changed"] = json!(false);
    device
}

fn connections() -> Value {
    let one = json!({
        "id": "4711-0", "protocol": "tcp", "client": "192.0.2.7:50312", "via": "192.0.2.1:4000",
        "target": "tcp:127.0.0.1:80", "state": "open", "age_ms": 185_000, "idle_ms": 20,
        "bytes_in": 1_258_291, "bytes_out": 4_831_838_208_u64,
    });
    json!({"connections_now": 3, "connections": [one], "unlisted": null})
}

fn events() -> String {
    let event = |kind: &str, instance: &str, device: Option<&str>, text: &str| {
        let at = "2026-11-20T10:00:00Z";
        format!(
            "data: {}\n\n",
            json!({"at": at, "kind": kind, "instance": instance, "device": device, "text": text})
        )
    };
    [
        ": keep-alive\n\n".to_owned(),
        event("device-state", "incus:default/c1", Some("web"), "active"),
        event("instance-stopped", "incus:dev/c1", None, "its init has ended"),
        event("device-error", "netns:blue", Some("dns"), "cannot bind 127.0.0.1:53/udp: \"in use\""),
    ]
    .concat()
}

/// Runs each in its own place and puts what was seen together.
fn transcript(cases: &[&[&str]]) -> String {
    let place = Place::new();
    let _daemon = FakeDaemon::start(&place, answers);
    cases.iter().map(|case| place.run(case)).collect::<Vec<_>>().join("\n")
}

#[test]
fn lists() {
    insta::assert_snapshot!(transcript(&[
        &["device", "list"],
        &["device", "ls", "c1"],
        &["device", "list", "--project", "dev"],
        &["device", "list", "--format", "json"],
        &["device", "list", "--format", "yaml"],
        &["device", "list", "-f", "csv"],
    ]));
}

#[test]
fn details() {
    insta::assert_snapshot!(transcript(&[
        &["device", "show", "c1", "web"],
        &["device", "show", "c1"],
        &["device", "show", "c1", "web", "--format", "json"],
        &["device", "show", "c1", "web", "--format", "yaml"],
        &["device", "show", "c1", "web", "--format", "csv"],
        &["device", "show", "c1", "none"],
    ]));
}

#[test]
fn status() {
    insta::assert_snapshot!(transcript(&[
        &["status"],
        &["status", "--format", "yaml"],
        &["status", "--format", "csv"],
    ]));
}

#[test]
fn events_in_every_format() {
    insta::assert_snapshot!(transcript(&[
        &["events"],
        &["events", "c1"],
        &["events", "--project", "dev"],
        &["events", "--instance", "c1", "--count", "1"],
        &["events", "--kind", "device-error,instance-stopped"],
        &["events", "--device", "dns", "--recent", "5", "--no-follow"],
        &["events", "--kind", "device-stat"],
        &["events", "--format", "json"],
        &["events", "--format", "yaml"],
        &["events", "--format", "csv"],
    ]));
}

#[test]
fn changes_say_what_became_of_the_device() {
    insta::assert_snapshot!(transcript(&[
        &["device", "add", "c1", "web", "proxy", "listen=tcp:0.0.0.0:8080", "connect=tcp:127.0.0.1:80"],
        &["device", "add", "netns:blue", "web", "listen=tcp::8080", "connect=tcp::80"],
        &["device", "set", "c1", "web", "connect=tcp:127.0.0.1:81"],
        &["device", "set", "c1", "web", "hold", "1m", "--format", "yaml"],
        &["device", "unset", "c1", "web", "hold"],
        &["device", "unset", "c1", "web", "fds"],
        &["device", "unset", "c1", "web", "fds", "--format", "json"],
        &["device", "rename", "c1", "web", "www"],
        &["device", "remove", "c1", "web"],
        &["device", "remove", "c1", "web", "none"],
        &["device", "adopt", "c1"],
    ]));
}

#[test]
fn requests_carry_what_was_typed() {
    let place = Place::new();
    let daemon = FakeDaemon::start(&place, answers);
    for arguments in [
        &["device", "add", "c1", "web", "proxy", "listen=tcp::8080", "connect=tcp::80", "nat=no"]
            as &[&str],
        &["device", "add", "--project", "dev", "c1", "web", "listen=tcp::8080", "connect=tcp::80"],
        &["device", "add", "netns:/run/netns/a b", "x/y", "listen=tcp::8080", "connect=tcp::80"],
        &["device", "set", "dev/c1", "web", "hold", "1m"],
        &["device", "set", "c1", "web", "hold=1m", "fds=off"],
        &["device", "unset", "c1", "web", "hold", "fds"],
        &["device", "rename", "c1", "web", "www"],
        &["device", "remove", "netns:/proc/7/ns/net", "web"],
    ] {
        let said = place.run(arguments);
        assert!(!said.contains("exit"), "{said}");
    }
    insta::assert_snapshot!(daemon.seen.lock().unwrap().join("\n"));
}
