//! Section 5.4: ends, resets, slow readers, datagrams.

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::time::Instant;

use portway_testkit::Pattern;

use super::*;

/// Where a client goes, and who serves it.
struct Way<'a> {
    from: &'a Netns,
    to: &'static str,
    at: &'a Netns,
    service: &'static str,
}

const WANTED: Wanted<'static> = Wanted {
    ingress: &["tcp:80:127.0.0.1:8000", "udp:80:127.0.0.1:8000"],
    egress: &["tcp:9000:10.9.0.2:7000", "udp:9000:10.9.0.2:7000"],
    more: "",
    policy: "",
    drain: 0,
    endpoint: "",
    port: 0,
    engine: "",
    dir: None,
    files: 0,
};

fn ways<'a>(bed: &'a Bed, peer: &'a WireguardGo) -> [Way<'a>; 2] {
    [
        Way { from: &peer.netns, to: "10.9.0.1:80", at: &bed.ours, service: "127.0.0.1:8000" },
        Way { from: &bed.ours, to: "127.0.0.1:9000", at: &bed.theirs, service: "10.9.0.2:7000" },
    ]
}

/// A client and the service's end of it.
fn pair(way: &Way<'_>) -> (TcpStream, TcpStream) {
    let listener = listener(way.at, way.service);
    let client = connect(way.from, way.to);
    let (service, _) = listener.accept().unwrap();
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, service)
}

fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO)).unwrap();
}

/// Rows 1, 2 and 3, both ways.
///
/// Fails when: an end closes the other direction too, is not told, or a reset arrives as a good end.
pub(super) fn ends_and_resets_are_carried(engine: &'static str) {
    let (bed, peer) = bed();
    let _proxy = Proxy::start(&bed, &Wanted { engine, ..WANTED });
    for way in ways(&bed, &peer) {
        // 1: the answer comes after the client's end, all of it.
        let (client, mut service) = pair(&way);
        let answering = std::thread::spawn(move || {
            let mut asked = String::new();
            service.read_to_string(&mut asked).unwrap();
            Pattern::new(4 << 20).write(4 << 20, &service).unwrap();
            asked
        });
        (&client).write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        Pattern::new(4 << 20).check_to_end(4 << 20, &client).unwrap();
        assert_eq!(answering.join().unwrap(), "question");
        // 2: the service ends first, and still hears the client.
        let (mut client, mut service) = pair(&way);
        service.write_all(b"bye").unwrap();
        service.shutdown(Shutdown::Write).unwrap();
        let begin = Instant::now();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text == "bye" && begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        client.write_all(b"still here").unwrap();
        drop(client);
        text.clear();
        service.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
        // 3: a reset of either side is one of the other.
        let (mut client, service) = pair(&way);
        reset(service);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "{}", way.to);
        // Once there is a way from one to the other; smoltcp may tell it as an end before.
        let (mut client, mut service) = pair(&way);
        client.write_all(b"?").unwrap();
        service.read_exact(&mut [0]).unwrap();
        reset(client);
        assert_eq!(service.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "{}", way.to);
    }
}

/// Row 3 for clients that reset before they can know whether there is a way to the service.
///
/// Fails when: a connection that was made for nobody any more ends as if all had been said.
pub(super) fn who_resets_at_once_is_no_end(engine: &'static str) {
    const CLIENTS: usize = 200;
    let (bed, peer) = bed();
    let _proxy = Proxy::start(&bed, &Wanted { engine, ..WANTED });
    for way in ways(&bed, &peer) {
        let service = listener(way.at, way.service);
        let serving = std::thread::spawn(move || {
            let (mut ends, mut resets) = (0, 0);
            loop {
                let (mut client, _) = service.accept().unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                match client.read(&mut [0]) {
                    Ok(0) => ends += 1,
                    Ok(_) => return (ends, resets),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                        resets += 1;
                    }
                }
            }
        });
        (0..CLIENTS).for_each(|_| reset(connect(way.from, way.to)));
        // Those before it have arrived as far as they do.
        connect(way.from, way.to).write_all(b"!").unwrap();
        let (ends, resets) = serving.join().unwrap();
        println!("{engine} {}: {resets} of {CLIENTS} were seen, {ends} as ends", way.to);
        assert_eq!(ends, 0, "{}", way.to);
    }
}

/// Row 5: the memory of all three processes stays small, and others go on.
pub(super) fn a_slow_reader_slows_its_sender_only(engine: &'static str) {
    let (bed, peer) = bed();
    let proxy = Proxy::start(&bed, &Wanted { engine, ..WANTED });
    let resident = || -> u64 {
        let pids = [proxy.child.id().to_string()];
        let helpers =
            ["portway-relay", "mesh-stack"].map(|name| proxy.child_called(name).as_raw_nonzero().to_string());
        let of = |pid: &String| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        pids.iter().chain(&helpers).map(of).sum()
    };
    for way in ways(&bed, &peer) {
        let (client, service) = pair(&way);
        client.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let before = resident();
        let mut sent = 0;
        // Nobody reads: it takes what buffers take.
        while let Ok(count) = (&client).write(&[1; 65_536]) {
            sent += count;
            assert!(sent < 256 << 20, "nothing holds it back");
        }
        let grown = resident().saturating_sub(before);
        println!("{}: {sent} bytes on the way, {grown} KiB more in our processes", way.to);
        assert!(grown < 32 << 10, "{grown} KiB");
        drop(service);
        let other = serve(listener(way.at, way.service), "free ", 1);
        assert_eq!(ask(connect(way.from, way.to), "x").unwrap(), "free x");
        other.join().unwrap();
    }
}

/// Rows 13 and 14: empty ones, ones longer than a packet, the longest there are; each whole and by itself.
pub(super) fn datagrams_are_carried_whole(engine: &'static str) {
    let (bed, peer) = bed();
    let _proxy = Proxy::start(&bed, &Wanted { engine, ..WANTED });
    for way in ways(&bed, &peer) {
        let service = udp(way.at, way.service);
        let client = udp_to(way.from, way.to);
        let mut buffer = vec![0; 70_000];
        for length in [1, 0, 1372, 1373, 1400, 1472, 8192, 65_507, 3] {
            let datagram: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            client.send(&datagram).unwrap();
            let (got, from) = service.recv_from(&mut buffer).unwrap();
            assert!(buffer[..got] == datagram, "{length} there: {got}");
            service.send_to(&buffer[..got], from).unwrap();
            let got = client.recv(&mut buffer).unwrap();
            assert!(buffer[..got] == datagram, "{length} back: {got}");
        }
    }
}

/// Row 15: the flow ends, and the next datagram goes to the next rule.
pub(super) fn a_closed_udp_port_ends_the_flow(engine: &str) {
    let (bed, peer) = bed();
    let wanted = Wanted {
        ingress: &["udp:80:127.0.0.1:1", "udp:80:127.0.0.1:8000"],
        egress: &["udp:9000:10.9.0.2:1", "udp:9000:10.9.0.2:7000"],
        engine,
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    for way in ways(&bed, &peer) {
        let service = udp(way.at, way.service);
        service.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let client = udp_to(way.from, way.to);
        let mut buffer = [0; 8];
        let arrived = (0..10).position(|turn: u8| {
            client.send(&[turn]).unwrap();
            service.recv_from(&mut buffer).is_ok()
        });
        // The first went to the closed port, the second may have met its answer.
        assert!(matches!(arrived, Some(1..=2)), "{arrived:?}");
    }
}
