//! Completion in real shells, against a daemon, a silent one, and none.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::PORTWAY;
use crate::support::Place;

/// What bash would offer for a line, in the environment of `command`.
fn bash(command: &Command, line: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(PORTWAY, folder.path().join("portway")).unwrap();
    let script = "source <(portway completion bash)\n\
        COMP_LINE=$1 COMP_POINT=${#1}\n\
        compopt() { :; }\n\
        _portway\n\
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut shell = Command::new("bash");
    shell.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let output = shell.env("PATH", path).args(["--norc", "-c", script, "bash", line]).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Fails when the script does not take the part before the last `:` or `=` off, which bash keeps.
#[test]
fn bash_completes_instances_devices_and_keys() {
    let Some(place) = Place::start() else { return };
    let keys = ["listen=tcp:127.0.0.1:8001", "connect=tcp::7"];
    place.daemon.add(&place.instance, "web", &keys).unwrap();
    place.daemon.add(&place.instance, "www", &["listen=tcp:127.0.0.1:8002", "connect=tcp::7"]).unwrap();
    let command = place.daemon.command();
    let offered = |line: &str| bash(&command, line);
    assert_eq!(offered("portway dev"), ["device"]);
    let path = place.instance.strip_prefix("netns:").unwrap();
    assert_eq!(offered("portway device remove netns:/proc"), [path]);
    assert_eq!(offered(&format!("portway device show {} ", place.instance)), ["web", "www"]);
    assert_eq!(offered(&format!("portway device remove {} web w", place.instance)), ["web", "www"]);
    assert_eq!(offered("portway device set x web bind="), ["host", "instance"]);
    assert_eq!(offered("portway device set x web listen=u"), ["udp:", "unix:"]);
    assert!(offered("portway device add x web lis").contains(&"listen=".to_owned()));
    assert_eq!(offered("portway device list --format=j"), [""; 0]);
}

/// A daemon that takes connections and says nothing, and none at all: silence, soon.
///
/// Fails without the time limit of `completion::WAIT`: ten seconds pass.
#[test]
fn completion_never_hangs_and_says_nothing_when_nobody_answers() {
    let Some(mut place) = Place::start() else { return };
    place.daemon.terminate().unwrap();
    let command = place.daemon.command();
    assert_eq!(bash(&command, "portway device remove "), [""; 0]);
    let _silent = UnixListener::bind(place.daemon.dir().join("portway.sock")).unwrap();
    let begin = Instant::now();
    assert_eq!(bash(&command, "portway device remove "), [""; 0]);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    fs::remove_file(place.daemon.dir().join("portway.sock")).unwrap();
}
