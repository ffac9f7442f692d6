//! Instances that logins make: what they are made of, who may, once for all who ask, and how they go.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use portway_testkit::{Container, Server, wait_for};
use serde_json::Value;

use crate::inside::{sftp, text};
use crate::remotes::elsewhere;
use crate::scene::Scene;
use crate::tty::Tty;

/// A gateway that makes instances of the bed's image; `more` is below `defaults:`, and beside it.
fn scene(server: Server, name: &str, more: &str) -> Option<Scene> {
    let mut scene = Scene::start(server, name).unwrap()?;
    configure(&scene, more);
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments.push("--allow-create".to_owned());
    scene.launch().unwrap();
    Some(scene)
}

/// Says how instances are made. What a test leaves behind is found by its mark.
fn configure(scene: &Scene, more: &str) {
    let owner = scene.container.read().unwrap()["config"]["user.testkit.owner"].clone();
    let config = format!("{{user.testkit.owner: {owner}, boot.autostart: \"false\"}}");
    place(scene, "create-config.yaml", &format!("defaults:\n  image: bb\n  config: {config}\n{more}"));
}

fn place(scene: &Scene, name: &str, text: &str) {
    fs::write(scene.path("draft"), text).unwrap();
    fs::set_permissions(scene.path("draft"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(scene.path("draft"), scene.path("p").join(name)).unwrap();
}

/// Root may do everything, and what else is said.
fn policy(scene: &Scene, more: &str) {
    place(scene, "ssh-policy.toml", &format!("{more}\n[[rule]]\nusers = [\"root\"]\nallow = [\"*\"]\n"));
}

/// A name that nobody has, and what deletes the instance in the end.
fn name(scene: &Scene, number: u32) -> (String, Container<'static>) {
    let name = format!("{}-n{number}", scene.container.name());
    (name.clone(), scene.bed.take("default", &name))
}

fn found(scene: &Scene, name: &str) -> Option<Value> {
    scene.bed.incus().find(&format!("/1.0/instances/{name}")).unwrap()
}

fn told(scene: &Scene, login: &str, words: &str) -> (Option<i32>, String, String) {
    let output = scene.talk(scene.client(&["-T"]).args(["-l", login, "127.0.0.1", words]), b"").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Every option of a login is seen in the instance; what a command prints is only the command's; a second login finds
/// what the first has made.
fn options_are_seen(server: Server) {
    let profiles = "profiles:\n  web:\n    memory: 512MiB\n    config: {user.web: \"yes\"}\n";
    let Some(scene) = scene(server, "opts", profiles) else { return };
    let (one, _one) = name(&scene, 1);
    let (status, said, errors) = told(&scene, &format!("+{one}+m1+c1"), "id -u; hostname");
    assert_eq!((status, said), (Some(0), format!("0\n{one}\n")), "{errors} {}", scene.log());
    let lines: Vec<&str> = errors.lines().collect();
    assert!(lines.contains(&format!("portway: making {one} of bb").as_str()), "{errors}");
    assert!(lines.iter().all(|line| line.starts_with("portway: ")), "{errors}");
    let config = &found(&scene, &one).unwrap()["config"];
    let keys = [("limits.memory", "1GiB"), ("limits.cpu", "1"), ("user.portway.ssh.owner", "root")];
    for (key, value) in keys {
        assert_eq!(config[key], value, "{key}: {config}");
    }
    let uuid = config["volatile.uuid"].clone();
    assert_eq!(told(&scene, &format!("+{one}+m2"), "echo in"), (Some(0), "in\n".to_owned(), String::new()));
    let again = found(&scene, &one).unwrap();
    assert!(again["config"]["volatile.uuid"] == uuid && again["config"]["limits.memory"] == "1GiB");
    let (two, _two) = name(&scene, 2);
    let (status, said, errors) = told(&scene, &format!("new={two}+%web+local:bb"), "echo in");
    assert_eq!((status, said.as_str()), (Some(0), "in\n"), "{errors} {}", scene.log());
    let config = &found(&scene, &two).unwrap()["config"];
    assert_eq!((&config["limits.memory"], &config["user.web"]), (&"512MiB".into(), &"yes".into()));
    // What runs there is not looked at: where system calls are intercepted, Incus 7 and LXD fail to run one program in four
    // on the kernel of the reference machine, their own clients' too.
    let (three, _three) = name(&scene, 3);
    told(&scene, &format!("~{three}+n"), "true");
    let nested = found(&scene, &three).unwrap();
    for key in
        ["security.nesting", "security.syscalls.intercept.mknod", "security.syscalls.intercept.setxattr"]
    {
        assert_eq!(nested["config"][key], "true", "{key}: {nested}");
    }
    assert_eq!(nested["ephemeral"], true);
    let lines = scene.audit().unwrap();
    let made: Vec<_> = lines.iter().filter(|line| line["event"] == "instance-made").collect();
    assert!(made.len() == 3 && made[0]["image"] == "bb" && made[1]["image"] == "local:bb", "{made:?}");
}

/// An image of another server comes from there, though not everybody has it; an instance of another server is made there.
///
/// Fails when the image is not found, or somebody who is in does not count by the server's other name.
#[test]
fn another_server_has_images_and_instances() {
    let Some(scene) = scene(Server::Incus6, "far", "") else { return };
    let _trusted = elsewhere(&scene);
    let (one, _one) = name(&scene, 1);
    let (two, _two) = name(&scene, 2);
    let (_, said, errors) = told(&scene, &format!("+{one}+r1:bb"), "echo in");
    assert_eq!(said, "in\n", "{errors} {}", scene.log());
    let (status, _, errors) = told(&scene, &format!("+{two}+r1:none"), "echo in");
    assert!(status == Some(1) && errors.ends_with("portway: there is no image r1:none\n"), "{errors}");
    policy(&scene, "[create]\ndelete_on_disconnect = true");
    let (_, said, errors) = told(&scene, &format!("+r1:{two}+local:bb"), "echo in");
    assert_eq!(said, "in\n", "{errors} {}", scene.log());
    wait_for("its end", || found(&scene, &two).is_none().then_some(())).unwrap();
    assert!(found(&scene, &one).is_some());
}

/// Fails when an option does not reach Incus 6.
#[test]
fn options_are_seen_in_incus_6() {
    options_are_seen(Server::Incus6);
}

/// Fails when an option does not reach Incus 7.
#[test]
fn options_are_seen_in_incus_7() {
    options_are_seen(Server::Incus7);
}

/// Fails when an option does not reach LXD.
#[test]
fn options_are_seen_in_lxd() {
    options_are_seen(Server::Lxd);
}

/// Ten at the same time, files and commands, make one instance, and all get in.
///
/// Fails when one of them is refused, or two are made.
#[test]
fn ten_logins_make_one_instance() {
    let Some(scene) = scene(Server::Incus6, "ten", "") else { return };
    let (one, made) = name(&scene, 1);
    let clients: Vec<Child> = (0..10)
        .map(|number| {
            let login = if number % 2 == 0 { format!("+{one}") } else { format!("+bob@{one}") };
            let mut client = scene.client(&["-T"]);
            client.args(["-l", &login, "127.0.0.1", "id -u"]).stdin(Stdio::null());
            client.stdout(Stdio::piped()).stderr(Stdio::piped());
            scene.bed.netns().spawn(&mut client).unwrap()
        })
        .collect();
    for (number, client) in clients.into_iter().enumerate() {
        let output = client.wait_with_output().unwrap();
        let expected = if number % 2 == 0 { "0\n" } else { "1000\n" };
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{} {}", text(&output), scene.log());
    }
    let lines = scene.audit().unwrap();
    assert_eq!(lines.iter().filter(|line| line["event"] == "instance-made").count(), 1, "{lines:?}");
    drop(made);
    // What copies files makes one too, and its log has nothing in it but what it says.
    let output = sftp(&scene, &format!("+bob@{one}"), "pwd\n");
    assert!(
        output.status.success() && text(&output).contains("/home/bob"),
        "{} {}",
        text(&output),
        scene.log()
    );
}

/// Fails when an instance is made for who may not have it, by the flag, the policy, its name or their number, or is
/// made in part.
#[test]
fn what_may_not_be_made_is_not() {
    let Some(mut scene) = scene(Server::Incus6, "deny", "") else { return };
    let (one, _one) = name(&scene, 1);
    let (two, _two) = name(&scene, 2);
    let refused = |scene: &Scene, login: &str, why: &str| {
        let (status, said, errors) = told(scene, login, "echo in");
        let last = errors.lines().last().unwrap_or_default().to_owned();
        assert!(status == Some(1) && said.is_empty(), "{login}: {errors} {}", scene.log());
        assert!(last.starts_with("portway: ") && last.contains(why), "{login}: {errors}");
        for name in [&one, &two] {
            assert!(found(scene, name).is_none(), "{login}: {name} is there");
        }
    };
    refused(&scene, &format!("+{one}+%none"), "there is no creation profile none");
    refused(&scene, &format!("+{one}+local:none"), "there is no image local:none");
    refused(&scene, &format!("+{one}+none:image"), "there is no server of images none");
    refused(&scene, &format!("+{one}.no-such-project"), "");
    // The server finds out what it is asked for.
    refused(&scene, &format!("+{one}+vm"), &format!("{one} cannot be made of bb as a virtual machine: "));
    place(&scene, "ssh-policy.toml", "[[rule]]\nallow = [\"exec\"]\n");
    refused(&scene, &format!("+{one}"), "create is not allowed there: no rule fits");
    place(
        &scene,
        "ssh-policy.toml",
        "[[rule]]\nallow = [\"exec\"]\n[[rule]]\ninstances = [\"dev-*\"]\nallow = [\"create\"]\n",
    );
    refused(&scene, &format!("+{one}"), "create is not allowed there: no rule fits");
    place(&scene, "ssh-policy.toml", "[[rule]]\nallow = [\"exec\", \"create\"]\n");
    refused(
        &scene,
        &format!("+{one}+priv"),
        "a privileged container needs incus-shell, which is not allowed",
    );
    policy(&scene, "[create]\nmax_instances = 0");
    refused(&scene, &format!("+{one}"), "may have 0");
    // What does not start is not left.
    configure(&scene, "  devices: {x: {type: unix-char, path: /dev/x, source: /dev/no-such}}\n");
    policy(&scene, "");
    refused(&scene, &format!("+{one}"), &format!("instance {one} does not start: "));
    place(&scene, "create-config.yaml", "defaults:\n  memory: lots\n");
    refused(&scene, &format!("+{one}"), "create-config.yaml of the gateway cannot be used");
    assert!(scene.log().contains("create-config.yaml:2:11: `lots` is no size"), "{}", scene.log());
    configure(&scene, "");
    policy(&scene, "[create]\nmax_instances = 1");
    assert_eq!(told(&scene, &format!("+{one}"), "echo in").1, "in\n");
    let (status, _, errors) = told(&scene, &format!("+{two}"), "echo in");
    assert!(
        status == Some(1) && errors.contains("root has 1 instances made by logins, and may have 1"),
        "{errors}"
    );
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments.retain(|argument| argument != "--allow-create");
    scene.launch().unwrap();
    let (status, _, errors) = told(&scene, &format!("+{one}"), "echo in");
    assert!(status == Some(1) && errors.contains("runs without --allow-create"), "{errors}");
}

/// An instance that goes with its stop: whoever is in it when it goes is told, with a status of its own.
///
/// Fails when the session hangs, or the instance stays.
#[test]
fn an_ephemeral_instance_goes_with_its_stop() {
    let Some(scene) = scene(Server::Incus6, "eph", "") else { return };
    let (one, _one) = name(&scene, 1);
    for login in [format!("~{one}"), format!("tmp=bob@{one}")] {
        let mut client = scene.client(&["-tt"]);
        client.args(["-l", &login, "127.0.0.1"]).stdin(Stdio::piped());
        client.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = scene.bed.netns().spawn(&mut client).unwrap();
        let mut output = BufReader::new(client.stdout.take().unwrap());
        let stdin = client.stdin.take().unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"$ ") && !line.ends_with(b"# ") {
            assert!(output.read_until(b' ', &mut line).unwrap() > 0, "{}", scene.log());
        }
        assert_eq!(found(&scene, &one).unwrap()["ephemeral"], true);
        let stop = serde_json::json!({"action": "stop", "timeout": 30});
        scene.bed.incus().change("PUT", &format!("/1.0/instances/{one}/state"), Some(&stop)).unwrap();
        std::io::copy(&mut output, &mut std::io::sink()).unwrap();
        let told = text(&client.wait_with_output().unwrap());
        let gone = "portway: the instance, or the helper in it, has gone\n";
        assert!(told.contains(gone) && told.ends_with("exit status: 255"), "{told:?}");
        wait_for("its end", || found(&scene, &one).is_none().then_some(())).unwrap();
        drop(stdin);
    }
}

/// Instances that are to go do so, also when the gateway that made them has ended meanwhile; nothing else does.
///
/// Fails when one stays, goes too early, or one that somebody else has made goes.
#[test]
fn what_is_to_go_goes() {
    let Some(mut scene) = scene(Server::Incus6, "ttl", "") else { return };
    let (one, _one) = name(&scene, 1);
    let (two, _two) = name(&scene, 2);
    policy(&scene, "[create]\nttl = \"4s\"");
    assert_eq!(told(&scene, &format!("+{one}"), "echo in").1, "in\n", "{}", scene.log());
    policy(&scene, "[create]\ndelete_on_disconnect = true");
    let mut client = scene.client(&[]);
    client.args(["-l", &format!("+{two}"), "127.0.0.1", "echo in; cat"]).stdin(Stdio::piped());
    let mut client = scene.bed.netns().spawn(client.stdout(Stdio::piped())).unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "in\n", "{}", scene.log());
    assert_eq!(told(&scene, &two, "echo too").1, "too\n");
    // Whoever keeps what is on it by a copy has one of his own.
    let (copy, _copy) = name(&scene, 3);
    scene.bed.client_output(&["copy", &two, &copy]).unwrap();
    scene.stop(Signal::SIGKILL).unwrap();
    scene.launch().unwrap();
    wait_for("its end", || found(&scene, &one).is_none().then_some(())).unwrap();
    // Longer than an instance is left its last guest, of which there is one.
    std::thread::sleep(Duration::from_secs(3));
    assert!(found(&scene, &two).is_some(), "{}", scene.log());
    drop(client.stdin.take());
    client.wait().unwrap();
    wait_for("its end", || found(&scene, &two).is_none().then_some(())).unwrap();
    assert_eq!(scene.said("echo there").unwrap(), "there\n");
    assert!(found(&scene, &copy).is_some(), "{}", scene.log());
    let removed = wait_for("the audit", || {
        let lines = scene.audit().ok()?;
        let removed = lines.into_iter().filter(|line| line["event"] == "instance-removed");
        let removed: Vec<_> = removed.collect();
        (removed.len() == 2).then_some(removed)
    });
    let removed = removed.unwrap();
    let why: Vec<_> = removed.iter().map(|line| (&line["instance"], line["why"].as_str().unwrap())).collect();
    assert_eq!(why, [(&one.into(), "expired"), (&two.into(), "disconnected")]);
}

/// Fails when those in an instance whose time is over do not learn of it, before and at the end, or others do.
#[test]
fn who_is_there_when_the_time_is_over_is_told() {
    let Some(scene) = scene(Server::Incus6, "told", "") else { return };
    let (one, _one) = name(&scene, 1);
    policy(&scene, "[create]\nttl = \"1h\"");
    assert_eq!(told(&scene, &format!("+{one}"), "echo in").1, "in\n", "{}", scene.log());
    let mut there = Tty::open(&scene, &one, 120, 24);
    there.shows("built-in shell");
    let mut elsewhere = Tty::open(&scene, scene.container.name(), 120, 24);
    elsewhere.shows("built-in shell");
    let mut plain = scene.client(&["-T"]);
    plain.args(["-l", &one, "127.0.0.1", "echo in; cat"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut plain = scene.bed.netns().spawn(plain.stdout(Stdio::piped())).unwrap();
    let stdin = plain.stdin.take();
    let mut line = String::new();
    BufReader::new(plain.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "in\n", "{}", scene.log());
    // It is to go sooner, which the gateway sees when it looks: it does when one more is made.
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 15;
    let key = format!("user.portway.ssh.expires={soon}");
    scene.bed.client_output(&["config", "set", &one, &key]).unwrap();
    policy(&scene, "");
    let (two, _two) = name(&scene, 2);
    assert_eq!(told(&scene, &format!("+{two}"), "echo in").1, "in\n", "{}", scene.log());
    there.shows(&format!("portway: the time of {one} is over in "));
    let over = format!("the time of {one} is over, and it is removed");
    assert_eq!(there.end(), Some(255), "{:?}", there.lines());
    assert!(there.all().replace('\n', "").contains(&over), "{:?}", there.lines());
    let output = plain.wait_with_output().unwrap();
    assert!(text(&output).contains(&over) && output.status.code() == Some(255), "{}", text(&output));
    drop(stdin);
    wait_for("its end", || found(&scene, &one).is_none().then_some(())).unwrap();
    elsewhere.keys("exit 3\r");
    assert_eq!(elsewhere.end(), Some(3));
    assert!(!elsewhere.all().contains("the time of"), "{:?}", elsewhere.lines());
}

/// Whoever goes while an instance is made leaves a whole one, which the next login uses.
///
/// Fails when it is half made, or the next one cannot get in.
#[test]
fn who_goes_meanwhile_leaves_a_whole_one() {
    let Some(mut scene) = scene(Server::Incus6, "goes", "") else { return };
    for (number, is_gateways_end) in [(1, false), (2, true)] {
        let (one, _one) = name(&scene, number);
        let mut client = scene.client(&["-T"]);
        client.args(["-l", &format!("+{one}"), "127.0.0.1", "echo in"]).stderr(Stdio::piped());
        let mut client = scene.bed.netns().spawn(client.stdin(Stdio::null())).unwrap();
        let mut line = String::new();
        BufReader::new(client.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, format!("portway: making {one} of bb\n"), "{}", scene.log());
        client.kill().unwrap();
        client.wait().unwrap();
        let is_there = || found(&scene, &one).filter(|found| found["status"] == "Running");
        if is_gateways_end {
            scene.stop(Signal::SIGKILL).unwrap();
            scene.launch().unwrap();
        } else {
            wait_for("the instance", is_there).unwrap();
        }
        let (_, said, errors) = told(&scene, &format!("+{one}"), "echo in");
        assert_eq!(said, "in\n", "{errors} {}", scene.log());
    }
}

/// A user whom the instance makes when it starts is waited for, one who never comes is not for ever.
///
/// Fails when the login is refused at once, or the wait has no end.
#[test]
fn a_user_of_the_first_start_is_waited_for() {
    let Some(scene) = scene(Server::Incus6, "user", "") else { return };
    let (one, made) = name(&scene, 1);
    let mut client = scene.client(&["-T"]);
    client.args(["-l", &format!("+ann@{one}"), "127.0.0.1", "id -un"]);
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = scene.bed.netns().spawn(&mut client).unwrap();
    let mut errors = BufReader::new(client.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("waiting for user ann") {
        line.clear();
        assert!(errors.read_line(&mut line).unwrap() > 0, "{}", scene.log());
    }
    made.sh("echo ann:x:2000:2000::/tmp:/bin/sh >>/etc/passwd").unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ann\n", "{}", scene.log());
    let (status, _, errors) = told(&scene, &format!("+eve@{one}"), "id");
    assert!(status == Some(1) && errors.contains(&format!("there is no user eve in {one}")), "{errors}");
}
