//! The gateway as a service: started, followed by another, looked at.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Server, process, wait_for};
use serde_json::Value;

use crate::scene::Scene;

/// A client that stays until its input ends.
fn cat(scene: &Scene) -> Child {
    let mut client = scene.client(&[]);
    client.args([&Scene::at(scene.container.name()), "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
    scene.bed.netns().spawn(&mut client).unwrap()
}

/// A client that comes and goes.
fn login(scene: &Scene) -> Command {
    let mut client = scene.client(&[]);
    client.args([&Scene::at(scene.container.name()), "true"]).stdin(Stdio::null());
    client
}

/// Ids of the sessions that are listed.
fn listed(scene: &Scene) -> Vec<String> {
    let text = scene.portway(&["ssh", "sessions", "--format", "json"]).unwrap();
    let sessions: Vec<Value> = serde_json::from_str(&text).unwrap();
    sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect()
}

/// Events of a session in the audit log.
fn events(scene: &Scene, session: &str) -> Vec<String> {
    let lines = scene.audit().unwrap();
    let ours = lines.iter().filter(|line| line["session"] == session);
    ours.map(|line| line["event"].as_str().unwrap().to_owned()).collect()
}

/// A gateway takes the place of another, which ends: who connects meanwhile comes in, who is in stays in, is listed
/// and can be ended, and the audit log has an end for every beginning.
///
/// Fails when the listener is closed on the way, or a session of the other gateway is not looked after.
#[test]
fn a_gateway_takes_the_place_of_another() {
    let Some(mut scene) = Scene::start(Server::Incus6, "follow").unwrap() else { return };
    let mut client = cat(&scene);
    let session = wait_for("the session", || listed(&scene).pop()).unwrap();
    wait_for("its program", || events(&scene, &session).contains(&"started".to_owned()).then_some(()))
        .unwrap();
    let mut logins: Vec<Command> = (0..4).map(|_| login(&scene)).collect();
    let (bed, done) = (scene.bed, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let coming = scope.spawn(|| {
            let mut number = 0;
            while number < logins.len() && (number < 2 || !done.load(Ordering::Relaxed)) {
                let status = bed.netns().spawn(&mut logins[number]).unwrap().wait().unwrap();
                assert!(status.success(), "login {number}: {status}");
                number += 1;
            }
        });
        scene.replace().unwrap();
        done.store(true, Ordering::Relaxed);
        coming.join().unwrap();
    });
    assert_eq!(scene.said("echo new").unwrap(), "new\n");
    assert!(listed(&scene).contains(&session));
    scene.portway(&["ssh", "kill", &session]).unwrap();
    assert!(!client.wait().unwrap().success());
    wait_for("the end in the log", || events(&scene, &session).contains(&"left".to_owned()).then_some(()))
        .unwrap();
    assert_eq!(events(&scene, &session), ["login", "started", "killed", "ended", "left"]);
    wait_for("the end of the record", || (!listed(&scene).contains(&session)).then_some(())).unwrap();
}

/// A client that comes while there is no gateway waits at the socket of systemd for the next one.
///
/// Fails when a socket that is passed is not used.
#[test]
fn a_client_waits_for_the_next_gateway() {
    let Some(mut scene) = Scene::start(Server::Incus6, "passed").unwrap() else { return };
    scene.stop(Signal::SIGTERM).unwrap();
    let bind = || TcpListener::bind(("127.0.0.1", 0));
    let listener = scene.bed.netns().enter(bind).unwrap().unwrap();
    // Nobody could listen there a second time.
    scene.port = listener.local_addr().unwrap().port();
    scene.listener = Some(OwnedFd::from(listener));
    scene.launch().unwrap();
    assert_eq!(scene.said("echo one").unwrap(), "one\n");
    scene.stop(Signal::SIGTERM).unwrap();
    let mut client = scene.client(&[]);
    client.args([&Scene::at(scene.container.name()), "exit 7"]).stdin(Stdio::null());
    let mut client = scene.bed.netns().spawn(&mut client).unwrap();
    scene.launch().unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(7));
}

/// A socket of systemd's says what is listened on, whatever the flags say.
///
/// Fails when everybody is let in from everywhere by a socket that somebody else has opened.
#[test]
fn a_passed_socket_is_not_open_to_all() {
    let Some(mut scene) = Scene::start(Server::Incus6, "anybody").unwrap() else { return };
    scene.stop(Signal::SIGTERM).unwrap();
    let bind = || TcpListener::bind(("0.0.0.0", 0));
    let listener = scene.bed.netns().enter(bind).unwrap().unwrap();
    scene.listener = Some(OwnedFd::from(listener));
    let words = ["ssh", "serve", "--noauth", "--listen", "127.0.0.1:0"].map(str::to_owned);
    let output = scene.serve(&words).unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{}", scene.log());
    assert!(scene.log().contains("noauth lets in everybody who reaches 0.0.0.0:"), "{}", scene.log());
}

/// Fails when the banner says something of a login, or is there without being asked for.
#[test]
fn a_banner_is_shown_where_it_is_asked_for() {
    let Some(mut scene) = Scene::start(Server::Incus6, "flags").unwrap() else { return };
    let banner = |scene: &Scene| {
        let mut client = scene.client(&["-o", "PreferredAuthentications=none"]);
        // The first value of an option counts.
        let words: Vec<_> = client.get_args().map(ToOwned::to_owned).collect();
        client = Command::new("ssh");
        client.args(["-o", "LogLevel=INFO"]).args(words).arg(Scene::at("nobody-is-called-so"));
        String::from_utf8(scene.talk(&mut client, b"").unwrap().stderr).unwrap()
    };
    std::fs::write(scene.path("p/banner.txt"), "Mind the gap, [HOSTNAME]\nto [INSTANCE]\n").unwrap();
    assert!(!banner(&scene).contains("Mind the gap"));
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments = ["--banner", "-m"].map(str::to_owned).to_vec();
    scene.launch().unwrap();
    let said = banner(&scene);
    assert!(said.contains("Mind the gap, ") && !said.contains('[') && !said.contains("to "), "{said}");
    assert!(scene.log().contains("sessions outlive a restart"), "{}", scene.log());
}

/// Fails when the server's absence, or its return, is not told.
#[test]
fn a_server_that_does_not_answer_is_noticed() {
    let Some(mut scene) = Scene::start(Server::Incus6, "health").unwrap() else { return };
    scene.stop(Signal::SIGTERM).unwrap();
    scene.incus = scene.path("incus.socket");
    scene.arguments = ["-H", "1s"].map(str::to_owned).to_vec();
    scene.launch().unwrap();
    let logged = |words: &str| {
        wait_for(words, || scene.log().contains(words).then_some(())).unwrap();
    };
    logged("the server does not answer");
    std::os::unix::fs::symlink(scene.bed.socket(), &scene.incus).unwrap();
    logged("the server answers again");
    assert_eq!(scene.log().matches("the server does not answer").count(), 1, "{}", scene.log());
}

/// Fails when the host's key is not offered, or the gateway's own is although the host's has its place.
#[test]
fn the_hosts_keys_are_offered_where_that_is_asked_for() {
    let Some(mut scene) = Scene::start(Server::Incus6, "hostkey").unwrap() else { return };
    scene.stop(Signal::SIGTERM).unwrap();
    std::fs::create_dir(scene.path("etc/ssh")).unwrap();
    let path = scene.path("etc/ssh/ssh_host_ed25519_key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
    assert!(made.unwrap().success());
    let hosts = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    let hosts = hosts.split(' ').nth(1).unwrap().to_owned();
    let shown = |scene: &Scene| {
        let mut scan = Command::new("ssh-keyscan");
        scan.args(["-t", "ed25519", "-p", &scene.port.to_string(), "127.0.0.1"]);
        String::from_utf8(scene.talk(&mut scan, b"").unwrap().stdout).unwrap()
    };
    scene.launch().unwrap();
    let own = shown(&scene);
    assert!(own.contains("ssh-ed25519 ") && !own.contains(&hosts), "{own}");
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments = vec!["--host-key".to_owned()];
    scene.launch().unwrap();
    let offered = shown(&scene);
    assert!(offered.contains(&hosts), "{offered} {}", scene.log());
}

/// Fails when somebody on a terminal is not greeted, or a program without one gets a text that is not its own.
#[test]
fn whoever_comes_in_is_greeted() {
    let Some(mut scene) = Scene::start(Server::Incus6, "welcome").unwrap() else { return };
    let text = "[INSTANCE_USER]/[INSTANCE]/[PROJECT]/[REMOTE]/[HOSTNAME].\n";
    std::fs::write(scene.path("p/welcome.txt"), text).unwrap();
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments = vec!["-w".to_owned()];
    scene.launch().unwrap();
    let name = scene.container.name().to_owned();
    let at = Scene::at(&format!("bob@{name}"));
    let said = |options: &[&str], words: &[&str], input: &[u8]| {
        let output = scene.talk(scene.client(options).arg(&at).args(words), input).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let greeted = said(&["-tt"], &[], b"exit\n");
    let line = greeted.split("\r\n").next().unwrap();
    assert!(line.starts_with(&format!("bob/{name}/default/local/")), "{greeted:?} {}", scene.log());
    assert!(line.ends_with('.') && !line.contains('['), "{greeted:?}");
    assert_eq!(said(&["-T"], &[], b"echo on\n"), "on\n");
    assert_eq!(said(&["-tt"], &["echo on"], b""), "on\r\n");
}

/// Fails when a login shell is another program's than the flag says, its user another, or a command goes by it too.
#[test]
fn a_login_shell_is_started_as_the_flag_says() {
    let Some(mut scene) = Scene::start(Server::Incus6, "modes").unwrap() else { return };
    // What is typed before the shell is there may be thrown away: the profile says it.
    let script = "printf '#!/bin/sh\\necho by sush $#:$1,$LC_X.; exit 4\\n' >/usr/bin/sush; chmod 755 /usr/bin/sush; \
        echo 'case $- in *i*) echo $(id -un),$PWD,$LC_X.; exit 5;; esac' >/home/bob/.profile";
    scene.container.sh(script).unwrap();
    let bob = Scene::at(&format!("bob@{}", scene.container.name()));
    // No login(1) tells how its shell has ended.
    for (mode, words, status) in
        [("su", "bob,/home/bob,.", 5), ("login", "bob,/home/bob,.", 0), ("sush", "by sush 1:bob,.", 4)]
    {
        scene.stop(Signal::SIGTERM).unwrap();
        scene.arguments = ["-S", mode].map(str::to_owned).to_vec();
        scene.launch().unwrap();
        let mut client = scene.client(&["-tt", "-o", "SetEnv=LC_X=x"]);
        let output = scene.talk(client.arg(&bob), b"").unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.lines().any(|line| line.trim_end() == words), "{mode}: {said:?} {}", scene.log());
        assert_eq!(output.status.code(), Some(status), "{mode}: {said:?}");
        let output = scene.talk(scene.client(&["-T"]).args([&bob, "id -un; exit 6"]), b"").unwrap();
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"bob\n"[..], Some(6)), "{mode}");
    }
}

/// Fails when a connection on which nothing moves is left alone.
#[test]
fn an_idle_connection_is_ended_where_that_is_asked_for() {
    let Some(mut scene) = Scene::start(Server::Incus6, "idle").unwrap() else { return };
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments = ["--idle-timeout", "4s"].map(str::to_owned).to_vec();
    scene.launch().unwrap();
    let output = scene.command("echo ready; sleep 1000", b"").unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.status.code()),
        (&b"ready\n"[..], Some(255)),
        "{}",
        scene.log()
    );
    wait_for("the end of the session", || scene.sessions().is_empty().then_some(())).unwrap();
}

/// Fails when the filter for fail2ban does not find a refused login, or finds one that a client made up.
#[test]
fn a_refused_login_is_found_in_the_log() {
    let Some(scene) = Scene::start(Server::Incus6, "banned").unwrap() else { return };
    let forged = "WARN portway_sshgw::broker::child: login refused peer=192.0.2.9 login=x";
    let mut client = scene.client_with("other", &["-l", forged]);
    assert!(!scene.talk(client.arg("127.0.0.1"), b"").unwrap().status.success());
    wait_for("the line", || scene.log().contains("login refused").then_some(())).unwrap();
    let script = "import re,sys
text=open(sys.argv[1]).read()
rule=re.search(r'(?m)^failregex = (.*)$', text).group(1).replace('<ADDR>', r'(?P<host>[0-9a-fA-F.:]+)')
# As fail2ban does: the time at the beginning is cut out first.
lines=[re.sub(r'^\\S+Z', '', line) for line in sys.stdin.read().splitlines()]
print(','.join(found.group('host') for found in map(re.compile(rule).search, lines) if found))";
    let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib/fail2ban/filter.d/portway-ssh.conf");
    let mut python = Command::new("python3");
    let found = scene.talk(python.args(["-c", script, filter]), scene.log().as_bytes()).unwrap();
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(said.trim(), "127.0.0.1", "{}{}", scene.log(), String::from_utf8_lossy(&found.stderr));
}

/// The gateway that the daemon names.
fn named(scene: &Scene) -> Option<i32> {
    let said = scene.portway(&["status"]).ok()?;
    said.lines().find_map(|line| line.strip_prefix("SSH gateway: pid "))?.trim().parse().ok()
}

/// What the daemon counts.
fn metrics(scene: &Scene) -> String {
    let mut daemon = UnixStream::connect(scene.path("p/portway.sock")).unwrap();
    daemon.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    daemon.read_to_string(&mut text).unwrap();
    text
}

/// The daemon starts the gateway of its settings, starts it again when it ends, and leaves it behind for the next
/// daemon.
///
/// Fails when the gateway ends with the daemon, or nobody sees its end.
#[test]
fn the_daemon_runs_a_gateway() {
    let Some(mut scene) = Scene::start(Server::Incus6, "child").unwrap() else { return };
    scene.stop(Signal::SIGTERM).unwrap();
    let settings = format!("[ssh]\ndaemon = true\nlisten = \"127.0.0.1:{}\"\n", scene.port);
    std::fs::write(scene.path("p/portway.toml"), settings).unwrap();
    let daemon = || scene.serve(&["daemon".to_owned()]).unwrap();
    let end = |mut daemon: Child| {
        kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), Signal::SIGTERM).unwrap();
        daemon.wait().unwrap();
    };
    let bob = Scene::at(&format!("bob@{}", scene.container.name()));
    // Root by the server, the user by the helper.
    let is_open = || {
        let user = scene.talk(scene.client(&[]).args([&bob, "id -un"]), b"").ok()?;
        (scene.said("true").is_ok() && user.stdout == b"bob\n").then_some(())
    };
    let running = daemon();
    let first = wait_for("the gateway", || named(&scene)).unwrap();
    wait_for("the first login", is_open).unwrap();
    let status: Value =
        serde_json::from_str(&scene.portway(&["status", "--format", "json"]).unwrap()).unwrap();
    assert_eq!(status["ssh"]["pid"], first, "{status}");
    assert!(status["ssh"]["sessions"].is_u64() && status["generation"].is_u64(), "{status}");
    let counted = metrics(&scene);
    assert!(counted.contains("\nportway_ssh_logins_total{result=\"accepted\"} 2\n"), "{counted}");
    end(running);
    assert!(process::is_alive(first));
    wait_for("a login without a daemon", is_open).unwrap();
    let running = daemon();
    wait_for("the gateway after a restart", || named(&scene).filter(|pid| *pid == first)).unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let second = wait_for("another gateway", || named(&scene).filter(|pid| *pid != first)).unwrap();
    wait_for("a login with the other gateway", is_open).unwrap();
    end(running);
    scene.portway(&["daemon", "--purge"]).unwrap();
    wait_for("the end of the gateway", || (!process::is_alive(second)).then_some(())).unwrap();
}
