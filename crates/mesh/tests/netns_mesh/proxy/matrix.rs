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

/// HAProxy behind rules with PROXY headers reads who the client is: its address in the network, and that of this host.
///
/// Fails when: the header is the worker's own address, is not sent by engine S, or stands before no connection.
pub(super) fn haproxy_reads_who_it_is(engine: &str) {
    let (bed, peer) = bed();
    let wanted = Wanted {
        ingress: &["tcp:80:127.0.0.1:8000+proxy_protocol=v2", "tcp:81:127.0.0.1:8000+proxy_protocol=v1"],
        egress: &["tcp:9000:10.9.0.2:7000+proxy_protocol=v2"],
        engine,
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    let dir = tempfile::tempdir().unwrap();
    let answers = |bind: &str| {
        format!(
            "defaults\n mode http\n timeout client 20s\n timeout connect 5s\n timeout server 20s\nfrontend f\n \
             bind {bind} accept-proxy\n http-request return status 200 content-type text/plain \
             lf-string \"%[src] %[dst]:%[dst_port]\"\n"
        )
    };
    let mut servers = Vec::new();
    for (netns, bind) in [(&bed.ours, "127.0.0.1:8000"), (&bed.theirs, "10.9.0.2:7000")] {
        let file = dir.path().join(bind.replace(':', "_"));
        std::fs::write(&file, answers(bind)).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f"]).arg(&file).stdin(Stdio::null());
        servers.push(netns.spawn(&mut command).unwrap());
        let address: SocketAddr = bind.parse().unwrap();
        wait_for("haproxy", || netns.enter(|| TcpStream::connect(address)).unwrap().ok()).unwrap();
    }
    for (from, to, said) in [
        (&peer.netns, "10.9.0.1:80", "10.9.0.2 10.9.0.1:80"),
        (&peer.netns, "[fd09::1]:80", "fd09::2 fd09::1:80"),
        (&peer.netns, "10.9.0.1:81", "10.9.0.2 10.9.0.1:81"),
        (&bed.ours, "127.0.0.1:9000", "127.0.0.1 127.0.0.1:9000"),
    ] {
        let mut client = connect(from, to);
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with(&format!("\r\n\r\n{said}")), "{to}: {answer}");
        println!("{to}: {said}");
    }
    for mut server in servers {
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

/// Out of the network's own address and in again: an egress rule leads to an ingress rule of the same process.
pub(super) fn a_network_reaches_itself(engine: &str) {
    let (bed, _peer) = bed();
    let wanted = Wanted {
        ingress: &["tcp:80:127.0.0.1:8000"],
        egress: &["tcp:9000:10.9.0.1:80", "tcp:9001:[fd09::1]:80"],
        engine,
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    let service = serve(listener(&bed.ours, "127.0.0.1:8000"), "self ", 2);
    for port in ["9000", "9001"] {
        assert_eq!(ask(connect(&bed.ours, &format!("127.0.0.1:{port}")), "x").unwrap(), "self x");
    }
    service.join().unwrap();
}
