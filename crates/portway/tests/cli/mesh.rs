//! `portway mesh`: keys, files, what they mean and what they are refused with.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::support::Place;

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const WG: &str = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\nAddress = 10.9.0.1/24\n\
    ListenPort = 51820\nPostUp = x\n[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n\
    AllowedIPs = 10.9.0.2/32\nEndpoint = b.example:51820\n";

/// The name of a file of this place with this text, which nobody else can read.
fn file(place: &Place, name: &str, text: &str) -> String {
    let path = place.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn pubkey(place: &Place, text: &str) -> String {
    let mut command = place.command(&["mesh", "pubkey"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    place.seen(&["mesh", "pubkey"], &child.wait_with_output().unwrap())
}

#[test]
fn keys_are_made_and_read() {
    let place = Place::new();
    let key = |command: &str| place.run(&["mesh", command]).lines().nth(1).unwrap().to_owned();
    for command in ["genkey", "genpsk"] {
        let (one, two) = (key(command), key(command));
        assert_eq!((one.len(), one == two), (44, false));
    }
    let public = pubkey(&place, &format!("{KEY}\n"));
    assert_eq!(public, "$ portway mesh pubkey\nHIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=\n");
    let refused = pubkey(&place, &KEY[1..]);
    let wanted = "$ portway mesh pubkey\nerror: standard input: private key: a key has 44 characters, this has 43\n[exit 2]\n";
    assert_eq!(refused, wanted);
}

#[test]
fn a_network_is_printed_in_every_format_without_its_secrets() {
    let place = Place::new();
    let config = file(&place, "wg0.conf", WG);
    let mut text = String::new();
    for format in ["table", "json", "yaml", "csv"] {
        let rules = ["--ingress", "TCP:443:localhost:8443", "--egress", "udp:127.0.0.1:5353:10.9.0.2:53"];
        let arguments = [&["mesh", "check", "--config", &config, "--format", format][..], &rules].concat();
        text.push_str(&place.run(&arguments));
        text.push('\n');
    }
    assert!(!text.contains(KEY));
    insta::assert_snapshot!(text);
}

#[test]
fn every_fault_has_its_exit_code() {
    let place = Place::new();
    let config = file(&place, "wg0.conf", WG);
    let open = file(&place, "open.conf", WG);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let broken = file(&place, "broken.toml", "private_key = \"x\"\nadresses = []\n");
    let mut text = String::new();
    for arguments in [
        &[][..],
        &["--config", "/nowhere.conf"],
        &["--config", &open],
        &["--config", &broken],
        &["--config", "/dev/zero"],
        &["--config", &config, "--egress", "tcp:80:localhost:80"],
        &["--config", &config, "--egress", "tcp:80:10.8.0.1:80"],
        &["--config", &config, "--ingress", "tcp:80"],
    ] {
        text.push_str(&place.run(&[&["mesh", "check"], arguments].concat()));
    }
    insta::assert_snapshot!(text);
}

/// Fails when: a user without privilege is told of a port below 1024 by anything but an error and a hint.
#[test]
fn a_low_port_is_refused_with_a_hint() {
    use std::os::unix::process::CommandExt as _;
    if !portway_testkit::is_root() {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let config = file(&place, "wg0.conf", WG);
    std::os::unix::fs::chown(&config, Some(65_534), Some(65_534)).unwrap();
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let first: u16 = start.trim().parse().unwrap();
    if first < 2 {
        return;
    }
    let rule = format!("tcp:{}:10.9.0.2:80", first - 1);
    let arguments = ["mesh", "check", "--config", &config, "--egress", &rule];
    let output = place.command(&arguments).uid(65_534).gid(65_534).output().unwrap();
    let said = place.seen(&arguments, &output);
    let wanted = format!(
        "error: --egress: cannot listen on tcp:{}: ports below {first} need a privilege\nhint: listen on a port from {first}, ",
        first - 1
    );
    assert!(said.contains(&wanted) && said.ends_with("[exit 1]\n"), "{said}");
    let said = place.run(&arguments);
    assert!(!said.contains("exit"), "root may: {said}");
}

#[test]
fn a_pair_is_made_once() {
    let place = Place::new();
    let dir = place.path().to_str().unwrap().to_owned();
    let arguments = ["mesh", "genconf", "a=a.example", "b", "--service", "tcp:8080", "--dir", &dir];
    let said = place.run(&arguments);
    assert!(said.ends_with("DIR/a.toml written\nDIR/b.toml written\n"), "{said}");
    for name in ["a.toml", "b.toml"] {
        let path = place.path().join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let said = place.run(&["mesh", "check", "--config", path.to_str().unwrap()]);
        assert!(!said.contains("[exit") && !said.contains("warning"), "{said}");
    }
    let before = fs::read(place.path().join("b.toml")).unwrap();
    fs::remove_file(place.path().join("a.toml")).unwrap();
    let said = place.run(&arguments);
    assert!(said.contains("error: DIR/b.toml is there, and nothing is overwritten\n[exit 1]\n"), "{said}");
    assert!(!place.path().join("a.toml").exists(), "half a pair stays away");
    assert_eq!(fs::read(place.path().join("b.toml")).unwrap(), before);
    let said = place.run(&["mesh", "genconf", "a", "b"]);
    assert!(said.contains("error: neither node has a host") && said.ends_with("[exit 2]\n"), "{said}");
}

/// What is to be logged is checked before anything starts, and where it was said is named.
#[test]
fn what_is_logged_is_checked() {
    let place = Place::new();
    let config = file(&place, "wg0.conf", WG);
    let said = place.run(&["mesh", "proxy", "--config", &config, "--log", "loud"]);
    let why =
        "log level \"loud\" is unknown, expected one of off, error, warn, info, debug, trace\n[exit 2]\n";
    assert!(said.ends_with(&format!("error: --log: {why}")), "{said}");
    let mut command = place.command(&["mesh", "proxy", "--config", &config]);
    let output = command.env("PORTWAY_LOG", "loud").output().unwrap();
    let said = place.seen(&["mesh", "proxy"], &output);
    assert!(said.ends_with(&format!("error: PORTWAY_LOG: {why}")), "{said}");
}
