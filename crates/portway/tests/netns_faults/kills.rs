//! Our processes are killed, again and again, under load.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{
    Addr, Ending, Load, Outcome, Pace, Report, RunningLoad, Talk, Watch, faults, wait_for,
};

use crate::stand::{LIMIT, Stand};

/// New connections per second meanwhile: a worker that is killed again and again is started after up to 5 s, and those who
/// wait for it must find room in the backlog, 4096.
const PER_SECOND: u32 = 200;

/// Good connections by which the load shows that things work.
const ENOUGH: u64 = 50;

struct Scene {
    stand: Stand,
    addr: Addr,
    load: RunningLoad,
    cuts: Vec<(Duration, Duration)>,
}

impl Scene {
    fn start() -> Option<Self> {
        let stand = Stand::start()?;
        let addr = stand.publish("web", 8080);
        let load = Load::new(&addr, Pace::PerSecond(PER_SECOND)).limit(LIMIT).start(&stand.site).unwrap();
        load.wait_for_ok(ENOUGH).unwrap();
        Some(Self { stand, addr, load, cuts: Vec::new() })
    }

    fn talk(&self, seed: u64) -> Talk {
        Talk::start(&self.stand.site, &self.addr, seed).unwrap()
    }

    /// Kills these; what was connected meanwhile may be cut.
    fn kill_cutting(&mut self, pids: &[i32]) {
        let from = Instant::now();
        kill_all(pids);
        self.cuts.push((self.load.at(from), self.load.at(Instant::now())));
    }

    /// Ends the load: nobody was refused, and nobody cut but by a kill. Says what there was.
    fn end(self, row: &str, kills: usize, workers: usize) -> (Stand, Report) {
        let report = self.load.stop().unwrap();
        let cut = report.failures();
        let wrong = report.unexplained(&self.cuts);
        faults::figure(row, "kills", kills, "");
        faults::figure(row, "connections meanwhile", report.records.len(), "");
        faults::figure(row, "cut with a killed worker", cut, "");
        faults::figure(row, "lost otherwise", wrong.records.len(), "");
        assert_eq!(report.count(Outcome::Refused), 0, "{report}");
        assert!(wrong.records.is_empty(), "{:?}, {report}", wrong.records);
        self.stand.daemon.wait_until_tidy(workers).unwrap();
        self.stand.wait_until_idle("web");
        (self.stand, report)
    }
}

fn kill_all(pids: &[i32]) {
    let watches: Vec<Watch> = pids.iter().filter_map(|pid| Watch::pid(*pid).ok()).collect();
    for pid in pids {
        // One that ends with another of them may be gone.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    for watch in watches {
        watch.wait(LIMIT).unwrap();
    }
}

/// R5: a killed worker costs the connections that it carried. Their clients are told, and the next ones wait for the
/// next worker.
#[test]
fn killed_workers_cost_their_own_connections() {
    let Some(mut scene) = Scene::start() else { return };
    let kills = faults::scale(4, 200);
    for number in 0..kills {
        let (worker, talk) = (scene.stand.worker(), scene.talk(number));
        scene.kill_cutting(&[worker]);
        scene.load.wait_for_ok(ENOUGH).unwrap();
        assert_ne!(talk.stop().unwrap().ending, Ending::Mine, "its connections are cut, not left hanging");
        let next = || matches!(scene.stand.daemon.workers()[..], [pid] if pid != worker).then_some(());
        wait_for("the next worker", next).unwrap();
    }
    let (_stand, report) = scene.end("R5", usize::try_from(kills).unwrap(), 1);
    faults::figure("R5", "longest time without a good connection", report.longest_gap().as_millis(), "ms");
}

/// R6: a killed daemon costs nothing: connections go on, new ones are served by the same worker, and the next daemon
/// takes over what is there.
#[test]
fn killed_daemons_cost_nothing() {
    let Some(mut scene) = Scene::start() else { return };
    let kills = faults::scale(4, 200);
    let (worker, keeper) = (scene.stand.worker(), scene.stand.daemon.keepers());
    let talks: Vec<Talk> = (0..3).map(|seed| scene.talk(seed)).collect();
    for number in 0..kills {
        scene.stand.daemon.kill().unwrap();
        scene.load.wait_for_ok(ENOUGH / 5).unwrap();
        scene.stand.daemon.launch().unwrap();
        if number % 10 == 0 {
            scene.stand.daemon.wait_for_state("web", "active").unwrap();
            scene.stand.daemon.wait_until_tidy(1).unwrap();
        }
    }
    assert_eq!((scene.stand.worker(), scene.stand.daemon.keepers()), (worker, keeper), "the same go on");
    let rounds: u64 = talks.into_iter().map(|talk| talk.finish().unwrap()).sum();
    let (_stand, report) = scene.end("R6", kills, 1);
    faults::figure("R6", "exchanges of 3 connections throughout", rounds, "");
    assert_eq!(report.failures(), 0, "{report}");
}

/// R7: any of ours, and all of them at once. Whatever is left finds the rest again; a port whose every holder was
/// killed is opened anew by the next daemon.
#[test]
fn any_and_all_of_ours_are_killed() {
    let Some(mut scene) = Scene::start() else { return };
    let turns = faults::scale(6, 100);
    let mut all_at_once = 0;
    for turn in 0..turns {
        // A sequence that has every set of daemon, worker and keeper, and is the same each time.
        let set = (turn * 5 + 3) % 7 + 1;
        let daemon = scene.stand.daemon.pid().unwrap();
        let mut pids = Vec::new();
        pids.extend((set & 1 != 0).then_some(daemon));
        pids.extend((set & 2 != 0).then(|| scene.stand.worker()));
        pids.extend((set & 4 != 0).then(|| scene.stand.daemon.keepers()).into_iter().flatten());
        if set == 7 {
            // Nobody holds the port any more: that is all that refuses a client, and it is not counted here.
            all_at_once += 1;
            let Scene { stand, load, .. } = &mut scene;
            let _ = load.so_far();
            kill_all_and_start(stand, &pids);
            scene = scene.renewed();
            continue;
        }
        scene.kill_cutting(&pids);
        if set & 1 != 0 {
            scene.stand.daemon.kill().unwrap();
            scene.stand.daemon.launch().unwrap();
        }
        scene.load.wait_for_ok(ENOUGH).unwrap();
        scene.stand.daemon.wait_until_tidy(1).unwrap();
    }
    scene.end("R7", turns, 1);
    faults::figure("R7", "of the kills all at once", all_at_once, "");
}

fn kill_all_and_start(stand: &mut Stand, pids: &[i32]) {
    kill_all(pids);
    stand.daemon.kill().unwrap();
    stand.daemon.launch().unwrap();
    stand.daemon.wait_for_state("web", "active").unwrap();
    stand.daemon.wait_until_tidy(1).unwrap();
}

impl Scene {
    /// The same with a load that begins from here on.
    fn renewed(self) -> Self {
        let Self { stand, addr, load, cuts } = self;
        let report = load.stop().unwrap();
        let wrong = report.unexplained(&cuts);
        let others = wrong
            .records
            .iter()
            .filter(|record| !matches!(record.outcome, Outcome::Refused | Outcome::Reset | Outcome::Short));
        assert_eq!(others.count(), 0, "{report}");
        let load = Load::new(&addr, Pace::PerSecond(PER_SECOND)).limit(LIMIT).start(&stand.site).unwrap();
        load.wait_for_ok(ENOUGH).unwrap();
        Self { stand, addr, load, cuts: Vec::new() }
    }
}
