//! What a daemon finds at its start: a port that a program of the host has taken meanwhile, an address that is
//! gone. As after a boot, nothing of the daemon before it is left.

use std::net::TcpListener;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Addr, Daemon, DaemonSpec, Netns, Site, check, is_root, process, wait_for};
use serde_json::Value;

use crate::PORTWAY;
use crate::stand::{heard, local, say};

/// An address that comes and goes.
const ADDRESS: &str = "192.0.2.1";

/// Ends the daemon and everything that would keep its listeners.
fn end(daemon: &mut Daemon) {
    daemon.terminate().unwrap();
    let left = daemon.processes();
    for pid in &left {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    }
    let gone = || (!left.iter().any(|pid| process::is_alive(*pid))).then_some(());
    wait_for("the end of workers and keeper", gone).unwrap();
}

/// Waits until a device is in a state with these texts in its reason.
fn wait_for_reason(daemon: &Daemon, name: &str, state: &str, texts: &[&str]) {
    let mut last = Value::Null;
    let seen = wait_for("a reason", || {
        last = daemon.device(name).ok()?;
        let reason = last["reason"].as_str()?;
        (last["state"] == state && texts.iter().all(|text| reason.contains(text))).then_some(())
    });
    assert!(seen.is_ok(), "{name}: {} {}", last["state"], last["reason"]);
}

/// A device of a port that is taken is `degraded` and names the owner, one of an address that is not there
/// waits for it, and no other device notices; each works by itself when the port is free and the address back.
///
/// Fails when: a listener that cannot be opened at the start stops the daemon or the device for good, or the
/// owner is not looked up.
#[test]
fn a_taken_port_and_a_missing_address_at_the_start() {
    if !is_root() {
        return;
    }
    let (netns, inside) = (Netns::new().unwrap(), Netns::new().unwrap());
    let (mut daemon, host) = (DaemonSpec::new(PORTWAY).within(&netns).start().unwrap(), Site::netns(&netns));
    let ip = |verb: &str| netns.ip(&format!("addr {verb} {ADDRESS}/32 dev lo")).unwrap();
    ip("add");
    let _service = say(&Site::netns(&inside), &local(80), "here");
    let instance = format!("netns:{}", inside.path().display());
    let devices = [("taken", "127.0.0.1:8080"), ("absent", "192.0.2.1:8081"), ("well", "127.0.0.1:8082")];
    for (name, at) in devices {
        daemon.add(&instance, name, &[&format!("listen=tcp:{at}"), "connect=tcp:127.0.0.1:80"]).unwrap();
        daemon.wait_for_state(name, "active").unwrap();
    }
    let absent = Addr::tcp("192.0.2.1:8081");
    let at_absent =
        || check::read_all(&check::dial(&host, &absent).ok()?).ok().filter(|said| said == b"here");
    assert!(at_absent().is_some());

    end(&mut daemon);
    ip("del");
    let foreign = host.run(|| TcpListener::bind("127.0.0.1:8080")).unwrap().unwrap();
    daemon.launch().unwrap();
    daemon.wait_for_state("well", "active").unwrap();
    assert_eq!(heard(&host, 8082).as_deref(), Some("here"));
    let own = format!("(pid {})", std::process::id());
    wait_for_reason(&daemon, "taken", "degraded", &["tcp:127.0.0.1:8080 is in use by ", &own]);
    wait_for_reason(&daemon, "absent", "waiting", &["tcp:192.0.2.1:8081 is not an address of this host"]);

    drop(foreign);
    daemon.wait_for_state("taken", "active").unwrap();
    assert_eq!(heard(&host, 8080).as_deref(), Some("here"));
    ip("add");
    daemon.wait_for_state("absent", "active").unwrap();
    wait_for("the service", at_absent).unwrap();
    assert_eq!(heard(&host, 8082).as_deref(), Some("here"));
}
