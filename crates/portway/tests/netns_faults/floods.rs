//! Packets by the million from senders that there are not, and clients that have gone without a word.
//!
//! ```text
//!  clients, forger (outside, 10.77.0.2) ── veth ── 10.77.0.1 (host's namespace) ── worker ── service
//! ```

use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use portway_testkit::packets::{Forger, source};
use portway_testkit::udp::{UdpClient, UdpEcho, UdpFlows};
use portway_testkit::{Addr, Load, Netns, Pace, Site, Stream, check, faults, process, wait_for};

use crate::stand::{LIMIT, Stand, namespace};

/// Where clients outside call.
const CALLED: &str = "10.77.0.1:8080";

fn outside(stand: &Stand) -> Netns {
    let outside = namespace().unwrap();
    stand.host.veth("lan0", &["10.77.0.1/16"], &outside, "eth0", &["10.77.0.2/16"]).unwrap();
    stand.host.ip("route add 172.16.0.0/12 via 10.77.0.2").unwrap();
    for name in ["all", "lan0"] {
        stand.host.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0").unwrap();
    }
    outside
}

/// Does something so often, at most so many times a second.
fn paced(times: u64, per_second: u32, mut work: impl FnMut(u64)) {
    let begin = Instant::now();
    for number in 0..times {
        work(number);
        if number % 64 == 0 {
            let number = u32::try_from(number).unwrap();
            let due = Duration::from_secs(1) * number / per_second;
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
        }
    }
}

fn called() -> SocketAddrV4 {
    CALLED.parse().unwrap()
}

/// R17: a flood of SYNs from a million addresses: every client that is one gets through, and nothing is left of it.
#[test]
fn a_flood_of_syns_keeps_nobody_out() {
    let Some(stand) = Stand::start() else { return };
    let outside = outside(&stand);
    stand.add("web", &format!("tcp:{CALLED}"), "tcp:127.0.0.1:7", &[]);
    let worker = stand.worker();
    let site = Site::netns(&outside);
    check::echo(&check::dial(&site, &Addr::tcp(CALLED)).unwrap(), 100, 1).unwrap();
    let held = process::fd_count(worker).unwrap();
    let load = Load::new(&Addr::tcp(CALLED), Pace::PerSecond(100)).limit(LIMIT).start(&site).unwrap();
    let (wanted, rate) = (faults::scale(50_000, 3_000_000), faults::scale(25_000, 50_000));
    let (forger, begin, mut sent) = (Forger::new(&outside).unwrap(), Instant::now(), 0_u64);
    paced(wanted, rate, |number| {
        let sequence = u32::try_from(number).unwrap();
        sent += u64::from(forger.syn(source(number), called(), sequence));
    });
    let took = begin.elapsed();
    load.wait_for_ok(20).unwrap();
    let report = load.stop().unwrap();
    faults::figure("R17", "SYNs of nobody", sent, "");
    faults::figure("R17", "a second", sent * 1000 / u64::try_from(took.as_millis()).unwrap().max(1), "");
    faults::figure("R17", "connections of clients meanwhile", report.records.len(), "");
    faults::figure("R17", "errors", report.failures(), "");
    assert!(sent > wanted / 2, "{sent}");
    assert_eq!(report.failures(), 0, "{report}");
    stand.wait_until_idle("web");
    wait_for("the descriptors", || (process::fd_count(worker).ok()? <= held).then_some(())).unwrap();
}

/// R18: clients that vanish without a word, by the thousand, are found out in the time of `tcp.timeout`, and all that they
/// held is free.
#[test]
fn clients_that_vanish_are_found_out() {
    let Some(stand) = Stand::start() else { return };
    let outside = outside(&stand);
    process::raise_nofile().unwrap();
    let times = [("tcp.keepalive", "1s"), ("tcp.timeout", "3s")];
    stand.add("web", &format!("tcp:{CALLED}"), "tcp:127.0.0.1:7", &times);
    let worker = stand.worker();
    let near = stand.publish("near", 8081);
    let held = process::fd_count(worker).unwrap();
    let wanted = faults::scale(500, 9_000);
    let site = Site::netns(&outside);
    let clients: Vec<Stream> = (0..wanted)
        .map(|_| {
            let client = check::dial(&site, &Addr::tcp(CALLED)).unwrap();
            check::exchange(&client).unwrap();
            client
        })
        .collect();
    assert_eq!(stand.shown("web", "connections_now"), u64::try_from(wanted).unwrap());
    let load = Load::new(&near, Pace::PerSecond(100)).limit(LIMIT).start(&stand.site).unwrap();
    stand.host.ip("link set dev lan0 down").unwrap();
    let begin = Instant::now();
    let found = || (stand.shown("web", "connections_now") == 0).then_some(());
    // As long as it may take to be found out, and as much again for a machine that others use.
    wait_for("the end of those who vanished", found).unwrap();
    let took = begin.elapsed();
    let report = load.stop().unwrap();
    faults::figure("R18", "clients that vanished", clients.len(), "");
    faults::figure("R18", "until all were found out (tcp.keepalive 1s, tcp.timeout 3s)", took.as_secs(), "s");
    faults::figure("R18", "connections of others meanwhile", report.records.len(), "");
    faults::figure("R18", "errors of others", report.failures(), "");
    assert_eq!(report.failures(), 0, "{report}");
    stand.wait_until_idle("near");
    wait_for("the descriptors", || (process::fd_count(worker).ok()? <= held + 16).then_some(())).unwrap();
}

/// R22: datagrams from a million sources that there are not: flows stay within their bound, live ones go on, and when it is
/// over nothing is left.
#[test]
fn datagrams_of_nobody_take_nothing_from_live_flows() {
    let Some(stand) = Stand::start() else { return };
    let outside = outside(&stand);
    let echo = UdpEcho::start(&Site::netns(&stand.inside), "127.0.0.1:7".parse().unwrap(), "").unwrap();
    let inside = Site::netns(&stand.inside);
    // Who calls the second port is never answered.
    let _silent = UdpClient::bind(&inside, "127.0.0.1:8".parse().unwrap()).unwrap();
    stand.add("dns", "udp:10.77.0.1:8080-8081", "udp:127.0.0.1:7-8", &[("udp.idle", "3s")]);
    let flooded: SocketAddrV4 = "10.77.0.1:8081".parse().unwrap();
    let worker = stand.worker();
    let held = process::fd_count(worker).unwrap();
    let interval = Duration::from_millis(20);
    let live = UdpFlows::start(&Site::netns(&outside), SocketAddr::V4(called()), 100, interval).unwrap();
    let (wanted, rate) = (faults::scale(40_000, 2_000_000), faults::scale(10_000, 20_000));
    let (forger, mut sent, mut most, mut memory) = (Forger::new(&outside).unwrap(), 0_u64, 0, 0);
    paced(wanted, rate, |number| {
        sent += u64::from(forger.datagram(source(number), flooded, b"nobody"));
        if number % 4096 == 0 {
            most = most.max(process::fd_count(worker).unwrap());
            memory = memory.max(process::rss_bytes(worker).unwrap());
        }
    });
    let reports = live.stop();
    let asked: u64 = reports.iter().map(|report| report.sent).sum();
    let answered: u64 = reports.iter().map(|report| report.answered).sum();
    faults::figure("R22", "datagrams of nobody", sent, "");
    faults::figure("R22", "most flows at once", most - held, "");
    faults::figure("R22", "most memory of the worker", memory >> 10, "KiB");
    faults::figure("R22", "datagrams of 100 live flows", asked, "");
    faults::figure("R22", "of these not answered", asked - answered, "");
    assert!(sent > wanted / 2, "{sent}");
    assert!(reports.iter().all(|report| report.foreign == 0), "answers of other flows");
    // udp.max_flows, and two kilobytes of each beside what the worker is by itself.
    assert!(most - held <= 16_384, "{most} descriptors, {held} before");
    assert!(memory <= (16_384 * 2048) + (16 << 20), "{memory} bytes");
    // What the kernel's queue has no room for is lost to anybody; a flow that is given up comes back from another port.
    assert_eq!(echo.sources(), 100, "live flows were given up");
    assert!(reports.iter().all(|report| report.answered > 0), "a flow without an answer");
    let idle = || (stand.shown("dns", "connections_now") == 0).then_some(());
    wait_for("the end of all flows", idle).unwrap();
    wait_for("the descriptors", || (process::fd_count(worker).ok()? <= held).then_some(())).unwrap();
}
