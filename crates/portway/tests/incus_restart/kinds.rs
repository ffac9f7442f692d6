//! Datagrams, unix sockets and the instance's own side over a restart.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use portway_testkit::udp::UdpClient;
use portway_testkit::{
    Addr, Behaviour, ContainerSpec, DaemonSpec, Load, Outcome, Pace, Rig, Service, Stream, check, wait_for,
};

use crate::PORTWAY;

/// Patience for one datagram.
const ANSWER: Duration = Duration::from_millis(100);

/// The same client socket is answered again after the instance is back, by plain sending, and what it
/// sent into the void is not delivered late.
///
/// Fails when a worker of the new run does not get the datagram listener, and when what arrives
/// meanwhile is not discarded (`Instance::on_time`).
#[test]
fn a_datagram_client_goes_on_after_a_restart() {
    let spec = ContainerSpec::booting("serve echo udp:0.0.0.0:7");
    let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), "udp", &spec).unwrap() else { return };
    let port = rig.ports.one().unwrap();
    rig.add("dns", &[&format!("listen=udp:127.0.0.1:{port}"), "connect=udp:127.0.0.1:7"]).unwrap();
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let client = UdpClient::connect(rig.host(), target).unwrap();
    let answered = |text: &[u8]| {
        let answer = client.exchange(text, ANSWER).unwrap();
        assert_ne!(answer.as_deref(), Some(&b"lost"[..]), "delivered to an instance it was not sent to");
        answer.as_deref() == Some(text)
    };
    wait_for("an answer", || answered(b"one").then_some(())).unwrap();
    for restart in [b"two", b"six"] {
        rig.container.stop().unwrap();
        // The worker is gone: these wait in the listener, to be thrown away.
        rig.daemon.wait_until_tidy(0).unwrap();
        for _ in 0..20 {
            client.socket().send(b"lost").unwrap();
        }
        let dropped = || rig.daemon.device("dns").ok()?["dropped"].as_u64().filter(|count| *count >= 20);
        wait_for("discarded datagrams", dropped).unwrap();
        rig.container.start().unwrap();
        wait_for("an answer", || answered(restart).then_some(())).unwrap();
        assert!(answered(restart), "the flow is there and answers at once");
    }
    rig.daemon.wait_until_tidy(1).unwrap();
}

/// Clients of a socket on the host wait like those of a port; when the hold ends the file goes, and
/// comes again with the instance.
///
/// Fails when the plan closes a unix listener at init's death, or never makes it anew.
#[test]
fn a_unix_socket_is_held_then_gone_then_back() {
    let spec = ContainerSpec::booting("serve echo unix:/srv/s");
    let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), "unixhold", &spec).unwrap() else { return };
    let path = rig.path("front");
    let listen = format!("listen=unix:{}", path.display());
    rig.add("sock", &[&listen, "connect=unix:/srv/s", "mode=0666", "hold=20s"]).unwrap();
    let load = Load::new(&Addr::unix(&path), Pace::PerSecond(200)).start(rig.host()).unwrap();
    load.wait_for_ok(100).unwrap();
    let asked = std::time::Instant::now();
    rig.container.restart().unwrap();
    load.wait_for_ok(200).unwrap();
    let cut = (load.at(asked), load.at(std::time::Instant::now()));
    let report = load.stop().unwrap();
    println!("{report}");
    let wrong = report.unexplained(&[cut]);
    assert!(wrong.records.is_empty(), "{:?} in {report}", wrong.records);

    rig.device_ok("set", &["sock", "hold=5s"]).unwrap();
    rig.container.stop().unwrap();
    assert!(path.exists(), "the hold has not ended");
    let waiting = check::dial(rig.host(), &Addr::unix(&path)).unwrap();
    wait_for("the end of the hold", || (!path.exists()).then_some(())).unwrap();
    assert_eq!(check::read_all(&waiting).unwrap_or_default(), b"", "told, not served");
    rig.container.start().unwrap();
    let back = || check::echo(&check::dial(rig.host(), &Addr::unix(&path)).ok()?, 1000, 3).ok();
    wait_for("the socket", back).unwrap();
    let report = Load::new(&Addr::unix(&path), Pace::InFlight(4)).total(100).run(rig.host()).unwrap();
    assert_eq!(report.count(Outcome::Ok), 100, "{report}");
    rig.daemon.wait_until_tidy(1).unwrap();
    rig.device_ok("remove", &["sock"]).unwrap();
    assert!(!path.exists());
}

/// Streams from the host to a port and to datagrams of the container: bytes cross again after a restart,
/// through the same socket file and port.
///
/// Fails when: a unix listener or a stream to datagrams is not given to the worker of the new run.
#[test]
fn streams_to_a_port_and_to_datagrams_cross_after_a_restart() {
    let spec = ContainerSpec::booting("serve echo tcp:127.0.0.1:7 echo udp:127.0.0.1:7");
    let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), "kinds", &spec).unwrap() else { return };
    let (port, tcp, udp) = (rig.ports.one().unwrap(), rig.path("tcp"), rig.path("udp"));
    let devices = [
        (format!("unix:{}", tcp.display()), "tcp:127.0.0.1:7", Addr::unix(&tcp)),
        (format!("unix:{}", udp.display()), "udp:127.0.0.1:7", Addr::unix(&udp)),
        (format!("tcp:127.0.0.1:{port}"), "udp:127.0.0.1:7", Addr::tcp(&format!("127.0.0.1:{port}"))),
    ];
    for (name, (listen, connect, _)) in ["unix-tcp", "unix-udp", "tcp-udp"].iter().zip(&devices) {
        rig.add(name, &[&format!("listen={listen}"), &format!("connect={connect}")]).unwrap();
    }
    for round in 0..3 {
        for (_, connect, addr) in &devices {
            // What is sent before the service is there is lost, as datagrams are.
            let answered = || echoes(&check::dial(rig.host(), addr).ok()?).ok();
            wait_for(&format!("round {round}: an echo of {connect} at {addr}"), answered).unwrap();
        }
        if round == 0 { rig.container.restart() } else { rig.container.restart_by_force() }.unwrap();
    }
    rig.daemon.wait_until_tidy(1).unwrap();
}

fn echoes(mut stream: &Stream) -> std::io::Result<()> {
    stream.set_timeout(Duration::from_secs(1))?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

/// Listeners inside an instance die with it and are there again in the next run: a port, a datagram
/// port, a socket in a file and an abstract one.
///
/// Fails when `plan::listener_step` does not close what belongs to another run, and when the socket
/// file of the former run is taken for somebody else's.
#[test]
fn devices_on_the_instances_side_come_back() {
    let Some(rig) = Rig::start(PORTWAY, "inside").unwrap() else { return };
    let service = Service::start(rig.host(), &Addr::tcp("127.0.0.1:0"), Behaviour::Echo).unwrap();
    let connect = format!("connect={}", service.addr());
    for (name, listen) in
        [("port", "tcp:127.0.0.1:9000"), ("file", "unix:/srv/back"), ("name", "unix:@portway-inside")]
    {
        rig.add(name, &["bind=instance", &format!("listen={listen}"), &connect]).unwrap();
    }
    for round in 0..3 {
        for name in ["port", "file", "name"] {
            rig.daemon.wait_for_state(name, "active").unwrap();
        }
        // Held no longer than the connections last.
        let inside = rig.inside().unwrap();
        let file = inside.path(Path::new("/srv/back"));
        let places = [Addr::tcp("127.0.0.1:9000"), Addr::unix(file), Addr::Abstract("portway-inside".into())];
        for place in &places {
            check::echo(&check::dial(&inside, place).unwrap(), 10_000, round).unwrap();
        }
        assert_eq!(rig.container.sh("stat -c %F /srv/back").unwrap().trim(), "socket");
        drop(inside);
        if round == 0 { rig.container.restart() } else { rig.container.restart_by_force() }.unwrap();
    }
    rig.daemon.wait_for_state("file", "active").unwrap();
    rig.daemon.wait_until_tidy(1).unwrap();
    rig.container.stop().unwrap();
    rig.daemon.wait_until_tidy(0).unwrap();
    assert!(!rig.container.rootfs().join("srv/back").exists(), "a dead socket file was left");
}
