//! A published service under load.
//!
//! ```text
//!  load, talks ──> 127.0.0.1:PORT (bed's namespace) ──> worker ──> 127.0.0.1:7 in the container
//! ```

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{
    Addr, ContainerSpec, DaemonSpec, Load, Outcome, Pace, Report, Rig, RunningLoad, Talk, Watch, check,
    wait_for,
};
use serde_json::Value;

use crate::PORTWAY;

/// Patience of a client, and with the end of a process.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Good connections by which the load shows that things work.
const ENOUGH: u64 = 200;

/// The service, started by init.
pub(crate) const BOOT: &str = "serve echo tcp:127.0.0.1:7";

/// See the module.
pub(crate) struct Scene {
    pub(crate) rig: Rig,
    pub(crate) addr: Addr,
    load: RunningLoad,
    cuts: Vec<(Duration, Duration)>,
}

impl Scene {
    /// `None` where there is no bed.
    pub(crate) fn start(name: &str) -> Option<Self> {
        Self::with(name, &ContainerSpec::booting(BOOT))
    }

    pub(crate) fn with(name: &str, spec: &ContainerSpec) -> Option<Self> {
        let rig = Rig::launch(DaemonSpec::new(PORTWAY), name, spec).unwrap()?;
        let port = rig.ports.one().unwrap();
        rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]).unwrap();
        let addr = Addr::tcp(&format!("127.0.0.1:{port}"));
        let serves = || check::echo(&check::dial(rig.host(), &addr).ok()?, 10, 1).ok();
        wait_for("the service", serves).unwrap();
        let load = Load::new(&addr, Pace::PerSecond(500)).limit(LIMIT).start(rig.host()).unwrap();
        let scene = Self { rig, addr, load, cuts: Vec::new() };
        scene.go_on();
        Some(scene)
    }

    /// The load goes on.
    pub(crate) fn go_on(&self) {
        self.load.wait_for_ok(ENOUGH).unwrap();
    }

    /// Does something that may cut the connections that are open meanwhile.
    pub(crate) fn cutting<T>(&mut self, work: impl FnOnce(&mut Rig) -> T) -> T {
        let from = Instant::now();
        let result = work(&mut self.rig);
        self.cuts.push((self.load.at(from), self.load.at(Instant::now())));
        result
    }

    /// Does something to the container; connections that are open until its init is dead may be cut.
    pub(crate) fn cutting_until_death(&mut self, work: impl FnOnce(&mut Rig) + Send) {
        let watch = Watch::pid(self.rig.container.pid().unwrap()).unwrap();
        let from = Instant::now();
        let died = std::thread::scope(|scope| {
            let death = scope.spawn(|| watch.wait(LIMIT));
            work(&mut self.rig);
            death.join().unwrap().unwrap()
        });
        self.cuts.push((self.load.at(from), self.load.at(died)));
    }

    /// The one worker.
    pub(crate) fn worker(&self) -> i32 {
        one(&self.rig.daemon.workers())
    }

    /// The one keeper.
    pub(crate) fn keeper(&self) -> i32 {
        one(&self.rig.daemon.keepers())
    }

    /// The device as the API shows it.
    pub(crate) fn device(&self) -> Value {
        self.rig.daemon.device("web").unwrap()
    }

    /// A connection with traffic.
    pub(crate) fn talk(&self, seed: u64) -> Talk {
        Talk::start(self.rig.host(), &self.addr, seed).unwrap()
    }

    /// Ends the load: nobody was refused, nobody was cut but in the cuts, the device is served by the
    /// one worker there is, and nothing is left over.
    pub(crate) fn end(self) -> (Rig, Report) {
        let report = self.load.stop().unwrap();
        println!("{report}; gap {:.1?}; cut {}", report.longest_gap(), report.failures());
        assert_eq!(report.count(Outcome::Refused), 0, "{report}");
        let wrong = report.unexplained(&self.cuts);
        assert!(wrong.records.is_empty(), "{:?}, cuts {:?}, {report}", wrong.records, self.cuts);
        self.rig.daemon.wait_until_tidy(1).unwrap();
        let device = self.rig.daemon.device("web").unwrap();
        assert_eq!(device["state"], "active", "{device}");
        assert_eq!(device["worker_pid"], one(&self.rig.daemon.workers()), "{device}");
        wait_for("all connections to end", || {
            (self.rig.daemon.device("web").ok()?["connections_now"] == 0).then_some(())
        })
        .unwrap();
        (self.rig, report)
    }
}

fn one(pids: &[i32]) -> i32 {
    let [pid] = pids else { panic!("not one process: {pids:?}") };
    *pid
}

/// SIGKILL, and waits for the end.
pub(crate) fn kill_all(pids: &[i32]) {
    let watches: Vec<Watch> = pids.iter().map(|pid| Watch::pid(*pid).unwrap()).collect();
    for pid in pids {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    }
    for watch in watches {
        watch.wait(LIMIT).unwrap();
    }
}
