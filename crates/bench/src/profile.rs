//! Where the processor time of the relay's workers goes, workload by workload: perf(1), by samples of the clock.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use portway_testkit::wait_for;
use serde::{Deserialize, Serialize};

use crate::arena::Arena;
use crate::options::RunOptions;
use crate::peer::{Peer, Running};
use crate::process::Program;
use crate::rounds::call;
use crate::workload::Kind;

/// Samples per second; no divisor of the clock's tick.
const SAMPLES: &str = "1999";

/// Shortest window: perf needs a moment to begin, which is not seen from outside.
const SPAN: Duration = Duration::from_secs(2);

/// Symbols of a list.
const SYMBOLS: usize = 12;

/// A function and its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Symbol {
    pub(crate) percent: f64,
    pub(crate) name: String,
    pub(crate) is_kernel: bool,
}

/// By workload, the functions where most time went.
pub(crate) type Profiles = BTreeMap<String, Vec<Symbol>>;

/// What the profile of new connections through the kernel's NAT is called: it has no process, and is one of the
/// whole machine.
pub(crate) const NAT: &str = "conn-nat";

/// Runs every workload asked for once more through the relay and looks at its workers; new connections through the
/// kernel's NAT, too.
///
/// # Errors
/// When perf is missing or fails, or a measurement does.
pub(crate) fn run(
    arena: &Arena,
    peers: &[Running],
    options: &RunOptions,
    say: &dyn Fn(&str),
) -> Result<Profiles> {
    let peer = |wanted| peers.iter().find(|peer| peer.peer == wanted);
    let relay = peer(Peer::Relay).context("a profile is one of the relay, which --only leaves out")?;
    let span = options.span().max(SPAN);
    let mut profiles = Profiles::new();
    for workload in options.workloads().into_iter().filter(|workload| workload.kind != Kind::Idle) {
        say(&format!("profile of {}", workload.name));
        let target = relay.targets.get(&workload.path).context("no such device")?;
        let pids: Vec<String> = arena.daemon.workers().iter().map(ToString::to_string).collect();
        let symbols = record(arena, &["--pid", &pids.join(",")], || call(arena, target, workload, span))?;
        profiles.insert(workload.name.to_owned(), symbols);
        if let (Kind::Connect { .. }, Some(nat)) = (workload.kind, peer(Peer::Nat)) {
            say(&format!("profile of {NAT}"));
            let target = nat.targets.get(&workload.path).context("no such device")?;
            let symbols = record(arena, &["--all-cpus"], || call(arena, target, workload, span))?;
            profiles.insert(NAT.to_owned(), symbols);
        }
    }
    Ok(profiles)
}

/// Has perf look at `whom` while something is measured.
fn record<T>(arena: &Arena, whom: &[&str], measure: impl FnOnce() -> Result<T>) -> Result<Vec<Symbol>> {
    let file = arena.folder.path().join("perf.data");
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "--event", "cpu-clock", "--freq", SAMPLES]).args(whom);
    perf.arg("--output").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let perf = Program::start(arena.bed.netns(), &mut perf).context("perf (package linux-perf)")?;
    // It makes the file when it begins.
    wait_for("perf", || file.exists().then_some(()))?;
    measure()?;
    // It writes the rest when it is ended.
    drop(perf);
    let symbols = symbols(&file)?;
    std::fs::remove_file(&file).context("cannot remove perf's file")?;
    Ok(symbols)
}

fn symbols(file: &Path) -> Result<Vec<Symbol>> {
    // A worker has a root without files. Where perf does not find its process, it looks for its program in ours.
    let mut report = Command::new("unshare");
    report.args(["--pid", "--fork", "--mount-proc", "perf"]);
    report.args(["report", "--stdio", "--quiet", "--no-children", "--fields", "overhead,symbol", "--input"]);
    let output = report.arg(file).stdin(Stdio::null()).output().context("cannot start unshare")?;
    ensure!(output.status.success(), "perf report: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines like `  12.34%  [k] tcp_sendmsg`; `[.]` is user space.
fn parse(report: &str) -> Vec<Symbol> {
    let symbol = |line: &str| {
        let (percent, rest) = line.trim().split_once('%')?;
        let (kind, name) = rest.trim().split_once(' ')?;
        Some(Symbol {
            percent: percent.parse().ok()?,
            name: name.trim().to_owned(),
            is_kernel: kind == "[k]",
        })
    };
    report.lines().filter_map(symbol).take(SYMBOLS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = "\n    20.51%  [k] copy_user\n     3.00%  [.] portway_relay::pump::turn\n# x\n";
        let read = parse(report);
        assert_eq!(read.len(), 2);
        assert_eq!(read[0], Symbol { percent: 20.51, name: "copy_user".to_owned(), is_kernel: true });
        assert!(!read[1].is_kernel);
    }
}
