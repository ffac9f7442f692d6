//! Who may connect, and who the relay is, as an operator sees it: keys, refusals, counters. On a real server.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portway_testkit::{Addr, Behaviour, Rig, Service, Stream, check, wait_for};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// The program under test.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");

const LIMIT: Duration = Duration::from_secs(20);

/// A client on the host's side with this address of its own.
fn client(rig: &Rig, from: &str, port: u16) -> Stream {
    try_client(rig, from, port).unwrap()
}

/// As [`client`]; `None` when it is refused before the call returns.
fn try_client(rig: &Rig, from: &str, port: u16) -> Option<Stream> {
    let called = rig.host().run(|| {
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&fd, &SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        match connect(&fd, &SocketAddr::from(([127, 0, 0, 1], port))) {
            Err(Errno::CONNRESET) => None,
            called => called.map(|()| Some(TcpStream::from(fd))).unwrap(),
        }
    });
    let stream = Stream::Tcp(called.unwrap()?);
    stream.set_timeout(LIMIT).unwrap();
    Some(stream)
}

/// What Prometheus would read.
fn metrics(rig: &Rig) -> String {
    let mut stream = UnixStream::connect(rig.daemon.api().socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: portway\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Every kind of refusal has its counter, in JSON, in `device show` and in the metrics. Each key is set on a device that
/// serves: the open connection, the listener and the worker stay.
///
/// Fails when: a refusal is counted for another key, or a change of these keys begins the device anew.
#[test]
fn refusals_are_told_apart() {
    let Some(rig) = Rig::start(PORTWAY, "policy").unwrap() else { return };
    let _service =
        Service::start(&rig.inside().unwrap(), &Addr::tcp("127.0.0.1:7"), Behaviour::Echo).unwrap();
    let port = rig.ports.one().unwrap();
    rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]).unwrap();
    let live = client(&rig, "127.0.0.1", port);
    check::exchange(&live).unwrap();
    let workers = rig.daemon.workers();
    let cases = [
        ("deny=127.0.0.2", "denied"),
        ("limits.connections=1", "over_connections"),
        ("limits.per_source=1", "over_per_source"),
        ("accept_proxy=127.0.0.0/8", "bad_headers"),
    ];
    for (key, counter) in cases {
        rig.device_ok("set", &["web", key]).unwrap();
        let from = if counter == "over_per_source" { "127.0.0.1" } else { "127.0.0.2" };
        if let Some(refused) = try_client(&rig, from, port) {
            if counter == "bad_headers" {
                (&refused).write_all(b"no header\r\n").unwrap();
            }
            check::expect_reset(&refused).unwrap();
        }
        wait_for(counter, || (rig.daemon.device("web").unwrap()[counter] == 1).then_some(())).unwrap();
        let shown = rig.device_ok("show", &["web"]).unwrap();
        assert!(shown.contains(&format!("\n  {counter}: 1\n")), "{shown}");
        let metric = format!("portway_device_{counter}_total{{instance=");
        let metrics = metrics(&rig);
        let line = metrics.lines().find(|line| line.starts_with(&metric)).unwrap();
        assert!(line.ends_with(" 1"), "{line}");
        check::exchange(&live).unwrap();
        let name = key.split_once('=').unwrap().0;
        rig.device_ok("unset", &["web", name]).unwrap();
        check::exchange(&client(&rig, from, port)).unwrap();
    }
    assert_eq!(rig.daemon.workers(), workers);
    rig.device_ok("set", &["web", "limits.rate=1/s"]).unwrap();
    wait_for("over_rate", || {
        drop(try_client(&rig, "127.0.0.1", port));
        rig.daemon.device("web").unwrap()["over_rate"].as_u64().filter(|count| *count > 0)
    })
    .unwrap();
    check::exchange(&live).unwrap();
    // And all of them together.
    let device = rig.daemon.device("web").unwrap();
    let refusals = rig.daemon.api().get("/1.0").unwrap()["refusals"].clone();
    for counter in ["denied", "over_connections", "over_per_source", "bad_headers", "over_rate"] {
        assert_eq!(refusals[counter], device[counter], "{refusals}");
    }
    let said = rig.daemon.cli(&["status"]).unwrap().stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains(" clients (1 by allow or deny, 1 by limits.connections, "), "{said}");
}

/// A socket of the host that only a group may use is reached with that group; another group is another worker; a
/// group that the instance does not have is refused.
///
/// Fails when: devices with other groups share a worker, which then has the groups of one of them.
#[test]
fn groups_of_the_relay() {
    const THEIRS: u32 = 4242;
    let Some(rig) = Rig::start(PORTWAY, "groups").unwrap() else { return };
    let path = rig.path("agent");
    let _service = Service::start(rig.host(), &Addr::unix(&path), Behaviour::Echo).unwrap();
    chown(&path, None, Some(THEIRS)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
    let connect = format!("connect=unix:{}", path.display());
    for (name, port, groups) in
        [("with", 9001, "security.groups=4,4242"), ("without", 9002, "security.groups=4")]
    {
        let listen = format!("listen=tcp:127.0.0.1:{port}");
        rig.add(name, &["bind=instance", &listen, &connect, groups]).unwrap();
        rig.daemon.wait_for_state(name, "active").unwrap();
    }
    assert_eq!(rig.daemon.workers().len(), 2);
    let inside = rig.inside().unwrap();
    check::exchange(&check::dial(&inside, &Addr::tcp("127.0.0.1:9001")).unwrap()).unwrap();
    check::expect_refusal(&inside, &Addr::tcp("127.0.0.1:9002")).unwrap();
    // The groups are those of a worker that a later daemon finds, too.
    rig.device_ok("remove", &["without"]).unwrap();
    let output = rig
        .device(
            "add",
            &["far", "listen=tcp:127.0.0.1:9003", "connect=unix:/srv/s", "security.groups=4000000000"],
        )
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("security.groups 4000000000 is outside the id map of the instance"), "{error}");
}
