//! Standard output that is closed, full, or read by somebody who leaves; input that is too much.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{FakeDaemon, Place, Request, device};

/// Enough of everything that no pipe holds what is printed.
fn plenty(request: &Request) -> (u16, String) {
    let devices = || (0..5000).map(|number| device(&format!("d{number}"), "active", None));
    let answer = match request.line.as_str() {
        "GET /1.0/devices" | "GET /1.0/devices?instance=incus%3Adefault%2Fc1" => devices().collect::<Value>(),
        "GET /1.0/import?instance=incus%3Adefault%2Fc1" => {
            let one = |number: u32| {
                json!({"instance": "incus:default/c1", "name": format!("d{number}"), "place": "instance",
                    "progress": "ready", "keys": {"listen": "tcp::80", "connect": "tcp::80"}, "notes": [],
                    "reason": null, "state": null})
            };
            (0..5000).map(one).collect()
        }
        "GET /1.0/events" => {
            let event = json!({"at": "2026-11-20T10:00:00Z", "kind": "device-state", "instance": "incus:default/c1",
                "device": "web", "text": "active"});
            return (200, format!("data: {event}\n\n").repeat(5000));
        }
        "GET /1.0" => json!({
            "api": "1.0", "version": "0.1.0", "pid": 812, "uptime_seconds": 185, "generation": 17,
            "devices": {"active": 1, "waiting": 1, "degraded": 0, "failed": 0}, "providers": [], "workers": [],
            "keeper_pid": 813, "warnings": [],
        }),
        "POST /1.0/apply" => json!({"applied": true, "generation": 18, "plan": []}),
        "DELETE /1.0/devices/incus%3Adefault%2Fc1/web" => json!({}),
        _ => device("web", "active", None),
    };
    (200, answer.to_string())
}

const KEYS: [&str; 2] = ["listen=tcp::80", "connect=tcp::80"];

/// Every family of commands that print something.
fn families() -> Vec<Vec<&'static str>> {
    vec![
        vec!["--help"],
        vec!["--version"],
        vec!["device", "add", "--help"],
        vec!["completion", "bash"],
        vec!["complete-words", "--", "dev"],
        vec!["status"],
        vec!["status", "--format", "json"],
        vec!["device", "list"],
        vec!["device", "list", "--format", "csv"],
        vec!["device", "show", "c1", "web", "--format", "yaml"],
        vec!["device", "add", "c1", "web", KEYS[0], KEYS[1]],
        vec!["device", "set", "c1", "web", "hold=5s"],
        vec!["device", "remove", "c1", "web"],
        vec!["device", "import", "c1", "--dry-run"],
        vec!["top", "-n", "1"],
        vec!["events"],
        vec!["doctor"],
        vec!["apply", "-f", "-"],
    ]
}

/// Runs a command with something to read and this as its output.
fn run(mut command: Command, output: Stdio) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(output).stderr(Stdio::piped()).spawn().unwrap();
    // Most read nothing.
    let _ = child.stdin.take().unwrap().write_all(b"devices: []\n");
    child.wait_with_output().unwrap()
}

/// Catalogue: `/dev/full`. Every command says so, and ends with 1.
///
/// Fails when: a write or the last flush is not looked at.
#[test]
fn no_command_takes_a_full_disk_for_success() {
    let place = Place::new();
    let _daemon = FakeDaemon::start(&place, plenty);
    for words in families() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = run(place.command(&words), Stdio::from(full));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {error}");
        assert_eq!(error, "error: cannot write to standard output: No space left on device\n", "{words:?}");
    }
}

/// Catalogue: a reader that takes one line and leaves. The rest is nobody's: it ends quietly with 1.
///
/// Fails when: the broken pipe is a panic, a signal or a message.
#[test]
fn a_reader_that_leaves_after_a_line() {
    let place = Place::new();
    let _daemon = FakeDaemon::start(&place, plenty);
    for words in [
        &["device", "list"] as &[&str],
        &["device", "list", "--format", "json"],
        &["device", "list", "--format", "yaml"],
        &["device", "list", "--format", "csv"],
        &["device", "show", "c1"],
        &["device", "import", "c1", "--dry-run"],
        &["events"],
    ] {
        let mut child = place.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(!line.is_empty());
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
    }
}

/// Catalogue: standard output is closed (`>&-`). What is printed goes nowhere: above all not into the first
/// file or socket that is opened, which would be number 1.
///
/// Fails when: something is opened before the runtime has filled the places of the three streams.
#[test]
fn a_closed_output_is_no_other_file() {
    let place = Place::new();
    let daemon = FakeDaemon::start(&place, plenty);
    for words in families() {
        daemon.seen.lock().unwrap().clear();
        let inner = place.command(&words);
        let mut command = Command::new("/bin/sh");
        command
            .env_clear()
            .args(["-c", "exec \"$@\" >&-", "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = run(command, Stdio::piped());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some() && !error.contains("panicked"), "{words:?}: {output:?}");
        assert!(output.stdout.is_empty());
        let seen = daemon.seen.lock().unwrap().join("\n");
        assert!(!seen.contains("portway 0.") && !seen.contains("NAME"), "{words:?}: {seen}");
    }
}

/// Bytes that a malformed file may cost, in KiB as `ulimit` counts them: 64 MiB of data.
const DATA_KIB: u32 = 64 << 10;

/// Catalogue: 100 MB, deep nesting, bytes that are no text, and bombs, as a file and as standard input. Each is
/// refused as malformed by a process that may not have more than 64 MiB.
///
/// Fails when: a file is read before its size is known, or standard input without an end.
#[test]
fn malformed_input_costs_little_memory() {
    let place = Place::new();
    let file = place.path().join("devices.yaml");
    let megabytes = |count: usize, unit: &[u8]| unit.repeat((count << 20) / unit.len());
    let ended_by = |mut bytes: Vec<u8>, end: &[u8]| {
        bytes.extend_from_slice(end);
        bytes
    };
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let before = format!("*a{}, ", level - 1).repeat(9);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", ")));
    }
    bomb.push_str("devices: *a9\n");
    for (what, bytes) in [
        ("100 MB", megabytes(100, b"# nothing\n")),
        ("100 MB on one line", megabytes(100, b"a")),
        ("15 MB of depth", megabytes(15, b"[")),
        ("15 MB of a list in a list", megabytes(15, b"- ")),
        ("not UTF-8 behind 15 MB", ended_by(megabytes(15, b"# nothing\n"), b"\xff")),
        ("NUL behind 15 MB", ended_by(megabytes(15, b"# nothing\n"), b"\0")),
        ("a byte order mark", b"\xef\xbb\xbfdevices: []\n".to_vec()),
        ("depth 10,000", [b"devices: ".to_vec(), b"[".repeat(10_000), b"]".repeat(10_000)].concat()),
        ("a bomb", bomb.into_bytes()),
        ("nothing", Vec::new()),
    ] {
        std::fs::write(&file, &bytes).unwrap();
        for name in [file.to_str().unwrap(), "-"] {
            let inner = place.command(&["apply", "-f", name]);
            let mut command = Command::new("/bin/sh");
            let script = format!("ulimit -d {DATA_KIB} && exec \"$@\"");
            command.env_clear().args(["-c", &script, "sh"]).arg(inner.get_program()).args(inner.get_args());
            command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command.stdin(File::open(&file).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut error = String::new();
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(2), "{what}, {name}: {error:.300}");
            assert!(error.starts_with("error: ") && error.len() < 1000, "{what}, {name}: {error:.300}");
        }
    }
}
