//! Sessions that stay as an operator of the host sees and ends them.

use std::process::Output;

use nix::sys::signal::Signal;
use portway_testkit::{Server, wait_for};
use serde_json::{Value, json};

use crate::keep::{begin, nothing_is_left};
use crate::scene::Scene;

/// A command of an operator's about the instance of a scene.
fn ask(scene: &Scene, words: &[&str]) -> Output {
    let words = [&["ssh", "sessions"], words, &["--instance", scene.container.name()]].concat();
    scene.operator(&words).output().unwrap()
}

/// The same, which has to be refused with this exit code; what it said, one line and a hint.
fn refused(scene: &Scene, words: &[&str], code: i32) -> String {
    let output = ask(scene, words);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{words:?}: {text}");
    assert!(text.starts_with("error: ") && text.lines().count() <= 2, "{text}");
    text
}

fn listed(scene: &Scene, words: &[&str]) -> Vec<Value> {
    let output = ask(scene, &[words, &["--format", "json"]].concat());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{words:?}: {text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Fails when an operator sees another session than there is, ends another, or needs a gateway for it; when one user who
/// does not answer hides the others; or when anything of ours stays in the instance.
#[test]
fn an_operator_sees_and_ends_what_stays() {
    let Some(mut scene) = Scene::start(Server::Incus6, "kept").unwrap() else { return };
    let name = scene.container.name().to_owned();
    assert_eq!(listed(&scene, &[]), Vec::<Value>::new());
    let (mut work, pid) = begin(&scene, &format!("keep=work,bob@{name}"));
    work.keys("sleep 1234\r");
    let (own, _) = begin(&scene, &format!("keep=both,bob@{name}"));
    let (mut roots, _) = begin(&scene, &format!("keep=both,{name}"));
    own.kill();
    scene.stop(Signal::SIGKILL).unwrap();
    // What was typed may be on its way.
    let sessions = wait_for("what runs in front", || {
        let sessions = listed(&scene, &[]);
        (sessions[2]["command"] == "sleep 1234").then_some(sessions)
    });
    let sessions = sessions.unwrap();
    let of = |session: &Value| {
        ["user", "name", "viewers", "state"].map(|key| session[key].clone()).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(of(&sessions[0]), [json!("root"), json!("both"), json!(1), json!("kept")]);
    assert_eq!(of(&sessions[1])[..2], [json!("bob"), json!("both")]);
    assert_eq!(of(&sessions[2]), [json!("bob"), json!("work"), json!(1), json!("kept")]);
    assert_eq!(sessions[2]["pid"].to_string(), pid);
    assert_eq!((&sessions[2]["columns"], &sessions[2]["rows"]), (&json!(80), &json!(24)));
    assert_eq!(listed(&scene, &["--user", "root"]).len(), 1);
    refused(&scene, &["--user", "nobody-here"], 4);
    // One name of two users.
    assert!(refused(&scene, &["kill", "both"], 1).contains("several users have a session both: root, bob"));
    let ended = ask(&scene, &["kill", "both", "--user", "root"]);
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(said, format!("session both of root in {name} has ended\n"));
    assert_eq!(roots.end(), Some(129), "{:?}", roots.lines());
    assert!(refused(&scene, &["kill", "both", "--user", "root"], 4).contains("there is no session both"));
    refused(&scene, &["kill", "../both"], 2);
    // A holder that says nothing is told to be so, and the others are told.
    let stop = "for dir in /proc/[0-9]*; do if tr '\\0' ' ' <$dir/cmdline | grep -q 'hold bot[h] '; then \
                kill -STOP ${dir#/proc/}; fi; done 2>/dev/null; true";
    scene.container.sh(stop).unwrap();
    let sessions = listed(&scene, &["--user", "bob"]);
    assert_eq!((&sessions[0]["state"], &sessions[0]["pid"]), (&json!("silent"), &Value::Null));
    assert_eq!(sessions[1]["state"], "kept");
    scene.container.sh(&stop.replace("STOP", "CONT")).unwrap();
    for session in ["work", "both"] {
        let ended = ask(&scene, &["kill", session]);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(work.end(), Some(129), "{:?}", work.lines());
    // Whether a gateway runs or not.
    let noted: Vec<_> =
        scene.audit().unwrap().into_iter().filter(|line| line["event"] == "kept-ended").collect();
    let of = |line: &Value| ["instance_user", "keep", "uid", "instance"].map(|key| line[key].clone());
    let ended = |user: &str, keep: &str| [json!(user), json!(keep), json!(0), json!(name)];
    let expected = [ended("root", "both"), ended("bob", "work"), ended("bob", "both")];
    assert_eq!(noted.iter().map(of).collect::<Vec<_>>(), expected);
    nothing_is_left(&scene);
    scene.container.kill().unwrap();
    assert!(refused(&scene, &[], 1).contains("is not running"));
}
