//! What the mesh costs, beside wireguard-go, in one run: `cargo xtask bench mesh`.
//!
//! Both ends are on this machine, in two namespaces with a cable between them. The variables are the command's: the
//! newest wireguard-go there is, the program `portway`, whether all is to be brief, and where the page goes.

mod ends;
mod onetun;
mod page;
mod rules;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ends::{End, Ends, Kind};

/// Bytes of a run, over all its streams.
fn run_bytes() -> u64 {
    if is_brief() { 16 << 20 } else { 256 << 20 }
}

/// Rounds, of which the median counts.
fn rounds() -> usize {
    if is_brief() { 1 } else { 3 }
}

/// How long what is counted by time goes on.
fn span() -> Duration {
    Duration::from_millis(if is_brief() { 300 } else { 2000 })
}

fn is_brief() -> bool {
    std::env::var_os("PORTWAY_MESH_BRIEF").is_some()
}

const STREAMS: [u64; 2] = [1, 8];

/// What was measured, by row and column, each round's.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(String, &'static str), Vec<f64>>);

impl Figures {
    fn add(&mut self, row: &str, column: &'static str, figure: f64) {
        self.0.entry((row.to_owned(), column)).or_default().push(figure);
    }

    fn median(&self, row: &str, column: &'static str) -> Option<f64> {
        let mut all = self.0.get(&(row.to_owned(), column))?.clone();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }
}

/// Processor seconds of processes, and of the whole machine.
fn processor(pids: &[i32]) -> [f64; 2] {
    let fields = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let sum = |words: &mut dyn Iterator<Item = &str>| {
        words.filter_map(|word| word.parse::<f64>().ok()).sum::<f64>()
    };
    let of = |pid: &i32| {
        let text = fields(&format!("/proc/{pid}/stat"));
        let behind = text.rsplit(')').next().unwrap_or_default().to_owned();
        sum(&mut behind.split_whitespace().skip(11).take(2))
    };
    let stat = fields("/proc/stat");
    let words: Vec<&str> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).collect();
    // User, nice, system; interrupts, soft and hard. What idles and waits is no work.
    let machine = sum(&mut words.iter().copied().take(3)) + sum(&mut words.iter().copied().skip(5).take(2));
    [pids.iter().map(of).sum::<f64>() / 100.0, machine / 100.0]
}

#[expect(clippy::cast_precision_loss, reason = "a figure")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Adds the rate of a run and what it cost.
fn add_run(
    figures: &mut Figures,
    row: &str,
    column: &'static str,
    pids: &[i32],
    bytes: u64,
    run: impl FnOnce() -> Duration,
) {
    let [ours, machine] = processor(pids);
    let took = run();
    let [ours, machine] = std::array::from_fn(|at| processor(pids)[at] - [ours, machine][at]);
    let gigabytes = number(bytes) / 1e9;
    figures.add(row, column, gigabytes * 8.0 / took.as_secs_f64());
    if let Some((_, _, cost, whole)) = page::RATES.iter().find(|(name, ..)| *name == column) {
        figures.add(row, cost, ours / gigabytes);
        figures.add(row, whole, machine / gigabytes);
    }
}

/// Streams both ways, one and eight.
fn streams(figures: &mut Figures, row: &str, ends: &mut Ends) {
    let pids = ends.pids();
    ends.near.sink("10.9.0.1:2000");
    ends.far.sink("10.9.0.2:2000");
    for streams in STREAMS {
        let [out, back] = if streams == 1 { ["out 1", "in 1"] } else { ["out 8", "in 8"] };
        add_run(figures, row, out, &pids, run_bytes(), || ends.near.pour("10.9.0.2:2000", streams));
        add_run(figures, row, back, &pids, run_bytes(), || ends.far.pour("10.9.0.1:2000", streams));
    }
}

/// One byte there and one back, again and again: microseconds of the middle one, and of the one in a hundred.
fn talks(figures: &mut Figures, row: &str, mut once: impl FnMut()) {
    let (begin, mut all) = (Instant::now(), Vec::new());
    while begin.elapsed() < span() {
        let asked = Instant::now();
        once();
        all.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    all.sort_by(f64::total_cmp);
    figures.add(row, "p50", all[all.len() / 2]);
    figures.add(row, "p99", all[all.len() * 99 / 100]);
}

/// Bytes in a second that one core seals, packets of 1,420 bytes, with what the tunnel uses.
fn sealed() -> f64 {
    let key = ring::aead::UnboundKey::new(&ring::aead::CHACHA20_POLY1305, &[7; 32]).unwrap();
    let key = ring::aead::LessSafeKey::new(key);
    let (begin, mut count, mut packet) = (Instant::now(), 0_u64, [0_u8; 1420]);
    while begin.elapsed() < span() {
        for _ in 0..100 {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&count.to_le_bytes());
            let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, ring::aead::Aad::empty(), &mut packet);
            assert!(tag.is_ok());
            count += 1;
        }
    }
    number(count * 1420) / begin.elapsed().as_secs_f64() / 1e9
}

/// The same by openssl, where it is there.
fn sealed_by_openssl() -> Option<f64> {
    let seconds = if is_brief() { "1" } else { "2" };
    let arguments =
        ["speed", "-mr", "-elapsed", "-seconds", seconds, "-bytes", "1420", "-evp", "chacha20-poly1305"];
    let output = std::process::Command::new("openssl").args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bytes =
        text.lines().find_map(|line| line.strip_prefix("+F:")?.rsplit(':').next()?.parse::<f64>().ok())?;
    Some(bytes / 1e9)
}

/// All of it.
pub(crate) fn engines() {
    let mut figures = Figures::default();
    for _ in 0..rounds() {
        for (row, near, far) in page::PAIRS {
            let mut ends = Ends::start(near, far);
            streams(&mut figures, row, &mut ends);
            if let Some(mut talk) = ends.talk() {
                talks(&mut figures, row, || talk.once());
            }
        }
        if crate::onetun::version().is_some() {
            onetun::measure(&mut figures, page::ONETUN);
        }
        for (row, engine) in page::RULED {
            rules::measure(&mut figures, row, engine);
            figures.add(row, "by one rule", rules::by_one_rule(engine));
        }
        rules::devices_at_both_ends(&mut figures, page::DEVICES);
        if let Some(rate) = rules::relay_alone() {
            figures.add("relay alone", "connections", rate);
        }
        figures.add("sealing", "ours", sealed());
        sealed_by_openssl().into_iter().for_each(|rate| figures.add("sealing", "openssl", rate));
    }
    for (row, engine) in page::RULED {
        let [before, after] = rules::idle(engine);
        figures.add(row, "memory", before);
        figures.add(row, "memory idle", after);
    }
    let versions: Vec<String> =
        [Some(End::versions()), crate::onetun::version()].into_iter().flatten().collect();
    let page = page::write(&figures, &versions.join(", "));
    println!("{page}");
    if let Some(path) = std::env::var_os("PORTWAY_MESH_PAGE") {
        std::fs::write(path, page).unwrap();
    }
}

/// New connections and round trips alone, connections beside the relay in the same round: for a comparison of two programs,
/// or of two ways.
pub(crate) fn connections() {
    type Row = (&'static str, fn() -> f64);
    let rows: [Row; 7] = [
        ("engine K without a rule", || connections_without_a_rule(Kind::Kernel)),
        ("engine K, one rule", || rules::by_one_rule("kernel")),
        ("engine K, rules at both ends", || rules::by_rules("kernel", rules::ONE_EACH)),
        ("engine K, two rules for each port", || rules::by_rules("kernel", rules::TWO_EACH)),
        ("engine S, one rule", || rules::by_one_rule("smoltcp")),
        ("engine S, rules at both ends", || rules::by_rules("smoltcp", rules::ONE_EACH)),
        ("engine S, two rules for each port", || rules::by_rules("smoltcp", rules::TWO_EACH)),
    ];
    let mut figures = Figures::default();
    for round in 0..rounds() {
        for (row, measure) in rows {
            let alone = rules::relay_alone();
            let rate = measure();
            figures.add(row, "connections", rate);
            let share = alone.map(|alone| rate / alone);
            println!("{round}: {row}: {rate:.0}/s, relay alone {alone:.0?}/s, {share:.2?}");
            share.into_iter().for_each(|share| figures.add(row, "share", share));
        }
        rules::devices_at_both_ends(&mut figures, page::DEVICES);
        for (row, engine) in page::RULED {
            rules::talk_by_rules(&mut figures, row, engine);
        }
    }
    for (row, _) in rows {
        let median = |column| figures.median(row, column);
        println!("{row}: {:.0?}/s, {:.2?} of the relay alone", median("connections"), median("share"));
    }
    for row in [page::DEVICES].into_iter().chain(page::RULED.map(|(row, _)| row)) {
        let median = |column| figures.median(row, column);
        println!("{row}: p50 {:.0?} us, p99 {:.0?} us", median("p50"), median("p99"));
    }
}

/// From a socket inside one end to one inside the other.
fn connections_without_a_rule(kind: Kind) -> f64 {
    let ends = Ends::start(kind, kind);
    let (Some(near), Some(far)) = (ends.near.inside(), ends.far.inside()) else { return 0.0 };
    rules::serve_once(ends::listen(far, "10.9.0.2:2002"));
    rules::rate(near, "10.9.0.2:2002")
}
