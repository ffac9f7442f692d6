//! A container that restarts under a load, with a service that takes its time.

use std::time::{Duration, Instant};

use portway_testkit::{Addr, ContainerSpec, Load, Outcome, Pace, Server, check, wait_for};

use crate::scene::Scene;

/// Longest a connection may wait; the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Clients that come while the container is down, while it has its address and its service does not listen yet, and
/// after: the relay has them wait until the service has answered one of them, then the kernel leads. Who was relayed
/// goes on. What the service saw in between is the relay.
///
/// Fails when: the kernel leads as soon as the address is there, or never again, or forgets who was relayed.
#[test]
fn nobody_is_refused_before_the_service_listens() {
    let spec = ContainerSpec::booting("sleep 2; serve echo tcp:0.0.0.0:7");
    let Some(scene) = Scene::on(Server::Incus6, "natslow", &spec) else { return };
    let rig = &scene.rig;
    let port = rig.ports.one().unwrap();
    rig.add("web", &[&format!("listen=tcp:0.0.0.0:{port}"), "connect=tcp:0.0.0.0:7", "nat=true", "hold=60s"])
        .unwrap();
    // One that is added to a container that runs is led at once.
    let device = scene.device("web");
    assert_eq!((&device["mode"], &device["state"]), (&"nat".into(), &"active".into()), "{device}");
    let addr = Addr::tcp(&format!("{}:{port}", scene.hosts[0]));
    wait_for("the service", || check::echo(&check::dial(&scene.client, &addr).ok()?, 10, 1).ok()).unwrap();
    for _ in 0..2 {
        rig.container.stop().unwrap();
        let down = || (scene.device("web")["mode"] == "relay").then_some(());
        wait_for("the way to be taken back", down).unwrap();
        let load = Load::new(&addr, Pace::PerSecond(200)).limit(LIMIT).start(&scene.client).unwrap();
        let waits = check::dial(&scene.client, &addr).unwrap();
        rig.container.start().unwrap();
        rig.container.address(false).unwrap();
        let shown = || {
            let device = scene.device("web");
            let reason = device["mode_reason"].as_str()?;
            (device["state"] == "active" && reason.contains("has not answered")).then_some(())
        };
        wait_for("the reason to be shown", shown).unwrap();
        let began = Instant::now();
        scene.wait_until_led("web");
        println!("led {:.1?} after the address was there", began.elapsed());
        load.wait_for_ok(100).unwrap();
        check::echo(&waits, 100, 3).unwrap();
        let report = load.stop().unwrap();
        println!("{report}");
        assert_eq!(report.failures(), 0, "{report}");
    }
    // Without a pause, by the server itself: between the end of the service and the moment Portway knows of it the
    // container refuses, as it does when its service ends alone.
    let load = Load::new(&addr, Pace::PerSecond(200)).limit(LIMIT).start(&scene.client).unwrap();
    load.wait_for_ok(50).unwrap();
    let asked = Instant::now();
    let known = std::thread::scope(|scope| {
        let known = scope.spawn(|| {
            let down = || (scene.device("web")["mode"] == "relay").then(Instant::now);
            wait_for("the way to be taken back", down).unwrap()
        });
        rig.container.restart_by_force().unwrap();
        known.join().unwrap()
    });
    scene.wait_until_led("web");
    load.wait_for_ok(100).unwrap();
    let (from, to) = (load.at(asked), load.at(known));
    let report = load.stop().unwrap();
    println!("{report}");
    println!("refused before it was known: {}", report.between(from, to).count(Outcome::Refused));
    let later = report.between(to, Duration::MAX);
    assert_eq!(later.failures(), 0, "{later}");
}
