//! `incus restart` under a load of 500 connections a second.
//!
//! ```text
//!  load ──> 127.0.0.1:PORT (bed's namespace) ──> worker ──> 127.0.0.1:7 in the container, `serve echo`
//! ```

use std::time::{Duration, Instant};

use anyhow::Result;
use portway_testkit::{
    Addr, Container, ContainerSpec, DaemonSpec, Load, Outcome, Pace, Rig, Watch, check, wait_for,
};

use crate::PORTWAY;

/// Restarts of one test.
const ROUNDS: usize = 3;

/// Longest a container may take to end; the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Restarts the container again and again. A connection that was open between the request and init's
/// death may be cut: the instance was serving it. Whoever comes from init's death on is served.
fn restart_under_load(name: &str, restart: fn(&Container<'_>) -> Result<()>) {
    let spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:7");
    let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), name, &spec).unwrap() else { return };
    let port = rig.ports.one().unwrap();
    rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]).unwrap();
    let addr = Addr::tcp(&format!("127.0.0.1:{port}"));
    let serves = || check::echo(&check::dial(rig.host(), &addr).ok()?, 10, 1).ok();
    wait_for("the service", serves).unwrap();
    let load = Load::new(&addr, Pace::PerSecond(500));
    let load = load.limit(LIMIT).start(rig.host()).unwrap();
    load.wait_for_ok(300).unwrap();
    let mut cuts = Vec::new();
    for round in 0..ROUNDS {
        let watch = Watch::pid(rig.container.pid().unwrap()).unwrap();
        let asked = Instant::now();
        let died = std::thread::scope(|scope| {
            let death = scope.spawn(|| watch.wait(LIMIT));
            restart(&rig.container).unwrap();
            death.join().unwrap().unwrap()
        });
        println!(
            "round {round}: init died {:.1?} after the request, the restart took {:.1?}",
            died - asked,
            asked.elapsed()
        );
        cuts.push((load.at(asked), load.at(died)));
        load.wait_for_ok(300).unwrap();
    }
    let report = load.stop().unwrap();
    let held = |(_, died): &(Duration, Duration)| {
        let after = report.between(*died, *died + Duration::from_millis(50));
        (after.records.len(), after.percentile(1.0))
    };
    println!("{report}");
    println!("in the 50 ms after each death: {:?}", cuts.iter().map(held).collect::<Vec<_>>());
    println!("cut with the instance: {}", report.failures());
    assert_eq!(report.count(Outcome::Refused), 0, "{report}");
    let wrong = report.unexplained(&cuts);
    assert!(wrong.records.is_empty(), "{:?} with cuts {cuts:?} in {report}", wrong.records);
    rig.daemon.wait_until_tidy(1).unwrap();
}

/// Fails when `Instance::on_death` begins no hold (clients are refused while the container is down),
/// and when the daemon gives a client back to the worker that is dying (`Instance::take_orphan`). The
/// moment between the end of the services and init's own is too short for a load to meet; the relay's
/// test of clients of a dying instance makes it last.
#[test]
fn a_restart_under_load_refuses_nobody() {
    restart_under_load("restart", |container| container.restart());
}

/// As above, with init killed: every process of the container dies at once.
#[test]
fn a_forced_restart_under_load_refuses_nobody() {
    restart_under_load("forced", |container| container.restart_by_force());
}
