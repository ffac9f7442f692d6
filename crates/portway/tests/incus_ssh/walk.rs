//! What a session is: commands, bytes, terminals, ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use portway_testkit::{Server, wait_for};

use crate::scene::Scene;

/// Fails when a status is cut, or the gateway's own is taken for the program's.
#[test]
fn a_status_is_the_programs() {
    let Some(scene) = Scene::start(Server::Incus6, "status").unwrap() else { return };
    let master = format!("ControlPath={}", scene.path("cm").display());
    let at = Scene::at(scene.container.name());
    let options = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", &master];
    for status in [0, 1, 2, 42, 126, 127, 128, 254, 255] {
        let output = scene.talk(scene.client(&options).args([&at, &format!("exit {status}")]), b"").unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // The end by a signal is no status; OpenSSH's client ends with 255.
    for (words, status) in [("/nowhere", 127), ("kill -TERM $$", 255), ("umask >/dev/null", 0)] {
        let output = scene.talk(scene.client(&options).args([&at, words]), b"").unwrap();
        assert_eq!(output.status.code(), Some(status), "{words}");
    }
    assert_eq!(scene.sessions().len(), 1, "one connection carried all of them");
    scene.talk(scene.client(&options).args(["-O", "exit", &at]), b"").unwrap();
    wait_for("the end of the connection", || scene.sessions().is_empty().then_some(())).unwrap();
    // Who is the first of a connection is run by the server, which tells a signal as shells do.
    for (words, status) in [("exit 255", 255), ("/nowhere", 127), ("kill -TERM $$", 143)] {
        assert_eq!(scene.command(words, b"").unwrap().status.code(), Some(status), "{words}");
    }
}

/// Fails when a command is quoted or cut, an end of input is lost, the two outputs are mixed, or a connection waits for
/// room that only its own output would make.
#[test]
fn bytes_are_exact() {
    let Some(scene) = Scene::start(Server::Incus6, "bytes").unwrap() else { return };
    assert_eq!(scene.said("printf \"a\\nb\\tc\"").unwrap(), "a\nb\tc");
    assert_eq!(
        scene.said("cat <<'X'\none 'two' \"three\" $HOME\n\nX\necho $0 $#").unwrap().lines().count(),
        3
    );
    let long = format!("printf %s {} | wc -c", "x".repeat(131_071 - 18));
    assert_eq!(scene.said(&long).unwrap().trim(), (131_071 - 18).to_string());
    // More than waits in the gateway for a program that reads only as fast as its output is taken.
    let input: Vec<u8> = (0..30_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let output = scene.command("cat; echo over >&2; exit 3", &input).unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(3), &b"over\n"[..]));
    assert!(output.stdout == input, "{} of {} bytes came back", output.stdout.len(), input.len());
    // The client hears of the end before the log does.
    let ended =
        || scene.audit().ok()?.into_iter().find(|line| line["event"] == "ended" && line["status"] == 3);
    let ended = wait_for("the end in the audit log", ended).unwrap();
    let counts = (ended["bytes_in"].as_u64(), ended["bytes_out"].as_u64());
    assert_eq!(counts, (Some(30_000_000), Some(30_000_005)));
}

/// Fails when a variable is let through that may change what runs, or one of a login is missing.
#[test]
fn the_environment_is_that_of_a_login() {
    let Some(scene) = Scene::start(Server::Incus6, "env").unwrap() else { return };
    let set = "SetEnv=LC_TEST=x LD_PRELOAD=/x.so PATH=/x";
    let name = scene.container.name();
    let words = "echo $LC_TEST,$LD_PRELOAD,$USER,$LOGNAME,$HOME,$SHELL,$PWD,$TERM; echo $SSH_CONNECTION; echo $PATH; id -u";
    let output = scene.talk(scene.client(&["-o", set]).args([&Scene::at(name), words]), b"").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "x,,root,root,/root,/bin/sh,/root,", "{text}");
    let ends: Vec<&str> = lines[1].split(' ').collect();
    assert_eq!((ends[0], ends[2], ends[3]), ("127.0.0.1", "127.0.0.1", scene.port.to_string().as_str()));
    assert!(lines[2].contains("/usr/bin") && !lines[2].contains("/x"), "{text}");
    let bob = Scene::at(&format!("bob@{name}"));
    let output =
        scene.talk(scene.client(&[]).args([&bob, "id -u; id -g; echo $HOME $USER; pwd"]), b"").unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000\n1000\n/home/bob bob\n/home/bob\n");
}

/// Fails when a size or a change of it does not arrive, or an output is rewritten.
#[test]
fn a_terminal_is_resized() {
    let Some(scene) = Scene::start(Server::Incus6, "term").unwrap() else { return };
    let flag = scene.path("flag");
    let remote =
        "stty size; echo $TERM; trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut client = scene.client(&["-tt"]);
    client.args([&Scene::at(scene.container.name()), remote]);
    let words = std::iter::once(client.get_program()).chain(client.get_args());
    let quoted: Vec<String> =
        words.map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"))).collect();
    let inner = format!(
        "stty rows 17 cols 91; (until [ -e {} ]; do sleep 0.05; done; stty rows 50 cols 200 </dev/tty) & {}",
        flag.display(),
        quoted.join(" ")
    );
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &inner, "/dev/null"]).env("TERM", "vt220").env("SHELL", "/bin/sh");
    let mut child = scene.bed.netns().spawn(script.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("ready") {
        assert_ne!(output.read_line(&mut text).unwrap(), 0, "{text:?} {}", scene.log());
    }
    std::fs::write(&flag, "").unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text.replace("\r\r\n", "\r\n"), "17 91\r\nvt220\r\nready\r\n50 200\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

/// Fails when a shell is no login shell, or one whose input ends goes on.
#[test]
fn a_shell_without_a_terminal_reads_its_commands() {
    let Some(scene) = Scene::start(Server::Incus6, "shell").unwrap() else { return };
    scene.container.sh("echo 'FROM=profile' >/etc/profile").unwrap();
    let at = Scene::at(scene.container.name());
    let output = scene.talk(scene.client(&["-T"]).arg(&at), b"echo $FROM $0; exit 9\n").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((text.as_str(), output.status.code()), ("profile -sh\n", Some(9)), "{}", scene.log());
    let output = scene.talk(scene.client(&["-T"]).arg(&at), b"echo last").unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"last\n"[..], Some(0)));
}

/// On the other servers, in short.
fn it_works(server: Server) {
    let Some(scene) = Scene::start(server, "works").unwrap() else { return };
    let output = scene.command("cat; echo error >&2; exit 5", b"input").unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"input"[..], &b"error\n"[..]));
    assert_eq!(output.status.code(), Some(5), "{}", scene.log());
    let at = Scene::at(scene.container.name());
    let output = scene.talk(scene.client(&["-tt"]).args([&at, "stty size; exit 6"]), b"").unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"24 80\r\n"[..], Some(6)));
}

#[test]
fn incus7_works() {
    it_works(Server::Incus7);
}

#[test]
fn lxd_works() {
    it_works(Server::Lxd);
}
