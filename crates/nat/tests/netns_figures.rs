//! How long a change takes and what a connection costs, with few devices and with thousands. Continuous
//! integration runs a short form that looks at what happens and at no clock; the figures are printed by
//! `cargo test --release -p portway-nat --test netns_figures -- --ignored --nocapture`.
//!
//! The topology is drawn in `publish/town.rs`.

#![expect(clippy::print_stdout, reason = "a measurement shows its figures")]
#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod publish;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portway_nat::{Affected, Conntrack, Nat, Publication, TableName, Want};
use portway_testkit::udp::{UdpEcho, spray};
use portway_testkit::{Netns, Site, is_root};
use publish::town::Town;
use publish::{publication, want};
use rustix::time::{ClockId, clock_gettime};

/// The target that is measured, and the published address that leads there.
const TARGET: &str = "10.0.0.2:8080";
const PUBLISHED: &str = "192.0.2.1:80";

/// So many devices on ports of their own, over twenty instances; the last is the one that is measured.
fn devices(count: u16) -> Want {
    let mut publications: Vec<Publication> = (1..count)
        .map(|number| {
            let target = format!("10.0.0.{} {}", 10 + number % 20, 1_000 + number);
            publication(&format!("d{number}"), "tcp", &format!("192.0.2.1 {}", 1_000 + number), &target)
        })
        .collect();
    publications.push(publication("measured", "tcp", "192.0.2.1 80", "10.0.0.2 8080"));
    want(publications)
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let done = work();
    (begun.elapsed(), done)
}

/// One device added to many, and what else is done to a large table.
fn changes(count: u16) {
    let netns = Netns::new().unwrap();
    let work = || {
        let mut nat = Nat::open(TableName::default()).unwrap();
        let many = devices(count);
        let (first, applied) = timed(|| nat.apply(&many).unwrap());
        println!("{count} devices at once: {first:?}, {} bytes", applied.batch_bytes);
        assert_eq!(applied.plan.coming(), usize::from(count) + 4);
        let mut added = many.clone();
        let mut times = Vec::new();
        for number in 0..9_u16 {
            let listen = format!("* {}", 60_000 + number);
            added.publications.push(publication(&format!("n{number}"), "udp", &listen, "10.0.0.2 53"));
            let (time, applied) = timed(|| nat.apply(&added).unwrap());
            assert_eq!((applied.plan.coming(), applied.plan.leaving()), (1, 0));
            assert!(applied.batch_bytes < 300, "{}", applied.batch_bytes);
            times.push(time);
        }
        times.sort_unstable();
        println!("one more: median {:?}, longest {:?}", times[4], times[8]);
        let (cold, _) = timed(|| Nat::open(TableName::default()).unwrap().apply(&many).unwrap());
        println!("nine fewer, by a keeper that has to read the table first: {cold:?}");
        let (nothing, applied) = timed(|| nat.apply(&many).unwrap());
        assert!(applied.plan.is_empty());
        println!("nothing to do, but somebody has changed the ruleset: {nothing:?}");
        let (nothing, _) = timed(|| nat.apply(&many).unwrap());
        println!("nothing to do: {nothing:?}");
        let (counts, counted) = timed(|| nat.counts(&many).unwrap());
        assert_eq!(counted.len(), usize::from(count));
        println!("all counters: {counts:?}");
        let (gone, _) = timed(|| nat.remove().unwrap());
        println!("all removed: {gone:?}");
    };
    netns.enter(work).unwrap();
}

/// A server that accepts and closes.
struct Acceptor {
    stop: Arc<AtomicBool>,
    place: SocketAddr,
    netns: Netns,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Acceptor {
    fn start(netns: &Netns, place: &str) -> Self {
        let place: SocketAddr = place.parse().unwrap();
        let listener = netns.enter(|| TcpListener::bind(place).unwrap()).unwrap();
        socket2::SockRef::from(&listener).listen(4096).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread =
            std::thread::spawn(
                move || {
                    while listener.accept().is_ok() && !stopping.load(Ordering::SeqCst) {}
                },
            );
        Self { stop, place, netns: netns.clone(), thread: Some(thread) }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.netns.enter(|| TcpStream::connect(self.place));
        let _ = self.thread.take().unwrap().join();
    }
}

/// Processor time of one connection, microseconds: made one after the other, each ended by a reset. Every
/// packet's way through the host is walked within the client's own system calls, so this is what the rules
/// cost, whatever else the machine does.
fn cost(from: &Netns, to: &str, count: u32) -> f64 {
    let to: SocketAddr = to.parse().unwrap();
    let used = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
    };
    let run = || {
        let begun = used();
        for _ in 0..count {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(20)).unwrap();
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        (used() - begun).as_secs_f64() * 1e6 / f64::from(count)
    };
    from.enter(run).unwrap()
}

/// The rules Incus makes for proxy devices with `nat=true`, three chains each; the last leads to the target.
fn rules_as_of_incus(count: u16) -> String {
    let mut text = String::new();
    for number in 1..=count {
        let (listen, target) = if number == count {
            (80, TARGET.to_owned())
        } else {
            (1_000 + number, format!("10.0.0.9:{number}"))
        };
        for (name, hook, priority) in [("prert", "prerouting", -100), ("out", "output", -100)] {
            let rule = format!("ip daddr 192.0.2.1 tcp dport {listen} dnat ip to {target}");
            writeln!(
                text,
                "add chain inet incus {name}.d{number} {{ type nat hook {hook} priority {priority}; }}\n\
                 add rule inet incus {name}.d{number} {rule}"
            )
            .unwrap();
        }
        let (ip, port) = target.split_once(':').unwrap();
        writeln!(
            text,
            "add chain inet incus pstrt.d{number} {{ type nat hook postrouting priority 100; }}\n\
             add rule inet incus pstrt.d{number} ip saddr {ip} ip daddr {ip} tcp dport {port} masquerade"
        )
        .unwrap();
    }
    text
}

/// Loads rules, or removes those of that kind.
fn load(town: &Town, text: &str) {
    let file = std::env::temp_dir().join(format!("portway-rules-{}", std::process::id()));
    std::fs::write(
        &file,
        format!("add table inet incus\ndelete table inet incus\nadd table inet incus\n{text}"),
    )
    .unwrap();
    let loaded = town.host.run(std::process::Command::new("nft").arg("-f").arg(&file));
    std::fs::remove_file(&file).unwrap();
    loaded.unwrap();
}

/// Costs side by side, round after round: without a table, with one device, with many, with Incus' rules.
fn costs(many: u16, of_incus: u16, rounds: usize, count: u32) {
    let town = Town::new();
    let _acceptor = Acceptor::start(&town.one, TARGET);
    // As on every host of instances: connections are tracked, and what leaves is masqueraded.
    let leaving = "ip saddr 10.0.0.0/24 ip daddr != 10.0.0.0/24 masquerade";
    let rule = format!("chain c {{ type nat hook postrouting priority 100; {leaving}; }};");
    town.host.nft(&format!("table inet base {{ {rule} }}")).unwrap();
    town.host.sysctl("netfilter/nf_conntrack_tcp_timeout_close", "1").unwrap();
    let mut columns: Vec<(String, Vec<f64>)> = Vec::new();
    let mut note = |name: String, value: f64| match columns.iter_mut().find(|(known, _)| *known == name) {
        Some((_, values)) => values.push(value),
        None => columns.push((name, vec![value])),
    };
    let remove = || town.host.enter(|| Nat::open(TableName::default()).unwrap().remove().unwrap()).unwrap();
    for _ in 0..rounds {
        note("unrelated, no table".to_owned(), cost(&town.client, TARGET, count));
        for devices_count in [1, many] {
            town.apply(&devices(devices_count));
            note(format!("through the last of {devices_count}"), cost(&town.client, PUBLISHED, count));
            note(format!("unrelated, with {devices_count}"), cost(&town.client, TARGET, count));
        }
        remove();
        for devices_count in [1, of_incus] {
            load(&town, &rules_as_of_incus(devices_count));
            note(format!("Incus: through the last of {devices_count}"), cost(&town.client, PUBLISHED, count));
            note(format!("Incus: unrelated, with {devices_count}"), cost(&town.client, TARGET, count));
        }
        load(&town, "");
    }
    println!("microseconds of a processor per connection, medians of {rounds} rounds of {count}:");
    for (name, values) in &mut columns {
        values.sort_by(f64::total_cmp);
        println!("{name:<36} {:>8.2}", values[values.len() / 2]);
    }
}

/// What a flood of entries from four clients costs: a sweep for another device, a sweep of everything, and the flooded device's
/// own new target.
fn flood(ports_each: u16) {
    let town = Town::new();
    let led = |target: &str| {
        want(vec![
            publication("flooded", "udp", "192.0.2.1 53", target),
            publication("other", "udp", "192.0.2.1 54", "10.0.0.2 8054"),
        ])
    };
    let before = led("10.0.0.2 8053");
    town.apply(&before);
    let sink = UdpEcho::start(&Site::netns(&town.one), "10.0.0.2:8053".parse().unwrap(), "").unwrap();
    let sources = [101, 102, 103, 104].map(|last| Ipv4Addr::new(192, 0, 2, last));
    for source in sources {
        town.client.ip(&format!("addr add {source}/24 dev eth0")).unwrap();
    }
    town.host.sysctl("netfilter/nf_conntrack_udp_timeout", "600").unwrap();
    let ports = 10_000..10_000 + ports_each;
    let total = u64::from(ports_each) * 4;
    let to = "192.0.2.1:53".parse().unwrap();
    let sent = spray(&Site::netns(&town.client), to, &sources.map(Into::into), ports, 20_000).unwrap();
    assert_eq!(sent, total);
    let sweep = |want: &Want, affected: &Affected| {
        let work = || {
            let mut conntrack = Conntrack::open(&TableName::default()).unwrap();
            timed(|| conntrack.sweep(&want.check().unwrap(), affected).unwrap())
        };
        town.host.enter(work).unwrap()
    };
    let applied = town.apply_alone(&want(vec![before.publications[0].clone()]));
    let (time, swept) = sweep(&before, &applied.affected);
    println!("{total} entries; a sweep for another device: {time:?}, {swept:?}");
    assert_eq!(swept.deleted, 0);
    let (time, swept) = sweep(&before, &Affected::Everything);
    println!("a sweep of everything: {time:?}, {swept:?}");
    assert_eq!(swept.deleted, 0);
    let count = || {
        let mut conntrack = Conntrack::open(&TableName::default()).unwrap();
        timed(|| conntrack.live(&before.check().unwrap()).unwrap())
    };
    let (time, live) = town.host.enter(count).unwrap();
    println!("counted by device: {time:?}, {live:?}");
    assert_eq!(live.get("flooded"), Some(&total));
    let after = led("10.0.0.3 8053");
    let applied = town.apply_alone(&after);
    let (time, swept) = sweep(&after, &applied.affected);
    println!("a new target for the flooded device: {time:?}, {swept:?}");
    assert_eq!(swept.deleted, total);
    drop(sink);
}

#[test]
fn the_short_form_of_every_measurement() {
    if !is_root() {
        return;
    }
    changes(300);
    costs(50, 10, 1, 50);
    flood(500);
}

#[test]
#[ignore = "a measurement: minutes, and only alone on a machine"]
fn changes_of_five_thousand_devices() {
    if is_root() {
        changes(5_000);
    }
}

#[test]
#[ignore = "a measurement: minutes, and only alone on a machine"]
fn costs_through_the_last_of_five_thousand() {
    if is_root() {
        costs(5_000, 1_000, 9, 3_000);
    }
}

#[test]
#[ignore = "a measurement: minutes, and only alone on a machine"]
fn a_flood_of_a_hundred_thousand_entries() {
    if is_root() {
        flood(25_000);
    }
}
