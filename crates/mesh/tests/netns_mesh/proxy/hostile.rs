//! Many at once, some of whom mean ill, and processes that are short of something: on both engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use portway_control::api::MeshRuleStatus;
use rustix::process::{Pid, Resource, getrlimit};

use super::rules::{change, folder, status};
use super::*;

/// Descriptors that a process has open.
fn files(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count()
}

fn own(proxy: &Proxy) -> Pid {
    Pid::from_raw(proxy.child.id().try_into().unwrap()).unwrap()
}

/// What any process here may have of descriptors.
fn most_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20)
}

/// Lets a process of the ordinary user open so many: as that user, since root here may not be all of root.
fn limit_files(pid: Pid, soft: u64) {
    let mut command = Command::new("prlimit");
    command.args([format!("--pid={}", pid.as_raw_nonzero()), format!("--nofile={soft}:")]);
    assert!(command.uid(NOBODY).gid(NOBODY).status().unwrap().success());
}

/// A service that sends every datagram back.
fn echo(netns: &Netns, address: &str) -> Arc<AtomicU64> {
    let (socket, count) = (udp(netns, address), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            counted.fetch_add(1, Ordering::Relaxed);
            socket.send_to(&buffer[..length], from).ok();
        }
    });
    count
}

/// Sends until it is answered: on a full way datagrams are lost.
fn answered(client: &UdpSocket, text: &[u8]) {
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 2048];
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        client.send(text).ok();
        if client.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == text) {
            return;
        }
    }
    panic!("no answer");
}

/// Row 12: ten thousand clients of a UDP rule, in and out. Those that have waited longest give way, descriptors are
/// bounded in every process, and everybody who asks is answered.
///
/// Fails when: a flow that has given way is kept somewhere, or a full table keeps newcomers out.
pub(super) fn ten_thousand_clients(engine: &str) {
    const CLIENTS: u16 = 10_000;
    let (bed, peer) = bed();
    let dir = folder();
    let wanted = Wanted {
        ingress: &["udp:80:127.0.0.1:8000", "tcp:80:127.0.0.1:8000"],
        egress: &["udp:9000:10.9.0.2:7000"],
        engine,
        dir: Some(dir.path()),
        ..Wanted::default()
    };
    let proxy = Proxy::start(&bed, &wanted);
    let pids = [own(&proxy), proxy.child_called("portway-relay"), proxy.child_called("mesh-stack")];
    let most = usize::try_from(most_files()).unwrap();
    for (from, any, to, at, service) in [
        (&peer.netns, "10.9.0.2", "10.9.0.1:80", &bed.ours, "127.0.0.1:8000"),
        (&bed.ours, "127.0.0.1", "127.0.0.1:9000", &bed.theirs, "10.9.0.2:7000"),
    ] {
        let count = echo(at, service);
        let first = udp_to(from, to);
        answered(&first, b"first");
        let begin = Instant::now();
        for port in 20_000..20_000 + CLIENTS {
            let client = udp(from, &format!("{any}:{port}"));
            client.connect(to.parse::<SocketAddr>().unwrap()).unwrap();
            client.send(b"x").unwrap();
            if port % 50 == 0 {
                answered(&client, b"still");
            }
        }
        let seen = count.load(Ordering::Relaxed);
        let open = pids.map(files);
        println!("{engine} {to}: {seen} datagrams arrived in {:?}, descriptors {open:?}", begin.elapsed());
        assert!(seen > u64::from(CLIENTS) / 2, "{seen}");
        assert!(open.iter().all(|files| *files < most * 3 / 4), "{open:?} of {most}");
        answered(&first, b"again");
    }
    let service = serve(listener(&bed.ours, "127.0.0.1:8000"), "tcp ", 1);
    assert_eq!(ask(connect(&peer.netns, "10.9.0.1:80"), "x").unwrap(), "tcp x");
    service.join().unwrap();
    let live: u64 = status(dir.path()).rules.iter().map(|rule| rule.connections_now).sum();
    assert!(live > 100 && live < u64::try_from(most).unwrap(), "{live}");
}

/// Row 11: no descriptor is left, in each of the processes by turns. Listeners live, and take clients in when there are
/// some again.
pub(super) fn without_descriptors_listeners_live(engine: &str) {
    let (bed, peer) = bed();
    let wanted = Wanted {
        ingress: &["tcp:80:127.0.0.1:8000"],
        egress: &["tcp:9000:10.9.0.2:7000"],
        engine,
        ..Wanted::default()
    };
    let mut proxy = Proxy::start(&bed, &wanted);
    let worker = proxy.child_called("portway-relay");
    let services = [listener(&bed.ours, "127.0.0.1:8000"), listener(&bed.theirs, "10.9.0.2:7000")];
    let [here, there] = services.map(|service| {
        std::thread::spawn(move || {
            while let Ok((mut client, _)) = service.accept() {
                std::thread::spawn(move || {
                    let mut text = Vec::new();
                    client.read_to_end(&mut text).ok();
                    client.write_all(&text).ok();
                });
            }
        })
    });
    let processes = [("worker", worker), ("proxy", own(&proxy)), ("stack", proxy.child_called("mesh-stack"))];
    for (name, pid) in processes {
        limit_files(pid, 8);
        for (from, to) in [(&peer.netns, "10.9.0.1:80"), (&bed.ours, "127.0.0.1:9000")] {
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    let to: SocketAddr = to.parse().unwrap();
                    let patience = Duration::from_millis(500);
                    from.enter(|| TcpStream::connect_timeout(&to, patience)).unwrap().ok()
                })
                .collect();
            std::thread::sleep(Duration::from_millis(100));
            drop(clients);
        }
        if let Some(status) = proxy.child.try_wait().unwrap() {
            panic!("it has ended ({status}) for want of descriptors of the {name}: {}", proxy.line());
        }
        limit_files(pid, most_files());
        for (from, to) in [(&peer.netns, "10.9.0.1:80"), (&bed.ours, "127.0.0.1:9000")] {
            let begin = Instant::now();
            let served = || ask(connect(from, to), "back").is_ok_and(|answer| answer == "back");
            while !served() {
                assert!(begin.elapsed() < PATIENCE, "{to} is not served again: {name}");
            }
            println!("{engine}: {to} is served {:?} after the {name} was short", begin.elapsed());
        }
    }
    drop((here, there));
}

/// Row 7: the same port is removed and added by two at once, while clients come.
///
/// Fails when: something waits for something for ever, a listener is lost, or a client is led elsewhere.
pub(super) fn rules_race_with_clients(engine: &str) {
    let (bed, peer) = bed();
    let dir = folder();
    let wanted = Wanted { engine, dir: Some(dir.path()), ..Wanted::default() };
    let _proxy = Proxy::start(&bed, &wanted);
    let service = listener(&bed.ours, "127.0.0.1:8000");
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = service.accept() {
            client.write_all(b"right").ok();
        }
    });
    let over = AtomicBool::new(false);
    let served = AtomicU64::new(0);
    let rule = [("ingress", "tcp:80:127.0.0.1:8000"), ("egress", "tcp:9000:10.9.0.1:80")];
    std::thread::scope(|scope| {
        let ways = [(&peer.netns, "10.9.0.1:80"), (&bed.ours, "127.0.0.1:9000")];
        for (from, to) in [ways[0], ways[0], ways[1], ways[1]] {
            let (over, served) = (&over, &served);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let to: SocketAddr = to.parse().unwrap();
                    let stream = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
                    let Ok(mut stream) = stream else { continue };
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut text = Vec::new();
                    match stream.read_to_end(&mut text) {
                        Ok(_) => {
                            assert!(text == b"right" || text.is_empty(), "{text:?}");
                            served.fetch_add(u64::from(!text.is_empty()), Ordering::Relaxed);
                        }
                        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
                    }
                }
            });
        }
        let changers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let begin = Instant::now();
                    let mut turns = 0;
                    while begin.elapsed() < Duration::from_secs(3) {
                        let rules = change(dir.path(), &rule, &[]).unwrap();
                        let ids: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
                        // The other one may have been quicker.
                        if let Err(error) = change(dir.path(), &[], &ids) {
                            assert!(error.contains("no rule has the id"), "{error}");
                        }
                        turns += 1;
                    }
                    turns
                })
            })
            .collect();
        let turns: Vec<_> = changers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        let turns: Vec<u32> = turns.into_iter().map(Result::unwrap).collect();
        println!("{engine}: {turns:?} changes, {} clients served meanwhile", served.load(Ordering::Relaxed));
        assert!(turns.iter().all(|turns| *turns > 5), "{turns:?}");
    });
    change(dir.path(), &rule, &[]).unwrap();
    for (from, to) in [(&peer.netns, "10.9.0.1:80"), (&bed.ours, "127.0.0.1:9000")] {
        let mut text = String::new();
        connect(from, to).read_to_string(&mut text).unwrap();
        assert_eq!(text, "right");
    }
}

/// A rule that the worker does not serve is refused with the reason; the network goes on as it was, and serves the rule
/// when the worker can.
///
/// Fails when: the network ends, the rule is listed, or its port stays open.
pub(super) fn what_is_not_served_is_not_changed(engine: &str) {
    let (bed, peer) = bed();
    let dir = folder();
    let wanted =
        Wanted { engine, dir: Some(dir.path()), ingress: &["tcp:80:127.0.0.1:8000"], ..Wanted::default() };
    let mut proxy = Proxy::start(&bed, &wanted);
    let worker = proxy.child_called("portway-relay");
    limit_files(worker, 1);
    let before = status(dir.path()).rules;
    let new = [("ingress", "tcp:81:127.0.0.1:8000"), ("egress", "tcp:9000:10.9.0.2:7000")];
    let error = change(dir.path(), &new, &[&before[0].id]).unwrap_err();
    assert!(error.contains("the relay worker does not serve it: "), "{error}");
    assert_eq!(status(dir.path()).rules, before);
    assert!(bed.ours.enter(|| TcpStream::connect("127.0.0.1:9000")).unwrap().is_err());
    limit_files(worker, most_files());
    assert!(proxy.child.try_wait().unwrap().is_none());
    let kept = std::fs::read_to_string(dir.path().join("mesh/test/rules.json")).unwrap_or_default();
    assert!(!kept.contains("9000"), "{kept}");
    let rules = change(dir.path(), &new, &[&before[0].id]).unwrap();
    assert_eq!(rules.len(), 2);
    let service = serve(listener(&bed.ours, "127.0.0.1:8000"), "new ", 1);
    assert_eq!(ask(connect(&peer.netns, "10.9.0.1:81"), "x").unwrap(), "new x");
    service.join().unwrap();
    let gone = || peer.netns.enter(|| TcpStream::connect("10.9.0.1:80")).unwrap().err();
    wait_for("refusal", gone).unwrap();
}

/// Row 6 for datagrams: a flow of a rule that was removed has its time and is cut then, on both engines.
pub(super) fn flows_of_removed_rules_are_cut(engine: &str) {
    let (bed, peer) = bed();
    let dir = folder();
    let wanted = Wanted {
        ingress: &["udp:80:127.0.0.1:8000"],
        egress: &["udp:9000:10.9.0.2:7000"],
        drain: 1,
        engine,
        dir: Some(dir.path()),
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    for (from, to, at, service) in [
        (&peer.netns, "10.9.0.1:80", &bed.ours, "127.0.0.1:8000"),
        (&bed.ours, "127.0.0.1:9000", &bed.theirs, "10.9.0.2:7000"),
    ] {
        let count = echo(at, service);
        let client = udp_to(from, to);
        answered(&client, b"served");
        let rules = status(dir.path()).rules;
        let rule = rules.iter().find(|rule| rule.connections_now == 1).unwrap();
        assert_eq!((rule.bytes_in, rule.bytes_out), (6, 6), "{rule:?}");
        change(dir.path(), &[], &[&rule.id]).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        let before = count.load(Ordering::Relaxed);
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        for _ in 0..3 {
            client.send(b"late").ok();
            assert!(client.recv(&mut [0; 8]).is_err(), "{to} is still served");
        }
        assert_eq!(count.load(Ordering::Relaxed), before, "{to}");
    }
}

/// Row 6 once more: a rule that is removed, added and removed again gives its connections their time from the last removal
/// on, also those that were there before the first.
pub(super) fn a_rule_that_goes_twice(engine: &str) {
    let (bed, peer) = bed();
    let dir = folder();
    let rule = ("ingress", "tcp:80:127.0.0.1:8000");
    let wanted = Wanted {
        ingress: &["tcp:81:127.0.0.1:8000"],
        drain: 2,
        engine,
        dir: Some(dir.path()),
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    let service = listener(&bed.ours, "127.0.0.1:8000");
    std::thread::spawn(move || {
        while let Ok((client, _)) = service.accept() {
            std::thread::spawn(move || std::io::copy(&mut &client, &mut &client).ok());
        }
    });
    let add = || change(dir.path(), &[rule], &[]).unwrap().last().unwrap().id.clone();
    let serves = |mut client: &TcpStream| {
        client.write_all(b"x").and_then(|()| client.read_exact(&mut [0])).map_err(|error| error.kind())
    };
    let id = add();
    let first = connect(&peer.netns, "10.9.0.1:80");
    serves(&first).unwrap();
    change(dir.path(), &[], &[&id]).unwrap();
    let begin = Instant::now();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(add(), id);
    let second = connect(&peer.netns, "10.9.0.1:80");
    serves(&second).unwrap();
    change(dir.path(), &[], &[&id]).unwrap();
    let again = Instant::now();
    std::thread::sleep((Duration::from_millis(2500)).saturating_sub(begin.elapsed()));
    // A machine under load may have taken the time of the second, too.
    let (one, two) = (serves(&first), serves(&second));
    assert!((one.is_ok() && two.is_ok()) || again.elapsed() > Duration::from_secs(2), "{one:?} {two:?}");
    for client in [&first, &second] {
        let mut client = client;
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    let lasted = again.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(6)).contains(&lasted), "{lasted:?}");
}

/// Ports of both transports and directions are removed and added again at once, and again.
///
/// Fails when: a port that was let go of is still somebody's.
pub(super) fn ports_come_again_at_once(engine: &str) {
    let (bed, _peer) = bed();
    let dir = folder();
    let _proxy = Proxy::start(&bed, &Wanted { engine, dir: Some(dir.path()), ..Wanted::default() });
    let rules = ["tcp", "udp"].map(|transport| {
        [
            ("ingress", format!("{transport}:80:127.0.0.1:8000")),
            ("egress", format!("{transport}:9000:10.9.0.2:7000")),
        ]
    });
    let rules: Vec<(&str, &str)> = rules.iter().flatten().map(|(way, rule)| (*way, rule.as_str())).collect();
    for round in 1..4 {
        let listed = change(dir.path(), &rules, &[]).unwrap();
        assert_eq!(listed.len(), rules.len());
        // At different times of the second that what is over is looked for in.
        std::thread::sleep(Duration::from_millis(300 * round));
        let ids: Vec<&str> = listed.iter().map(|rule| rule.id.as_str()).collect();
        change(dir.path(), &[], &ids).unwrap();
    }
}

/// A destination that nobody answers for: its clients wait, no more of them than may, and those of other ports do not.
///
/// Fails when: whoever calls a dead port has all descriptors, or every place of the proxy.
pub(super) fn a_dead_destination_holds_up_its_own_port(engine: &str) {
    let (bed, peer) = bed();
    let wanted = Wanted {
        ingress: &["tcp:80:192.0.2.99:80", "tcp:81:127.0.0.1:8000"],
        egress: &["tcp:9000:10.9.0.77:80", "tcp:9001:10.9.0.2:7000"],
        engine,
        ..Wanted::default()
    };
    bed.ours.nft("add table ip t; add chain ip t o { type filter hook output priority 0; }; add rule ip t o ip daddr 192.0.2.99 drop").unwrap();
    bed.theirs.nft("add table ip t; add chain ip t o { type filter hook prerouting priority 0; }; add rule ip t o ip daddr 10.9.0.77 drop").unwrap();
    let proxy = Proxy::start(&bed, &wanted);
    let idle = files(own(&proxy));
    for (from, dead, alive, at, service) in [
        (&peer.netns, "10.9.0.1:80", "10.9.0.1:81", &bed.ours, "127.0.0.1:8000"),
        (&bed.ours, "127.0.0.1:9000", "127.0.0.1:9001", &bed.theirs, "10.9.0.2:7000"),
    ] {
        let clients: Vec<_> = (0..600).map(|_| connect(from, dead)).collect();
        let begin = Instant::now();
        let service = serve(listener(at, service), "alive ", 3);
        for _ in 0..3 {
            assert_eq!(ask(connect(from, alive), "x").unwrap(), "alive x");
        }
        service.join().unwrap();
        let open = files(own(&proxy)) - idle;
        println!("{engine} {dead}: {open} descriptors for {} clients, {:?}", clients.len(), begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        // 256 of each port are being dialled for; those through the tunnel take two.
        assert!(open < 800, "{open}");
    }
}

/// Bytes are counted for their rule, also where several share a port.
pub(super) fn bytes_are_counted_for_their_rule(engine: &str) {
    let (bed, peer) = bed();
    let dir = folder();
    let wanted = Wanted {
        ingress: &["tcp:80:127.0.0.1:8001", "tcp:80:127.0.0.1:8002"],
        engine,
        dir: Some(dir.path()),
        ..Wanted::default()
    };
    let proxy = Proxy::start(&bed, &wanted);
    let one = serve(listener(&bed.ours, "127.0.0.1:8001"), "one ", 2);
    let two = serve(listener(&bed.ours, "127.0.0.1:8002"), "second ", 1);
    for (text, answer) in [("a", "one a"), ("bcd", "second bcd"), ("ef", "one ef")] {
        assert_eq!(ask(connect(&peer.netns, "10.9.0.1:80"), text).unwrap(), answer);
    }
    one.join().unwrap();
    two.join().unwrap();
    let bytes = |rule: &MeshRuleStatus| (rule.bytes_in, rule.bytes_out);
    let counted = || status(dir.path()).rules.iter().map(bytes).collect::<Vec<_>>();
    assert_eq!(counted(), [(3, 11), (3, 10)]);
    // Another rule does not take them, nor one that comes to the same port.
    change(dir.path(), &[("ingress", "tcp:81:127.0.0.1:8003"), ("ingress", "tcp:81:127.0.0.1:8001")], &[])
        .unwrap();
    assert_eq!(counted()[..2], [(3, 11), (3, 10)]);
    let counted = || status(dir.path()).rules.iter().take(2).map(bytes).collect::<Vec<_>>();
    // What a worker has counted is not lost with it.
    std::thread::sleep(Duration::from_millis(1000));
    rustix::process::kill_process(proxy.child_called("portway-relay"), rustix::process::Signal::KILL)
        .unwrap();
    wait_for("another worker", || Some(()).filter(|()| counted() == [(3, 11), (3, 10)])).unwrap();
}
