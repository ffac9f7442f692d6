use super::*;

fn lifecycle(project: &str, metadata: &str) -> String {
    format!(
        r#"{{"type":"lifecycle","timestamp":"2026-01-01T00:00:00Z","location":"none",
            "project":"{project}","metadata":{metadata}}}"#
    )
}

fn parsed(message: &str) -> Option<Event> {
    parse(message.as_bytes()).expect("well-formed")
}

#[test]
fn reads_what_incus_sends() {
    let started = r#"{"action":"instance-started","source":"/1.0/instances/c1","context":null,
        "requestor":{"username":"root","protocol":"unix","address":"@"},"name":"c1","project":"default"}"#;
    assert_eq!(
        parsed(&lifecycle("default", started)),
        Some(Event {
            action: "instance-started".into(),
            project: "default".into(),
            name: "c1".into(),
            old_name: None,
        })
    );
    let renamed = r#"{"action":"instance-renamed","source":"/1.0/instances/b%20b?project=p%2Fq",
        "context":{"old_name":"c1"}}"#;
    assert_eq!(
        parsed(&lifecycle("other", renamed)),
        Some(Event {
            action: "instance-renamed".into(),
            project: "p/q".into(),
            name: "b b".into(),
            old_name: Some("c1".into()),
        })
    );
}

#[test]
fn the_project_is_in_the_address_or_beside_it() {
    let event = r#"{"action":"instance-stopped","source":"/1.0/instances/c1"}"#;
    assert_eq!(parsed(&lifecycle("blue", event)).expect("event").project, "blue");
    assert_eq!(parsed(&lifecycle("", event)).expect("event").project, "default");
}

#[test]
fn what_is_not_about_an_instance_itself_is_left_out() {
    for other in [
        r#"{"action":"instance-snapshot-created","source":"/1.0/instances/c1/snapshots/s0"}"#,
        r#"{"action":"instance-exec","source":"/1.0/instances/c1","context":{"command":["true"]}}"#,
        r#"{"action":"instance-file-pushed","source":"/1.0/instances/c1"}"#,
        r#"{"action":"project-created","source":"/1.0/projects/pp"}"#,
        r#"{"action":"instance-started","source":"/1.0/instances/"}"#,
        r#"{"action":"instance-started","source":"/1.0/instances/%ff"}"#,
        r#"{"action":"instance-started","source":""}"#,
        "{}",
        "null",
    ] {
        assert_eq!(parsed(&lifecycle("default", other)), None, "{other}");
    }
    assert_eq!(parsed(r#"{"type":"logging","metadata":{"message":"x"}}"#), None);
}

#[test]
fn garbage_is_an_error() {
    for garbage in ["", "[]", "{", r#"{"type":7}"#, r#"{"type":"lifecycle","metadata":7}"#] {
        assert!(parse(garbage.as_bytes()).is_err(), "{garbage}");
    }
}
