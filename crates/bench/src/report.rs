//! The page of the documentation: every figure, the targets met and missed, how it was measured.

use std::fmt::Write as _;

use crate::peer::Peer;
use crate::profile;
use crate::results::Results;
use crate::sample::Metric;
use crate::scale::Scale;
use crate::stats::Median;
use crate::targets;
use crate::workload::{WORKLOADS, Workload};

/// The page.
pub(crate) fn page(results: &Results) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write_page(results, &mut page);
    page
}

fn write_page(results: &Results, out: &mut String) -> std::fmt::Result {
    writeln!(out, "# Benchmarks\n")?;
    writeln!(out, "Written by `{} --write docs`; do not edit.\n", results.command)?;
    write_method(results, out)?;
    if results.samples.values().any(|peers| peers.len() > 1) {
        writeln!(out, "\n![Ratios to no proxy at all](benchmarks.svg)")?;
    }
    write_targets(results, out)?;
    write_memory(results, out)?;
    writeln!(out, "\n## Figures")?;
    for workload in WORKLOADS.iter().filter(|workload| !workload.metrics().is_empty()) {
        if results.samples.contains_key(workload.name) {
            write_workload(results, workload, out)?;
        }
    }
    if let Some(scale) = &results.scale {
        write_scale(scale, out)?;
    }
    write_profiles(results, out)?;
    let failed = results.failed();
    if failed > 0 {
        writeln!(out, "\n{failed} measurements failed and are in no figure.")?;
    }
    for problem in &results.problems {
        writeln!(out, "- {problem}")?;
    }
    Ok(())
}

fn write_method(results: &Results, out: &mut String) -> std::fmt::Result {
    let machine = &results.machine;
    let versions: Vec<String> =
        machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    writeln!(
        out,
        "One run of {} rounds. In each round every workload runs through every peer for {} s, the peers in another\n\
         order each time. A figure is the median of the rounds with the interval that holds the true median with 95 %\n\
         (order statistics); a ratio is the median of the ratios within a round. The client is outside of the host,\n\
         behind a link of its own; the service is in the network of a container of a real Incus. Client and service are\n\
         the same two programs for all peers, with one thread each, as nginx and HAProxy have; Portway's worker has a\n\
         second one for streams that stand in the way of small messages, the Incus proxy as many as there are\n\
         processors. Client, peer and service share the machine's processors. All namespaces use Reno: a machine whose\n\
         default is BBR would pace the streams.\n",
        results.rounds, results.seconds
    )?;
    writeln!(
        out,
        "Linux {}, {} × {}, load before {}; {}.",
        machine.kernel,
        machine.processors,
        machine.processor,
        machine.load,
        versions.join(", ")
    )?;
    writeln!(
        out,
        "\n*direct*: the client reaches the container by a route, also where the others have a unix socket in front\n\
         of tcp. *Incus proxy*: a proxy device, a process of Incus for each. *Incus NAT*: the same with `nat=true`. HAProxy\n\
         splices and has no UDP; socat has a process for each connection, which is left out for UDP; NAT has no unix\n\
         sockets. Configurations: `crates/bench/peers`.\n\n\
         *New connections*: connect, one byte there and back, close. *Round trips*: 64 bytes there and back on each\n\
         connection, without pause. *Bulk*: as much as goes, up is from the client. *Beside a bulk stream*: one connection's\n\
         round trips and one stream down at once. *Loss-free*: the highest rate at which at most one datagram in a\n\
         thousand is lost, by steps of a quarter of the time each."
    )
}

fn write_targets(results: &Results, out: &mut String) -> std::fmt::Result {
    let outcomes = targets::outcomes(results);
    let count = |met| outcomes.iter().filter(|outcome| outcome.is_met == Some(met)).count();
    writeln!(out, "\n## Targets\n\n{} met, {} missed.\n", count(true), count(false))?;
    writeln!(out, "| what | wanted | reached | |\n|---|---|---|---|")?;
    for outcome in outcomes {
        let word = match outcome.is_met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        writeln!(out, "| {} | {} | {} | {word} |", outcome.what, outcome.wanted, outcome.reached)?;
    }
    Ok(())
}

fn write_memory(results: &Results, out: &mut String) -> std::fmt::Result {
    if results.memory.values().all(|figures| figures.processes == 0) {
        return Ok(());
    }
    writeln!(
        out,
        "\n## Memory\n\nWith one device of each kind, before the first connection; Portway with daemon and keeper, which are there\n\
         once for all devices. RSS counts pages that several processes share several times, PSS once. Idle connections: how\n\
         many, in how many processes of the peer, of which each may have 20,000 descriptors.\n"
    )?;
    writeln!(
        out,
        "| peer | processes | RSS, all | PSS, all | RSS, largest that carries bytes | for each idle connection |\n|---|---|---|---|---|---|"
    )?;
    for (peer, figures) in results.memory.iter().filter(|(_, figures)| figures.processes > 0) {
        let idle = figures.idle.map_or("–".to_owned(), |idle| {
            let (bytes, connections) = (idle.bytes_each() / 1e3, thousands(idle.connections as f64));
            format!("{bytes:.2} kB ({connections} in {})", idle.processes)
        });
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {idle} |",
            peer.title(),
            figures.processes,
            megabytes(figures.fresh.rss_bytes),
            megabytes(figures.fresh.pss_bytes),
            megabytes(figures.worker.rss_bytes),
        )?;
    }
    Ok(())
}

fn write_workload(results: &Results, workload: &Workload, out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n### {}\n", capital(workload.title))?;
    let metrics = workload.metrics();
    let mut head = "| peer |".to_owned();
    for (number, metric) in metrics.iter().enumerate() {
        write!(head, " {} |", metric.unit())?;
        if number == 0 {
            head.push_str(" × direct | × Incus proxy |");
        }
    }
    writeln!(out, "{head} CPU s per {}: processes | machine |", workload.work())?;
    writeln!(out, "{}", "|---".repeat(metrics.len() + 5) + "|")?;
    for peer in Peer::ALL {
        let Some(samples) = results.samples.get(workload.name).and_then(|peers| peers.get(&peer)) else {
            continue;
        };
        if samples.iter().all(Option::is_none) {
            writeln!(out, "| {} | failed |", peer.title())?;
            continue;
        }
        write!(out, "| {} |", peer.title())?;
        for (number, metric) in metrics.iter().enumerate() {
            write!(out, " {} |", figure(*metric, results.median(workload, peer, *metric)))?;
            if number == 0 {
                for to in [Peer::Direct, Peer::Forkproxy] {
                    let ratio = results.ratio(workload.name, peer, to, *metric).filter(|_| peer != to);
                    write!(out, " {} |", ratio.map_or("–".to_owned(), targets::shown))?;
                }
            }
        }
        for metric in [Metric::PeerCpu, Metric::MachineCpu] {
            let median = results.median(workload, peer, metric);
            write!(out, " {} |", median.map_or("–".to_owned(), |median| format!("{:.2}", median.value)))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_scale(scale: &Scale, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "\n### Many devices of the kernel's NAT\n\nNew connections per second, 32 under way: through the last device, and past all of them by a route, with the devices\n\
         and without. Portway's are put in and taken out by `apply`, in turns of which each measures both, {} times each way: a\n\
         ratio is one of the same turn. Incus needs minutes for so many and is measured without and then with. *One more\n\
         takes*: a request that adds a device, to its answer, when the device is served.\n",
        crate::scale::WINDOWS
    )?;
    writeln!(
        out,
        "| devices | through the last | × with one | unrelated | without them | × without | one more takes |\n|---|---|---|---|---|---|---|"
    )?;
    let median = |values: &[f64]| Median::of(values.iter().copied());
    let rate = |values: &[f64]| figure(Metric::Rate, median(values));
    let times = |ratio: Option<Median>| ratio.map_or("–".to_owned(), targets::shown);
    for (peer, one) in &scale.one {
        writeln!(out, "| {}, 1 | {} | – | – | – | – | – |", peer.title(), rate(one))?;
        for many in scale.many.iter().filter(|many| many.peer == *peer) {
            writeln!(
                out,
                "| {}, {} | {} | {} | {} | {} | {} | {} ms |",
                peer.title(),
                thousands(f64::from(many.devices)),
                rate(&many.through),
                times(scale.through(many)),
                rate(&many.unrelated),
                rate(&many.without),
                times(many.unrelated()),
                figure(Metric::P50, median(&many.add_ms)),
            )?;
        }
    }
    Ok(())
}

fn write_profiles(results: &Results, out: &mut String) -> std::fmt::Result {
    if results.profiles.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n## Where the time goes\n\nShares of the relay workers' processor time, by samples of the clock; (u) is our own code or a library,\n\
         the rest is the kernel. The kernel's NAT has no process: its row is of the whole machine, client and service too.\n\n| workload | functions |\n|---|---|"
    )?;
    let titles = WORKLOADS.iter().map(|workload| (workload.name, workload.title));
    for (name, title) in titles.chain([(profile::NAT, "new connections, kernel NAT")]) {
        let Some(symbols) = results.profiles.get(name) else { continue };
        let shown = symbols.iter().map(|symbol| {
            let mark = if symbol.is_kernel { "" } else { " (u)" };
            // A bar would end the cell.
            format!("{:.1} % `{}`{mark}", symbol.percent, symbol.name.replace(['|', '`'], ""))
        });
        writeln!(out, "| {title} | {} |", shown.collect::<Vec<_>>().join(", "))?;
    }
    Ok(())
}

/// A median with its interval, in digits that fit its size.
fn figure(metric: Metric, median: Option<Median>) -> String {
    let Some(Median { value, low, high }) = median else { return "–".to_owned() };
    let digits = |number: f64| match metric {
        Metric::Rate => thousands(number),
        _ => format!("{number:.1}"),
    };
    format!("{} ({}–{})", digits(value), digits(low), digits(high))
}

/// `12,345`.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    #[test]
    fn numbers_have_commas() {
        let shown = [0.4, 999.0, 1000.0, 1_234_567.0].map(thousands);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    /// Fails when: a cell is left out, or what failed is not shown.
    #[test]
    fn every_table_is_whole() {
        let mut results = Results { rounds: 1, ..Results::default() };
        let sample = Sample { rate: Some(2.0), p50_us: Some(1.0), operations: 1, ..Sample::default() };
        let shown: Vec<_> = WORKLOADS.iter().filter(|workload| !workload.metrics().is_empty()).collect();
        for workload in &shown {
            let peers = results.samples.entry(workload.name.to_owned()).or_default();
            peers.insert(Peer::Direct, vec![Some(sample.clone())]);
            peers.insert(Peer::Relay, vec![Some(sample.clone()), None]);
        }
        let page = page(&results);
        let mut cells = None;
        for line in page.lines() {
            let count = line.starts_with('|').then(|| line.matches('|').count());
            assert!(cells.is_none() || count.is_none() || cells == count, "{line}");
            cells = count;
        }
        assert!(page.contains("### New connections"), "{page}");
        assert!(page.contains(&format!("{} measurements failed", shown.len())), "{page}");
        assert!(page.contains("not measured"), "{page}");
    }
}
