//! What is said, and with which exit code, when something is wrong.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::support::{FakeDaemon, Place, device};

const WEB: [&str; 2] = ["listen=tcp:0.0.0.0:80", "connect=tcp:127.0.0.1:80"];

#[test]
fn malformed_arguments_are_usage_errors_without_a_daemon() {
    let place = Place::new();
    let add = |rest: &[&'static str]| [&["device", "add"], rest].concat();
    let cases: Vec<Vec<&str>> = vec![
        vec!["devise"],
        vec!["device", "lst"],
        vec!["device", "add"],
        vec!["device", "list", "--fromat", "json"],
        vec!["device", "list", "--format", "jsn"],
        vec!["device", "list", "a", "b"],
        vec!["completion", "tcsh"],
        vec!["device", "rename", "c1", "web"],
        add(&["c1", "web", "listen"]),
        add(&["c1", "web", "disk", "path=/"]),
        add(&["c1", "web", "listen=tcp:0.0.0.0:70000", WEB[1]]),
        add(&["c1", "web", "proxy", "listen=tcp:0.0.0.0:0", WEB[1]]),
        add(&["c1", "web", "listen=tcp:localhost:80", WEB[1]]),
        add(&["c1", "web", WEB[0]]),
        add(&["c1", "web", WEB[0], WEB[0], WEB[1]]),
        add(&["c1", "web", WEB[0], WEB[1], "lisen=x"]),
        add(&["c1", "web", WEB[0], WEB[1], "hold=soon"]),
        add(&["c1", "web", WEB[0], WEB[1], "nat=true"]),
        add(&["c1", "web", WEB[0], WEB[1], "mode=0600"]),
        add(&["c1", "web", "listen=tcp::1-5", "connect=tcp::1-3"]),
        add(&["c1", "w b", WEB[0], WEB[1]]),
        add(&["foo:c1", "web", WEB[0], WEB[1]]),
        add(&["c_1", "web", WEB[0], WEB[1]]),
        add(&["", "web", WEB[0], WEB[1]]),
        add(&["a/c1", "web", WEB[0], WEB[1], "--project", "b"]),
        add(&["netns:blue", "web", WEB[0], WEB[1], "--project", "b"]),
        add(&["c1", "web", WEB[0], WEB[1], "--project", "a b"]),
        add(&["c1", "we\u{1b}[2Jb", WEB[0], WEB[1]]),
        vec!["device", "unset", "c1", "web", "hold=30s"],
        vec!["proxy", WEB[0]],
        vec!["proxy", "--project", "p", WEB[0], WEB[1]],
    ];
    let text: Vec<String> = cases.iter().map(|case| place.run(case)).collect();
    for said in &text {
        assert!(said.ends_with("[exit 2]\n"), "{said}");
        let (_, answer) = said.split_once('\n').unwrap();
        assert!(answer.lines().count() <= 3 && !answer.contains('\u{1b}'), "{said}");
    }
    insta::assert_snapshot!(text.join("\n").replace('\u{1b}', "<ESC>"));
}

#[test]
fn arguments_that_are_not_text_are_usage_errors() {
    let place = Place::new();
    for (words, odd) in [
        (&["device", "show"][..], &b"c\xff1"[..]),
        (&["device", "add", "c1", "web", "connect=tcp::80"], b"listen=unix:/run/\xff"),
        (&["device", "add", "c1", "web", "connect=tcp::80"], b"listen=unix:/run/\xc3"),
        (&["device", "set", "c1", "web"], b"connect=unix:@\xed\xa0\x80"),
        (&["proxy", "listen=tcp::80"], b"\xff=1"),
    ] {
        let output = place.command(words).arg(std::ffi::OsStr::from_bytes(odd)).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("error: ") && !said.contains("panicked"), "{words:?}: {said}");
    }
}

#[test]
fn a_daemon_that_is_not_there_is_exit_3() {
    let place = Place::new();
    let mut text = String::new();
    for arguments in
        [&["status"] as &[&str], &["device", "list"], &["device", "remove", "c1", "web"], &["events"]]
    {
        text.push_str(&place.run(arguments));
        text.push('\n');
    }
    let gone = place.path().join("gone");
    let output = place.command(&["status"]).env("PORTWAY_DIR", gone).output().unwrap();
    text.push_str(&place.seen(&["status"], &output));
    insta::assert_snapshot!(text);
}

#[test]
fn a_folder_that_cannot_be_trusted_is_refused() {
    let place = Place::new();
    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).unwrap();
    let mut text = place.run(&["status"]);
    let long = format!("/{}", "d".repeat(90));
    let output = place.command(&["status"]).env("PORTWAY_DIR", long).output().unwrap();
    text.push_str(&place.seen(&["status"], &output));
    insta::assert_snapshot!(text);
}

#[test]
fn settings_are_checked_before_anything_starts() {
    let place = Place::new();
    fs::write(place.path().join("portway.toml"), "[daemon]\nlogs = \"info\"\n").unwrap();
    insta::assert_snapshot!(place.run(&["daemon"]));
}

#[test]
fn the_kind_of_a_refusal_is_the_exit_code() {
    let place = Place::new();
    let _daemon = FakeDaemon::start(&place, |request| {
        let kind = request.line.rsplit('/').next().unwrap().to_owned();
        let status = match kind.as_str() {
            "usage" => 400,
            "refused" => 409,
            "missing" => 404,
            "unreachable" => 503,
            _ => 500,
        };
        let hint = (kind == "refused").then_some("take another\nport");
        (
            status,
            serde_json::json!({"kind": kind, "error": format!("it is {kind}"), "hint": hint}).to_string(),
        )
    });
    for (kind, code) in [("usage", 2), ("refused", 1), ("missing", 4), ("unreachable", 3), ("internal", 1)] {
        let text = place.run(&["device", "show", "c1", kind]);
        let hint = if kind == "refused" { "hint: take another port\n" } else { "" };
        assert_eq!(
            text,
            format!("$ portway device show c1 {kind}\nerror: it is {kind}\n{hint}[exit {code}]\n")
        );
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let place = Place::new();
    let _daemon = FakeDaemon::start(&place, |_| {
        let many: Vec<_> = (0..5000).map(|number| device(&format!("d{number}"), "active", None)).collect();
        (200, serde_json::Value::from(many).to_string())
    });
    for format in ["table", "json", "yaml", "csv"] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = place
            .command(&["device", "list", "--format", format])
            .stdout(Stdio::from(writer))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    for arguments in [&["--help"] as &[&str], &["completion", "bash"], &["doctor"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = place.command(arguments).stdout(Stdio::from(writer)).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn a_full_disk_is_told() {
    let place = Place::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = place.command(&["completion", "zsh"]).stdout(full).output().unwrap();
    insta::assert_snapshot!(place.seen(&["completion", "zsh"], &output));
}

/// Catalogue: addresses, modes, ranges and names, each refused as malformed before anybody is asked.
/// Leading zeros of a port are decimal, as with Incus.
#[test]
fn the_catalogue_of_malformed_values_is_refused() {
    let place = Place::new();
    let long = "a".repeat(300);
    let path = format!("unix:/{}", "a".repeat(107));
    let listens = [
        "tcp:0.0.0.0:99999",
        "tcp:0.0.0.0:-1",
        "tcp:0.0.0.0:0x50",
        "tcp:0.0.0.0:0",
        "tcp:localhost:80",
        "tcp:[fe80::1]:80",
        "tcp:::1:80",
        "tcp:0177.0.0.1:80",
        "tcp:1:80",
        "unix:run/a",
        "unix:/run/../a",
        path.as_str(),
        "tcp::89-80",
        "tcp::80-89,85",
    ];
    let mut cases: Vec<[String; 4]> = Vec::new();
    let mut case = |name: &str, keys: [&str; 3]| {
        cases.push([name, keys[0], keys[1], keys[2]].map(str::to_owned));
    };
    for listen in listens {
        case("web", [&format!("listen={listen}"), WEB[1], "hold=1s"]);
    }
    case("web", ["listen=tcp::80-89", "connect=tcp::8080-8084", "hold=1s"]);
    case("web", [WEB[0], "connect=tcp:localhost:80", "hold=1s"]);
    for bad in ["mode=4777", "mode=9999", "mode=-1", "uid=4294967295", "uid=-1", "gid=4294967296"] {
        case("web", ["listen=unix:/run/a", WEB[1], bad]);
    }
    for bad in ["hold=-1s", "hold=1e308", "connect.timeout=0", "udp.max_flows=0", "security.uid=root"] {
        case("web", [WEB[0], WEB[1], bad]);
    }
    for name in ["a\nb", long.as_str(), "we\u{202e}b", "", "c1; nft flush ruleset", "../x y"] {
        case(name, [WEB[0], WEB[1], "hold=1s"]);
    }
    let mut accepted = Vec::new();
    for [name, listen, connect, more] in &cases {
        let words = ["device", "add", "netns:blue", "--", name, listen, connect, more];
        let output = place.command(&words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(2) {
            accepted.push(words.join(" "));
        }
        assert!(error.starts_with("error: ") && error.lines().count() <= 2 && error.len() < 1000, "{error}");
    }
    assert_eq!(accepted, [""; 0]);
    for instance in ["../../etc/x", "a\nb", "-rf", &long, "c1\u{202e}", "", "c1; nft flush ruleset"] {
        let words = ["device", "add", "--", instance, "web", WEB[0], WEB[1]];
        let output = place.command(&words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
        assert!(!error.contains('\u{202e}'), "{error}");
    }
}

/// Catalogue: settings and lists that are no files, or not of ours. Nothing hangs.
///
/// Fails when either is opened like an ordinary file: the pipe hangs.
#[test]
fn files_that_are_none_are_refused_at_once() {
    let place = Place::new();
    let file = place.path().join("portway.toml");
    let put = |bytes: &[u8]| fs::write(&file, bytes).unwrap();
    let gone = || fs::remove_file(&file).or_else(|_| fs::remove_dir(&file)).unwrap();
    let check = |what: &str, code: i32, text: &str| {
        for words in [&["daemon"] as &[&str], &["apply", "-f", file.to_str().unwrap()]] {
            let output = place.command(words).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{what}, {words:?}: {error}");
            assert!(error.contains(text) && error.starts_with("error: "), "{what}, {words:?}: {error}");
        }
    };
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    check("a pipe", 2, "is a pipe, not a file");
    gone();
    fs::create_dir(&file).unwrap();
    check("a folder", 2, "is a folder, not a file");
    gone();
    std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
    check("endless zeros", 2, "is a device, not a file");
    gone();
    File::create(&file).unwrap().set_len(100 << 20).unwrap();
    check("100 MB", 2, "is larger than");
    gone();
    put(b"\xef\xbb\xbf");
    check("a byte order mark", 2, ":1:1: a byte order mark");
    put(b"a\0");
    check("NUL", 2, ":1:2: a NUL byte");
    put(b"# \xff");
    check("no UTF-8", 2, ":1:3: a byte that is not UTF-8");
    put(b"x = [");
    check("half a file", 2, ":1:");
    put(format!("x = {}", "[".repeat(10_000)).as_bytes());
    check("depth 10,000", 2, "portway.toml:");
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    check("everybody's", 1, "can be written by others (mode 0666)");
}
