use super::*;

fn definition() -> Definition {
    let wire = json!({
        "name": "c1", "project": "default", "type": "container", "status": "Running", "architecture": "x86_64",
        "config": {"user.a.b": "1", "user.a.c": "2", "volatile.uuid": "6a1c"}, "description": "",
        "devices": {"web": {"type": "proxy", "listen": "tcp::80"}}, "ephemeral": false, "profiles": ["default"],
        "stateful": false, "expanded_devices": {"web": {"type": "proxy"}, "eth0": {"type": "nic"}},
        "created_at": "2026-11-20T10:00:00Z", "location": "none",
    });
    Definition::of(serde_json::from_value(wire).unwrap(), Some("e".into()))
}

#[test]
fn only_what_may_be_written_is_put_back() {
    let definition = definition();
    let keys: Vec<&str> = definition.writable.keys().map(String::as_str).collect();
    assert_eq!(keys, WRITABLE);
    assert_eq!(definition.devices()["web"]["listen"], "tcp::80");
    assert_eq!(definition.expanded_devices.len(), 2);
    assert_eq!(definition.profiles(), ["default"]);
    assert_eq!(definition.config("volatile.uuid"), Some("6a1c"));
    assert_eq!(definition.config_below("user.a.").collect::<Vec<_>>(), [("b", "1"), ("c", "2")]);
}

#[test]
fn what_is_set_and_taken_back_leaves_it_as_it_was() {
    let before = definition();
    let mut after = before.clone();
    after.set_device("web", None);
    after.set_config("user.x", Some("{}"));
    assert!(after.devices().is_empty() && after.config("user.x") == Some("{}"));
    after.set_device("web", Some(&before.devices()["web"]));
    after.set_config("user.x", None);
    assert_eq!(after, before);
}
