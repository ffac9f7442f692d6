//! The hold and its end.

use std::time::{Duration, Instant};

use portway_testkit::{Addr, ContainerSpec, DaemonSpec, Load, Outcome, Pace, Rig, check, wait_for};

use crate::PORTWAY;

const HOLD: Duration = Duration::from_secs(1);

/// Within the hold clients wait; then they are told, and so is everybody who comes later, at once;
/// with the instance the port is back.
///
/// Fails when `plan::listener_step` has no `Refuse` (clients wait for ever) or no `Reopen` (the port
/// stays closed), and when the hold is not measured from init's death.
#[test]
fn after_the_hold_the_port_refuses_until_the_instance_is_back() {
    let spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:7");
    let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), "hold", &spec).unwrap() else { return };
    let port = rig.ports.one().unwrap();
    let keys = [&format!("listen=tcp:127.0.0.1:{port}")[..], "connect=tcp:127.0.0.1:7", "hold=1s"];
    rig.add("web", &keys).unwrap();
    let addr = Addr::tcp(&format!("127.0.0.1:{port}"));
    let load = Load::new(&addr, Pace::PerSecond(100)).start(rig.host()).unwrap();
    load.wait_for_ok(50).unwrap();
    let asked = Instant::now();
    rig.container.stop().unwrap();
    let is_refused = || rig.host().run(|| addr.connect(HOLD)).unwrap().is_err();
    wait_for("a closed port", || is_refused().then_some(())).unwrap();
    rig.daemon.wait_for_state("web", "waiting").unwrap();
    // It stays so: every look at a stopped instance plans anew.
    let (_, before) = load.so_far();
    // Up to a hundred of those who waited may still be on their way to be counted.
    wait_for("more refusals", || (load.so_far().1 > before + 150).then_some(())).unwrap();
    let (asked, closed) = (load.at(asked), load.at(Instant::now()));
    rig.container.start().unwrap();
    let served = wait_for("an open port", || check::dial(rig.host(), &addr).ok()).unwrap();
    check::echo(&served, 1000, 1).unwrap();
    let back = load.at(Instant::now());
    load.wait_for_ok(100).unwrap();
    let report = load.stop().unwrap();
    println!("{report}");
    let refused = report.records.iter().filter(|record| record.outcome == Outcome::Refused);
    let first = refused.map(|record| record.at).min().unwrap();
    println!("refused from {:?} after the request to stop, hold {HOLD:?}", first - asked);
    assert!(first >= asked + HOLD, "refused {:?} after the request to stop", first - asked);
    let held = report.between(asked, first);
    assert_eq!(held.failures(), held.count(Outcome::Reset) + held.count(Outcome::Short), "{held}");
    let down = report.between(closed - Duration::from_millis(100), closed);
    assert_eq!(down.count(Outcome::Refused), down.records.len(), "{down}");
    let after = report.between(back, Duration::MAX);
    assert_eq!(after.failures(), 0, "{after}");
    rig.daemon.wait_until_tidy(1).unwrap();
}

/// Without a hold the port refuses as soon as the instance is down.
///
/// Fails when `Instance::take_orphan` keeps clients nobody waits for: they would hang.
#[test]
fn without_a_hold_nobody_waits() {
    let spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:7");
    let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), "nohold", &spec).unwrap() else { return };
    let port = rig.ports.one().unwrap();
    let keys = [&format!("listen=tcp:127.0.0.1:{port}")[..], "connect=tcp:127.0.0.1:7", "hold=0s"];
    rig.add("web", &keys).unwrap();
    let addr = Addr::tcp(&format!("127.0.0.1:{port}"));
    let ready = || check::echo(&check::dial(rig.host(), &addr).ok()?, 100, 1).ok();
    wait_for("the service", ready).unwrap();
    let load =
        Load::new(&addr, Pace::PerSecond(500)).limit(Duration::from_secs(20)).start(rig.host()).unwrap();
    load.wait_for_ok(100).unwrap();
    rig.container.kill().unwrap();
    let (_, before) = load.so_far();
    wait_for("refusals", || (load.so_far().1 > before + 200).then_some(())).unwrap();
    let report = load.stop().unwrap();
    println!("{report}");
    assert_eq!(report.count(Outcome::TimedOut), 0, "{report}");
    assert!(report.count(Outcome::Refused) > 100, "{report}");
}
