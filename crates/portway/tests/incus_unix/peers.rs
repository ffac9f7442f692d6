//! Whom a unix target sees: `SO_PEERCRED` of the relay's connection.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use portway_testkit::udp::{UdpClient, UdpEcho};
use portway_testkit::{Addr, Behaviour, Rig, Service, check, process};

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
/// `security.gid` say otherwise, each by itself, in ids of the container; the socket's owner beside it.
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
    // The socket's owner is an id of the host, the relay's user one of the container.
    let four = ["uid=1234", "gid=2345", "mode=0660", "security.uid=1000", "security.gid=29"];
    all_at_once(&rig, &four, (uid + 1000, gid + 29));
}

/// Owner and mode of the socket file, and the relay's user, in one device; bytes both ways.
fn all_at_once(rig: &Rig, keys: &[&str], relay: (u32, u32)) {
    let (listen, connect) = (Place::listen(rig, Bind::Host, "four"), Place::connect(rig, Bind::Host, "four"));
    let service = Service::start(&connect.site, &Addr::unix(&connect.path), Behaviour::Echo).unwrap();
    fs::set_permissions(&connect.path, fs::Permissions::from_mode(0o777)).unwrap();
    let base = [listen.pair("listen"), connect.pair("connect")];
    add(rig, "four", &with(&base, keys)).unwrap();
    let meta = fs::symlink_metadata(&listen.path).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 2345, 0o660));
    let worker = rig.daemon.device("four").unwrap()["worker_pid"].as_i64().unwrap();
    assert_eq!(user_of(worker), relay);
    check::echo(&listen.dial(), 100_000, 1).unwrap();
    assert_eq!(service.accepted(), 1);
    rig.device_ok("remove", &["four"]).unwrap();
    assert!(!listen.exists());
}

/// Uid and gid of a process.
fn user_of(pid: i64) -> (u32, u32) {
    let meta = fs::metadata(format!("/proc/{pid}")).unwrap();
    (meta.uid(), meta.gid())
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
    by_port(&rig);
}

/// Listeners at every address of the container, a port towards a socket of the host and a port of datagrams,
/// with a relay of users of the host's.
fn by_port(rig: &Rig) {
    let place = Place::connect(rig, Bind::Instance, "by-port");
    let target = place.serve();
    let udp = UdpEcho::start(rig.host(), (Ipv4Addr::LOCALHOST, 0).into(), "host").unwrap();
    let (to_unix, to_udp) = (place.pair("connect"), format!("connect=udp:{}", udp.addr()));
    let base = ["bind=instance", "security.uid=1000", "security.gid=29"];
    add(rig, "tcp", &[&base[..], &["listen=tcp:0.0.0.0:7001", &to_unix]].concat()).unwrap();
    add(rig, "udp", &[&base[..], &["listen=udp:0.0.0.0:7001", &to_udp]].concat()).unwrap();
    let address = rig.container.address(false).unwrap();
    let inside = rig.inside().unwrap();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), address] {
        let addr = Addr::Tcp(SocketAddr::new(ip, 7001));
        let client = check::dial(&inside, &addr).unwrap();
        let service = target.accept_within(LIMIT).unwrap();
        let seen = getsockopt(unix(&service), PeerCredentials).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (1000, 29), "{ip}");
        (&client).write_all(b"hello").unwrap();
        let mut got = [0; 5];
        (&service).read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        let client = UdpClient::connect(&inside, SocketAddr::new(ip, 7001)).unwrap();
        assert_eq!(client.exchange(b" hello", LIMIT).unwrap().as_deref(), Some(&b"host hello"[..]), "{ip}");
    }
    for name in ["tcp", "udp"] {
        let worker = rig.daemon.device(name).unwrap()["worker_pid"].as_i64().unwrap();
        assert_eq!(user_of(worker), (1000, 29), "{name}");
    }
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
