//! Network namespaces by name: deleted and made again, and names that differ in a sign.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Daemon, Netns, Service, Site, check, is_root, run, wait_for};

use crate::stand::{daemon, heard, local, say};

/// A namespace that `ip netns` knows; deleted on drop.
struct Named(String);

impl Named {
    /// `name` is made another than those of other processes.
    fn add(name: &str) -> Self {
        let named = Self(format!("pw{}-{name}", std::process::id()));
        named.make();
        named
    }

    fn make(&self) {
        run(Command::new("ip").args(["netns", "add", &self.0])).unwrap();
        self.netns().ip("link set lo up").unwrap();
    }

    fn delete(&self) {
        run(Command::new("ip").args(["netns", "delete", &self.0])).unwrap();
    }

    fn netns(&self) -> Netns {
        Netns::open(&PathBuf::from("/run/netns").join(&self.0)).unwrap()
    }

    fn say(&self, text: &str) -> Service {
        say(&Site::netns(&self.netns()), &local(80), text)
    }

    /// `netns:NAME`.
    fn name(&self) -> String {
        format!("netns:{}", self.0)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["netns", "delete", &self.0]));
    }
}

/// A namespace that is deleted and made again under its name: clients that come meanwhile wait for it as they
/// do for a container, or are refused where nobody is to wait, and are served by the new one.
///
/// Fails when: a namespace is followed by its inode, or the end of one is the end of its devices.
#[test]
fn a_namespace_is_deleted_and_made_again() {
    if !is_root() {
        return;
    }
    let (daemon, host) = daemon();
    let named = Named::add("again");
    let connect = "connect=tcp:127.0.0.1:80";
    daemon.add(&named.name(), "held", &["listen=tcp:127.0.0.1:8080", connect, "hold=10m"]).unwrap();
    daemon.add(&named.name(), "shut", &["listen=tcp:127.0.0.1:8081", connect, "hold=0"]).unwrap();
    daemon
        .add(&named.name(), "in", &["bind=instance", "listen=tcp:127.0.0.1:81", "connect=tcp::5000"])
        .unwrap();
    let _outside = say(&host, &local(5000), "the host");
    for text in ["first", "second", "third"] {
        let service = named.say(text);
        for device in ["held", "shut", "in"] {
            daemon.wait_for_state(device, "active").unwrap();
        }
        for port in [8080, 8081] {
            wait_for(text, || heard(&host, port).filter(|said| said == text)).unwrap();
        }
        let inside = Site::netns(&named.netns());
        assert_eq!(heard(&inside, 81).as_deref(), Some("the host"));
        drop((service, inside));
        named.delete();
        for device in ["held", "shut", "in"] {
            daemon.wait_for_state(device, "waiting").unwrap();
        }
        wait_for("a closed port", || refused(&host, 8081).then_some(())).unwrap();
        let early = check::dial(&host, &local(8080)).unwrap();
        named.make();
        let _service = named.say("back");
        assert_eq!(check::read_all(&early).unwrap(), b"back", "{text}");
    }
}

/// Whether a connection is refused at once.
fn refused(host: &Site, port: u16) -> bool {
    host.run(|| local(port).connect(std::time::Duration::from_secs(5))).unwrap().is_err()
}

/// SIGKILL to the daemon, its workers and its keeper, or to the first two.
fn kill_all(daemon: &mut Daemon, keeper: bool) {
    let mut pids = daemon.workers();
    if keeper {
        pids.extend(daemon.keepers());
    }
    daemon.kill().unwrap();
    for pid in &pids {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    }
    let alive = || pids.iter().any(|pid| portway_testkit::process::is_alive(*pid));
    wait_for("their end", || (!alive()).then_some(())).unwrap();
}

/// Instances and devices whose names differ in `-`, `_`, `.`, `:` or `/` alone, or in where the instance's name
/// ends, at once: each port leads where it should, also after the listeners came back from the workers, from
/// the keeper, or were opened anew.
///
/// Fails when: such a sign is replaced in the name of a file, a note or a listener that is kept.
#[test]
fn names_that_differ_in_a_sign() {
    if !is_root() {
        return;
    }
    let (mut daemon, host) = daemon();
    let named: Vec<Named> = ["n", "n-a", "n.a", "n_a", "n-a-b"].into_iter().map(Named::add).collect();
    let devices = ["a-b", "a_b", "a.b", "a:b", "a/b", "b", "a", "A-b"];
    let mut services = Vec::new();
    let mut wanted = Vec::new();
    for (one, first) in named.iter().zip((9000..).step_by(20)) {
        let site = Site::netns(&one.netns());
        for (device, port) in devices.iter().zip(first..) {
            let text = format!("{} {device}", one.0);
            services.push(say(&site, &local(port), &text));
            let keys = [format!("listen=tcp:127.0.0.1:{port}"), format!("connect=tcp:127.0.0.1:{port}")];
            daemon.add(&one.name(), device, &[&keys[0], &keys[1]]).unwrap();
            wanted.push((port, text));
        }
    }
    let all_lead_home = |daemon: &Daemon| {
        let active = || daemon.devices().ok()?.iter().all(|device| device["state"] == "active").then_some(());
        wait_for("all are active", active).unwrap();
        for (port, text) in &wanted {
            wait_for(text, || heard(&host, *port).filter(|said| said == text)).unwrap();
        }
        assert_eq!(daemon.devices().unwrap().len(), wanted.len());
    };
    all_lead_home(&daemon);
    let workers = daemon.workers();
    daemon.kill().unwrap();
    daemon.launch().unwrap();
    all_lead_home(&daemon);
    assert!(daemon.workers().iter().all(|pid| workers.contains(pid)), "a worker was not adopted");
    for keeper in [false, true] {
        kill_all(&mut daemon, keeper);
        daemon.launch().unwrap();
        all_lead_home(&daemon);
    }
    let output = daemon.cli(&["device", "remove", &named[0].name(), "a-b"]).unwrap();
    assert!(output.status.success());
    assert!(refused(&host, wanted[0].0));
    for (port, text) in &wanted[1..] {
        assert_eq!(heard(&host, *port).as_ref(), Some(text));
    }
}

/// A device in the place of one that is gone counts from nothing, where a daemon gives the place that did not see the
/// other, too.
///
/// Fails when: what the place had counted before is taken off what the device counts.
#[test]
fn a_device_counts_from_nothing() {
    if !is_root() {
        return;
    }
    let (mut daemon, host) = daemon();
    let named = Named::add("count");
    let _service = named.say("hello");
    let add = |daemon: &Daemon, device: &str, port: u16| {
        let keys = [format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:80".to_owned()];
        daemon.add(&named.name(), device, &[&keys[0], &keys[1]]).unwrap();
    };
    let count = |daemon: &Daemon, device: &str, total: u64| {
        let counted = || (daemon.device(device).ok()?["connections_total"] == total).then_some(());
        wait_for("they are counted", counted).unwrap();
    };
    add(&daemon, "stays", 9000);
    add(&daemon, "goes", 9001);
    for _ in 0..5 {
        assert_eq!(heard(&host, 9001).as_deref(), Some("hello"));
    }
    count(&daemon, "goes", 5);
    assert!(daemon.cli(&["device", "remove", &named.name(), "goes"]).unwrap().status.success());
    daemon.terminate().unwrap();
    daemon.launch().unwrap();
    daemon.wait_for_state("stays", "active").unwrap();
    add(&daemon, "comes", 9002);
    for _ in 0..2 {
        assert_eq!(heard(&host, 9002).as_deref(), Some("hello"));
    }
    count(&daemon, "comes", 2);
}
