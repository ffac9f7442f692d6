//! From the start to the end, and what may happen to its processes.

use std::time::Instant;

use rustix::process::{Signal, kill_process};

use super::*;

const WANTED: Wanted<'static> = Wanted {
    ingress: &["tcp:80:127.0.0.1:8000"],
    egress: &["tcp:9000:10.9.0.2:7000"],
    more: "",
    policy: "",
    drain: 20,
    endpoint: "",
    port: 0,
    engine: "",
    dir: None,
    files: 0,
};

/// Row 10, and the rest of what is known before anything starts: each names what and where.
pub(super) fn what_is_in_the_way_is_said(engine: &str) {
    let bed = Bed::new();
    let _other = listener(&bed.ours, "127.0.0.1:9000");
    let said = |wanted: &Wanted<'_>| {
        let (mut proxy, first) = Proxy::begin(&bed, &Wanted { engine, ..*wanted });
        assert!(!proxy.ended().success());
        first
    };
    let taken = said(&Wanted { egress: &["tcp:127.0.0.1:9000:10.9.0.2:1"], ..Wanted::default() });
    assert!(taken.starts_with("failed ") && taken.contains("mesh.toml:5:11"), "{taken}");
    assert!(
        taken.contains("cannot listen on tcp:127.0.0.1:9000 on this host: Address already in use"),
        "{taken}"
    );
    let low = said(&Wanted { egress: &["tcp:80:10.9.0.2:1"], ..Wanted::default() });
    assert!(low.contains("ports below 1024 need a privilege"), "{low}");
    let _outer = udp(&bed.ours, "0.0.0.0:51820");
    let outer = said(&Wanted::default());
    assert!(outer.contains("cannot listen on UDP port 51820 for peers"), "{outer}");
}

/// Row 24: told to end it takes nobody new, and ends with the last connection; told twice, at once.
pub(super) fn the_end_waits_for_connections(engine: &'static str) {
    let (bed, peer) = bed();
    let wanted = Wanted { engine, ..WANTED };
    let mut proxy = Proxy::start(&bed, &wanted);
    let service = listener(&bed.ours, "127.0.0.1:8000");
    let mut clients: Vec<_> = (0..100).map(|_| connect(&peer.netns, "10.9.0.1:80")).collect();
    let mut ends: Vec<_> = clients.iter().map(|_| service.accept().unwrap().0).collect();
    proxy.signal(Signal::TERM);
    wait_for("refusal", || bed.ours.enter(|| TcpStream::connect("127.0.0.1:9000")).unwrap().err()).unwrap();
    // Those who are there are still served. They were dialled for at once, so in any order.
    for (number, client) in (0..).zip(&mut clients) {
        client.write_all(&[number]).unwrap();
    }
    let mut text = [0];
    for end in &mut ends {
        end.read_exact(&mut text).unwrap();
        end.write_all(&text).unwrap();
    }
    for (number, client) in (0..).zip(&mut clients) {
        client.read_exact(&mut text).unwrap();
        assert_eq!(text, [number]);
    }
    assert!(proxy.child.try_wait().unwrap().is_none());
    drop((clients, ends));
    assert!(proxy.ended().success());
    // The second time, at once; and at the deadline by itself.
    for (drain, signals) in [(60, 2), (1, 1)] {
        forget(&bed, &peer);
        let mut proxy = Proxy::start(&bed, &Wanted { drain, ..wanted });
        let mut client = connect(&peer.netns, "10.9.0.1:80");
        let _end = service.accept().unwrap();
        for _ in 0..signals {
            proxy.signal(Signal::TERM);
            std::thread::sleep(Duration::from_millis(200));
        }
        let begin = Instant::now();
        assert!(proxy.ended().success());
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        // What is cut does not look finished, unless the tunnel went before it could be said.
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        client.read(&mut [0]).unwrap_err();
    }
}

/// Row 84 of what is hostile: the name of an endpoint that nobody knows holds up neither the start nor a peer that comes by
/// itself.
pub(super) fn an_endpoint_that_nobody_knows(engine: &'static str) {
    let (bed, peer) = bed();
    let begin = Instant::now();
    let _proxy = Proxy::start(&bed, &Wanted { engine, endpoint: "nobody.invalid:51820", ..WANTED });
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let serving = serve(listener(&bed.ours, "127.0.0.1:8000"), "heard ", 1);
    assert_eq!(ask(connect(&peer.netns, "10.9.0.1:80"), "x").unwrap(), "heard x");
    serving.join().unwrap();
}

/// The relay worker is killed: its connections are lost, the ports stay, and the next client is served.
pub(super) fn a_worker_that_dies_is_replaced(engine: &str) {
    let (bed, peer) = bed();
    let mut proxy = Proxy::start(&bed, &Wanted { engine, ..WANTED });
    let service = listener(&bed.ours, "127.0.0.1:8000");
    let mut lost = connect(&peer.netns, "10.9.0.1:80");
    let _end = service.accept().unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    kill_process(proxy.child_called("portway-relay"), Signal::KILL).unwrap();
    assert_eq!(lost.read(&mut [0]).map_err(|error| error.kind()).unwrap_or(0), 0);
    // Nobody is refused meanwhile: this one waits in the backlog.
    let client = connect(&peer.netns, "10.9.0.1:80");
    let serving = serve(service, "again ", 1);
    assert_eq!(ask(client, "x").unwrap(), "again x");
    serving.join().unwrap();
    assert_eq!(proxy.line(), "trouble the relay worker has ended, and another one was started");
}

/// The stack's process is killed: the network ends with a line that says why, and leaves no process behind.
pub(super) fn without_its_stack_it_ends(engine: &str) {
    let (bed, _peer) = bed();
    let mut proxy = Proxy::start(&bed, &Wanted { engine, ..WANTED });
    let worker = proxy.child_called("portway-relay");
    kill_process(proxy.child_called("mesh-stack"), Signal::KILL).unwrap();
    assert_eq!(proxy.line(), "failed the process of the tunnel's stack has ended:");
    assert!(!proxy.ended().success());
    wait_for("the worker's end", || rustix::process::test_kill_process(worker).err()).unwrap();
}

/// A name that is not there yet at the start, and one whose address has changed.
///
/// Fails when: a network does not start without its peers, or a peer that has moved is not found again.
pub(super) fn endpoints_are_looked_up_again() {
    let (bed, peer) = bed();
    // `localhost` is what every resolver knows: packets to it are sent on to the peer.
    bed.ours.sysctl("ipv4/conf/all/route_localnet", "1").unwrap();
    bed.ours
        .nft(
            "add table ip t; add chain ip t o { type nat hook output priority -100; }; \
             add rule ip t o ip daddr 127.0.0.1 udp dport 40000 dnat to 192.0.2.2:51820; \
             add chain ip t p { type nat hook postrouting priority 100; }; \
             add rule ip t p ip daddr 192.0.2.2 udp dport 51820 masquerade",
        )
        .unwrap();
    let _proxy = Proxy::start(&bed, &Wanted { endpoint: "localhost:40000", ..WANTED });
    let service = serve(listener(&bed.theirs, "10.9.0.2:7000"), "found ", 1);
    let begin = Instant::now();
    assert_eq!(ask(connect(&bed.ours, "127.0.0.1:9000"), "x").unwrap(), "found x");
    println!("found after {:?}", begin.elapsed());
    service.join().unwrap();
    drop(peer);
}
