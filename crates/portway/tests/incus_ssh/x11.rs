//! The client's display inside: `-X` and `-Y`, with OpenSSH's client, an X server and its programs.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use portway_testkit::{Server, client, require, run, wait_for};

use crate::agent::{furnished, heard, left, noted};
use crate::scene::{Scene, Victim};

/// Everything, and displays.
const POLICY: &str = "[[rule]]\nusers = [\"root\"]\nallow = [\"*\"]\n";

/// A gateway that lends displays; `None` where there is none, or no X server.
fn showing(server: Server, name: &str) -> Option<Scene> {
    if let Some(missing) =
        ["Xvfb", "xauth", "xdpyinfo"].iter().find(|it| !Path::new("/usr/bin").join(it).exists())
    {
        require(&format!("{missing} is not installed"));
        return None;
    }
    let scene = furnished(server, name, &["xdpyinfo"])?;
    fs::write(scene.path("p/ssh-policy.toml"), POLICY).unwrap();
    Some(scene)
}

/// An X server that wants its cookie; ended on drop.
struct Display {
    child: Child,
    number: String,
    authority: PathBuf,
}

impl Display {
    fn start(scene: &Scene) -> Self {
        let cookie = "00112233445566778899aabbccddeeff";
        let add = |path: &Path, display: &str| {
            run(Command::new("xauth").arg("-f").arg(path).args(["add", display, ".", cookie])).unwrap();
        };
        let (own, authority) = (scene.path("server.xauth"), scene.path("client.xauth"));
        // A server looks at the cookie alone.
        add(&own, ":0");
        let mut command = Command::new("Xvfb");
        command.args(["-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "320x200x24", "-auth"]).arg(own);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut number = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut number).unwrap();
        let number = number.trim().to_owned();
        add(&authority, &format!(":{number}"));
        Self { child, number, authority }
    }

    /// OpenSSH's client with this display.
    fn client(&self, scene: &Scene, options: &[&str]) -> Command {
        let mut client = scene.client(options);
        client.env("DISPLAY", format!(":{}", self.number)).env("XAUTHORITY", &self.authority);
        client
    }

    fn command(&self, scene: &Scene, options: &[&str], login: &str, words: &str) -> Output {
        scene.talk(self.client(scene, options).args([&Scene::at(login), words]), b"").unwrap()
    }

    /// A command that tells of its display and ends when it has been told something.
    fn waiting(&self, scene: &Scene, options: &[&str], login: &str) -> Waiting {
        let mut client = self.client(scene, options);
        let words = "echo $DISPLAY $XAUTHORITY; read go";
        client.args([&Scene::at(login), words]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = scene.bed.netns().spawn(&mut client).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut told = String::new();
        output.read_line(&mut told).unwrap();
        let (display, authority) = told.trim().split_once(' ').unwrap_or_default();
        Waiting { child, _output: output, display: display.to_owned(), authority: authority.to_owned() }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A client whose command waits; ended on drop.
struct Waiting {
    child: Child,
    _output: BufReader<ChildStdout>,
    display: String,
    authority: String,
}

impl Waiting {
    fn port(&self) -> u16 {
        let number = self.display.trim_start_matches("localhost:").split('.').next().unwrap();
        6000 + number.parse::<u16>().unwrap()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn dial(scene: &Scene, address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = scene.container.netns().unwrap().enter(|| TcpStream::connect(address)).unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What a program says first that shows this.
fn setup(cookie: &[u8; 16]) -> Vec<u8> {
    [&b"l\0\x0b\0\0\0\x12\0\x10\0\0\0MIT-MAGIC-COOKIE-1\0\0"[..], cookie].concat()
}

/// What a file of authorizations holds, in hexadecimal, and the first cookie in it.
fn cookie(scene: &Scene, path: &str) -> (String, [u8; 16]) {
    let shown = heard(scene, &format!("od -An -v -tx1 {path} | tr -d ' \\n'"));
    let name = "4d49542d4d414749432d434f4f4b49452d310010";
    let digits = &shown[shown.find(name).unwrap() + name.len()..][..32];
    let cookie = std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..][..2], 16).unwrap());
    (shown, cookie)
}

/// Waits until neither folder nor port is left in the container.
fn nothing_is_left(scene: &Scene) {
    let mut last = String::new();
    let is_clean = || {
        let ports =
            scene.container.sh("grep -h ':177[A-F] .* 0A ' /proc/net/tcp /proc/net/tcp6; true").unwrap();
        last = left(scene) + &ports;
        last.trim().is_empty().then_some(())
    };
    assert!(wait_for("the end of all of it", is_clean).is_ok(), "left: {last}");
}

/// A program inside is shown on the client's display, by either way of asking.
fn it_is_lent(server: Server) {
    let Some(scene) = showing(server, "show") else { return };
    let display = Display::start(&scene);
    let bob = format!("bob@{}", scene.container.name());
    for (option, login) in [("-Y", bob.as_str()), ("-X", &bob), ("-Y", scene.container.name())] {
        let output = display.command(&scene, &[option], login, "xdpyinfo");
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.starts_with("name of display:    localhost:10.0\n"),
            "{option}: {said}{error}{}",
            scene.log()
        );
        assert!(said.contains("dimensions:    320x200 pixels"), "{option}: {said}");
    }
    let line = noted(&scene, |line| line["event"] == "forwarded" && line["way"] == "x11");
    assert!(line["bytes_out"].as_u64() > Some(0) && line["end"] == "closed", "{line}");
    assert!(
        line["peer"].as_str().unwrap().contains("1:") || line["peer"].as_str().unwrap().contains("]:"),
        "{line}"
    );
    nothing_is_left(&scene);
}

/// Fails when the display cannot be used inside, or anything of it stays there.
#[test]
fn a_display_is_lent() {
    it_is_lent(Server::Incus6);
}

#[test]
fn a_display_is_lent_on_lxd() {
    it_is_lent(Server::Lxd);
}

/// Fails when the client hears of somebody who has not shown the cookie, or its own cookie is to be found inside.
#[test]
fn nobody_comes_without_the_cookie() {
    let Some(scene) = showing(Server::Incus6, "cookie") else { return };
    let display = Display::start(&scene);
    let bob = format!("bob@{}", scene.container.name());
    let waiting = display.waiting(&scene, &["-Y"], &bob);
    let port = waiting.port();
    let mut silent = dial(&scene, local(port)).unwrap();
    let modes = format!("stat -c '%a %u' {0} $(dirname {0})", waiting.authority);
    assert_eq!(heard(&scene, &modes), "600 1000\n700 1000\n");
    let (shown, right) = cookie(&scene, &waiting.authority);
    assert!(!shown.contains("00112233445566778899aabbccddeeff"), "{shown}");
    let said_to = |address: SocketAddr, bytes: &[u8]| {
        let mut stream = dial(&scene, address).unwrap();
        stream.write_all(bytes).unwrap();
        let mut said = vec![0; 8];
        // Reset or ended: nothing was said.
        let count = stream.read(&mut said).unwrap_or(0);
        said.truncate(count);
        said
    };
    let mut wrong = right;
    wrong[15] ^= 1;
    for bytes in
        [setup(&wrong), setup(&right)[..30].to_vec(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![b'l'; 1 << 16]]
    {
        let said = if bytes.len() == 30 { Vec::new() } else { said_to(local(port), &bytes) };
        assert_eq!(said, b"", "{bytes:.40?}");
    }
    // The server's own word that it is in, and so to whoever shows it, by the other address and in two pieces.
    assert_eq!(said_to(local(port), &setup(&right)).first(), Some(&1));
    let mut slow = dial(&scene, (Ipv6Addr::LOCALHOST, port).into()).unwrap();
    slow.write_all(&setup(&right)[..17]).unwrap();
    slow.flush().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    slow.write_all(&setup(&right)[17..]).unwrap();
    let mut first = [0];
    slow.read_exact(&mut first).unwrap();
    assert_eq!(first, [1]);
    let refused = |line: &serde_json::Value| line["way"] == "x11" && line["end"] == "refused";
    let line = noted(&scene, |line| refused(line) && line["reason"] == "another cookie was shown");
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    noted(&scene, |line| refused(line) && line["reason"] == "what is said is not X11");
    // Who says nothing is not waited for.
    assert_eq!(silent.read(&mut first).unwrap_or(0), 0);
    noted(&scene, |line| refused(line) && line["reason"] == "nothing was shown in time");
}

/// Fails when a key or the policy is not asked, or a client is told that it may lend what it may not.
#[test]
fn keys_and_policy_say_who_lends() {
    let Some(scene) = showing(Server::Incus6, "permits") else { return };
    let display = Display::start(&scene);
    let bob = format!("bob@{}", scene.container.name());
    let key = fs::read_to_string(scene.path("key.pub")).unwrap();
    let said = || {
        let output = display.command(&scene, &["-Y", "-o", "LogLevel=INFO"], &bob, "echo =$DISPLAY=");
        let is_told = String::from_utf8_lossy(&output.stderr).contains("X11 forwarding request failed");
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), is_told)
    };
    let (yes, no) = (("=localhost:10.0=".to_owned(), false), ("==".to_owned(), true));
    for (options, expected) in [
        ("no-X11-forwarding", &no),
        ("restrict", &no),
        ("restrict,X11-forwarding", &yes),
        ("no-agent-forwarding", &yes),
    ] {
        fs::write(scene.path("home/.ssh/authorized_keys"), format!("{options} {key}")).unwrap();
        assert_eq!(said(), *expected, "{options}: {}", scene.log());
    }
    // Without a policy of its own a gateway lends none.
    fs::remove_file(scene.path("p/ssh-policy.toml")).unwrap();
    fs::write(scene.path("p/ssh-policy.toml"), scene.portway(&["ssh", "policy", "--default"]).unwrap())
        .unwrap();
    assert_eq!(said(), no);
    nothing_is_left(&scene);
}

/// Fails when two programs have one display, a screen is lost, or anything is left after 5 seconds, however it ends.
#[test]
fn each_has_its_own_and_it_goes() {
    let Some(mut scene) = showing(Server::Incus6, "ends") else { return };
    let display = Display::start(&scene);
    let bob = format!("bob@{}", scene.container.name());
    for victim in Victim::EACH {
        let mut one = display.waiting(&scene, &["-Y"], &bob);
        let mut other = display.client(&scene, &["-Y"]);
        other.env("DISPLAY", format!(":{}.1", display.number)).args([&Scene::at(&bob), "echo $DISPLAY"]);
        let other = scene.talk(&mut other, b"").unwrap();
        assert_eq!(
            (one.display.as_str(), &other.stdout[..]),
            ("localhost:10.0", &b"localhost:11.1\n"[..]),
            "{victim:?}"
        );
        assert!(left(&scene).contains("/tmp/ssh-") && dial(&scene, local(one.port())).is_ok());
        scene.kill(victim, &mut one.child).unwrap();
        nothing_is_left(&scene);
        scene.recover().unwrap();
    }
}

/// Fails when a client that lends its display once is asked twice.
#[test]
fn a_single_connection_is_one() {
    let Some(scene) = showing(Server::Incus6, "single") else { return };
    let script = scene.path("single.py");
    fs::write(&script, include_str!("x11_single.py")).unwrap();
    let mut command = client("python3");
    let bob = format!("bob@{}", scene.container.name());
    command.arg(script).arg(scene.port.to_string()).arg(scene.path("key")).arg(bob);
    command.env("HOME", scene.path(".")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut single = scene.bed.netns().spawn(&mut command).unwrap();
    let mut said = BufReader::new(single.stdout.take().unwrap()).lines();
    let told = said.next().unwrap().unwrap();
    let (display, authority) = told.split_once(' ').unwrap();
    assert_eq!(display, "localhost:10.0");
    let (_, right) = cookie(&scene, authority);
    // Who may not come takes nobody's place.
    for shown in [[0; 16], right] {
        let mut stream = dial(&scene, local(6010)).unwrap();
        stream.write_all(&setup(&shown)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    assert_eq!(said.next().unwrap().unwrap(), "came from 127.0.0.1");
    wait_for("nobody listens", || dial(&scene, local(6010)).is_err().then_some(())).unwrap();
    single.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(said.next().is_none() && single.wait().unwrap().success());
    nothing_is_left(&scene);
}
