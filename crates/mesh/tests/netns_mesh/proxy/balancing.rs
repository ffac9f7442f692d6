//! Several rules of one port.

use super::*;

/// A service that answers every client with its tag, and ends each one first.
fn tagged(netns: &Netns, address: &str, tag: &'static str) {
    let listener = listener(netns, address);
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            client.write_all(tag.as_bytes()).ok();
        }
    });
}

fn tag_of(mut stream: TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Ten connections over two rules are five each, the first rule first; ten flows too.
pub(super) fn connections_are_shared_exactly(engine: &str) {
    let (bed, peer) = bed();
    let wanted = Wanted {
        ingress: &["tcp:80:127.0.0.1:8001", "tcp:80:[::1]:8002"],
        egress: &["udp:9000:10.9.0.2:7001", "udp:9000:[fd09::2]:7002"],
        engine,
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    tagged(&bed.ours, "127.0.0.1:8001", "1");
    tagged(&bed.ours, "[::1]:8002", "2");
    let tags: String = (0..10).map(|_| tag_of(connect(&peer.netns, "10.9.0.1:80")).unwrap()).collect();
    assert_eq!(tags, "1212121212");
    let services = [udp(&bed.theirs, "10.9.0.2:7001"), udp(&bed.theirs, "[fd09::2]:7002")];
    let clients: Vec<_> = (0..10).map(|_| udp_to(&bed.ours, "127.0.0.1:9000")).collect();
    let mut buffer = [0; 8];
    for (turn, client) in clients.iter().enumerate() {
        client.send(&[u8::try_from(turn).unwrap()]).unwrap();
        let (_, from) = services[turn % 2].recv_from(&mut buffer).unwrap();
        assert_eq!(usize::from(buffer[0]), turn);
        services[turn % 2].send_to(b"ok", from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 2);
    }
}

/// Row 4: a destination that refuses, one that nobody answers for, a name that is none: the same connection goes to the
/// next, and those after it do not wait again.
pub(super) fn the_next_one_is_tried(engine: &str) {
    let (bed, peer) = bed();
    let wanted = Wanted {
        ingress: &[
            "tcp:80:127.0.0.1:1",
            "tcp:80:no-such-name.invalid:80",
            "tcp:80:192.0.2.99:80",
            "tcp:80:127.0.0.1:8001",
        ],
        engine,
        ..Wanted::default()
    };
    // Packets to that one are dropped, so that it is the connect's own limit that ends it.
    bed.ours.nft("add table ip t; add chain ip t o { type filter hook output priority 0; }; add rule ip t o ip daddr 192.0.2.99 drop").unwrap();
    let _proxy = Proxy::start(&bed, &wanted);
    tagged(&bed.ours, "127.0.0.1:8001", "alive");
    let begin = std::time::Instant::now();
    assert_eq!(tag_of(connect(&peer.netns, "10.9.0.1:80")).unwrap(), "alive");
    let first = begin.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(12)).contains(&first), "{first:?}");
    // For a second, at least, the dead ones are put aside.
    let begin = std::time::Instant::now();
    assert_eq!(tag_of(connect(&peer.netns, "10.9.0.1:80")).unwrap(), "alive");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

/// Row 4: with all of them dead the client is reset, in both directions; when one comes back it is used again.
pub(super) fn all_dead_is_a_reset(engine: &str) {
    let (bed, peer) = bed();
    let wanted = Wanted {
        ingress: &["tcp:80:127.0.0.1:1", "tcp:80:127.0.0.1:8001"],
        egress: &["tcp:9000:10.9.0.2:1", "tcp:9000:[fd09::2]:1"],
        engine,
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    for (from, to) in [(&peer.netns, "10.9.0.1:80"), (&bed.ours, "127.0.0.1:9000")] {
        let error = tag_of(connect(from, to)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{to}");
    }
    tagged(&bed.ours, "127.0.0.1:8001", "back");
    assert_eq!(tag_of(connect(&peer.netns, "10.9.0.1:80")).unwrap(), "back");
}
