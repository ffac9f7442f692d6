//! Who is not let in, and what those who are let in are told.

use std::fs;

use portway_testkit::{Server, wait_for};

use crate::scene::Scene;

/// Everybody who is not let in gets the same answer, and the log has the reason.
///
/// Fails when an answer tells what exists.
#[test]
fn a_refusal_tells_nothing() {
    let Some(scene) = Scene::start(Server::Incus6, "refused").unwrap() else { return };
    let name = scene.container.name();
    // No more than may fail before an address is blamed for it.
    let mut answers = Vec::new();
    for (key, login) in [("other", name), ("other", "nobody-there"), ("key", "c1+nobody"), ("key", "/shell")]
    {
        let output =
            scene.talk(scene.client_with(key, &[]).args(["-l", login, "127.0.0.1", "true"]), b"").unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0), "{login}");
        answers.push(String::from_utf8_lossy(&output.stderr).replace(login, "LOGIN"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let lines = wait_for("the audit", || scene.audit().ok().filter(|lines| lines.len() == 4)).unwrap();
    let reasons: Vec<&str> = lines.iter().filter_map(|line| line["reason"].as_str()).collect();
    assert!(reasons[0].contains("no such key") && reasons[2].contains("no host user"), "{reasons:?}");
    assert!(scene.log().contains("login refused"), "{}", scene.log());
}

/// Fails when a key with options is taken without them.
#[test]
fn a_restricted_key_is_no_key() {
    let Some(scene) = Scene::start(Server::Incus6, "options").unwrap() else { return };
    let key = fs::read_to_string(scene.path("key.pub")).unwrap();
    let file = scene.path("home/.ssh/authorized_keys");
    fs::write(&file, format!("command=\"/bin/true\" {key}")).unwrap();
    assert_eq!(scene.command("echo in", b"").unwrap().status.code(), Some(255));
    fs::write(&file, key).unwrap();
    assert_eq!(scene.said("echo in").unwrap(), "in\n");
}

/// Fails when somebody who is in gets no word, or a strange status.
#[test]
fn who_is_in_is_told_why_not() {
    let Some(scene) = Scene::start(Server::Incus6, "told").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let told = |login: &str| {
        let output = scene.talk(scene.client(&[]).args([&Scene::at(login), "true"]), b"").unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let said = |text: String| format!("portway: {text}\n");
    assert_eq!(
        told("no-such"),
        (Some(1), said("there is no instance no-such in project default".to_owned()))
    );
    let elsewhere = said(format!("there is no instance {name} in project p9"));
    assert_eq!(told(&format!("{name}.p9")), (Some(1), elsewhere));
    assert_eq!(told(&format!("eve@{name}")), (Some(1), said(format!("there is no user eve in {name}"))));
    scene.container.change_state("freeze").unwrap();
    assert_eq!(told(&name), (Some(3), said(format!("instance {name} is frozen"))));
    scene.container.change_state("unfreeze").unwrap();
    scene.container.kill().unwrap();
    assert_eq!(told(&name), (Some(3), said(format!("instance {name} is not running"))));
    scene.container.start().unwrap();
    assert_eq!(scene.said("echo back").unwrap(), "back\n");
}
