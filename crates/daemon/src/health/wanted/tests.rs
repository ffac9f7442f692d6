use portway_incus::Definition;
use serde_json::{Value, json};

use super::*;

fn server() -> Server {
    Server {
        version: "6.0.4".to_owned(),
        product: "incus".to_owned(),
        api_extensions: Vec::new(),
        auth: "trusted".to_owned(),
        clustered: false,
        server_name: "one".to_owned(),
        architecture: "x86_64".to_owned(),
    }
}

fn listed(code: u16, more: &[(&str, Value)]) -> Listed {
    let health = "tester=guest\nretries=3\ninterval=30000\ntimeout=30000\nstart_period=0\nstart_interval=5000\ntest=true\n";
    let mut config = json!({
        KEY: health, label::PROJECT: "shop", label::SERVICE: "web", label::NAME: "web-1", "volatile.uuid": "u1",
    });
    for (key, value) in more {
        config[*key] = value.clone();
    }
    let definition = json!({"name": "web-1", "project": "p", "type": "container", "config": config});
    Listed {
        definition: Definition::read(definition).unwrap(),
        expanded_config: portway_incus::Keys::new(),
        status: String::new(),
        status_code: code,
        created_at: String::new(),
        last_used_at: "2026-11-21T10:00:00Z".to_owned(),
        location: "none".to_owned(),
        measured: None,
    }
}

fn of(code: u16, more: &[(&str, Value)]) -> Option<(InstanceKey, Wanted)> {
    Wanted::of(Provider::Incus, &server(), &listed(code, more))
}

/// Fails when somebody is asked who does not run, is a copy, or says nothing that can be asked; or one that is asked is not.
#[test]
fn who_runs_and_says_how_is_asked() {
    let (key, one) = of(status_code::RUNNING, &[]).unwrap();
    assert_eq!(key.to_string(), "incus:p/web-1");
    assert_eq!((one.project.as_str(), one.service.as_str(), one.is_paused), ("shop", "web", false));
    assert!(of(status_code::FROZEN, &[]).unwrap().1.is_paused);
    for code in [status_code::STOPPED, status_code::STARTING, status_code::STOPPING, status_code::ERROR, 0] {
        assert_eq!(of(code, &[]), None, "{code}");
    }
    let running = |more: &[(&str, Value)]| of(status_code::RUNNING, more).is_some();
    assert!(!running(&[(label::NAME, json!("web-2"))]), "a copy");
    assert!(
        running(&[(label::NAME, json!("web-2")), (label::BESIDE, json!("web-1"))]),
        "one that was beside"
    );
    assert!(!running(&[(KEY, json!("test=true"))]) && !running(&[(KEY, json!(""))]));
}

/// Fails when members of a cluster ask one instance all together.
#[test]
fn a_member_asks_its_own() {
    let cluster = Server { clustered: true, ..server() };
    let on = |member: &str| {
        let one = Listed { location: member.to_owned(), ..listed(status_code::RUNNING, &[]) };
        Wanted::of(Provider::Incus, &cluster, &one).is_some()
    };
    assert_eq!([on("one"), on("two")], [true, false]);
}

/// Fails when what was known of one life counts for the next, or a pause begins one.
#[test]
fn a_run_is_one_life() {
    let one = of(status_code::RUNNING, &[]).unwrap().1;
    assert!(one.is_same(&of(status_code::FROZEN, &[]).unwrap().1));
    assert!(!one.is_same(&of(status_code::RUNNING, &[("volatile.uuid", json!("u2"))]).unwrap().1));
    let mut later = one.clone();
    later.run.started = "2026-11-21T10:00:01Z".to_owned();
    assert!(!one.is_same(&later));
}

/// A clock that jumps: an instance that was started "tomorrow", or at no time that can be read, begins now.
///
/// Fails when: a wrong clock makes a start period endless, or a panic.
#[test]
fn any_clock_is_borne() {
    for started in ["2999-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "", "x"] {
        let mut one = of(status_code::RUNNING, &[]).unwrap().1;
        one.run.started = started.to_owned();
        one.health.start_period = Duration::from_secs(60);
        let course = one.course();
        let gap = course.gap(&one.health, Instant::now() + Duration::from_secs(61));
        let is_old = started.starts_with("1970");
        assert_eq!(gap, if is_old { one.health.start_interval } else { one.health.interval }, "{started}");
    }
}
