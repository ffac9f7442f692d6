//! What of `portway compose` looks at services, and runs something in them, on a real server. The instances are made
//! here as the project's own commands make them: with labels, and with Portway's first process.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use portway_proto::service::{DIR, PROGRAM, SPEC, Spec};
use portway_testkit::{Bed, Container, ContainerSpec, bed, is_root, wait_for};
use tempfile::TempDir;

/// The program under test.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");

/// Of the service: it speaks, waits, and ends when it is told to.
const SCRIPT: &str =
    "echo first; echo second >&2; trap 'echo last; exit 3' TERM; echo ready; while :; do sleep 0.05; done";

/// A project of one service with two replicas.
struct Scene {
    bed: &'static Bed,
    project: String,
    replicas: Vec<Container<'static>>,
    dir: TempDir,
}

impl Scene {
    fn open() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let bed = if is_root() { bed()? } else { return None };
        let project = format!("inside-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let replicas = [1, 2].map(|index| replica(bed, &project, index)).into();
        Some(Self { bed, project, replicas, dir: tempfile::tempdir().unwrap() })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PORTWAY);
        command.env_clear().env("PORTWAY_DIR", self.dir.path()).env("INCUS_SOCKET", self.bed.socket());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HANDED", "over");
        command.args(["compose", "-p", &self.project]).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of what has to succeed.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit status and standard error of what has to fail.
    fn failed(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    fn until_ready(&self) {
        let ready = || (self.said(&["logs"]).matches("| ready").count() == 2).then_some(());
        wait_for("the service", ready).unwrap();
    }
}

fn replica(bed: &'static Bed, project: &str, index: u32) -> Container<'static> {
    let config = [
        ("user.portway.project", project.to_owned()),
        ("user.portway.service", "web".to_owned()),
        ("user.portway.index", index.to_string()),
        ("raw.lxc", format!("lxc.init.cmd = {DIR}/{PROGRAM} service {DIR}")),
    ];
    let keys = |of: &[(&str, &str)]| -> BTreeMap<String, String> {
        of.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let published =
        keys(&[("type", "proxy"), ("listen", "tcp:127.0.0.1:1"), ("connect", "tcp:127.0.0.1:80")]);
    let unstarted = index == 3;
    let devices = if unstarted { [("web".to_owned(), published)].into() } else { BTreeMap::new() };
    let config = config.map(|(key, value)| (key.to_owned(), value)).into();
    let spec = ContainerSpec { config, devices, stopped: true, ..ContainerSpec::default() };
    let container = bed.launch(&format!("inside{index}"), &spec).unwrap();
    let own = container.rootfs().join(DIR.trim_start_matches('/'));
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    let bytes = |of: &[&str]| of.iter().map(|text| text.as_bytes().to_vec()).collect();
    let service = Spec {
        args: bytes(&["sh", "-c", SCRIPT]),
        env: bytes(&["OWN=of the service"]),
        cwd: b"/home/bob".to_vec(),
        user: b"bob".to_vec(),
        ..Spec::default()
    };
    let program = portway_guestbin::program(std::env::consts::ARCH).unwrap();
    for (name, bytes) in [(PROGRAM, program), (SPEC, &service.write().unwrap()[..])] {
        fs::write(own.join(name), bytes).unwrap();
        fs::set_permissions(own.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    if !unstarted {
        container.start().unwrap();
    }
    container
}

/// Fails when a status is not the program's, or it does not run as the service does.
#[test]
fn exec_runs_beside_the_service() {
    let Some(scene) = Scene::open() else { return };
    for status in [0, 1, 7, 127, 255] {
        let output =
            scene.run(&["exec", "web", "sh", "-c", &format!("echo out; echo error >&2; exit {status}")]);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"error\n"[..]));
    }
    assert_eq!(scene.run(&["exec", "web", "/no/such"]).status.code(), Some(127));
    let told = scene.said(&["exec", "web", "sh", "-c", "id -un; pwd; echo $OWN; hostname"]);
    assert_eq!(told, format!("bob\n/home/bob\nof the service\n{}\n", scene.replicas[0].name()));
    let words =
        ["exec", "--index", "2", "-u", "root:audio", "-w", "/srv", "-e", "OWN=x y", "-e", "HANDED", "web"];
    let program = ["sh", "-c", "id -u; id -g; pwd; echo $OWN $HANDED; hostname"];
    let told = scene.said(&[&words[..], &program[..]].concat());
    assert_eq!(told, format!("0\n29\n/srv\nx y over\n{}\n", scene.replicas[1].name()));

    let mut cat = scene.command(&["exec", "-T", "web", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut input = cat.stdin.take().unwrap();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&copy).unwrap());
    let output = cat.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success() && output.stdout == sent, "{} bytes", output.stdout.len());

    scene.said(&["exec", "-d", "web", "sh", "-c", "sleep 0.2; touch /tmp/detached"]);
    let there = || scene.replicas[0].sh("ls /tmp/detached").ok();
    wait_for("what runs on", there).unwrap();
    for (arguments, status, part) in [
        (&["exec", "db", "true"][..], 4, "no instance of the service db"),
        (&["exec", "--index", "3", "web", "true"], 4, "no replica with number 3"),
        (&["exec", "-u", "eve", "web", "true"], 1, "no user eve"),
        (&["exec", "-e", "=x", "web", "true"], 2, "its name is missing"),
        (&["exec", "--index", "0", "web", "true"], 2, "index"),
    ] {
        let (code, said) = scene.failed(arguments);
        assert!(code == Some(status) && said.contains(part), "{arguments:?}: {code:?} {said}");
    }
    scene.replicas[0].kill().unwrap();
    let (code, said) = scene.failed(&["exec", "--index", "1", "web", "true"]);
    assert!(code == Some(1) && said.contains("does not run"), "{said}");
}

/// Fails when a line is lost, shown twice, or not the service's; when following does not end with the service.
#[test]
fn logs_are_what_was_said() {
    let Some(scene) = Scene::open() else { return };
    scene.until_ready();
    let all = scene.said(&["logs"]);
    for replica in &scene.replicas {
        let of = |line: &&str| line.starts_with(&format!("{}  | ", replica.name()));
        let mut own: Vec<&str> =
            all.lines().filter(of).filter_map(|line| line.split("  | ").nth(1)).collect();
        // Two outputs have no order between them.
        own.sort_unstable();
        assert_eq!(own, ["first", "ready", "second"], "{all}");
    }
    assert_eq!(all.lines().count(), 6);
    let last = scene.said(&["logs", "--index", "2", "-n", "2", "--no-log-prefix", "web"]);
    assert!(last.lines().count() == 2 && last.contains("ready"), "{last}");
    let timed = scene.said(&["logs", "--index", "1", "-t", "--no-log-prefix"]);
    let times: Vec<&str> = timed.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(times.iter().all(|time| time.len() == 30 && time.ends_with('Z')), "{timed}");
    let later = scene.said(&["logs", "--index", "1", "--no-log-prefix", "--since", times[2]]);
    assert_eq!(later.lines().count(), 1, "{later}");
    assert_eq!(scene.said(&["logs", "--since", "2100-01-01"]), "");
    for arguments in [&["logs", "--tail", "x"][..], &["logs", "--since", "yesterday"]] {
        assert_eq!(scene.failed(arguments).0, Some(2), "{arguments:?}");
    }

    let mut follow = scene.command(&["logs", "-f", "--no-log-prefix", "--index", "1"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said: Vec<String> = lines.by_ref().take(3).collect();
    assert!(said.contains(&"ready".to_owned()), "{said:?}");
    scene.replicas[0].stop().unwrap();
    assert_eq!(lines.collect::<Vec<_>>(), ["last"], "what it says at its end, once");
    assert!(follow.wait().unwrap().success());
    assert!(scene.said(&["logs", "--index", "1"]).ends_with("| last\n"), "also of one that does not run");
}

#[test]
fn lists_are_of_the_project() {
    let Some(mut scene) = Scene::open() else { return };
    scene.until_ready();
    let third = replica(scene.bed, &scene.project, 3);
    scene.replicas.push(third);
    let listed: serde_json::Value =
        serde_json::from_str(&scene.said(&["ls", "-a", "--format", "json"])).unwrap();
    let own = listed.as_array().unwrap().iter().find(|one| one["Name"] == scene.project.as_str()).unwrap();
    assert_eq!(own["Status"], "running(2), exited(1)");
    assert!(scene.said(&["ls", "-q"]).lines().any(|line| line == scene.project));

    let images: serde_json::Value =
        serde_json::from_str(&scene.said(&["images", "--format", "json"])).unwrap();
    assert_eq!(images.as_array().unwrap().len(), 3);
    assert!(images[0]["Repository"].as_str().is_some_and(|name| !name.is_empty()), "{images}");
    assert_eq!(scene.said(&["images", "-q"]).lines().count(), 1, "all of one");
    assert_eq!(scene.said(&["volumes", "-q"]), "");

    assert_eq!(scene.said(&["port", "--index", "3", "web", "80"]), "127.0.0.1:1\n");
    let (code, said) = scene.failed(&["port", "--index", "3", "--protocol", "udp", "web", "80"]);
    assert!(code == Some(1) && said.contains("port 80/udp"), "{said}");

    let top = scene.said(&["top"]);
    assert!(top.matches("/.portway/init").count() == 2, "{top}");
    let stats = scene.said(&["stats", "--no-stream", "--format", "json"]);
    let rows: Vec<serde_json::Value> =
        stats.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2, "those that run: {stats}");
    assert!(rows.iter().all(|row| row["PIDs"].as_u64().is_some_and(|count| count >= 2)), "{stats}");
    assert!(scene.said(&["stats", "--no-stream"]).contains("MEM USAGE"));
}
