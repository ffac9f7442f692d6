//! What the helper makes of a session: the user with his groups, a login shell, a terminal, files, and nothing left over.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use portway_testkit::{Ports, Server, wait_for};

use crate::forwards::{Client, answer, connect, echo, listen};
use crate::scene::Scene;

/// A client of OpenSSH's that copies files, with the options of `ssh`.
pub(crate) fn copier(scene: &Scene, program: &str) -> Command {
    let client = scene.client(&["-o", &format!("Port={}", scene.port)]);
    let args: Vec<_> = client.get_args().collect();
    let mut command = Command::new(program);
    // Without `-p PORT`, which means something else to them.
    command.args(&args[..args.len() - 2]);
    command
}

/// Runs `sftp` with these commands.
pub(crate) fn sftp(scene: &Scene, login: &str, commands: &str) -> Output {
    let mut client = copier(scene, "sftp");
    client.args(["-q", "-b", "-", &Scene::at(login)]);
    scene.talk(&mut client, commands.as_bytes()).unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        output.status
    )
}

/// Waits until a script in the container says this. The server's own client may lose what a short program says.
pub(crate) fn shows(scene: &Scene, script: &str, expected: &str) {
    let mut said = String::new();
    let is_right = || {
        said = scene.container.sh(script).unwrap();
        (said == expected).then_some(())
    };
    let is_shown = wait_for("what the container shows", is_right).is_ok();
    assert!(is_shown, "`{script}` says {said:?} and not {expected:?}");
}

/// What is left of helpers in the container's files, memory included.
fn traces(scene: &Scene) -> String {
    scene.container.sh("find / -name '.portway*' ! -path '/proc/*' 2>/dev/null; true").unwrap()
}

/// How many helpers run.
fn helpers(scene: &Scene) -> usize {
    let links = scene.container.sh("for exe in /proc/[0-9]*/exe; do readlink $exe; done; true").unwrap();
    links.lines().filter(|link| link.starts_with("/memfd:portway-guest")).count()
}

/// Fails when a user lacks a group or has root's, a shell is no login shell, or a helper outlives its connection, leaves
/// a file, or is started once more for a second channel.
#[test]
fn a_user_is_who_he_is() {
    let Some(scene) = Scene::start(Server::Incus6, "user").unwrap() else { return };
    scene
        .container
        .sh("echo 'more:x:4242:alice,bob' >>/etc/group; echo 'FROM=profile' >/etc/profile")
        .unwrap();
    let bob = Scene::at(&format!("bob@{}", scene.container.name()));
    let master = format!("ControlPath={}", scene.path("cm").display());
    let options = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", &master];
    let command = |words: &str, input: &[u8]| {
        scene.talk(scene.client(&options).args(["-T", &bob, words]), input).unwrap()
    };
    let output = command("id -u; id -G; umask; pwd; echo $HOME,$SSH_TTY,$0; cat", b"in");
    assert_eq!(text(&output), "1000\n1000 29 4242\n0022\n/home/bob\n/home/bob,,sh\ninexit status: 0");
    let output = scene.talk(scene.client(&options).args(["-T", &bob]), b"echo $0 $FROM; exit 5\n").unwrap();
    assert_eq!(text(&output), "-sh profile\nexit status: 5");
    let output = command("printf 'a\\nb' >&2; exit 255", b"");
    assert_eq!(text(&output), "a\nbexit status: 255");
    wait_for("one helper", || (helpers(&scene) == 1).then_some(())).unwrap();
    assert_eq!(traces(&scene), "");
    // The end by a signal is none with a status; OpenSSH's client ends with 255 and says nothing.
    assert_eq!(command("kill -TERM $$", b"").status.code(), Some(255));
    let lines = wait_for("the audit", || {
        let lines = scene.audit().ok()?;
        (lines.iter().filter(|line| line["event"] == "ended").count() == 4).then_some(lines)
    });
    let statuses: Vec<_> = lines.unwrap().iter().filter_map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [0, 5, 255, 143]);
    scene.talk(scene.client(&options).args(["-O", "exit", &bob]), b"").unwrap();
    wait_for("the end of the helper", || (helpers(&scene) == 0).then_some(())).unwrap();
}

/// Fails when the server of the instance carries what the helper says, for a user or from the second command of root's on.
#[test]
fn a_helper_is_spoken_to_beside_the_server() {
    let Some(scene) = Scene::start(Server::Incus6, "direct").unwrap() else { return };
    let master = format!("ControlPath={}", scene.path("cm").display());
    let options = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", &master];
    let name = scene.container.name();
    let sockets = |options: &[&str], at: &str| {
        let output = scene.talk(scene.client(options).args([at, "cat /proc/net/unix"]), b"").unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("RefCount"), "{said}");
        said.lines().filter(|line| line.contains(" @portway-")).count()
    };
    assert_eq!(
        sockets(&[], &Scene::at(&format!("bob@{name}"))),
        1,
        "one connection, and no listener any more"
    );
    let at = Scene::at(name);
    assert_eq!((sockets(&options, &at), sockets(&options, &at)), (0, 1));
    scene.talk(scene.client(&options).args(["-O", "exit", &at]), b"").unwrap();
}

/// Fails when a byte of a command that is no text is changed.
#[test]
fn a_command_may_be_any_bytes() {
    use std::os::unix::ffi::OsStrExt as _;
    let Some(scene) = Scene::start(Server::Incus6, "raw").unwrap() else { return };
    let at = Scene::at(scene.container.name());
    let words = std::ffi::OsStr::from_bytes(b"printf '\xff\xfe\\n' | od -An -tx1");
    let output = scene.talk(scene.client(&[]).arg(at).arg(words), b"").unwrap();
    assert_eq!(text(&output), " ff fe 0a\nexit status: 0");
}

/// A command that no program can have is its channel's own error: the connection goes on, and nobody is blamed.
///
/// Fails when such a command reaches the broker.
#[test]
fn a_command_too_long_is_its_own_error() {
    let Some(scene) = Scene::start(Server::Incus6, "long").unwrap() else { return };
    let at = Scene::at(scene.container.name());
    let master = format!("ControlPath={}", scene.path("cm").display());
    let options = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", &master];
    let half = "x".repeat(70_000);
    for _ in 0..2 {
        let output = scene.talk(scene.client(&options).args([&at, "echo", &half, &half]), b"").unwrap();
        let said = "portway: the command has 140006 bytes, and the longest has 131071\nexit status: 126";
        assert_eq!(text(&output), said);
    }
    let output = scene.talk(scene.client(&options).args([&at, "echo on"]), b"").unwrap();
    assert_eq!(text(&output), "on\nexit status: 0");
    assert_eq!(scene.sessions().len(), 1, "one connection carried all of them");
    assert_eq!(scene.said("echo new").unwrap(), "new\n");
    scene.talk(scene.client(&options).args(["-O", "exit", &at]), b"").unwrap();
}

/// Fails when a mode of the terminal is lost, it is not named, or a signal of the keyboard does not reach what runs in front.
#[test]
fn a_terminal_is_the_users() {
    let Some(scene) = Scene::start(Server::Incus6, "tty").unwrap() else { return };
    let bob = Scene::at(&format!("bob@{}", scene.container.name()));
    let words = "test \"$(tty)\" = \"$SSH_TTY\" && stat -c '%U %a' $SSH_TTY; echo $TERM; (sleep 1000; echo not); exit 3";
    let mut client = scene.client(&["-tt"]);
    client.args([&bob, &format!("{words}; :")]).env("TERM", "vt220");
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = scene.bed.netns().spawn(&mut client).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("vt220") {
        assert_ne!(output.read_line(&mut said).unwrap(), 0, "{said:?} {}", scene.log());
    }
    // The third of the characters that a terminal makes a signal of.
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\x03").unwrap();
    output.read_to_string(&mut said).unwrap();
    let first = said.lines().next().unwrap();
    assert!(first == "bob 620" || first == "bob 600", "{said:?}");
    assert!(!said.contains("not"), "{said:?}");
    assert_ne!(child.wait().unwrap().code(), Some(0));
}

/// Files as root and as a user: their bytes, owners and modes, and what is not theirs.
///
/// Fails when files are served as somebody else, or from another folder than the home.
#[test]
fn files_are_their_owners() {
    let Some(scene) = Scene::start(Server::Incus6, "files").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let local = scene.path("local");
    fs::write(&local, &bytes).unwrap();
    let local = local.display();
    for (login, home, ids) in
        [(name.clone(), "/root", "0 0"), (format!("bob@{name}"), "/home/bob", "1000 1000")]
    {
        let back = scene.path("back");
        let script =
            format!("pwd\nput {local} there\nmkdir d\nget there {}\nln -s there l\n", back.display());
        let output = sftp(&scene, &login, &script);
        assert!(output.status.success(), "{} {}", text(&output), scene.log());
        assert!(text(&output).contains(&format!("Remote working directory: {home}")), "{}", text(&output));
        assert!(fs::read(&back).unwrap() == bytes, "the bytes are others");
        let expected = format!("{ids} 644\n{ids} 755\nthere\n");
        shows(&scene, &format!("cd {home}; stat -c '%u %g %a' there d; readlink l"), &expected);
        let copied = format!("{}:copied", Scene::at(&login));
        for options in [&["-s"][..], &["-p"]] {
            let output = scene
                .talk(copier(&scene, "scp").args(options).args([&local.to_string(), &copied]), b"")
                .unwrap();
            assert!(output.status.success(), "{}", text(&output));
        }
        shows(&scene, &format!("wc -c <{home}/copied"), "12000000\n");
    }
    scene.container.sh("chmod 700 /root").unwrap();
    let output = sftp(&scene, &format!("bob@{name}"), &format!("put {local} /root/mine\n"));
    assert!(!output.status.success() && text(&output).contains("denied"), "{}", text(&output));
    assert_eq!(traces(&scene), "");
}

/// What of a session stays when its client has gone: nothing that does not want to.
///
/// Fails when a program that ignores HUP and TERM lives on, or one that has left its session does not.
#[test]
fn what_runs_inside_ends_with_its_client() {
    let Some(scene) = Scene::start(Server::Incus6, "gone").unwrap() else { return };
    let bob = Scene::at(&format!("bob@{}", scene.container.name()));
    for (option, sleep) in [("-T", "sleep 4321"), ("-tt", "sleep 4322")] {
        let words = format!("setsid {sleep} & trap '' HUP TERM; echo $$; while :; do sleep 1; done");
        let mut client = scene.client(&[option]);
        client.args([&bob, &words]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = scene.bed.netns().spawn(&mut client).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let lives = format!("kill -0 {} 2>/dev/null && echo lives || true", line.trim());
        shows(&scene, &lives, "lives\n");
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for("the end of the program", || scene.container.sh(&lives).unwrap().is_empty().then_some(()))
            .unwrap();
        shows(&scene, &format!("ps -o args | grep -c '^{sleep}$' || true"), "1\n");
    }
    wait_for("the end of the helpers", || (helpers(&scene) == 0).then_some(())).unwrap();
}

/// Fails when somebody whose shell says no gets in, is not forwarded as with OpenSSH's server, or the words of the instance
/// are not told.
#[test]
fn who_may_not_log_in_is_told_so() {
    let Some(scene) = Scene::start(Server::Incus6, "nologin").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let users = "no:x:1001:1001::/home/no:/sbin/nologin\\nodd:x:1002:1002::/nowhere:/bin/odd-shell\\n";
    scene.container.sh(&format!("printf '{users}' >>/etc/passwd")).unwrap();
    let told = |login: &str| {
        let output = scene.talk(scene.client(&[]).args([&Scene::at(login), "true"]), b"").unwrap();
        text(&output)
    };
    let no = format!("no@{name}");
    assert_eq!(told(&no), "portway: This account is currently not available.\nexit status: 1");
    assert!(!sftp(&scene, &no, "pwd\n").status.success());
    scene.container.sh("printf '\\n  go away\\n' >/etc/nologin.txt").unwrap();
    assert_eq!(told(&no), "portway: go away\nexit status: 1");
    // Nothing of his runs, and his forwards are those of a user; a program is refused also once there is his helper.
    let listener = listen(&scene, Ipv4Addr::LOCALHOST, 4000);
    echo(listener, b"4");
    let mut client = scene.client(&["-W", "127.0.0.1:4000"]);
    assert_eq!(text(&scene.talk(client.arg(Scene::at(&no)), b"here\n").unwrap()), "4here\nexit status: 0");
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let port = ports.one().unwrap();
    let control = format!("ControlPath={}", scene.path("control").display());
    let forward = format!("{port}:127.0.0.1:4000");
    let _client = Client::start(&scene, &no, &["-M", "-o", &control, "-L", &forward]);
    assert_eq!(answer(connect(&scene, port), b"too"), b"4too");
    let output = scene.talk(scene.client(&["-o", &control]).args([&Scene::at(&no), "true"]), b"").unwrap();
    assert_eq!(text(&output), "portway: go away\nexit status: 1");
    let odd = told(&format!("odd@{name}"));
    assert_eq!(odd, "portway: cannot run /bin/odd-shell: No such file or directory\nexit status: 127");
    // Without users, groups, or anything that looks them up there is still root.
    scene.container.sh("rm /etc/passwd /etc/group").unwrap();
    let output = scene.talk(scene.client(&["-T"]).arg(Scene::at(&name)), b"pwd; echo $0; exit 4\n").unwrap();
    assert_eq!(text(&output), "/\n-sh\nexit status: 4");
}

/// Fails when a helper is put into an instance that does not run, or a place that does not execute is the end of it.
#[test]
fn a_helper_finds_its_place() {
    let Some(scene) = Scene::start(Server::Incus6, "place").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let bob = Scene::at(&format!("bob@{name}"));
    let says = || text(&scene.talk(scene.client(&[]).args([&bob, "id -u"]), b"").unwrap());
    scene.container.sh("mkdir -p /dev/shm; mount -t tmpfs -o noexec shm /dev/shm").unwrap();
    assert_eq!(says(), "1000\nexit status: 0", "{}", scene.log());
    assert_eq!(scene.container.sh("find /run -name '.portway*'").unwrap(), "");
    scene
        .container
        .sh("umount /dev/shm; rm -rf /dev/shm; mkdir -p /run; mount -t tmpfs -o noexec run /run")
        .unwrap();
    // Nowhere: what the server can do is done.
    assert_eq!(says(), "1000\nexit status: 0", "{}", scene.log());
    let output = sftp(&scene, &format!("bob@{name}"), "pwd\n");
    assert!(
        !output.status.success() && text(&output).contains("files cannot be served"),
        "{}",
        text(&output)
    );
    scene.container.kill().unwrap();
    assert_eq!(
        says(),
        format!("portway: instance {name} is not running, and `start` is not allowed there\nexit status: 3")
    );
    scene.container.start().unwrap();
    assert_eq!(says(), "1000\nexit status: 0");
    assert_eq!(traces(&scene), "");
}

/// Fails when the helper, or what it runs, ends with the gateway, or a channel more needs the gateway that was.
#[test]
fn a_helper_outlives_the_gateway() {
    let Some(mut scene) = Scene::start(Server::Incus6, "stays").unwrap() else { return };
    let bob = Scene::at(&format!("bob@{}", scene.container.name()));
    let master = format!("ControlPath={}", scene.path("cm").display());
    let options = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", &master];
    let output = scene.talk(scene.client(&options).args([&bob, "echo one"]), b"").unwrap();
    assert_eq!(text(&output), "one\nexit status: 0");
    scene.stop(Signal::SIGKILL).unwrap();
    scene.launch().unwrap();
    let output = scene.talk(scene.client(&options).args([&bob, "id -G; cat; exit 9"]), b"two").unwrap();
    assert_eq!(text(&output), "1000 29\ntwoexit status: 9");
    wait_for("one helper", || (helpers(&scene) == 1).then_some(())).unwrap();
    scene.talk(scene.client(&options).args(["-O", "exit", &bob]), b"").unwrap();
}

/// A program that does not read holds up its own channel. On the others small things go on, and other connections do not
/// notice; when its client goes it is noticed.
///
/// Fails when a channel without room stops its connection, or hides its end.
#[test]
fn a_stalled_channel_stops_nobody() {
    let Some(scene) = Scene::start(Server::Incus6, "stalled").unwrap() else { return };
    let at = Scene::at(scene.container.name());
    let master = format!("ControlPath={}", scene.path("cm").display());
    let options = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", &master];
    let said = |options: &[&str], words: &str, input: &[u8]| {
        scene.talk(scene.client(options).args([&at, words]), input).unwrap().stdout
    };
    assert_eq!(said(&options, "cat", b"first"), b"first");
    let mut client = scene.client(&options);
    client.args([&at, "sleep 1000"]).stdin(Stdio::piped());
    let mut stalled = scene.bed.netns().spawn(&mut client).unwrap();
    let mut stdin = stalled.stdin.take().unwrap();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&sent);
    let feeder = std::thread::spawn(move || {
        while std::io::Write::write_all(&mut stdin, &[0; 1 << 14]).is_ok() {
            count.fetch_add(1 << 14, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let is_crowded = || (sent.load(std::sync::atomic::Ordering::Relaxed) >= 11 << 20).then_some(());
    wait_for("the stall", is_crowded).unwrap();
    for _ in 0..10 {
        assert_eq!(said(&options, "head -c 5; echo on >&2", b"small"), b"small");
    }
    let input = vec![7; 5_000_000];
    assert!(said(&[], "cat", &input) == input, "another connection");
    stalled.kill().unwrap();
    stalled.wait().unwrap();
    scene.talk(scene.client(&options).args(["-O", "exit", &at]), b"").unwrap();
    wait_for("the end of the session", || scene.sessions().is_empty().then_some(())).unwrap();
    feeder.join().unwrap();
}
