//! Editors that work inside an instance over SSH. Emacs' TRAMP is the real one, Visual Studio Code's way is OpenSSH's
//! client called as that editor calls it, and JetBrains' is many channels of one connection by a library.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use portway_testkit::{Image, Ports, client, wait_for};

use crate::scene::Scene;
use crate::{driver, run, scene_of};

const TRAMP: &str = include_str!("drivers/tramp.el");
const CHANNELS: &str = include_str!("drivers/channels.py");
const SERVER: &str = include_str!("drivers/editor_server.sh");

/// TRAMP types into a shell and reads its prompt, sends files as text between its commands, and runs processes beside them.
///
/// Fails when a file is not as it was, or a prompt, a status or a line is not found.
#[test]
fn emacs_tramp_is_served() {
    let Some(scene) = scene_of(Image::Debian, "tramp") else { return };
    // OpenSSH's client reads its settings where the user database says, which is nobody's to write here.
    let options = scene.options("key").join(" ");
    let wrapper = format!("#!/bin/sh\nexec /usr/bin/ssh {options} \"$@\"\n");
    fs::create_dir(scene.path("bin")).unwrap();
    fs::write(scene.path("bin/ssh"), wrapper).unwrap();
    fs::set_permissions(scene.path("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(scene.path("tramp.el"), TRAMP).unwrap();
    let big: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    fs::write(scene.path("big"), &big).unwrap();
    let mut emacs = client("emacs");
    emacs
        .env("HOME", scene.path("."))
        .env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", scene.path("bin").display()));
    emacs.env("PLACE", format!("/ssh:{}#{}:", Scene::at(scene.container.name()), scene.port));
    emacs.env("HERE", scene.dir()).args(["--batch", "-Q", "-l"]).arg(scene.path("tramp.el"));
    let said = run(&scene, &mut emacs);
    assert!(said.ends_with("done\n"), "{said} {}", scene.log());
    assert!(fs::read(scene.path("back")).unwrap() == big, "{}", scene.log());
}

/// A script on standard input that starts a server, a proxy beside it that the editor reaches the server by, files that
/// are copied there by another connection.
///
/// Fails when something else is among what the script says, or the server goes with the connection that has started it.
#[test]
fn visual_studio_codes_way_is_served() {
    let Some(scene) = scene_of(Image::Debian, "code") else { return };
    let at = Scene::at(scene.container.name());
    let port_word = scene.port.to_string();
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let proxy = ports.one().unwrap();
    fs::write(scene.path("upload"), "from the editor\n").unwrap();
    let mut copy = client("scp");
    copy.args(scene.options("key")).args(["-P", &port_word]).arg(scene.path("upload"));
    run(&scene, copy.arg(format!("{at}:/root/upload")));
    let mut command = client("ssh");
    command.args(scene.options("key")).args(["-p", &port_word, "-T", "-D", &format!("127.0.0.1:{proxy}")]);
    command.args(["-o", "ConnectTimeout=15", &at, "bash"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut editor = scene.bed.netns().spawn(&mut command).unwrap();
    let mut input = editor.stdin.take().unwrap();
    input.write_all(SERVER.as_bytes()).unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(editor.stdout.take().unwrap()).lines() {
        said.push(line.unwrap());
        if said.last().is_some_and(|line| line.ends_with(": end")) {
            break;
        }
    }
    assert_eq!(said.first().map(String::as_str), Some("4f2a: start"), "{said:?} {}", scene.log());
    let port = said.iter().find_map(|line| line.strip_prefix("listeningOn==")?.strip_suffix("=="));
    let port: u16 = port.unwrap_or_else(|| panic!("{said:?}")).parse().unwrap();
    let page = |path: &str| {
        let dial =
            || scene.bed.netns().enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, proxy))).unwrap().ok();
        let mut stream = wait_for("the proxy", dial).unwrap();
        let mut answer = [0; 12];
        stream.write_all(&[5, 1, 0, 5, 1, 0, 3, 9]).unwrap();
        stream.write_all(b"localhost").unwrap();
        stream.write_all(&port.to_be_bytes()).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[3], 0, "{answer:?} {}", scene.log());
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    assert!(page("/upload").ends_with("from the editor\n"));
    // Many at a time, as its windows open them.
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert!(page("/upload").starts_with("HTTP/1.0 200")));
        }
    });
    drop(input);
    assert!(editor.wait().unwrap().success());
    let fetch =
        format!("import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/upload').read())");
    assert_eq!(scene.said(&format!("python3 -c \"{fetch}\"")).unwrap(), "b'from the editor\\n'\n");
}

/// Fails when one of many channels waits for another, or a name that an address of the web would have is not understood.
#[test]
fn jetbrains_way_is_served() {
    let Some(scene) = scene_of(Image::Debian, "ides") else { return };
    let login = format!("bob%40{}", scene.container.name());
    let said = run(&scene, &mut driver(&scene, CHANNELS, &login));
    assert_eq!(said, "done\n", "{}", scene.log());
}
