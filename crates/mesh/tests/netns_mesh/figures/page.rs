//! The page of the documentation.

use std::fmt::Write as _;

use super::ends::Kind;
use super::{Figures, is_brief, onetun, rounds, run_bytes};

/// Columns of rates, with how they are headed, and those of what they cost: processes, machine.
pub(super) const RATES: &[(&str, &str, &str, &str)] = &[
    ("out 1", "out, 1 stream", "cost out 1", "machine out 1"),
    ("out 8", "out, 8", "cost out 8", "machine out 8"),
    ("in 1", "in, 1", "cost in 1", "machine in 1"),
    ("in 8", "in, 8", "cost in 8", "machine in 8"),
];

/// Ends without rules: this one, and the other one.
pub(super) const PAIRS: [(&str, Kind, Kind); 5] = [
    ("wireguard-go, both ends", Kind::Go, Kind::Go),
    ("engine K, both ends", Kind::Kernel, Kind::Kernel),
    ("engine K, wireguard-go", Kind::Kernel, Kind::Go),
    ("engine S, both ends", Kind::Smoltcp, Kind::Smoltcp),
    ("engine S, wireguard-go", Kind::Smoltcp, Kind::Go),
];

/// With a rule at each end.
pub(super) const RULED: [(&str, &str); 2] =
    [("engine K with rules, both ends", "kernel"), ("engine S with rules, both ends", "smoltcp")];

/// What two rules are measured by.
pub(super) const DEVICES: &str = "wireguard-go, a device at each end";

/// A port of onetun's, and wireguard-go.
pub(super) const ONETUN: &str = "onetun, wireguard-go";

const MEASURE: &str = PAIRS[0].0;

/// What is asked for: a row, by a share of what wireguard-go does.
const ASKED: [(&str, f64); 4] = [
    ("engine K, both ends", 1.2),
    ("engine K, wireguard-go", 1.2),
    ("engine S, both ends", 0.8),
    ("engine S, wireguard-go", 0.8),
];

fn heads() -> String {
    RATES.iter().map(|(_, head, ..)| format!(" | {head}")).collect()
}

fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map_or("–".to_owned(), |figure| format!("{figure:.digits$}"))
}

pub(super) fn write(figures: &Figures, wireguard_go: &str) -> String {
    let mut page = String::new();
    introduce(&mut page, wireguard_go);
    rates(&mut page, figures);
    let get = |row: &str, column| figures.median(row, column);
    page.push_str("\n## Round trips\n\nOne byte there and one back, on one connection, microseconds.\n\n| | p50 | p99 |\n|---|---|---|\n");
    let talked = PAIRS.iter().map(|(row, ..)| *row).chain([DEVICES]).chain(RULED.iter().map(|(row, _)| *row));
    for row in talked.filter(|row| get(row, "p50").is_some()) {
        writeln!(page, "| {row} | {} | {} |", shown(get(row, "p50"), 0), shown(get(row, "p99"), 0)).ok();
    }
    page.push_str("\n## New connections\n\n32 clients at a time: connect, one byte there and back, close. By a second, and beside the relay alone, which is a\nproxy device on one host without a tunnel. *One rule* is an egress rule to a socket inside the other end; a rule at each\nend is twice the relay and a tunnel between them. *A device* is a proxy device, the same relay without a mesh.\n\n| | /s | × relay alone | asked |\n|---|---|---|---|\n");
    let alone = get("relay alone", "connections");
    writeln!(page, "| relay alone | {} | – | – |", shown(alone, 0)).ok();
    let share = |rate: Option<f64>| rate.zip(alone).map(|(rate, alone)| rate / alone);
    let by_devices = get(DEVICES, "connections");
    writeln!(page, "| {DEVICES} | {} | {} | – |", shown(by_devices, 0), shown(share(by_devices), 2)).ok();
    for (row, _) in RULED {
        let rates = [
            (row.replace("with rules, both ends", "with one rule"), "by one rule", "0.5"),
            (row.to_owned(), "connections", "–"),
        ];
        for (name, column, asked) in rates {
            let rate = get(row, column);
            writeln!(page, "| {name} | {} | {} | {asked} |", shown(rate, 0), shown(share(rate), 2)).ok();
        }
    }
    page.push_str("\n## Memory\n\nAll processes of one end, megabytes, shared pages by their share.\n\n| | no connection | 1,000 that idle |\n|---|---|---|\n");
    for (row, _) in RULED {
        writeln!(
            page,
            "| {row} | {} | {} |",
            shown(get(row, "memory"), 1),
            shown(get(row, "memory idle"), 1)
        )
        .ok();
    }
    crypto(&mut page, figures);
    page
}

fn introduce(page: &mut String, wireguard_go: &str) {
    let command =
        if is_brief() { "cargo xtask bench mesh --quick" } else { "cargo xtask bench mesh --write docs" };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    writeln!(
        page,
        "# What the mesh costs\n\nWritten by `{command}`; do not edit.\n\n\
         One run of {} rounds, of which the median is shown. Both ends are on this machine, in two namespaces with a \
         cable\nbetween them, and share its processors. A run is {} MiB over all its streams. *Out* is from the end that \
         is named\nfirst. *Without rules* the streams are the tunnel's own: from a socket inside one end to one inside \
         the other, for\nwireguard-go on a TUN device of its namespace. *With rules* a client on one host goes through \
         an egress rule, the\ntunnel and an ingress rule to a service on the other, so that the relay is passed twice. \
         Processor seconds are\nthose of both tunnels' processes (with rules of the relay's too), and in brackets those \
         of the whole machine. onetun, where it was at hand, has a port on the host and no rule; its runs are of {} KiB.\n\n\
         {} UTC. {}. Linux {}, {cores} processors, load after it {load}, TCP of the kernel with {}; {wireguard_go}.",
        rounds(),
        run_bytes() >> 20,
        onetun::run_bytes() >> 10,
        date(),
        processor_name(),
        release.trim(),
        control.trim(),
    )
    .ok();
}

/// The day.
fn date() -> String {
    portway_model::rfc3339(std::time::SystemTime::now())
        .chars()
        .take(16)
        .collect::<String>()
        .replace('T', " ")
}

/// What the machine calls its processor.
fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map_or("An unnamed processor", |(_, name)| name.trim()).to_owned()
}

fn rates(page: &mut String, figures: &Figures) {
    page.push_str("\n## Streams\n\nGb/s, and × wireguard-go at both ends.\n\n|");
    page.push_str(&heads());
    page.push_str(" | asked |\n|---|---|---|---|---|---|\n");
    let other = figures.median(ONETUN, "out 1").map(|_| ONETUN);
    let rows = PAIRS.iter().map(|(row, ..)| *row).chain(other).chain(RULED.iter().map(|(row, _)| *row));
    let rows: Vec<&str> = rows.collect();
    for row in &rows {
        write!(page, "| {row}").ok();
        for (column, ..) in RATES {
            let rate = figures.median(row, column);
            let share = rate.zip(figures.median(MEASURE, column)).map(|(rate, other)| rate / other);
            write!(page, " | {} ({})", shown(rate, 2), shown(share, 2)).ok();
        }
        let asked = ASKED.iter().find(|(name, _)| name == row).map(|(_, share)| *share);
        writeln!(page, " | {} |", shown(asked, 1)).ok();
    }
    page.push_str("\nProcessor seconds per GB.\n\n|");
    page.push_str(&heads());
    page.push_str(" |\n|---|---|---|---|---|\n");
    for row in rows {
        write!(page, "| {row}").ok();
        for (_, _, cost, machine) in RATES {
            let [cost, machine] = [cost, machine].map(|column| shown(figures.median(row, column), 2));
            write!(page, " | {cost} ({machine})").ok();
        }
        page.push_str(" |\n");
    }
}

fn crypto(page: &mut String, figures: &Figures) {
    let [ours, openssl] = ["ours", "openssl"].map(|column| figures.median("sealing", column));
    let fastest = RATES.iter().filter_map(|(column, ..)| figures.median("engine K, both ends", column));
    let fastest = fastest.fold(0.0_f64, f64::max);
    let share = ours.map(|rate| fastest / 8.0 / rate);
    writeln!(
        page,
        "\n## Crypto alone\n\nChaCha20-Poly1305 over packets of 1,420 bytes, one core: {} GB/s with what the tunnel uses, \
         {} GB/s by\n`openssl speed`. Each byte is sealed at one end and opened at the other. The fastest of engine K's \
         rates above is\n{} of what one core seals.",
        shown(ours, 2),
        shown(openssl, 2),
        shown(share, 2),
    )
    .ok();
}
