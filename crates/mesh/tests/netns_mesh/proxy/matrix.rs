//! Section 5.3: every direction, protocol, family of client and family of destination.

use super::*;

/// Sends a datagram and gets it back from a service that answers with a tag.
fn ask_udp(client: &UdpSocket, service: &UdpSocket, text: &str) {
    let mut buffer = [0; 128];
    client.send(text.as_bytes()).unwrap();
    let (length, from) = service.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], text.as_bytes());
    service.send_to(b"answer", from).unwrap();
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"answer");
}

/// Sixteen rows in one process, each asserted by its own tag: in and out, TCP and UDP, IPv4 and IPv6 at either end.
///
/// Fails when: a family is not listened on, crossings are not dialled, or one rule's traffic goes to another's target.
pub(super) fn every_rule_in_every_family(engine: &str) {
    let (bed, peer) = bed();
    let ingress =
        ["tcp:443:127.0.0.1:8001", "TCP:444:[::1]:8002", "udp:443:127.0.0.1:8003", "udp:444:[::1]:8004"];
    let egress = [
        "tcp:9001:10.9.0.2:7001",
        "tcp:9002:[fd09::2]:7002",
        "udp:9001:10.9.0.2:7003",
        "udp:9002:[fd09::2]:7004",
    ];
    let _proxy =
        Proxy::start(&bed, &Wanted { ingress: &ingress, egress: &egress, engine, ..Wanted::default() });
    let here = [(&bed.ours, ["127.0.0.1:8001", "[::1]:8002", "127.0.0.1:8003", "[::1]:8004"])];
    let there = [(&bed.theirs, ["10.9.0.2:7001", "[fd09::2]:7002", "10.9.0.2:7003", "[fd09::2]:7004"])];
    let clients = [
        (&peer.netns, ["10.9.0.1", "[fd09::1]"], ["443", "444"], here),
        (&bed.ours, ["127.0.0.1", "[::1]"], ["9001", "9002"], there),
    ];
    for (from, own, ports, [(at, services)]) in clients {
        for place in 0..2 {
            let tcp = serve(listener(at, services[place]), if place == 0 { "one " } else { "two " }, 2);
            let service = udp(at, services[place + 2]);
            for address in own {
                let to = format!("{address}:{}", ports[place]);
                let answer = ask(connect(from, &to), "ping").unwrap();
                assert_eq!(answer, if place == 0 { "one ping" } else { "two ping" }, "{to}");
                ask_udp(&udp_to(from, &to), &service, &to);
                println!("{to} -> {}, {}: tcp and udp", services[place], services[place + 2]);
            }
            tcp.join().unwrap();
        }
    }
}

/// An ingress rule's name is one of the host; an egress rule's name is asked of the network's server, through the tunnel.
///
/// Fails when: names are looked up once and for all, or by the other side.
pub(super) fn names_are_looked_up_by_who_dials() {
    let (bed, peer) = bed();
    let wanted = Wanted {
        ingress: &["tcp:80:localhost:8000"],
        egress: &["tcp:9000:db.mesh.example:7000", "tcp:9001:short:7000"],
        more: "dns = [\"10.9.0.2\", \"mesh.example\"]",
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    let local = serve(listener(&bed.ours, "127.0.0.1:8000"), "here ", 1);
    assert_eq!(ask(connect(&peer.netns, "10.9.0.1:80"), "x").unwrap(), "here x");
    local.join().unwrap();
    let server = udp(&bed.theirs, "10.9.0.2:53");
    let answers = std::thread::spawn(move || {
        let (mut asked, mut buffer) = (Vec::new(), [0; 512]);
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let question = buffer[12..length].to_vec();
            let is_v4 = question[question.len() - 3] == 1;
            let name: Vec<u8> = question[..question.len() - 5].to_vec();
            asked.push((String::from_utf8_lossy(&name[1..]).into_owned(), is_v4));
            let mut answer = buffer[..length].to_vec();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            if is_v4 {
                answer[7] = 1;
                answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x0a\x09\x00\x02");
            }
            server.send_to(&answer, from).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        }
        asked
    });
    let service = serve(listener(&bed.theirs, "10.9.0.2:7000"), "there ", 3);
    for port in ["9000", "9000", "9001"] {
        assert_eq!(ask(connect(&bed.ours, &format!("127.0.0.1:{port}")), "x").unwrap(), "there x");
    }
    service.join().unwrap();
    let asked = answers.join().unwrap();
    assert_eq!(asked.iter().filter(|(name, v4)| name.starts_with("db") && *v4).count(), 2, "{asked:?}");
    assert!(asked.iter().any(|(name, _)| name.starts_with("short\u{4}mesh")), "{asked:?}");
    // A name that nobody answers for is a reset within the time of a lookup.
    let mut nobody = connect(&bed.ours, "127.0.0.1:9000");
    let begin = std::time::Instant::now();
    let error = nobody.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}

/// Out of the network's own address and in again: an egress rule leads to an ingress rule of the same process.
pub(super) fn a_network_reaches_itself() {
    let (bed, _peer) = bed();
    let wanted = Wanted {
        ingress: &["tcp:80:127.0.0.1:8000"],
        egress: &["tcp:9000:10.9.0.1:80", "tcp:9001:[fd09::1]:80"],
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    let service = serve(listener(&bed.ours, "127.0.0.1:8000"), "self ", 2);
    for port in ["9000", "9001"] {
        assert_eq!(ask(connect(&bed.ours, &format!("127.0.0.1:{port}")), "x").unwrap(), "self x");
    }
    service.join().unwrap();
}
