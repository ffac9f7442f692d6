//! How soon a port works once the service behind it does.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use portway_testkit::{Addr, ContainerSpec, DaemonSpec, Rig, Watch, check, process, wait_for};
use rustix::time::{ClockId, clock_gettime};

use crate::PORTWAY;

const SERVICE: &str = "tcp:0.0.0.0:7";

fn rig(name: &str, boot: &str) -> Option<(Rig, Addr)> {
    let spec = ContainerSpec::booting(boot);
    let rig = Rig::launch(DaemonSpec::new(PORTWAY), name, &spec).unwrap()?;
    let port = rig.ports.one().unwrap();
    rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]).unwrap();
    let addr = Addr::tcp(&format!("127.0.0.1:{port}"));
    let serves = || check::echo(&check::dial(rig.host(), &addr).ok()?, 10, 1).ok();
    wait_for("the service", serves).unwrap();
    Some((rig, addr))
}

/// A client that waits is served by the time the service, asked directly again and again with 10 ms
/// between, has answered ten times.
///
/// Fails when the worker dials for those who wait only once a second (`RETRY_PAUSE` in the relay), and
/// when the daemon waits for its regular look to see the new run (`LOOK_SOON` and the events).
#[test]
fn who_waits_is_served_at_once_when_the_service_starts() {
    let Some((rig, addr)) = rig("soon", &format!("sleep 0.4; serve echo {SERVICE}")) else { return };
    for round in 0..4 {
        let watch = Watch::pid(rig.container.pid().unwrap()).unwrap();
        rig.container.restart_by_force().unwrap();
        assert!(watch.has_ended());
        let (waiting, inside) = (check::dial(rig.host(), &addr).unwrap(), rig.inside().unwrap());
        let is_served = AtomicBool::new(false);
        let direct = Addr::tcp("127.0.0.1:7");
        let mut answers = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                check::echo(&waiting, 10, round).unwrap();
                is_served.store(true, Ordering::SeqCst);
            });
            while !is_served.load(Ordering::SeqCst) {
                let stream = inside.run(|| direct.connect(Duration::from_secs(1))).unwrap();
                if stream.is_ok_and(|stream| check::echo(&stream, 10, 2).is_ok()) {
                    answers += 1;
                }
                assert!(answers < 1000, "never served");
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        println!("round {round}: {answers} direct answers, 10 ms apart, until the client was served");
        assert!(answers <= 10, "the service had answered {answers} times");
        check::echo(&check::dial(rig.host(), &addr).unwrap(), 1000, 3).unwrap();
    }
}

/// Prints the time from the start of a service that init starts at once to the first byte through the
/// port: the new run must be found, a worker started, the device given to it.
#[test]
fn the_port_works_soon_after_a_service_that_starts_with_init() {
    let Some((rig, addr)) = rig("instant", &format!("serve echo {SERVICE}")) else { return };
    let mut times = Vec::new();
    for round in 0..8 {
        let watch = Watch::pid(rig.container.pid().unwrap()).unwrap();
        let served = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                watch.wait(Duration::from_secs(60)).unwrap();
                check::echo(&check::dial(rig.host(), &addr).unwrap(), 10, round).unwrap();
                since_boot()
            });
            rig.container.restart_by_force().unwrap();
            client.join().unwrap()
        });
        let started = service_start(rig.container.pid().unwrap()).unwrap();
        times.push(served.saturating_sub(started));
    }
    times.sort_unstable();
    println!("from the service's start to a byte through the port, within 10 ms: {times:?}");
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec).unwrap(), u32::try_from(now.tv_nsec).unwrap());
    Duration::new(seconds, nanoseconds)
}

/// When the program `serve` in the pid namespace of this init was started, after boot.
fn service_start(init: i32) -> Result<Duration> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let inside = namespace(init).context("no init")?;
    let pids =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_service = |pid: &i32| {
        namespace(*pid).as_ref() == Some(&inside)
            && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "serve")
    };
    let service = pids.into_iter().find(is_service).context("no service")?;
    // Clock ticks of 10 ms.
    Ok(Duration::from_millis(10 * process::start_time(service)?))
}
