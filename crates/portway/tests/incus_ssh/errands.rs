//! Logins that ask something of the gateway itself: `/explain/`, `/rm/` and `/rm-f/`.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use portway_testkit::{ContainerSpec, Server, run, wait_for};

use crate::inside::text;
use crate::scene::Scene;

/// What a login is told, without a terminal.
fn told(scene: &Scene, login: &str) -> String {
    let mut client = scene.client(&["-T"]);
    text(&scene.talk(client.args(["-l", login, "127.0.0.1"]), b"").unwrap())
}

/// What a login is told on a terminal that answers a question.
fn answered(scene: &Scene, login: &str, answer: &str) -> String {
    answered_after(scene, login, &[], answer, || {})
}

/// The same with a command, and with something that happens while the question stands.
fn answered_after(
    scene: &Scene,
    login: &str,
    words: &[&str],
    answer: &str,
    meanwhile: impl FnOnce(),
) -> String {
    let mut client = scene.client(&["-tt"]);
    client.args(["-l", login, "127.0.0.1"]).args(words);
    let mut client = scene
        .bed
        .netns()
        .spawn(client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))
        .unwrap();
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let mut said = Vec::new();
    while !said.ends_with(b"Type yes: ") {
        let mut byte = [0];
        let count = output.read(&mut byte).unwrap();
        assert!(count == 1, "{} {}", String::from_utf8_lossy(&said), scene.log());
        said.push(byte[0]);
    }
    meanwhile();
    let mut input = client.stdin.take().unwrap();
    input.write_all(answer.as_bytes()).unwrap();
    output.read_to_end(&mut said).unwrap();
    let rest = text(&client.wait_with_output().unwrap());
    drop(input);
    String::from_utf8(said).unwrap() + &rest
}

fn is_there(scene: &Scene, name: &str) -> bool {
    scene.bed.incus().find(&format!("/1.0/instances/{name}")).unwrap().is_some()
}

/// Fails when a login is explained otherwise than by the command on the host, or to nobody.
#[test]
fn a_login_is_explained() {
    let Some(scene) = Scene::start(Server::Incus6, "explain").unwrap() else { return };
    for login in ["bob@c1.p1", "new=t1+alpine/edge+m2+%web", "r1:c1~root"] {
        let here = run(Command::new(env!("CARGO_BIN_EXE_portway")).args(["ssh", "explain", login])).unwrap();
        let said = told(&scene, &format!("/explain/{login}"));
        // Which servers there are is not the client's business.
        let here: String = here
            .lines()
            .filter(|line| !line.contains("there is no server"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(said, format!("{here}exit status: 0"), "{}", scene.log());
    }
}

/// Fails when an instance goes without the whole word, for who may not, or stays after it.
fn an_instance_is_removed(server: Server) {
    let Some(scene) = Scene::start(server, "rm").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let unasked = format!(
        "portway: {name} is not removed without a yes: ask on a terminal (ssh -t), or /rm-f/{name}\nexit status: 1"
    );
    assert_eq!(told(&scene, &format!("/rm/{name}")), unasked, "{}", scene.log());
    let kept = format!("{name} is not removed\r\n");
    for no in ["y\r", "yess\r", "\u{3}", "yes\u{7f}\r", "\r"] {
        let said = answered(&scene, &format!("/rm/{name}"), no);
        assert!(said.contains(&kept) && said.ends_with("exit status: 1"), "{no:?}: {said:?}");
    }
    assert!(is_there(&scene, &name));
    let place = |text: &str| {
        fs::write(scene.path("draft"), text).unwrap();
        fs::set_permissions(scene.path("draft"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(scene.path("draft"), scene.path("p/ssh-policy.toml")).unwrap();
    };
    place("[[rule]]\nallow = [\"shell\"]\n");
    let refused = format!("portway: remove is not allowed at {name}: no rule fits\nexit status: 1");
    assert_eq!(told(&scene, &format!("/rm-f/{name}")), refused);
    place("[[rule]]\nallow = [\"remove\"]\n");
    let said = answered(&scene, &format!("cmd=rm,{name}"), "yex\u{7f}s\r");
    assert!(said.contains(&format!("{name} in project default of local: running, made 20")), "{said:?}");
    assert!(said.contains(&format!("{name} is removed\r\n")) && said.ends_with("exit status: 0"), "{said:?}");
    assert!(!is_there(&scene, &name));
    let absent = format!("portway: there is no instance {name} in project default\nexit status: 1");
    assert_eq!(told(&scene, &format!("/rm-f/{name}")), absent);
    let other = scene.bed.launch("rmf", &ContainerSpec::default()).unwrap();
    let said = told(&scene, &format!("/rm-f/{}", other.name()));
    let expected = format!("{0} is removed\nportway: removing {0}\nexit status: 0", other.name());
    assert_eq!(said, expected, "{}", scene.log());
    assert!(!is_there(&scene, other.name()));
    let removed = || {
        let lines = scene.audit().ok()?.into_iter();
        let removed: Vec<_> = lines.filter(|line| line["event"] == "instance-removed").collect();
        (removed.len() == 2).then_some(removed)
    };
    let removed = wait_for("the audit log", removed).unwrap();
    let is_right = |line: &serde_json::Value| {
        line["why"] == "asked" && line["owner"] == "root" && line["failed"].is_null()
    };
    assert!(removed.iter().all(is_right), "{removed:?}");
}

/// Fails when Incus 6 does it otherwise.
#[test]
fn an_instance_of_incus_6_is_removed() {
    an_instance_is_removed(Server::Incus6);
}

/// Fails when LXD does it otherwise.
#[test]
fn an_instance_of_lxd_is_removed() {
    an_instance_is_removed(Server::Lxd);
}

/// Fails when a key that is for one command alone removes an instance.
#[test]
fn a_key_with_a_command_removes_nothing() {
    let Some(scene) = Scene::start(Server::Incus6, "rmkey").unwrap() else { return };
    let keys = scene.path("home/.ssh/authorized_keys");
    let key = fs::read_to_string(&keys).unwrap();
    fs::write(&keys, format!("command=\"id\" {key}")).unwrap();
    let name = scene.container.name();
    let refused = "portway: the key allows its own command alone\nexit status: 1";
    assert_eq!(told(&scene, &format!("/rm-f/{name}")), refused, "{}", scene.log());
    assert!(is_there(&scene, name));
}

/// Fails when another instance goes than the one that was shown, one goes that nobody was asked about, or what is protected is
/// stopped.
#[test]
fn what_was_shown_is_what_goes() {
    let Some(scene) = Scene::start(Server::Incus6, "shown").unwrap() else { return };
    let name = scene.container.name();
    let login = format!("/rm/{name}");
    let said = answered_after(&scene, &login, &["yes"], "no\r", || {});
    assert!(said.contains(&format!("{name} is not removed\r\n")) && is_there(&scene, name), "{said:?}");
    let mut other = None;
    let said = answered_after(&scene, &login, &[], "yes\r", || {
        scene.bed.client_output(&["delete", "--force", name]).unwrap();
        other = Some(scene.bed.launch_exactly(name, &ContainerSpec::default()).unwrap());
    });
    assert!(said.contains("is another than it was: nothing is removed"), "{said:?}");
    assert!(is_there(&scene, name));
    scene.bed.client_output(&["config", "set", name, "security.protection.delete=true"]).unwrap();
    let refused = format!(
        "portway: {name} is not removed: it is protected (security.protection.delete)\nexit status: 1"
    );
    assert_eq!(told(&scene, &format!("/rm-f/{name}")), refused);
    assert_eq!(told(&scene, &login), refused);
    assert!(scene.container.pid().is_ok(), "it still runs");
    scene.bed.client_output(&["config", "unset", name, "security.protection.delete"]).unwrap();
    scene.container.change_state("freeze").unwrap();
    let said = answered(&scene, &login, "yes\r");
    assert!(said.contains("is frozen and cannot stop by itself"), "{said:?}");
    assert!(told(&scene, &format!("/rm-f/{name}")).contains("is removed"), "{}", scene.log());
    drop(other);
}

/// Fails when nobody but root can remove an instance.
#[test]
fn whose_command_it_is_is_said() {
    let Some(scene) = Scene::start(Server::Incus6, "whose").unwrap() else { return };
    let name = scene.container.name();
    let said = told(&scene, &format!("/rm-f/{name}~nobody-there"));
    assert!(said.contains("Permission denied"), "{said}");
    let said = told(&scene, &format!("cmd=rm-f,{name}~root"));
    assert!(said.contains(&format!("{name} is removed")), "{said} {}", scene.log());
}
