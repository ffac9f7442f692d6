//! The rounds: every workload with every peer, one after the other, the peers in another order each time.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::arena::Arena;
use crate::net::Target;
use crate::options::RunOptions;
use crate::peer::{Peer, Running};
use crate::process::{Memory, Program, cpu_seconds, machine_seconds};
use crate::results::{IdleFigures, Machine, MemoryFigures, Results};
use crate::sample::Sample;
use crate::workload::{Kind, Workload};
use crate::{profile, scale};

/// Time before each window.
const WARM: Duration = Duration::from_millis(50);

/// A client that takes so many seconds longer than its window is ended.
const LATE_SECONDS: u64 = 30;

/// Descriptors of a process that connections may take, where it may have 20,000: whoever started us may have been
/// given no more, and a machine where there are more is not to show other figures.
const DESCRIPTORS: usize = 18_000;

/// Runs everything that was asked for.
///
/// # Errors
/// When the arena or a peer cannot be set up. A measurement or a part that fails is noted and said.
pub(crate) fn run(options: &RunOptions, say: &dyn Fn(&str)) -> Result<Results> {
    let arena = Arena::open(&options.portway)?;
    let selected = options.workloads();
    let mut peers = Vec::new();
    for peer in options.peers() {
        say(&format!("setting up {}", peer.name()));
        peers.push(Running::start(peer, &arena)?);
    }
    let mut results = Results {
        command: options.command(),
        machine: Machine::look(&arena),
        rounds: options.rounds(),
        seconds: options.span().as_secs_f64(),
        ..Results::default()
    };
    for peer in &peers {
        results.memory.insert(peer.peer, fresh_memory(peer, &arena));
    }
    for round in 0..options.rounds() {
        for workload in selected.iter().filter(|workload| workload.kind != Kind::Idle) {
            let mut shown = Vec::new();
            let in_turn = order(peers.len(), round).map(|place| &peers[place]);
            for peer in in_turn.filter(|peer| peer.targets.contains_key(&workload.path)) {
                let sample = measure_until(options.tries(), || measure(&arena, peer, workload, options));
                shown.push(format!("{} {}", peer.peer.name(), shown_value(workload, &sample)));
                let samples = results.samples.entry(workload.name.to_owned()).or_default();
                samples.entry(peer.peer).or_default().push(sample.ok());
            }
            say(&format!("round {}/{} {}: {}", round + 1, options.rounds(), workload.name, shown.join(", ")));
        }
    }
    if options.profile {
        let profiles = profile::run(&arena, &peers, options, say);
        results.profiles = results.keep("profiles", profiles).unwrap_or_default();
    }
    if let Some(idle) = selected.iter().find(|workload| workload.kind == Kind::Idle) {
        // A process for each connection has no memory for a connection.
        for peer in peers.iter().map(|peer| peer.peer).filter(|peer| peer.descriptors_each() > 0) {
            say(&format!("idle: {}", peer.name()));
            let figures = hold_idle(&arena, peer, idle, options);
            let figures = results.keep(&format!("idle connections, {}", peer.name()), figures);
            results.memory.entry(peer).or_default().idle = figures;
        }
    }
    if options.scales() {
        let scale = scale::run(&arena, &peers, options, say);
        results.scale = results.keep("many devices", scale);
    }
    for problem in &results.problems {
        say(problem);
    }
    Ok(results)
}

/// Places of the peers, from another one on in each round, and every second round backwards: none always follows
/// the same.
fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| {
        let place = if round.is_multiple_of(2) { place } else { count - place };
        (place + round) % count
    })
}

fn measure_until(tries: u32, mut measure: impl FnMut() -> Result<Sample>) -> Result<Sample> {
    (1..tries).fold(measure(), |sample, _| sample.or_else(|_| measure()))
}

fn shown_value(workload: &Workload, sample: &Result<Sample>) -> String {
    let Some(metric) = workload.metrics().first() else { return String::new() };
    match sample {
        Ok(sample) => {
            let lost =
                if sample.failures > 0 { format!(" ({} failed)", sample.failures) } else { String::new() };
            metric.of(sample).map_or("-".to_owned(), |value| format!("{value:.1} {}{lost}", metric.unit()))
        }
        Err(error) => format!("FAILED: {error:#}"),
    }
}

/// The client's command for this many connections, if they are idle ones.
fn client(
    arena: &Arena,
    target: &Target,
    workload: &Workload,
    span: Duration,
    idle: usize,
) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(["client", workload.name, "--target", &target.to_string()]);
    command.args(["--counter", &arena.service_address().to_string()]);
    command.args(["--warm-ms", &WARM.as_millis().to_string()]);
    command.args(["--span-ms", &span.as_millis().to_string()]);
    command.args(["--idle", &idle.to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// One measurement of whoever listens at `target`.
///
/// # Errors
/// When the client fails or hangs.
pub(crate) fn call(arena: &Arena, target: &Target, workload: &Workload, span: Duration) -> Result<Sample> {
    let client = client(arena, target, workload, span, 0)?;
    // A client that hangs is a failure of this measurement, not of all.
    let mut command = Command::new("timeout");
    command.arg((span.as_secs() + LATE_SECONDS).to_string());
    command.arg(client.get_program()).args(client.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = arena.client.enter(|| command.output())?.context("cannot start the client")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("the client's answer")
}

/// The same of a peer, with what it cost.
fn measure(arena: &Arena, peer: &Running, workload: &Workload, options: &RunOptions) -> Result<Sample> {
    let target = peer.targets.get(&workload.path).context("no such device")?;
    let pids = peer.pids(arena);
    let (peer_before, machine_before) = (cpu_seconds(&pids), machine_seconds()?);
    let mut sample = call(arena, target, workload, options.span())?;
    let (peer_after, machine_after) = (cpu_seconds(&pids), machine_seconds()?);
    sample.machine_cpu = Some(machine_after - machine_before);
    sample.peer_cpu = peer.peer.is_relay().then_some((peer_after - peer_before).max(0.0));
    Ok(sample)
}

fn fresh_memory(peer: &Running, arena: &Arena) -> MemoryFigures {
    let pids = peer.pids(arena);
    let workers = match peer.peer {
        Peer::Relay => arena.daemon.workers(),
        _ => pids.clone(),
    };
    let worker = workers.iter().map(|pid| Memory::of(&[*pid])).max_by_key(|memory| memory.rss_bytes);
    MemoryFigures {
        processes: pids.len(),
        fresh: Memory::of(&pids),
        worker: worker.unwrap_or_default(),
        idle: None,
    }
}

/// Opens the idle connections, through as many processes as it takes to hold them, and looks at their memory.
fn hold_idle(arena: &Arena, peer: Peer, workload: &Workload, options: &RunOptions) -> Result<IdleFigures> {
    let connections = options.idle();
    let processes = (connections * peer.descriptors_each()).div_ceil(DESCRIPTORS).max(1);
    let mut copies = Vec::new();
    for copy in (1..).take(processes) {
        copies.push(Running::start_copy(peer, arena, copy)?);
    }
    let pids: BTreeSet<i32> = copies.iter().flat_map(|copy| copy.pids(arena)).collect();
    let pids: Vec<i32> = pids.into_iter().collect();
    let before = Memory::of(&pids);
    let mut clients = Vec::new();
    for (number, copy) in copies.iter().enumerate() {
        // Shares whose sum is the whole.
        let share = connections * (number + 1) / processes - connections * number / processes;
        let target = copy.targets.get(&workload.path).context("no such device")?;
        let client = open_idle(arena, target, workload, options, share);
        clients.push(client.with_context(|| format!("{share} idle connections through {}", peer.name()))?);
    }
    let with = Memory::of(&pids);
    drop(clients);
    copies.into_iter().try_for_each(|copy| copy.end(arena))?;
    Ok(IdleFigures { connections: connections as u64, processes, before, with })
}

/// A client with so many connections, all of them open.
fn open_idle(
    arena: &Arena,
    target: &Target,
    workload: &Workload,
    options: &RunOptions,
    connections: usize,
) -> Result<Program> {
    let mut command = client(arena, target, workload, options.span(), connections)?;
    command.stdin(Stdio::piped());
    let mut program = Program::start(&arena.client, &mut command)?;
    let mut line = String::new();
    let output = program.child.stdout.as_mut().context("the client has no output")?;
    BufReader::new(output).read_line(&mut line).context("cannot read from the client")?;
    if line != "ready\n" {
        let mut said = String::new();
        program.child.stderr.as_mut().context("no errors")?.read_to_string(&mut said)?;
        bail!("{}", said.trim());
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::order;

    /// Fails when: a peer is left out of a round, or one and the same is always the first.
    #[test]
    fn every_peer_has_its_turn_and_another_place_each_round() {
        let rounds: Vec<Vec<usize>> = (0..9).map(|round| order(8, round).collect()).collect();
        for round in &rounds {
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 8, "{round:?}");
        }
        let first: BTreeSet<usize> = rounds.iter().map(|round| round[0]).collect();
        assert_eq!(first.len(), 8, "{first:?}");
    }

    #[test]
    fn a_measurement_that_fails_is_tried_again() {
        let mut tries = 0;
        let mut attempt = |until| {
            tries += 1;
            if tries < until { anyhow::bail!("no") } else { Ok(crate::sample::Sample::default()) }
        };
        assert!(super::measure_until(3, || attempt(3)).is_ok());
        tries = 0;
        let mut fails = || -> anyhow::Result<crate::sample::Sample> {
            tries += 1;
            anyhow::bail!("no")
        };
        assert!(super::measure_until(1, &mut fails).is_err());
        assert_eq!(tries, 1);
    }
}
