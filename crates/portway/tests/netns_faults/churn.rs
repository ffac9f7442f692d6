//! Devices that come and go, ports that others take, listeners by the ten thousand.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portway_testkit::{Load, Pace, check, faults, process, wait_for};
use serde_json::json;

use crate::stand::{LIMIT, Stand, Stop, local};

/// R37: devices are added and removed; nothing is left of them in any process, and the one beside them does not notice.
#[test]
fn devices_that_come_and_go_leave_nothing() {
    let Some(stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    let pids = [stand.daemon.pid().unwrap(), stand.worker(), stand.daemon.keepers()[0]];
    let turn = |number: u32| {
        let port = 9000 + number % 1000;
        stand.add("turn", &format!("tcp:127.0.0.1:{port}"), "tcp:127.0.0.1:7", &[]);
        stand.remove("turn");
    };
    (0..200).for_each(turn);
    let descriptors = || pids.map(|pid| process::fd_count(pid).unwrap());
    let threads = || process::thread_count(pids[0]).unwrap();
    let (held, early) = (descriptors(), pids.map(|pid| process::rss_bytes(pid).unwrap()));
    let (few, turns) = (threads(), faults::scale(300, 100_000));
    let load = Load::new(&addr, Pace::PerSecond(50)).limit(LIMIT).start(&stand.site).unwrap();
    (0..turns).for_each(turn);
    let report = load.stop().unwrap();
    stand.wait_until_idle("web");
    let late = pids.map(|pid| process::rss_bytes(pid).unwrap());
    faults::figure("R37", "devices added and removed", turns, "");
    faults::figure("R37", "errors beside them", report.failures(), "");
    for ((name, early), late) in ["daemon", "worker", "keeper"].iter().zip(early).zip(late) {
        let grown = late.saturating_sub(early);
        faults::figure("R37", &format!("growth of the {name}"), grown >> 10, "KiB");
        // Forty bytes for each of a hundred thousand: less than any one entry.
        assert!(grown < 4 << 20, "{name}: {early} {late}");
    }
    assert_eq!(report.failures(), 0, "{report}");
    wait_for("the descriptors", || (descriptors() == held).then_some(())).unwrap();
    // Threads for what may block come and go.
    assert!(threads() <= few + 8, "{} threads, {few} before", threads());
    assert_eq!(stand.daemon.devices().unwrap().len(), 1);
}

/// How long the other process has the port, and how long it leaves it alone.
const HELD: Duration = Duration::from_millis(7);

/// R29: a port that another process takes and gives back all the time: a device gets it whole or is refused and leaves
/// nothing, and while it has it nobody else does.
#[test]
fn a_port_in_dispute_is_ours_or_not() {
    let Some(stand) = Stand::start() else { return };
    stand.publish("web", 8080);
    let held = [stand.daemon.pid().unwrap(), stand.worker()].map(|pid| process::fd_count(pid).unwrap());
    let (stopping, taken_meanwhile) = (AtomicBool::new(false), AtomicBool::new(false));
    let turns = faults::scale(60, 3_000);
    let (mut ours, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let (site, stopping) = (stand.site.clone(), &stopping);
        let stop = Stop(stopping);
        let rival = scope.spawn(move || {
            site.run(|| {
                while !stopping.load(Ordering::SeqCst) {
                    let listener = TcpListener::bind("127.0.0.1:8090");
                    std::thread::sleep(HELD);
                    drop(listener);
                    std::thread::sleep(HELD);
                }
            })
        });
        for _ in 0..turns {
            let answer = stand.try_add("disputed", "tcp:127.0.0.1:8090-8093", "tcp:127.0.0.1:7", &[]);
            if answer.status == 200 {
                ours += 1;
                let theirs = stand.site.run(|| TcpListener::bind("127.0.0.1:8090").is_ok()).unwrap();
                taken_meanwhile.fetch_or(theirs, Ordering::SeqCst);
                check::echo(&check::dial(&stand.site, &local(8090)).unwrap(), 100, 1).unwrap();
                stand.remove("disputed");
            } else {
                refused += 1;
                let text = answer.body["error"].as_str().unwrap_or_default();
                assert!(answer.status == 409 && text.contains("127.0.0.1:8090"), "{}", answer.body);
                assert!(stand.daemon.device("disputed").is_err(), "it was refused, and stays");
            }
        }
        drop(stop);
        rival.join().unwrap().unwrap();
    });
    faults::figure("R29", "tries", turns, "");
    faults::figure("R29", "ours", ours, "");
    faults::figure("R29", "refused", refused, "");
    assert!(refused > 0 && ours > 0, "there was no dispute");
    assert!(!taken_meanwhile.into_inner(), "two had the port at once");
    stand.wait_until_idle("web");
    let now = || [stand.daemon.pid().unwrap(), stand.worker()].map(|pid| process::fd_count(pid).unwrap());
    wait_for("the descriptors", || (now() <= held).then_some(())).unwrap();
}

/// R30: thousands of listeners in one list, each leads to its own port of the service, and the next daemon has them all.
#[test]
fn listeners_by_the_thousand_are_applied_and_adopted() {
    let Some(mut stand) = Stand::start() else { return };
    process::raise_nofile().unwrap();
    let (devices, ports) = (faults::scale(4, 10), faults::scale(200, 1000));
    let first = |device: u16| 20_000 + device * ports;
    let described = |device: u16| {
        let (from, to) = (first(device), first(device) + ports - 1);
        json!({ "instance": stand.instance(), "name": format!("d{device}"), "keys": {
            "listen": format!("tcp:127.0.0.1:{from}-{to}"), "connect": format!("tcp:127.0.0.1:{from}-{to}") } })
    };
    let list: Vec<_> = (0..devices).map(described).collect();
    let begin = Instant::now();
    let answer = stand.daemon.api().call("POST", "/1.0/apply", Some(&json!({ "devices": list })), LIMIT);
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let applied = begin.elapsed();
    // One service that says which port it has, moved from port to port.
    let probe = |port: u16| {
        let inside = portway_testkit::Site::netns(&stand.inside);
        let says = portway_testkit::Behaviour::Say(format!("at {port}"));
        let _service = portway_testkit::Service::start(&inside, &local(port), says).unwrap();
        let said = check::read_all(&check::dial(&stand.site, &local(port)).unwrap()).unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), format!("at {port}"));
    };
    let probes = || {
        (0..devices)
            .for_each(|device| [0, 1, ports / 2, ports - 1].iter().for_each(|at| probe(first(device) + at)))
    };
    probes();
    stand.daemon.kill().unwrap();
    let begin = Instant::now();
    stand.daemon.launch().unwrap();
    let all = || {
        let devices = stand.daemon.devices().ok()?;
        devices.iter().all(|device| device["state"] == "active").then_some(())
    };
    wait_for("all devices", all).unwrap();
    let adopted = begin.elapsed();
    faults::figure("R30", "listeners", devices * ports, "");
    faults::figure("R30", "applied in", applied.as_millis(), "ms");
    faults::figure("R30", "adopted by the next daemon in", adopted.as_millis(), "ms");
    probes_again(&stand, devices, first);
}

fn probes_again(stand: &Stand, devices: u16, first: impl Fn(u16) -> u16) {
    for device in 0..devices {
        let port = first(device);
        let inside = portway_testkit::Site::netns(&stand.inside);
        let says = portway_testkit::Behaviour::Say("again".into());
        let _service = portway_testkit::Service::start(&inside, &local(port), says).unwrap();
        let said = check::read_all(&check::dial(&stand.site, &local(port)).unwrap()).unwrap();
        assert_eq!(said, b"again");
    }
}
