//! What gateways of this kind have got wrong, each shown to be absent here.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};

use portway_testkit::{ContainerSpec, Server, run, wait_for};
use serde_json::Value;

use crate::scene::Scene;

/// What a login and a command print, from a client that is started at once and waited for later.
fn started(scene: &Scene, login: &str, words: &str) -> Child {
    let mut client = scene.client(&[]);
    client
        .args([&Scene::at(login), words])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    scene.bed.netns().spawn(&mut client).unwrap()
}

/// Instances of one name in two projects, users of one name in both, asked for at the same time.
///
/// Fails when the project of one connection, or the user that was looked up for it, is another's.
#[test]
fn nobody_gets_the_answer_of_another() {
    let Some(scene) = Scene::start(Server::Incus6, "mixed").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let project = scene.bed.project("mixed").unwrap();
    let mut spec = ContainerSpec::default().in_project(project.name());
    // A network has one instance of a name.
    spec.devices.insert("eth0".to_owned(), [("type".to_owned(), "none".to_owned())].into());
    let namesake = scene.bed.launch_exactly(&name, &spec).unwrap();
    for (container, mark, uid) in [(&scene.container, "one", 1000), (&namesake, "two", 2002)] {
        let script = format!("echo {mark} >/etc/mark; sed -i 's/^bob:x:1000:/bob:x:{uid}:/' /etc/passwd");
        container.sh(&script).unwrap();
    }
    let kinds = [
        (name.clone(), "one 0\n"),
        (format!("bob@{name}"), "one 1000\n"),
        (format!("{name}.{}", project.name()), "two 0\n"),
        (format!("bob@{name}.{}", project.name()), "two 2002\n"),
    ];
    let clients: Vec<(Child, &str)> = (0..24)
        .map(|number| &kinds[number % kinds.len()])
        .map(|(login, wanted)| (started(&scene, login, "echo $(cat /etc/mark) $(id -u)"), *wanted))
        .collect();
    for (client, wanted) in clients {
        let output = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{said} {}", scene.log());
    }
    drop(namesake);
}

/// Users whose ids are missing, no numbers or the one that the kernel takes for "none": an instance may write whatever
/// it likes.
///
/// Fails when any of them becomes root, or ends the gateway.
#[test]
fn a_strange_id_is_not_root() {
    let Some(scene) = Scene::start(Server::Incus6, "ids").unwrap() else { return };
    let ids = ["", "x", "-1", "4294967295", "4294967296", "18446744073709551616", "0x0", " 0", "1e3"];
    let users: String = ids
        .iter()
        .enumerate()
        .map(|(at, id)| format!("u{at}:x:{id}:1000::/:/bin/sh\ng{at}:x:1000:{id}::/:/bin/sh\n"))
        .collect();
    fs::write(scene.path("users"), format!("short:x\n\n::::::\nroot\n{users}")).unwrap();
    let etc = scene.container.rootfs().join("etc/passwd");
    let own = fs::read_to_string(&etc).unwrap();
    fs::write(&etc, fs::read_to_string(scene.path("users")).unwrap() + &own).unwrap();
    let name = scene.container.name();
    let logins = (0..ids.len()).flat_map(|at| [format!("u{at}@{name}"), format!("g{at}@{name}")]);
    let logins = logins.chain([format!("short@{name}")]);
    let clients: Vec<(String, Child)> =
        logins.map(|login| (login.clone(), started(&scene, &login, "id"))).collect();
    for (login, client) in clients {
        let output = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b""[..], Some(1)), "{login}: {said}");
    }
    assert_eq!(scene.said("id -u").unwrap(), "0\n");
}

/// The gateway's server is a socket that only counts.
///
/// Fails when anything is asked of Incus for somebody who has not logged in.
#[test]
fn nothing_is_asked_before_a_login() {
    let Some(mut scene) = Scene::start(Server::Incus6, "asked").unwrap() else { return };
    scene.stop(nix::sys::signal::Signal::SIGTERM).unwrap();
    let counter = UnixListener::bind(scene.path("counter")).unwrap();
    counter.set_nonblocking(true).unwrap();
    scene.incus = scene.path("counter");
    scene.launch().unwrap();
    // What is asked at the start is asked for nobody.
    while counter.accept().is_ok() {}
    for (key, login) in
        [("other", scene.container.name()), ("other", "eve@no-such.p9"), ("key", "%c1+nobody")]
    {
        let output =
            scene.talk(scene.client_with(key, &[]).args(["-l", login, "127.0.0.1", "true"]), b"").unwrap();
        assert_eq!(output.status.code(), Some(255), "{login}");
    }
    assert!(counter.accept().is_err(), "Incus was asked");
    let mut somebody = started(&scene, scene.container.name(), "true");
    wait_for("a question to Incus", || counter.accept().ok()).unwrap();
    drop(counter);
    somebody.wait().unwrap();
}

/// What a key's owner was merely asked about is not his proof.
///
/// Fails when the log names a key that was offered and not proven.
#[test]
fn the_key_in_the_log_is_the_proven_one() {
    let Some(scene) = Scene::start(Server::Incus6, "proven").unwrap() else { return };
    let keys = ["key.pub", "other.pub"].map(|name| fs::read_to_string(scene.path(name)).unwrap());
    fs::write(scene.path("home/.ssh/authorized_keys"), keys.concat()).unwrap();
    // Its public half is offered, and nobody can prove it.
    fs::rename(scene.path("other"), scene.path("hidden")).unwrap();
    let good = scene.path("key").display().to_string();
    let at = Scene::at(scene.container.name());
    let output =
        scene.talk(scene.client_with("other", &["-i", &good]).args(["-v", &at, "true"]), b"").unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let print = run(std::process::Command::new("ssh-keygen").arg("-lf").arg(scene.path("key.pub"))).unwrap();
    let print = print.split_whitespace().nth(1).unwrap();
    let login = scene.audit().unwrap().into_iter().find(|line| line["event"] == "login").unwrap();
    assert_eq!(login["key"], *print, "{login}");
}

/// Fails when what a program says is kept or logged, or grows the gateway.
#[test]
fn errors_of_programs_are_not_kept() {
    let Some(scene) = Scene::start(Server::Incus6, "errors").unwrap() else { return };
    let words = "echo pass''word-of-mine >&2; head -c 50000000 /dev/zero >&2; echo end; cat";
    let mut client = scene.client(&[]);
    client.args([&Scene::at(scene.container.name()), words]).stdin(Stdio::piped());
    let errors = fs::File::create(scene.path("errors")).unwrap();
    let mut child = scene.bed.netns().spawn(client.stdout(Stdio::piped()).stderr(errors)).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "end\n", "{}", scene.log());
    let [session] = scene.sessions()[..] else { panic!("one session") };
    // 12 MB when it has nothing to do.
    let bytes = portway_testkit::process::rollup_bytes(session, ["Pss:"]).unwrap();
    assert!(bytes[0] < 48 << 20, "{bytes:?}");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::metadata(scene.path("errors")).unwrap().len(), 50_000_000 + 17);
    let audit = fs::read_to_string(scene.path("p/ssh-audit.jsonl")).unwrap();
    assert!(!scene.log().contains("password-of-mine") && !audit.contains("password-of-mine"));
}

/// What the gateway and its processes listen on, in whatever family: sorted, of paths the last part.
fn listeners(scene: &Scene) -> Vec<String> {
    let text = scene.bed.netns().run(std::process::Command::new("ss").args(["-Hlntxup"])).unwrap();
    let pids = scene.processes();
    let is_ours = |line: &&str| pids.iter().any(|pid| line.contains(&format!("pid={pid},")));
    let mut names: Vec<String> = text
        .lines()
        .filter(is_ours)
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let kind = fields[0].trim_start_matches("u_");
            let kind = if fields[0].starts_with("u_") { "unix" } else { kind };
            format!("{kind} {}", fields[4].rsplit('/').next().unwrap_or_default())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Nothing listens on the host but the gateway's own address, no device is made in an instance, and the gateway dials
/// nothing for a client: what it can reach, the instance cannot.
///
/// Fails when a forward leads to the host, or listens there, an instance is changed, or there is one socket more than is
/// documented.
#[test]
fn no_way_is_opened_beside_the_session() {
    let Some(scene) = Scene::start(Server::Incus6, "ways").unwrap() else { return };
    let devices = || -> Value { scene.container.read().unwrap()["expanded_devices"].clone() };
    let before = devices();
    let at = Scene::at(scene.container.name());
    let port = scene.port;
    let own = [format!("tcp 127.0.0.1:{port}"), "unix gateway".to_owned()];
    assert_eq!(listeners(&scene), own);
    for (words, told) in [
        (vec!["-W".to_owned(), format!("127.0.0.1:{port}"), at.clone()], 255),
        (
            vec![
                "-o".into(),
                "ExitOnForwardFailure=yes".into(),
                "-R".into(),
                "0:127.0.0.1:1".into(),
                at.clone(),
                "true".into(),
            ],
            0,
        ),
        (
            vec![
                "-o".into(),
                "ExitOnForwardFailure=yes".into(),
                "-R".into(),
                "/tmp/x.sock:127.0.0.1:1".into(),
                at.clone(),
                "true".into(),
            ],
            0,
        ),
        (
            vec!["-A".into(), at.clone(), "test -z \"$SSH_AUTH_SOCK\" && ! ls /tmp/ssh-* 2>/dev/null".into()],
            0,
        ),
    ] {
        let output = scene.talk(scene.client(&[]).args(&words), b"").unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(told), "{words:?} {said}");
    }
    assert_eq!(listeners(&scene), own);
    // While somebody is in there is one more, where the next gateway knocks.
    let mut client = scene.client(&["-A"]);
    client.args([&at, "echo in; cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = scene.bed.netns().spawn(&mut client).unwrap();
    let mut said = [0; 3];
    client.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let mut found = listeners(&scene);
    let session = found.iter().position(|name| name.starts_with("unix ") && name.ends_with(".sock"));
    found.remove(session.unwrap_or_else(|| panic!("{found:?}")));
    assert_eq!(found, own);
    drop(client.stdin.take());
    client.wait().unwrap();
    wait_for("nothing but its own", || (listeners(&scene) == own).then_some(())).unwrap();
    assert_eq!(devices(), before);
    assert_eq!(scene.said("echo on").unwrap(), "on\n");
}
