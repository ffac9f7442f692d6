//! The shell of Incus commands: on a terminal, from scripts, and past every fence that it has.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Container, ContainerSpec, Server, wait_for};
use serde_json::Value;

use crate::auth::{again, people};
use crate::scene::Scene;
use crate::tty::Tty;

/// What a client of the shell was told: its status, its output, and its errors.
type Told = (Option<i32>, String, String);

fn run(scene: &Scene, mut client: Command, input: &str) -> Told {
    let output = scene.talk(&mut client, input.as_bytes()).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// One line of the shell, without a terminal.
fn told(scene: &Scene, line: &str) -> Told {
    let mut client = scene.client(&["-T"]);
    client.args(["-l", "/shell", "127.0.0.1", line]);
    run(scene, client, "")
}

/// The same, which has to be done; what it said.
fn said(scene: &Scene, line: &str) -> String {
    let (status, said, errors) = told(scene, line);
    assert_eq!(status, Some(0), "{line}: {said} {errors} {}", scene.log());
    said
}

/// The same, which is refused; why.
fn refused(scene: &Scene, line: &str, status: i32) -> String {
    let (found, said, errors) = told(scene, line);
    assert_eq!((found, said.as_str()), (Some(status), ""), "{line}: {errors} {}", scene.log());
    assert!(errors.starts_with("portway: "), "{line}: {errors}");
    errors.lines().last().unwrap_or_default().trim_start_matches("portway: ").to_owned()
}

fn place(scene: &Scene, name: &str, text: &str) {
    fs::write(scene.path("draft"), text).unwrap();
    fs::set_permissions(scene.path("draft"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(scene.path("draft"), scene.path("p").join(name)).unwrap();
}

fn status_of(scene: &Scene, name: &str) -> Option<String> {
    let found = scene.bed.incus().find(&format!("/1.0/instances/{name}")).unwrap()?;
    found["status"].as_str().map(str::to_owned)
}

/// A gateway that may make instances.
fn start(server: Server, name: &str) -> Option<Scene> {
    let mut scene = Scene::start(server, name).unwrap()?;
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments.push("--allow-create".to_owned());
    scene.launch().unwrap();
    Some(scene)
}

/// A container that takes no notice of being stopped.
fn stubborn(server: Server, name: &str) -> Option<Scene> {
    let scene = Scene::start(server, name).unwrap()?;
    let init = Pid::from_raw(scene.container.pid().unwrap());
    kill(init, Signal::SIGSTOP).unwrap();
    Some(scene)
}

/// Everything that changes an instance, as a server does it.
fn lines_are_done(server: Server) {
    let Some(scene) = start(server, "sh") else { return };
    let name = scene.container.name().to_owned();
    let line = said(&scene, &format!("list {name} -f csv"));
    assert!(line.starts_with(&format!("{name},RUNNING,")) && line.ends_with(",CONTAINER\n"), "{line}");
    let listed: Value =
        serde_json::from_str(&said(&scene, &format!("incus list '{name}' --format json"))).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&name.as_str().into(), &"RUNNING".into()));
    assert!(said(&scene, &format!("info {name}")).contains("\nStatus: Running\n"));
    assert_eq!(said(&scene, &format!("config set {name} user.note='a  b' limits.memory=64MiB")), "");
    assert_eq!(said(&scene, &format!("config get {name} user.note")), "a  b\n");
    assert!(said(&scene, &format!("config show {name}")).contains("  limits.memory: \"64MiB\"\n"));
    assert_eq!(said(&scene, &format!("config unset {name} user.note")), "");
    assert_eq!(said(&scene, &format!("config get {name} user.note")), "");
    let state = |line: &str, state: &str| {
        assert_eq!(said(&scene, &format!("{line} {name}")), "", "{line}");
        assert_eq!(status_of(&scene, &name).as_deref(), Some(state), "{line}");
    };
    state("pause", "Frozen");
    state("resume", "Running");
    let before = scene.container.pid().unwrap();
    state("restart --force", "Running");
    assert_ne!(scene.container.pid().unwrap(), before);
    state("stop --force", "Stopped");
    assert_eq!(refused(&scene, &format!("stop {name} --force"), 1).split(": ").next(), Some(name.as_str()));
    assert_eq!(said(&scene, &format!("snapshot create {name} s1")), "");
    assert!(said(&scene, &format!("snapshot list {name} -f csv")).starts_with("s1,20"));
    said(&scene, &format!("config set {name} user.note=later"));
    assert_eq!(said(&scene, &format!("snapshot restore {name} s1")), "");
    assert_eq!(said(&scene, &format!("config get {name} user.note")), "");
    assert_eq!(said(&scene, &format!("snapshot delete {name} s1")), "");
    assert_eq!(
        refused(&scene, &format!("snapshot delete {name} s1"), 1),
        format!("{name} has no snapshot s1")
    );
    state("start", "Running");
    let product = if server == Server::Lxd { "lxd " } else { "incus " };
    assert!(said(&scene, "version").starts_with(product));
    assert!(said(&scene, "image list -f csv").lines().any(|line| line.starts_with("bb,")));
    assert!(said(&scene, "project list -f csv").lines().any(|line| line == "default"));
    assert!(!said(&scene, "network list -f csv").is_empty());
    made_and_deleted(&scene, &name);
    let lines = scene.audit().unwrap();
    let noted: Vec<_> = lines.iter().filter(|line| line["event"] == "incus-command").collect();
    let set = noted.iter().find(|line| line["command"][1] == "set").unwrap();
    assert_eq!(set["command"][3], "user.note=...", "{set}");
    assert!(set["status"] == 0 && set["person"] == "root" && set["millis"].is_u64(), "{set}");
    let ended = lines.iter().filter(|line| line["event"] == "ended").count();
    assert!(lines.iter().filter(|line| line["what"] == "incus-shell").count() == ended && ended > 20);
}

fn made_and_deleted(scene: &Scene, name: &str) {
    let new = format!("{name}-n1");
    let _new: Container<'static> = scene.bed.take("default", &new);
    let owner = scene.container.read().unwrap()["config"]["user.testkit.owner"].clone();
    place(scene, "create-config.yaml", &format!("defaults:\n  config: {{user.testkit.owner: {owner}}}\n"));
    let made = said(scene, &format!("launch bb {new} -c limits.cpu=1"));
    assert_eq!(made, format!("{new} is made and runs\n"));
    assert_eq!(status_of(scene, &new).as_deref(), Some("Running"));
    assert_eq!(refused(scene, &format!("launch bb {new}"), 1), format!("{new} is there already"));
    let why = refused(scene, &format!("delete {new}"), 1);
    assert_eq!(why, format!("{new}: it is not stopped; stop it first, or say --force"));
    said(scene, &format!("config set {new} security.protection.delete=true"));
    let why = refused(scene, &format!("delete {new} -f"), 1);
    assert_eq!(why, format!("{new}: it is protected by security.protection.delete"));
    assert_eq!(status_of(scene, &new).as_deref(), Some("Running"));
    said(scene, &format!("config unset {new} security.protection.delete"));
    assert_eq!(said(scene, &format!("rm {new} --force")), "");
    assert_eq!(status_of(scene, &new), None);
    let absent = format!("there is no instance {new} in project default");
    assert_eq!(refused(scene, &format!("delete {new}"), 1), format!("{new}: {absent}"));
    assert_eq!(refused(scene, &format!("info {new}"), 1), absent);
}

/// Fails when a line comes to something else on Incus 6.
#[test]
fn lines_are_done_by_incus_6() {
    lines_are_done(Server::Incus6);
}

/// Fails when a line comes to something else on Incus 7.
#[test]
fn lines_are_done_by_incus_7() {
    lines_are_done(Server::Incus7);
}

/// Fails when a line comes to something else on LXD.
#[test]
fn lines_are_done_by_lxd() {
    lines_are_done(Server::Lxd);
}

/// Fails when a script goes on after what failed, says another status, or is read as more than lines.
#[test]
fn a_script_ends_with_what_fails() {
    let Some(scene) = Scene::start(Server::Incus6, "shscript").unwrap() else { return };
    let name = scene.container.name();
    let script = |text: &str| {
        let mut client = scene.client(&["-T"]);
        client.args(["-l", "cmd=shell", "127.0.0.1"]);
        run(&scene, client, text)
    };
    let (status, out, errors) = script(&format!(
        "# what it is\n\nconfig set {name} user.a=1\r\nconfig get {name} user.a\nconfig get {name} user.a"
    ));
    assert_eq!((status, out.as_str(), errors.as_str()), (Some(0), "1\n1\n", ""), "{}", scene.log());
    let (status, out, errors) =
        script(&format!("config get {name} user.a\ninfo no-such\nstop {name} --force\n"));
    let why = "portway: there is no instance no-such in project default\n";
    assert_eq!((status, out.as_str(), errors.as_str()), (Some(1), "1\n", why));
    let (status, _, errors) = script(&format!("stop {name} --force; list\n"));
    assert!(status == Some(2) && errors.contains("`;` does nothing here"), "{errors}");
    let (status, out, _) = script(&format!("exit\nstop {name} --force\n"));
    assert_eq!((status, out.as_str()), (Some(0), ""));
    let (status, _, errors) = script(&format!("list {}", "x".repeat(10_000)));
    assert_eq!((status, errors.as_str()), (Some(2), "portway: the line is longer than 4096 bytes\n"));
    assert_eq!(status_of(&scene, name).as_deref(), Some("Running"));
}

/// Fails when what would lead to the host, or past the policy, is done or not refused as such.
#[test]
fn what_is_not_here_is_refused() {
    let Some(scene) = Scene::start(Server::Incus6, "shno").unwrap() else { return };
    let name = scene.container.name();
    fs::write(scene.path("secret"), "a file of the host\n").unwrap();
    let secret = scene.path("secret").display().to_string();
    for (line, status, why) in [
        (format!("exec {name} -- id"), 2, "log in by its name instead"),
        (format!("file pull {name}/etc/passwd {secret}"), 2, "files go by sftp"),
        (format!("config edit {name}"), 2, "no editor runs here"),
        (format!("config device add {name} h disk source=/ path=/h"), 2, "devices lead to the host"),
        (format!("config set {name} raw.lxc=lxc.mount.entry=/"), 2, "the key `raw.lxc` cannot be set here"),
        (format!("config set {name} security.privileged=true"), 2, "cannot be set here"),
        (format!("config set {name} user.portway.ssh.expires=1"), 2, "cannot be set here"),
        (format!("launch bb {name}x -d h,type=disk,source=/,path=/h"), 2, "cannot be said here"),
        (format!("launch {secret} {name}x"), 1, ""),
        ("list --config-file /etc/shadow".to_owned(), 2, "`list` takes no `--config-file`"),
        (format!("info {name} > {secret}"), 2, "`>` does nothing here"),
        (format!("info {name} | cat"), 2, "`|` does nothing here"),
        (format!("info $(cat {secret})"), 2, "`$` does nothing here"),
        ("query /1.0".to_owned(), 2, "the server's API is not to be had here"),
        ("remote list".to_owned(), 2, "servers are the gateway's"),
        (format!("info ../{name}"), 2, "is no name"),
        ("info far:c1".to_owned(), 1, "there is no server far"),
        ("lisst".to_owned(), 2, "is it `list`?"),
    ] {
        let found = refused(&scene, &line, status);
        assert!(found.contains(why), "{line}: {found}");
    }
    assert_eq!(fs::read_to_string(scene.path("secret")).unwrap(), "a file of the host\n");
    // Nothing else of a connection comes with this login.
    let mut client = scene.client(&["-T", "-s"]);
    client.args(["-l", "/shell", "127.0.0.1", "sftp"]);
    let (status, _, errors) = run(&scene, client, "");
    assert_eq!((status, errors.as_str()), (Some(1), "portway: a command of the gateway has no files\n"));
    let mut client = scene.client(&["-T", "-W", "127.0.0.1:22"]);
    client.args(["-l", "/shell", "127.0.0.1"]);
    let (status, out, _) = run(&scene, client, "");
    assert!(status != Some(0) && out.is_empty());
    let keys = scene.path("home/.ssh/authorized_keys");
    let key = fs::read_to_string(&keys).unwrap();
    fs::write(&keys, format!("command=\"id\" {key}")).unwrap();
    assert_eq!(refused(&scene, "list", 1), "the key allows its own command alone");
}

/// Fails when somebody sees, changes or completes what the policy does not give him, or a rule that is taken away counts.
#[test]
fn a_policy_is_a_fence() {
    let Some(scene) = Scene::start(Server::Incus6, "shfence").unwrap() else { return };
    let own = scene.container.name();
    let other = scene.bed.launch("shother", &ContainerSpec::default()).unwrap();
    let project = scene.bed.project("shfence").unwrap();
    let there = scene.bed.launch("shthere", &ContainerSpec::default().in_project(project.name())).unwrap();
    place(&scene, "ssh-policy.toml", "[[rule]]\nallow = [\"shell\", \"exec\"]\n");
    let (status, _, errors) = told(&scene, "list");
    assert!(status == Some(255) && errors.contains("Permission denied"), "{errors}");
    let rules = format!(
        "[[rule]]\nprojects = [\"default\"]\ninstances = [\"{own}\"]\nallow = [\"incus-shell\"]\n\
         [[rule]]\nprojects = [\"{}\"]\nallow = [\"*\"]\n\
         [[rule]]\nallow = [\"exec\", \"start\", \"remove\"]\n",
        project.name()
    );
    place(&scene, "ssh-policy.toml", &rules);
    let names = |line: &str| -> Vec<String> {
        said(&scene, line).lines().map(|line| line.split(',').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names("list -f csv"), [own]);
    assert_eq!(names(&format!("list -f csv {}", other.name())), [""; 0]);
    assert_eq!(names(&format!("list -f csv --project {}", project.name())), [there.name()]);
    let everywhere = said(&scene, "list -f csv --all-projects");
    assert_eq!(everywhere.lines().count(), 2, "{everywhere}");
    assert_eq!(names("project list -f csv"), ["default", project.name()]);
    for line in [
        format!("info {}", other.name()),
        format!("stop {} --force", other.name()),
        format!("start {}", other.name()),
        format!("delete {} --force", other.name()),
        format!("config get {} user.x", other.name()),
        format!("config set {} user.x=1", other.name()),
        format!("snapshot create {}", other.name()),
        format!("launch bb {own}-new"),
        "info no-such".to_owned(),
    ] {
        let why = refused(&scene, &line, 1);
        assert!(
            why.contains("incus-shell is not allowed at ") && why.ends_with(": no rule fits"),
            "{line}: {why}"
        );
    }
    let why = refused(&scene, "image list", 1);
    assert_eq!(why, "incus-shell is not allowed at project default: no rule fits");
    let why = refused(&scene, "list --project no-such", 1);
    assert_eq!(why, "incus-shell is allowed nowhere in project no-such");
    assert_eq!(refused(&scene, "project switch no-such", 1), why);
    assert_eq!(status_of(&scene, other.name()).as_deref(), Some("Running"));
    // On a terminal the project can be another, and what is completed is his.
    let mut tty = Tty::open(&scene, "/shell", 100, 24);
    tty.shows("incus>");
    tty.keys("info \t");
    tty.shows(&format!("incus> info {own}"));
    tty.keys("\x15project switch \t");
    tty.until("both projects", |tty| {
        let is_list = |line: &String| line.starts_with("default ") && line.ends_with(project.name());
        tty.lines().iter().any(is_list)
    });
    tty.keys(&format!("{}\r", project.name()));
    tty.shows(&format!("incus {}>", project.name()));
    tty.keys("list -f csv\r");
    tty.shows(&format!("{},RUNNING,", there.name()));
    // What counts is the policy as it is.
    place(&scene, "ssh-policy.toml", "[[rule]]\nprojects = [\"default\"]\nallow = [\"incus-shell\"]\n");
    tty.keys("list -f csv\r");
    tty.shows("incus-shell is allowed nowhere in project");
    place(&scene, "ssh-policy.toml", "[[rule]]\nallow = [\"shell\", \"exec\"]\n");
    tty.keys("list -f csv\r");
    tty.shows("portway: the shell of Incus commands is not allowed: no rule fits");
    assert_eq!(tty.end(), Some(1));
}

/// Waits for the prompt at the end.
fn prompts(tty: &mut Tty) {
    tty.until("a prompt", |tty| {
        tty.lines().iter().rfind(|line| !line.is_empty()).is_some_and(|line| line == "incus>")
    });
}

/// Fails when a key does not do what it does in a shell, or somebody is kept in.
#[test]
fn lines_are_typed() {
    let Some(scene) = stubborn(Server::Incus6, "shtty") else { return };
    let name = scene.container.name();
    let mut tty = Tty::open(&scene, "/shell", 100, 30);
    tty.shows("`help` lists them.");
    tty.shows("incus>");
    tty.keys("he\t\r");
    tty.shows("`help VERB` says what one takes");
    let end = name.len() - 2;
    tty.keys(&format!("config set {}\tuser.n\t\x15", &name[..end]));
    tty.keys(&format!("inf\t{}\t\r", &name[..end]));
    tty.shows(&format!("Name: {name}"));
    prompts(&mut tty);
    tty.shows("Status: Running");
    // Ctrl-C clears what is typed.
    tty.keys("delete nothing\x03");
    tty.shows("incus> delete nothing^C");
    // What was typed comes back, and can be changed.
    tty.keys("\x1b[A");
    tty.shows(&format!("incus> info {name}"));
    tty.keys("\x01\x1bd\x0bversion\r");
    tty.shows("incus 6.");
    prompts(&mut tty);
    // Ctrl-C while a command runs is of that command.
    tty.keys(&format!("stop {name} --timeout 300\r"));
    tty.shows(&format!("portway: stopping {name}"));
    tty.keys("\x03");
    tty.shows("portway: not waited for: what the server has begun it brings to its end");
    // Another size is heard of.
    tty.resize(40, 20);
    tty.settle();
    tty.keys(&format!("\x15{}", "0123456789".repeat(8)));
    tty.settle();
    let line = tty.lines().into_iter().rfind(|line| line.starts_with("incus> ")).unwrap();
    assert!(line.len() <= 40 && line.ends_with('9'), "{:?}", tty.lines());
    tty.keys("\x15\x03");
    assert_eq!(tty.end(), Some(0), "{:?}", tty.lines());
    scene.container.kill().unwrap();
    // The next shell knows what was typed.
    let mut tty = Tty::open(&scene, "/shell", 100, 30);
    tty.shows("incus>");
    tty.keys("\x1b[A\x1b[A");
    tty.shows("incus> version");
    tty.keys("\x15exit\r");
    assert_eq!(tty.end(), Some(0));
    let history = fs::metadata(scene.path("p/ssh-history/root")).unwrap();
    assert_eq!(history.permissions().mode() & 0o777, 0o600);
    let lines = scene.audit().unwrap();
    let stopped = || {
        let lines = scene.audit().ok()?;
        lines.into_iter().find(|line| line["event"] == "incus-command" && line["command"][0] == "stop")
    };
    // It is noted when it is over, waited for or not.
    let stopped = wait_for("the end of the stop", stopped).unwrap();
    assert_eq!(stopped["command"][1], name, "{lines:?}");
}

/// Fails when a shell ends with its gateway, a line is done twice, or what became of one is not told.
#[test]
fn a_shell_outlives_the_gateway() {
    let Some(mut scene) = stubborn(Server::Incus6, "shlive") else { return };
    let name = scene.container.name().to_owned();
    let mut tty = Tty::open(&scene, "/shell", 100, 30);
    tty.shows("incus>");
    for (round, signal) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        scene.stop(signal).unwrap();
        // Asked of nobody yet.
        tty.keys(&format!("config set {name} user.n={round}\r"));
        scene.launch().unwrap();
        tty.keys(&format!("config get {name} user.n\r"));
        tty.until("the answer", |tty| tty.lines().iter().any(|line| *line == round.to_string()));
    }
    tty.keys(&format!("stop {name} --timeout 300\r"));
    tty.shows(&format!("portway: stopping {name}"));
    scene.stop(Signal::SIGKILL).unwrap();
    tty.shows("portway: the gateway does not answer; what was begun may be done");
    scene.launch().unwrap();
    tty.keys(&format!("list {name} -f csv\r"));
    tty.shows(&format!("{name},RUNNING,"));
    scene.container.kill().unwrap();
    let noted = scene.audit().unwrap();
    let stops =
        noted.iter().filter(|line| line["event"] == "incus-command" && line["command"][0] == "stop").count();
    assert_eq!(stops, 0, "the one who did it has gone: {noted:?}");
    tty.keys("exit\r");
    assert_eq!(tty.end(), Some(0));
    let closed = || scene.audit().ok()?.into_iter().find(|line| line["event"] == "ended");
    let ended = wait_for("its end", closed).unwrap();
    assert_eq!(ended["status"], 0, "{ended}");
}

/// Fails when a host user other than root has no shell, or has root's.
#[test]
fn a_host_user_has_a_shell_of_his_own() {
    let Some(mut scene) = Scene::start(Server::Incus6, "shann").unwrap() else { return };
    people(&scene).unwrap();
    let own = scene.container.name().to_owned();
    let rule = format!("[[rule]]\nusers = [\"ann\"]\ninstances = [\"{own}\"]\nallow = [\"incus-shell\"]\n");
    again(&mut scene, &[], &[("ssh-policy.toml", &rule)]).unwrap();
    let of = |login: &str, line: &str| {
        let mut client = scene.client(&["-T"]);
        client.args(["-l", login, "127.0.0.1", line]);
        run(&scene, client, "")
    };
    let (status, said, errors) = of("cmd=shell~ann", "list -f csv");
    assert_eq!((status, said.lines().count()), (Some(0), 1), "{said} {errors} {}", scene.log());
    assert!(said.starts_with(&format!("{own},RUNNING,")), "{said}");
    let (status, _, errors) = of("cmd=shell+ann", &format!("delete {own} --force"));
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("remove is not allowed at "), "{errors}");
    for login in ["/shell", "cmd=shell~eve"] {
        assert_eq!(of(login, "list").0, Some(255), "{login}");
    }
    let lines = scene.audit().unwrap();
    let noted = lines.iter().find(|line| line["event"] == "incus-command").unwrap();
    assert_eq!(noted["person"], "ann", "{noted}");
}
