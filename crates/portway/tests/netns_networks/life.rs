//! Who a network is, what becomes of it when it is killed, and when its daemon is.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Daemon, process, wait_for};

use crate::bed::{Bed, answers, network_when, pid, running, says};

const RULE: &str = "ingress = [\"tcp:80:127.0.0.1:8080\"]\negress = [\"tcp:127.0.0.1:9000:10.77.0.2:9000\"]";

/// One line of `/proc/PID/status`.
fn status(pid: i32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

/// It and the processes that it has started.
fn family(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = threads.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    let children: String = children.collect();
    std::iter::once(pid).chain(children.split_whitespace().map(|child| child.parse().unwrap())).collect()
}

/// What Prometheus reads of the daemon.
fn metrics(daemon: &Daemon) -> String {
    let mut stream = UnixStream::connect(daemon.dir().join("portway.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Fails when: rules of the file are not served, a network keeps anything of root, one that is killed stays so, or
/// `portway mesh` and Prometheus do not find it.
#[test]
fn a_network_is_nobody_and_comes_back() {
    let bed = Bed::new();
    // What this host has of the network's addresses is said, and no more.
    bed.a.ip("addr add 10.77.0.4/32 dev lo").unwrap();
    let daemon = bed.daemon(&bed.home(RULE));
    let _other = bed.other();
    let first = running(&daemon);
    let clash = "10.77.0.0/24 of the network overlaps 10.77.0.4/32 of lo on this host";
    assert!(daemon.log().contains(clash), "{}", daemon.log());
    assert!(answers(&mut bed.call(8000)));
    let before = pid(&first);
    // Whoever of its family is looked at: its stack has a user namespace of its own, and is that user outside of it.
    assert_eq!(status(before, "Uid"), "65534 65534 65534 65534");
    assert_eq!(status(before, "Gid"), "65534 65534 65534 65534");
    assert_eq!(status(before, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(before, set), "0000000000000000", "{set}");
    }
    let family = family(before);
    assert_eq!(family.len(), 3, "it, its worker, its stack");
    for member in family {
        assert_eq!(status(member, "NoNewPrivs"), "1", "{member}");
        // Its namespaces are out of reach for whoever else is that user.
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "readlink", "-v"]);
        let found = other.arg(format!("/proc/{member}/ns/net")).output().unwrap();
        assert!(String::from_utf8_lossy(&found.stderr).contains("Permission denied"), "{member}: {found:?}");
    }
    // All it has is one folder, below one of root's; its key is root's, and so is its socket.
    let folder = daemon.dir().join("mesh/home");
    assert_eq!(fs::read_link(format!("/proc/{before}/cwd")).unwrap(), folder);
    assert_eq!(fs::metadata(&folder).unwrap().uid(), 65_534);
    for (path, mode) in [(bed.dir.path().join("a.toml"), 0o600), (daemon.dir().join("mesh-home.sock"), 0o600)]
    {
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777), (0, mode), "{}", path.display());
    }
    assert_eq!(fs::metadata(daemon.dir()).unwrap().mode() & 0o077, 0);
    let shown = network_when(&daemon, "a handshake", |it| it["peers"][0]["handshake_seconds"].is_u64());
    assert_eq!((&shown["rules"], &shown["engine"]), (&2.into(), &"kernel".into()), "{shown}");
    assert!(says(&daemon, &["mesh", "status", "--name", "home"]).starts_with("home: engine kernel"));
    assert!(says(&daemon, &["status"]).contains("home     running"), "{}", says(&daemon, &["status"]));
    let doctor = String::from_utf8(daemon.cli(&["doctor", "--format", "csv"]).unwrap().stdout).unwrap();
    assert!(doctor.contains("mesh,ok,network home runs,"), "{doctor}");
    let metrics = metrics(&daemon);
    assert!(metrics.contains("portway_mesh_up{network=\"home\"} 1\n"), "{metrics}");
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    let again = network_when(&daemon, "another one", |it| it["state"] == "running" && pid(it) != before);
    assert_eq!(again["restarts"], 1);
    assert!(answers(&mut bed.call(8000)));
    let log = daemon.log();
    assert!(log.contains("its process was ended by signal 9"), "{log}");
}

/// Fails when: a daemon that is killed or replaced costs a connection, starts a second process, or cannot end the first.
#[test]
fn a_network_outlives_its_daemon() {
    let bed = Bed::new();
    let mut daemon = bed.daemon(&bed.home(RULE));
    let _other = bed.other();
    let first = pid(&running(&daemon));
    let mut stream = bed.call(8000);
    daemon.kill().unwrap();
    assert!(answers(&mut stream));
    daemon.launch().unwrap();
    assert_eq!(pid(&running(&daemon)), first);
    assert!(answers(&mut stream), "{}", daemon.log());
    daemon.terminate().unwrap();
    assert!(answers(&mut stream));
    assert!(process::is_alive(first));
    // It is not wanted any more when the next daemon comes: it ends with its connections, and not before.
    fs::write(daemon.dir().join("portway.toml"), "").unwrap();
    daemon.launch().unwrap();
    network_when(&daemon, "it is ending", |it| it["state"] == "ending");
    assert!(answers(&mut stream));
    drop(stream);
    wait_for("its end", || (!process::is_alive(first)).then_some(())).unwrap();
    wait_for("no trace of it", || crate::bed::network(&daemon, "home").is_none().then_some(())).unwrap();
    assert!(!daemon.dir().join("mesh-home.sock").exists());
}

/// Fails when: a purge leaves a network, or a daemon that has gone is waited for.
#[test]
fn a_purge_ends_networks() {
    let bed = Bed::new();
    let mut daemon = bed.daemon(&bed.home(RULE));
    let first = pid(&running(&daemon));
    daemon.terminate().unwrap();
    says(&daemon, &["daemon", "--purge"]);
    assert!(!process::is_alive(first));
    assert!(!daemon.dir().join("mesh-home.json").exists());
}
