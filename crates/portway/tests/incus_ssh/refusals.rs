//! Who is not let in, and what those who are let in are told.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use portway_testkit::{Server, wait_for};

use crate::scene::Scene;

/// Everybody who is not let in gets the same answers, and the log has the reason.
///
/// Fails when an answer tells what exists, also the one to a key that is offered and not yet proven.
#[test]
fn a_refusal_tells_nothing() {
    let Some(scene) = Scene::start(Server::Incus6, "refused").unwrap() else { return };
    let name = scene.container.name();
    // No more than may fail before an address is blamed for it.
    let mut answers = Vec::new();
    for (key, login) in
        [("other", name), ("other", "nobody-there"), ("key", "c1+no-such-user"), ("other", "+t1+bogus")]
    {
        let mut client = std::process::Command::new("ssh");
        client.arg("-v").args(scene.options(key)).args(["-p", &scene.port.to_string()]);
        let output = scene.talk(client.args(["-l", login, "127.0.0.1", "true"]), b"").unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0), "{login}");
        answers.push(answers_in(&String::from_utf8_lossy(&output.stderr)).replace(login, "LOGIN"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let lines = wait_for("the audit", || scene.audit().ok().filter(|lines| lines.len() == 4)).unwrap();
    let reasons: Vec<&str> = lines.iter().filter_map(|line| line["reason"].as_str()).collect();
    assert!(reasons[0].contains("no such key") && reasons[2].contains("no host user"), "{reasons:?}");
    assert!(scene.log().contains("login refused"), "{}", scene.log());
}

/// What the server has said about logging in, in what a client tells of it.
fn answers_in(told: &str) -> String {
    let begin = told.find("SSH2_MSG_SERVICE_ACCEPT received").expect("a server that lets people try");
    let words =
        ["can continue", "Server accepts", "Permission denied", "Disconnected", "Connection", "banner"];
    told[begin..]
        .lines()
        .filter(|line| words.iter().any(|word| line.contains(word)))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Who has failed too often is turned away for a while, and nobody else is.
///
/// Fails when a source may go on guessing, or another has to pay for it.
#[test]
fn who_fails_too_often_is_turned_away() {
    let Some(scene) = Scene::start(Server::Incus6, "often").unwrap() else { return };
    let at = Scene::at(scene.container.name());
    let from = |key: &str, source: &str| {
        scene.talk(scene.client_with(key, &["-b", source]).args([&at, "echo in"]), b"").unwrap()
    };
    // At once, so that all of them count however long each takes.
    let failures = std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..12).map(|_| scope.spawn(|| from("other", "127.0.0.2"))).collect();
        guesses.into_iter().map(|guess| guess.join().expect("a client").status.code()).collect::<Vec<_>>()
    });
    assert!(failures.iter().all(|status| *status == Some(255)), "{failures:?}");
    assert!(from("key", "127.0.0.2").stdout.is_empty());
    assert_eq!(from("key", "127.0.0.3").stdout, b"in\n");
}

/// A source that takes all places and says no more than a greeting loses its own, and people come in.
///
/// Fails when a flood keeps anybody else out.
#[test]
fn a_flood_displaces_itself() {
    let Some(scene) = Scene::start(Server::Incus6, "flood").unwrap() else { return };
    let address = ("127.0.0.1", scene.port);
    let flood: Vec<TcpStream> =
        scene.bed.netns().enter(|| (0..100).map(|_| TcpStream::connect(address).unwrap()).collect()).unwrap();
    // Whoever says nothing gets a process late.
    for mut stream in &flood {
        stream.write_all(b"SSH-2.0-flood\r\n").unwrap();
    }
    wait_for("their processes", || (scene.sessions().len() == 100).then_some(())).unwrap();
    let client = scene
        .talk(scene.client(&["-b", "127.0.0.5"]).args([&Scene::at(scene.container.name()), "echo in"]), b"");
    assert_eq!(client.unwrap().stdout, b"in\n", "{}", scene.log());
    let mut oldest = &flood[0];
    oldest.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut said = Vec::new();
    let ended = oldest.read_to_end(&mut said);
    let waits = |error: &std::io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(ended.as_ref().err().is_none_or(|error| !waits(error)), "{ended:?}");
}

/// The shell of Incus commands.
///
/// Fails when one of them is taken for something else.
#[test]
fn what_is_not_served_is_refused() {
    let Some(scene) = Scene::start(Server::Incus6, "notserved").unwrap() else { return };
    let logins = ["/shell", "%shell"];
    for (number, login) in logins.iter().enumerate() {
        let source = format!("127.0.0.{}", number + 10);
        let output =
            scene.talk(scene.client(&["-b", &source]).args(["-l", login, "127.0.0.1", "echo in"]), b"");
        assert_eq!(output.unwrap().stdout, b"", "{login}");
    }
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
    assert_eq!(
        told(&name),
        (Some(3), said(format!("instance {name} is not running, and `start` is not allowed there")))
    );
    scene.container.start().unwrap();
    assert_eq!(scene.said("echo back").unwrap(), "back\n");
}

/// A login that cannot be read is no reason to doubt whose key it is.
///
/// Fails when whoever has proven a key is not told what is wrong, or is treated as a stranger.
#[test]
fn who_misspells_is_told() {
    let Some(scene) = Scene::start(Server::Incus6, "spell").unwrap() else { return };
    let tried = |key: &str, login: &str, words: &[&str]| {
        let output =
            scene.talk(scene.client_with(key, words).arg(Scene::at(login)).arg("true"), b"").unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (login, what) in [
        ("+t1+bogus", "unknown create option"),
        ("+t1+m", "a number follows"),
        ("/rm/", "instance name is empty"),
        ("/foo/bar", "unknown command"),
        ("c1..", "project"),
    ] {
        let (status, said) = tried("key", login, &["-T"]);
        assert!(
            status == Some(1) && said.starts_with("portway: the login is not understood"),
            "{login}: {said}"
        );
        assert!(said.contains(what), "{login}: {said}");
    }
    let mut forward = scene.client_with("key", &["-v", "-W", "127.0.0.1:1"]);
    let output = scene.talk(forward.arg(Scene::at("+t1+bogus")), b"").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(255) && said.contains("unknown create option"), "{said}");
    // Five in a row are no fault of the address; a stranger learns nothing of it.
    assert_eq!(tried("key", scene.container.name(), &["-T"]).0, Some(0));
    let (status, said) = tried("other", "+t1+bogus", &["-T"]);
    assert!(status == Some(255) && said.contains("Permission denied"), "{said}");
}
