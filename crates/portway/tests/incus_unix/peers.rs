//! Whom a unix target sees: `SO_PEERCRED` of the relay's connection.

use std::fs;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use portway_testkit::{Rig, process};

use crate::PORTWAY;
use crate::side::{Bind, LIMIT, Place, add, unix, with};

/// Uid, gid and pid of who connects to `connect` when a client comes to the device.
fn peer(rig: &Rig, bind: Bind, keys: &[&str]) -> (u32, u32, i32) {
    let (listen, connect) = (Place::listen(rig, bind, "listen"), Place::connect(rig, bind, "connect"));
    let target = connect.serve();
    let base = [listen.pair("listen"), connect.pair("connect"), bind.key().to_owned()];
    add(rig, "s", &with(&base, keys)).unwrap();
    let _client = listen.dial();
    let service = target.accept_within(LIMIT).unwrap();
    let seen = getsockopt(unix(&service), PeerCredentials).unwrap();
    let worker = rig.daemon.device("s").unwrap()["worker_pid"].as_i64().unwrap();
    assert_eq!(i64::from(seen.pid()), worker);
    rig.device_ok("remove", &["s"]).unwrap();
    fs::remove_file(&connect.path).unwrap();
    (seen.uid(), seen.gid(), seen.pid())
}

fn ids((uid, gid, _): (u32, u32, i32)) -> (u32, u32) {
    (uid, gid)
}

/// User and group of workers when nothing is asked for.
fn default_ids() -> (u32, u32) {
    let known = nix::unistd::User::from_name("portway").unwrap();
    known.map_or((65_534, 65_534), |user| (user.uid.as_raw(), user.gid.as_raw()))
}

/// On the host's side, dialling into the container: root of the container unless `security.uid` and
/// `security.gid` say otherwise, each by itself, in ids of the container.
///
/// Fails when: ids are taken as the host's, or the one that is not asked for becomes root of the host.
#[test]
fn in_the_container() {
    let Some(rig) = Rig::start(PORTWAY, "peerin").unwrap() else { return };
    let (uid, gid) = process::root_ids(rig.container.pid().unwrap()).unwrap();
    assert_ne!(uid, 0, "the container's root is no host user");
    assert_eq!(ids(peer(&rig, Bind::Host, &[])), (uid, gid));
    assert_eq!(
        ids(peer(&rig, Bind::Host, &["security.uid=1000", "security.gid=29"])),
        (uid + 1000, gid + 29)
    );
    assert_eq!(ids(peer(&rig, Bind::Host, &["security.uid=1000"])), (uid + 1000, gid));
    assert_eq!(ids(peer(&rig, Bind::Host, &["security.gid=29"])), (uid, gid + 29));
}

/// On the container's side, dialling on the host: the unprivileged user unless asked otherwise; root
/// of the host only by an explicit `security.uid=0`.
///
/// Fails when: `bind=instance` without `security.uid` runs as root.
#[test]
fn on_the_host() {
    let Some(rig) = Rig::start(PORTWAY, "peerout").unwrap() else { return };
    let (uid, gid) = default_ids();
    assert_eq!(ids(peer(&rig, Bind::Instance, &[])), (uid, gid));
    assert_eq!(ids(peer(&rig, Bind::Instance, &["security.uid=1000", "security.gid=29"])), (1000, 29));
    assert_eq!(ids(peer(&rig, Bind::Instance, &["security.uid=1000"])), (1000, gid));
    assert_eq!(ids(peer(&rig, Bind::Instance, &["security.uid=0", "security.gid=0"])), (0, 0));
}

/// Whatever the relay runs as, host root included, it has no capability, no supplementary group, no
/// way to gain any, and a system call filter.
///
/// Fails when: a step of the worker's sandbox is left out.
#[test]
fn the_relay_has_no_privilege() {
    let Some(rig) = Rig::start(PORTWAY, "priv").unwrap() else { return };
    let host = Place::connect(&rig, Bind::Instance, "connect");
    let inside = Place::connect(&rig, Bind::Host, "connect");
    let cases = [
        ("root", Bind::Instance, host.pair("connect"), Some("security.uid=0")),
        ("default", Bind::Instance, host.pair("connect"), None),
        ("mapped", Bind::Host, inside.pair("connect"), None),
        ("tcp", Bind::Host, "connect=tcp::80".to_owned(), None),
    ];
    for (name, bind, connect, more) in cases {
        let listen = Place::listen(&rig, bind, name).pair("listen");
        let keys: Vec<&str> = [&*listen, &*connect, bind.key()].into_iter().chain(more).collect();
        add(&rig, name, &keys).unwrap();
        let pid = rig.daemon.device(name).unwrap()["worker_pid"].as_i64().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).unwrap();
            line.trim().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{name} {set}");
        }
        assert_eq!(field("Groups"), "", "{name}");
        assert_eq!(field("NoNewPrivs"), "1", "{name}");
        assert_eq!(field("Seccomp"), "2", "{name}");
        let uid = field("Uid");
        assert_eq!(uid.split_whitespace().all(|id| id == "0"), name == "root", "{name}: {uid}");
    }
}
