//! Workers that hang, and workers that only seem to.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Load, Outcome, Pace, Talk, Watch, faults, wait_for};

use crate::stand::{LIMIT, Stand, local};

/// R8: a worker that hangs is seen, ended and replaced: clients that come meanwhile wait for the next one, and another
/// worker of the same instance does not notice.
#[test]
fn a_worker_that_hangs_is_replaced() {
    let Some(stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    let web = stand.worker();
    stand.add("other", "tcp:127.0.0.1:8081", "tcp:127.0.0.1:7", &[("security.uid", "1000")]);
    let other = wait_for("another worker", || stand.daemon.workers().into_iter().find(|pid| *pid != web));
    let other = other.unwrap();
    let talk = Talk::start(&stand.site, &local(8081), 1).unwrap();
    let turns = faults::scale(1, 20);
    let (mut hung, mut slowest, mut connections) = (web, 0, 0);
    for _ in 0..turns {
        let watch = Watch::pid(hung).unwrap();
        kill(Pid::from_raw(hung), Signal::SIGSTOP).unwrap();
        let stopped = Instant::now();
        let load = Load::new(&addr, Pace::PerSecond(20)).limit(LIMIT).start(&stand.site).unwrap();
        let seen = watch.wait(LIMIT).unwrap();
        slowest = slowest.max((seen - stopped).as_millis());
        let cuts = [(load.at(stopped), load.at(seen))];
        load.wait_for_ok(20).unwrap();
        let report = load.stop().unwrap();
        connections += report.records.len();
        assert_eq!(report.count(Outcome::Refused), 0, "{report}");
        assert!(report.unexplained(&cuts).records.is_empty(), "{report}");
        let next = || stand.daemon.workers().into_iter().find(|pid| *pid != other && *pid != hung);
        hung = wait_for("the next worker", next).unwrap();
    }
    faults::figure("R8", "hung workers", turns, "");
    faults::figure("R8", "connections meanwhile", connections, "");
    faults::figure("R8", "longest time until it was ended", slowest, "ms");
    talk.finish().unwrap();
    assert!(stand.daemon.workers().contains(&other), "the other worker is the one it was");
    stand.daemon.wait_until_tidy(2).unwrap();
}

/// Programs that want all of every processor; they end with this value.
struct Spinners(Vec<Child>);

impl Spinners {
    fn start(count: usize) -> Self {
        let spin = || {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            command.spawn().unwrap()
        };
        Self((0..count).map(|_| spin()).collect())
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// R15: with four programs for each processor that want all of it, everything is late and nothing is lost; no worker
/// is taken for one that hangs.
#[test]
fn a_starved_worker_is_not_taken_for_a_hung_one() {
    let Some(stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    let worker = stand.worker();
    let cores = std::thread::available_parallelism().unwrap().get();
    let spinners = Spinners::start(4 * cores);
    let connections = faults::scale(1_500, 100_000);
    let load = Load::new(&addr, Pace::PerSecond(200)).limit(LIMIT).total(connections);
    let report = load.run(&stand.site).unwrap();
    drop(spinners);
    faults::figure("R15", "connections", report.records.len(), "");
    faults::figure("R15", "programs beside it", 4 * cores, "");
    faults::figure("R15", "errors", report.failures(), "");
    assert_eq!(report.failures(), 0, "{report}");
    assert_eq!(stand.worker(), worker, "it was starved, and did not hang");
}
