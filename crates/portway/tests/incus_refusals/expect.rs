//! What a refusal looks like, and what it must leave: nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;

use portway_testkit::{Addr, Behaviour, Rig, Service, Site, check, wait_for};

/// Exit code of something refused: a conflict with the world.
pub(crate) const REFUSED: i32 = 1;

/// Exit code of something malformed.
pub(crate) const USAGE: i32 = 2;

/// Exit code of something that does not exist.
pub(crate) const MISSING: i32 = 4;

/// One `error:` line, perhaps a `hint:`, nothing else; the exit code, and every text in it.
pub(crate) fn says(output: &Output, code: i32, texts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let lines: Vec<&str> = error.lines().collect();
    assert!(lines[0].starts_with("error: "), "{error}");
    assert!(lines.len() == 1 || (lines.len() == 2 && lines[1].starts_with("hint: ")), "{error}");
    for text in texts {
        assert!(error.contains(text), "no `{text}` in: {error}");
    }
}

/// Everything a failed command could leave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    devices: String,
    generation: String,
    state: Option<Vec<u8>>,
    workers: Vec<i32>,
    listeners: Vec<u16>,
    container: i32,
    files: Vec<PathBuf>,
}

impl Traces {
    /// What there is at this moment.
    pub(crate) fn of(rig: &Rig) -> Self {
        let server = rig.daemon.api().get("/1.0").unwrap();
        let keys = |device: &serde_json::Value| {
            format!("{} {} {} {}", device["name"], device["keys"], device["state"], device["instance_uuid"])
        };
        let devices: Vec<String> = rig.daemon.devices().unwrap().iter().map(keys).collect();
        let mut workers = rig.daemon.workers();
        workers.sort_unstable();
        let mut listeners = sockets(rig.host());
        // Other tests have theirs on the host's side.
        listeners.retain(|port| rig.ports.contains(*port));
        listeners.extend(sockets(&rig.inside().unwrap()));
        let files = std::fs::read_dir(rig.folder()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = files.collect();
        files.sort();
        Self {
            devices: devices.join("; "),
            generation: server["generation"].to_string(),
            state: std::fs::read(rig.daemon.dir().join("state.json")).ok(),
            workers,
            listeners,
            container: rig.container.pid().unwrap(),
            files,
        }
    }

    /// The same as before, now.
    pub(crate) fn check(&self, rig: &Rig, what: &str) {
        assert_eq!(Traces::of(rig), *self, "{what}");
    }
}

/// Ports of tcp listeners and unconnected udp sockets of a namespace.
fn sockets(site: &Site) -> Vec<u16> {
    let read = || {
        ["tcp", "tcp6", "udp", "udp6"]
            .map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap())
    };
    let mut found = Vec::new();
    for table in site.network().enter(read).unwrap() {
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            // 0A is a tcp listener, 07 an unconnected udp socket.
            if matches!(words[3], "0A" | "07") {
                let (_, port) = words[1].rsplit_once(':').unwrap();
                found.push(u16::from_str_radix(port, 16).unwrap());
            }
        }
    }
    found
}

/// `device add CONTAINER NAME KEYS...`, which must be refused and leave nothing.
pub(crate) fn add_is_refused(rig: &Rig, keys: &[&str], code: i32, texts: &[&str]) {
    let before = Traces::of(rig);
    let output = rig.device("add", &[&["bad"][..], keys].concat()).unwrap();
    says(&output, code, texts);
    before.check(rig, &keys.join(" "));
}

/// `127.0.0.1` and a port.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A service in the container that says `text`.
pub(crate) fn say(rig: &Rig, port: u16, text: &str) -> Service {
    Service::start(&rig.inside().unwrap(), &Addr::Tcp(local(port)), Behaviour::Say(text.to_owned())).unwrap()
}

/// What is heard at a port of a site; nothing when it is closed or the connection is reset.
pub(crate) fn heard(site: &Site, port: u16) -> Option<String> {
    let addr = Addr::Tcp(local(port));
    let stream = site.run(|| addr.connect(std::time::Duration::from_secs(10))).unwrap().ok()?;
    stream.set_timeout(std::time::Duration::from_secs(10)).unwrap();
    String::from_utf8(check::read_all(&stream).ok()?).ok()
}

/// Waits until a port of the host's side leads to the service that says `text`.
pub(crate) fn wait_until_heard(rig: &Rig, port: u16, text: &str) {
    let asked = || heard(rig.host(), port).filter(|said| said == text);
    wait_for(&format!("{text} at port {port}"), asked).unwrap();
}
