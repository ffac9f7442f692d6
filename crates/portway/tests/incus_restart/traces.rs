//! Nothing of an instance outlives it here, and its server never meets us.

use std::time::{Duration, Instant};

use portway_testkit::{
    Addr, Behaviour, Belongings, Canary, ContainerSpec, DaemonSpec, Rig, Service, Talk, check, wait_for,
};

use crate::PORTWAY;

/// What the server said about this container, at level warning or error.
fn complaints(rig: &Rig, before: usize) -> Vec<String> {
    let log = rig.bed().log().unwrap();
    let about_us = |line: &&str| {
        line.contains(rig.container.name()) && (line.contains("level=warn") || line.contains("level=error"))
    };
    log.get(before..).unwrap_or(&log).lines().filter(about_us).map(str::to_owned).collect()
}

/// Devices of every kind on both sides, with live connections, one of them stuck with a client that
/// does not read; all of it while the instance goes.
fn add_everything(rig: &Rig, service: &Service) -> Addr {
    let port = rig.ports.run(2).unwrap();
    let front = rig.path("front");
    let host = service.addr();
    let devices: [(&str, Vec<String>); 6] = [
        ("tcp", vec![format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7".into()]),
        ("udp", vec![format!("listen=udp:127.0.0.1:{}", port + 1), "connect=udp:127.0.0.1:7".into()]),
        ("unix", vec![format!("listen=unix:{}", front.display()), "connect=unix:/srv/s".into()]),
        ("in-tcp", vec!["bind=instance".into(), "listen=tcp:127.0.0.1:9".into(), format!("connect={host}")]),
        ("in-unix", vec!["bind=instance".into(), "listen=unix:/srv/in".into(), format!("connect={host}")]),
        (
            "in-udp",
            vec!["bind=instance".into(), "listen=udp:127.0.0.1:9".into(), "connect=udp:127.0.0.1:9".into()],
        ),
    ];
    for (name, keys) in &devices {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        rig.add(name, &keys).unwrap();
    }
    Addr::tcp(&format!("127.0.0.1:{port}"))
}

fn gone_without_a_trace(name: &str, spec: &ContainerSpec) {
    let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), name, spec).unwrap() else { return };
    let log = rig.bed().log().unwrap().len();
    let begin = Instant::now();
    rig.container.restart().unwrap();
    let alone = begin.elapsed();
    let service = Service::start(rig.host(), &Addr::tcp("127.0.0.1:0"), Behaviour::Echo).unwrap();
    let addr = add_everything(&rig, &service);
    for round in 0..4 {
        let serves = || check::echo(&check::dial(rig.host(), &addr).ok()?, 10, 1).ok();
        wait_for("the service", serves).unwrap();
        rig.daemon.wait_until_tidy(3).unwrap();
        let talk = Talk::start(rig.host(), &addr, 1).unwrap();
        let stuck = check::dial(rig.host(), &addr).unwrap();
        stuck.set_timeout(Duration::from_millis(200)).unwrap();
        // Until nothing moves any more: the echo is full, because nobody reads it.
        while std::io::Write::write(&mut &stuck, &[7; 65536]).is_ok() {}
        let canary = Canary::put(&rig.container).unwrap();
        let belongings = Belongings::of_init(rig.container.pid().unwrap()).unwrap();
        assert!(!belongings.holders(&rig.daemon.processes()).is_empty(), "the worker lives in it");
        let begin = Instant::now();
        if round % 2 == 0 {
            rig.container.restart().unwrap();
            println!("round {round}: restart {:.0?}, without a device {alone:.0?}", begin.elapsed());
        } else {
            rig.container.kill().unwrap();
            // The next run may get the same number of a namespace, and has the same root.
            belongings.wait_until_free(|| rig.daemon.processes()).unwrap();
            rig.container.start().unwrap();
        }
        canary.wait().unwrap();
        talk.stop().unwrap();
        drop(stuck);
    }
    // A server that is asked for an instance which is just ending complains of it.
    rig.daemon.wait_until_tidy(3).unwrap();
    rig.container.stop().unwrap();
    rig.daemon.wait_until_tidy(0).unwrap();
    rig.container.start().unwrap();
    rig.daemon.wait_until_tidy(3).unwrap();
    assert_eq!(complaints(&rig, log), Vec::<String>::new());
}

/// Fails when a worker outlives init (`Engine::on_instance_gone` without its deadline), when the
/// daemon keeps a descriptor of the namespace or of the root (a `Run` that keeps what it opens), and
/// when listeners of the instance's side are not closed at its death.
#[test]
fn a_restart_leaves_nothing_of_the_former_run() {
    gone_without_a_trace("traces", &ContainerSpec::booting(SERVICES));
}

/// The same with a macvlan interface, which has its address for itself on the parent: as long as
/// anything holds the former namespace the next run cannot have it.
#[test]
fn a_macvlan_container_restarts() {
    gone_without_a_trace("macvlan", &ContainerSpec::booting(SERVICES).with_macvlan());
}

const SERVICES: &str = "serve echo tcp:127.0.0.1:7 echo udp:127.0.0.1:7 echo unix:/srv/s";
