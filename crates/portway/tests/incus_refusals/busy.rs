//! Ports that somebody has: said at once, with the owner.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use portway_testkit::Rig;

use crate::PORTWAY;
use crate::expect::{REFUSED, Traces, add_is_refused, heard, local, say, says};

fn pair(key: &str, protocol: &str, port: u16) -> String {
    format!("{key}={protocol}:127.0.0.1:{port}")
}

/// A foreign process that has the port is named, for tcp and udp, for an overlapping wildcard, and
/// when only the last port of a range is taken; the ports before it are given back.
///
/// Fails when: the owner is looked up by the exact address alone, or not at all.
#[test]
fn by_a_foreign_process() {
    let Some(rig) = Rig::start(PORTWAY, "busy").unwrap() else { return };
    let first = rig.ports.run(4).unwrap();
    let last = first + 3;
    let own = format!("(pid {})", std::process::id());
    let site = rig.host().clone();
    let _tcp = site.run(|| TcpListener::bind(local(last))).unwrap().unwrap();
    let _udp = site.run(|| UdpSocket::bind(local(last))).unwrap().unwrap();
    let connect = "connect=tcp:127.0.0.1:80";
    let exact = pair("listen", "tcp", last);
    add_is_refused(
        &rig,
        &[&exact, connect],
        REFUSED,
        &[&format!("tcp:127.0.0.1:{last} is in use by "), &own],
    );
    let wildcard = format!("listen=tcp:0.0.0.0:{last}");
    add_is_refused(&rig, &[&wildcard, connect], REFUSED, &["is in use by ", &own]);
    let both = format!("listen=tcp:[::]:{last}");
    add_is_refused(&rig, &[&both, connect], REFUSED, &["is in use by ", &own]);
    let udp = pair("listen", "udp", last);
    let to_udp = "connect=udp:127.0.0.1:80";
    add_is_refused(&rig, &[&udp, to_udp], REFUSED, &[&format!("udp:127.0.0.1:{last} is in use by "), &own]);
    let range = format!("listen=tcp:127.0.0.1:{first}-{last}");
    add_is_refused(
        &rig,
        &[&range, connect],
        REFUSED,
        &[&format!("tcp:127.0.0.1:{last} is in use by "), &own],
    );
    // Nothing of the range is left, not even for a moment.
    for _ in 0..20 {
        let output = rig.device("add", &["bad", &range, connect]).unwrap();
        says(&output, REFUSED, &[&format!("tcp:127.0.0.1:{last} is in use")]);
        let free = site.run(|| (first..last).map(|port| TcpListener::bind(local(port))).collect::<Vec<_>>());
        for listener in free.unwrap() {
            listener.unwrap();
        }
    }
}

/// The other device is named, of whatever instance, and an abstract name that is taken is said.
#[test]
fn by_a_device_of_our_own() {
    let Some(rig) = Rig::start(PORTWAY, "own").unwrap() else { return };
    let first = rig.ports.run(3).unwrap();
    let _service = say(&rig, 80, "here");
    let listen = format!("listen=tcp:127.0.0.1:{first}-{}", first + 2);
    rig.add("web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
    let owner = format!("by device incus:default/{}/web", rig.container.name());
    let one = pair("listen", "tcp", first + 1);
    add_is_refused(&rig, &[&one, "connect=tcp:127.0.0.1:81"], REFUSED, &[&owner]);
    let wildcard = format!("listen=tcp:[::]:{}", first + 2);
    add_is_refused(&rig, &[&wildcard, "connect=tcp:127.0.0.1:81"], REFUSED, &[&owner]);
    // Another instance, which need not even exist.
    let before = Traces::of(&rig);
    let output = rig.daemon.cli(&["device", "add", "nobody", "web", &one, "connect=tcp::81"]).unwrap();
    says(&output, REFUSED, &[&owner]);
    before.check(&rig, "for another instance");
    for port in first..first + 3 {
        assert_eq!(heard(rig.host(), port).as_deref(), Some("here"));
    }

    let name = format!("{}-abstract", rig.container.name());
    let key = format!("listen=unix:@{name}");
    let bind = || UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap());
    let _listener = rig.host().run(bind).unwrap().unwrap();
    add_is_refused(&rig, &[&key, "connect=tcp::80"], REFUSED, &[&format!("unix:@{name} is in use")]);
    let output = rig.device("add", &["web", &one, "connect=tcp::81"]).unwrap();
    says(&output, REFUSED, &["device web of ", "exists already", "hint: change it with `portway device set"]);
}

/// A port that the container's own service has, with `bind=instance`.
#[test]
fn inside_the_container() {
    let Some(rig) = Rig::start(PORTWAY, "inside").unwrap() else { return };
    let _service = say(&rig, 80, "its own");
    let connect = "connect=tcp:127.0.0.1:9";
    let keys = ["bind=instance", "listen=tcp:127.0.0.1:80", connect];
    add_is_refused(&rig, &keys, REFUSED, &["tcp:127.0.0.1:80 is in use"]);
    let keys = ["bind=instance", "listen=tcp:[::]:80", connect];
    add_is_refused(&rig, &keys, REFUSED, &["tcp:[::]:80 is in use"]);
    assert_eq!(heard(&rig.inside().unwrap(), 80).as_deref(), Some("its own"));
    // The same port of the host is another one.
    rig.add("fine", &[&pair("listen", "tcp", rig.ports.one().unwrap()), "connect=tcp:127.0.0.1:80"]).unwrap();
}

/// A container is never stopped, nor kept from starting, by a device that cannot work: a port that
/// was lost while it was down is `degraded`, said, and taken back when it is free.
///
/// Fails when: a listener that cannot be opened again fails the device for good.
#[test]
fn cannot_stop_the_instance() {
    let Some(rig) = Rig::start(PORTWAY, "lost").unwrap() else { return };
    let (port, site) = (rig.ports.one().unwrap(), rig.inside().unwrap());
    let target = rig.ports.one().unwrap();
    rig.add("in", &["bind=instance", "listen=tcp:127.0.0.1:80", &pair("connect", "tcp", target)]).unwrap();
    rig.add("out", &[&pair("listen", "tcp", port), "connect=tcp:127.0.0.1:81"]).unwrap();
    drop(site);
    rig.container.kill().unwrap();
    // Its own service is up before we look: that is the container's right.
    std::fs::write(rig.container.rootfs().join("etc/boot"), "serve echo tcp:127.0.0.1:80").unwrap();
    rig.container.start().unwrap();
    let degraded = || {
        let device = rig.daemon.device("in").ok()?;
        let lost = device["state"] == "degraded" && device["reason"].as_str()?.contains("is in use");
        (lost || device["state"] == "active").then_some(lost)
    };
    let lost = portway_testkit::wait_for("the device is degraded, or was first", degraded).unwrap();
    rig.daemon.wait_for_state("out", "active").unwrap();
    let _service = say(&rig, 81, "still here");
    crate::expect::wait_until_heard(&rig, port, "still here");
    if lost {
        rig.container.sh("killall serve").unwrap();
        rig.daemon.wait_for_state("in", "active").unwrap();
    }
    let read = rig.container.read().unwrap();
    assert_eq!(read["status"], "Running");
    rig.container.restart().unwrap();
    rig.daemon.wait_for_state("out", "active").unwrap();
}
