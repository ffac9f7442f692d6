//! Connections one after the other, by the million: none is lost, and nothing is left behind.

use portway_testkit::{Load, Outcome, Pace, Report, faults, process, wait_for};

use crate::stand::{LIMIT, Stand};

/// Connections under way at once.
const IN_FLIGHT: u32 = 256;

/// Connections whose records are kept at a time.
const PART: u64 = 100_000;

fn run(stand: &Stand, addr: &portway_testkit::Addr, connections: u64) -> Report {
    Load::new(addr, Pace::InFlight(IN_FLIGHT)).total(connections).limit(LIMIT).run(&stand.site).unwrap()
}

/// R2: every connection is answered in full, and counted once.
#[test]
fn every_connection_is_answered() {
    let Some(stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    let before = stand.shown("web", "connections_total");
    let wanted = faults::scale(15_000, 1_000_000);
    let (mut done, mut errors) = (0, 0);
    while done < wanted {
        let report = run(&stand, &addr, PART.min(wanted - done));
        done += report.records.len() as u64;
        errors += report.failures();
        assert_eq!(report.count(Outcome::Ok), report.records.len(), "{report}");
    }
    faults::figure("R2", "connections", done, "");
    faults::figure("R2", "errors", errors, "");
    stand.wait_until_idle("web");
    assert_eq!(stand.shown("web", "connections_total") - before, wanted);
}

/// Descriptors and threads of processes.
fn held(pids: &[i32]) -> Vec<usize> {
    let counts = |pid: &i32| [process::fd_count(*pid).unwrap(), process::thread_count(*pid).unwrap()];
    pids.iter().flat_map(counts).collect()
}

/// R36: ten million connections leave nothing: memory, descriptors and threads of daemon, worker and keeper are
/// what they were.
#[test]
fn connections_leave_nothing_behind() {
    let Some(stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    let pids = [stand.daemon.pid().unwrap(), stand.worker(), stand.daemon.keepers()[0]];
    let memory = || pids.map(|pid| process::rss_bytes(pid).unwrap());
    // What is made once is made by the first of them.
    run(&stand, &addr, 5_000);
    stand.wait_until_idle("web");
    let (before, early) = (held(&pids), memory());
    let wanted = faults::scale(20_000, 10_000_000);
    let (mut done, mut errors) = (0, 0);
    while done < wanted {
        let report = run(&stand, &addr, PART.min(wanted - done));
        done += report.records.len() as u64;
        errors += report.failures();
    }
    stand.wait_until_idle("web");
    let late = memory();
    let grown: Vec<u64> = early.iter().zip(&late).map(|(early, late)| late.saturating_sub(*early)).collect();
    faults::figure("R36", "connections", done, "");
    faults::figure("R36", "errors", errors, "");
    for (name, bytes) in ["daemon", "worker", "keeper"].iter().zip(&grown) {
        faults::figure("R36", &format!("growth of the {name}"), bytes >> 10, "KiB");
    }
    assert_eq!(errors, 0);
    // The daemon keeps a thread for some seconds after it had something for it that may block: one more or less.
    let as_before = || held(&pids).iter().zip(&before).all(|(now, before)| *now <= before + 1);
    wait_for("descriptors and threads", || as_before().then_some(())).unwrap();
    // Of what a million more may cost; in the short form a leak of a hundred bytes each shows.
    let most = (wanted >> 20).max(2) << 20;
    assert!(grown.iter().all(|bytes| *bytes <= most), "{early:?} {late:?}");
}
