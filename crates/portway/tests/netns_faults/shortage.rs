//! Descriptors and memory run out, in each process.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use portway_testkit::{Load, Pace, Stream, Talk, Watch, check, faults, process, wait_for};

use crate::stand::{LIMIT, Stand};

/// A limit of a process that runs, set lower until this value is gone.
struct Lowered {
    pid: i32,
    option: &'static str,
    before: String,
}

impl Lowered {
    /// `option` as prlimit(1) has it, `name` as `/proc/PID/limits` does.
    fn to(pid: i32, (option, name): (&'static str, &str), most: u64) -> Self {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let before = line.split_whitespace().next().unwrap().to_owned();
        let lowered = Self { pid, option, before };
        assert!(lowered.set(&most.to_string()), "the limit of {pid} cannot be set");
        lowered
    }

    /// Only its own user may, or who has a capability that tests need not have. The hard limit stays.
    fn set(&self, soft: &str) -> bool {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.pid)) else { return false };
        let id = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().unwrap_or("0").to_owned()
        };
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={}", id("Uid:")), &format!("--regid={}", id("Gid:"))]);
        command.args(["--clear-groups", "prlimit", "--pid", &self.pid.to_string()]);
        let set = command.arg(format!("--{}={soft}:", self.option)).stdin(Stdio::null()).status();
        set.is_ok_and(|status| status.success())
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        // A process that has died of it has no limits any more.
        self.set(&self.before);
    }
}

const FILES: (&str, &str) = ("nofile", "Max open files");
const SPACE: (&str, &str) = ("as", "Max address space");

fn descriptors(pid: i32) -> u64 {
    process::fd_count(pid).unwrap() as u64
}

/// R13: a worker without a free descriptor: who is connected goes on, who comes waits, it does not turn round and round
/// and does not fill the log, and when there are descriptors again everybody is served.
#[test]
fn a_worker_out_of_descriptors_serves_everybody_later() {
    let Some(stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    let worker = stand.worker();
    let talk = Talk::start(&stand.site, &addr, 1).unwrap();
    let turns = faults::scale(1, 20);
    let (mut served, mut errors, mut most_lines) = (0, 0, 0);
    for _ in 0..turns {
        let lines = stand.daemon.log().lines().count();
        let lowered = Lowered::to(worker, FILES, descriptors(worker) + 6);
        let clients = faults::scale(200, 1000);
        let load = Load::new(&addr, Pace::InFlight(clients)).limit(LIMIT).total(u64::from(2 * clients));
        // Held by this thread, so that they are more than there is room for, and stay.
        let held: Vec<Stream> = (0..50).map(|_| check::dial(&stand.site, &addr).unwrap()).collect();
        let load = load.start(&stand.site).unwrap();
        talk.wait_for_rounds(5).unwrap();
        let (ticks, rounds) = (process::cpu_ticks(worker).unwrap(), talk.rounds());
        talk.wait_for_rounds(100).unwrap();
        let spent = process::cpu_ticks(worker).unwrap() - ticks;
        // A round of the talk is more than 5 ms; who turns round and round has spent all of them.
        assert!(spent < (talk.rounds() - rounds) / 4, "{spent} ticks");
        assert!(stand.daemon.device("web").unwrap()["last_error"].is_string(), "it says so");
        drop(lowered);
        for stream in &held {
            check::exchange(stream).unwrap();
        }
        let report = load.wait().unwrap();
        served += report.records.len();
        errors += report.failures();
        assert_eq!(report.failures(), 0, "{report}");
        most_lines = most_lines.max(stand.daemon.log().lines().count() - lines);
    }
    faults::figure("R13", "connections without a descriptor at first", served, "");
    faults::figure("R13", "times", turns, "");
    faults::figure("R13", "errors", errors, "");
    faults::figure("R13", "most lines of log each time", most_lines, "");
    assert!(most_lines < 100, "{most_lines} lines");
    talk.finish().unwrap();
    assert_eq!(stand.worker(), worker, "the same worker");
}

/// R13: a daemon without a free descriptor: nothing that is there notices, what is asked of it is refused or waits, and
/// when there are descriptors again it does what it is asked.
#[test]
fn a_daemon_out_of_descriptors_recovers() {
    let Some(stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    let daemon = stand.daemon.pid().unwrap();
    let load = Load::new(&addr, Pace::PerSecond(200)).limit(LIMIT).start(&stand.site).unwrap();
    let turns = faults::scale(2_u16, 50);
    let mut refused = 0;
    for turn in 0..turns {
        // With none at all, and with too few for a device.
        let lowered = Lowered::to(daemon, FILES, descriptors(daemon) + 3 * u64::from(turn % 2));
        for number in 0..5 {
            let port = 9000 + turn * 5 + number;
            let body = serde_json::json!({ "instance": stand.instance(), "name": format!("d{port}"),
                "keys": { "listen": format!("tcp:127.0.0.1:{port}"), "connect": "tcp:127.0.0.1:7" } });
            let answer =
                stand.daemon.api().call("POST", "/1.0/devices", Some(&body), Duration::from_millis(300));
            refused += u64::from(!answer.is_ok_and(|answer| answer.status == 200));
        }
        let (ticks, begun) = (process::cpu_ticks(daemon).unwrap(), Instant::now());
        load.wait_for_ok(100).unwrap();
        let spent = process::cpu_ticks(daemon).unwrap() - ticks;
        assert!(u128::from(spent) * 10 < begun.elapsed().as_millis() / 2 + 50, "{spent} ticks");
        drop(lowered);
        let after = format!("after{turn}");
        wait_for("the daemon", || stand.daemon.devices().ok()).unwrap();
        stand.add(&after, "tcp:127.0.0.1:8999", "tcp:127.0.0.1:7", &[]);
        stand.daemon.wait_for_state(&after, "active").unwrap();
        stand.remove(&after);
    }
    // What it was asked while it could not answer it may have done since.
    let clean = || {
        let devices = stand.daemon.devices().ok()?;
        let others =
            devices.iter().filter_map(|device| device["name"].as_str()).filter(|name| *name != "web");
        let others: Vec<&str> = others.collect();
        others.iter().for_each(|name| stand.remove(name));
        others.is_empty().then_some(())
    };
    wait_for("the removal of all others", clean).unwrap();
    let report = load.stop().unwrap();
    faults::figure("R13", "times the daemon had none", turns, "");
    faults::figure("R13", "requests refused meanwhile", refused, "");
    faults::figure("R13", "connections meanwhile", report.records.len(), "");
    faults::figure("R13", "errors", report.failures(), "");
    assert!(refused > 0, "it never ran out");
    assert_eq!(report.failures(), 0, "{report}");
    stand.daemon.wait_until_tidy(1).unwrap();
}

/// R13: a keeper without a free descriptor cannot keep what is new. It is replaced by one that can: when daemon and worker
/// die then, at once, the new port is still there, and who calls it waits for the next daemon.
#[test]
fn a_keeper_out_of_descriptors_is_replaced() {
    let Some(mut stand) = Stand::start() else { return };
    stand.publish("web", 8080);
    let turns = faults::scale(2, 50);
    let mut refused = 0;
    for _ in 0..turns {
        let keeper = stand.daemon.keepers()[0];
        let _lowered = Lowered::to(keeper, FILES, descriptors(keeper));
        let more = stand.publish("more", 8090);
        wait_for("another keeper", || (stand.daemon.keepers() != [keeper]).then_some(())).unwrap();
        stand.daemon.wait_until_tidy(1).unwrap();
        let kept = || (descriptors(*stand.daemon.keepers().first()?) > 4).then_some(());
        wait_for("what it is to keep", kept).unwrap();
        let worker = stand.worker();
        let watch = Watch::pid(worker).unwrap();
        stand.daemon.kill().unwrap();
        kill(nix::unistd::Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        watch.wait(LIMIT).unwrap();
        let waiting = check::dial(&stand.site, &more);
        refused += u32::from(waiting.is_err());
        stand.daemon.launch().unwrap();
        check::exchange(&waiting.unwrap()).unwrap();
        stand.remove("more");
    }
    faults::figure("R13", "times the keeper had none", turns, "");
    faults::figure("R13", "refused when daemon and worker died then", refused, "");
    stand.daemon.wait_until_tidy(1).unwrap();
}

/// R14: a worker, or the daemon, that gets no more memory: it may die of it and is replaced or started again; nobody is
/// refused, and of a change that was under way all is there or nothing.
#[test]
fn no_memory_costs_at_most_the_process() {
    let Some(mut stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    let turns = faults::scale(2, 40);
    let (mut worker_deaths, mut daemon_deaths, mut connections) = (0, 0, 0);
    for turn in 0..turns {
        let (worker, daemon) = (stand.worker(), stand.daemon.pid().unwrap());
        let at = Instant::now();
        let load = Load::new(&addr, Pace::InFlight(32)).limit(LIMIT).start(&stand.site).unwrap();
        load.wait_for_ok(20).unwrap();
        let [of_worker, of_daemon] = [worker, daemon].map(|pid| Lowered::to(pid, SPACE, 1 << 20));
        // More than fits into what it has: names of devices, the document, the answer.
        let devices: Vec<serde_json::Value> = (0..300).map(|number| stand.described(number)).collect();
        let body = serde_json::json!({ "devices": devices });
        let _ = stand.daemon.api().call("POST", "/1.0/apply", Some(&body), Duration::from_secs(10));
        load.wait_for_ok(100).unwrap();
        drop(of_daemon);
        if stand.daemon.has_ended() {
            daemon_deaths += 1;
            stand.daemon.kill().unwrap();
            stand.daemon.launch().unwrap();
        }
        drop(of_worker);
        wait_for("a worker", || (stand.daemon.workers().len() == 1).then_some(())).unwrap();
        let died = stand.worker() != worker;
        worker_deaths += u32::from(died);
        load.wait_for_ok(50).unwrap();
        let cut = (load.at(at), load.at(Instant::now()));
        let report = load.stop().unwrap();
        connections += report.records.len();
        // A worker that dies takes its connections along.
        let wrong = if died { report.unexplained(&[cut]).records.len() } else { report.failures() };
        assert_eq!(wrong, 0, "turn {turn}: {report}");
        stand.daemon.wait_for_state("web", "active").unwrap();
        let known = stand.daemon.devices().unwrap().len();
        assert!(known == 1 || known == 301, "{known} devices: a part of a change");
        if known > 1 {
            let body = serde_json::json!({ "devices": [stand.described_web()], "prune": [{ "provider": "netns", "instance": stand.instance() }] });
            let answer = stand.daemon.api().call("POST", "/1.0/apply", Some(&body), LIMIT).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }
    faults::figure("R14", "times without memory", turns, "");
    faults::figure("R14", "workers that died of it", worker_deaths, "");
    faults::figure("R14", "daemons that died of it", daemon_deaths, "");
    faults::figure("R14", "connections meanwhile", connections, "");
    stand.daemon.wait_until_tidy(1).unwrap();
}

/// R16: clients that begin a PROXY header and say no more are ended in time, all of them; others do not notice.
#[test]
fn slow_headers_are_ended_and_hold_up_nobody() {
    let Some(stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    stand.add("announced", "tcp:127.0.0.1:8081", "tcp:127.0.0.1:7", &[("accept_proxy", "127.0.0.0/8")]);
    process::raise_nofile().unwrap();
    let slow = crate::stand::local(8081);
    let load = Load::new(&addr, Pace::PerSecond(200)).limit(LIMIT).start(&stand.site).unwrap();
    let wanted = faults::scale(300, 5_000);
    let clients: Vec<Stream> = (0..wanted).map(|_| check::dial(&stand.site, &slow).unwrap()).collect();
    for part in [&b"P"[..], b"R", b"O"] {
        for mut client in clients.iter() {
            // One of the first may have been ended by now.
            let _ = std::io::Write::write_all(&mut client, part);
        }
    }
    let mut ended = 0;
    for mut client in &clients {
        let read = client.read(&mut [0; 16]);
        let is_over = matches!(&read, Ok(0))
            || read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        ended += u32::from(is_over);
    }
    let report = load.stop().unwrap();
    faults::figure("R16", "slow clients", wanted, "");
    faults::figure("R16", "ended in time", ended, "");
    faults::figure("R16", "connections of others meanwhile", report.records.len(), "");
    faults::figure("R16", "errors of others", report.failures(), "");
    assert_eq!(ended, wanted);
    assert_eq!(report.failures(), 0, "{report}");
    stand.wait_until_idle("web");
    let others = stand.shown("web", "connections_total");
    assert_eq!(stand.hall.accepted(), others, "none of them has reached the service");
}
