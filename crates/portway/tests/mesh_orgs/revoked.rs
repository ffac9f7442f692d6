//! What becomes of the connections of a member that is revoked: by rules and by proxies, of its making and of others'. And a
//! network of an organization with all that any network has: proxies, pings, a trace.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use portway_testkit::{Netns, is_root, wait_for};

use crate::network::{Field, HOSTS, Running, Way, connect, echo, echo_udp, serve};

/// Which is revoked, whose connections are looked at, and whose are to live on.
const ONE: usize = 0;
const TWO: usize = 1;
const THREE: usize = 2;

/// How long anything may last that is to end.
const BRIEF: Duration = Duration::from_secs(2);

/// A connection through a proxy on 127.0.0.1 of `netns`: what is said to it, and the bytes of its answer.
fn by_proxy(netns: &Netns, port: u16, asks: &[(&[u8], usize)]) -> TcpStream {
    let mut stream = connect(netns, &format!("127.0.0.1:{port}"));
    for (asked, bytes) in asks {
        stream.write_all(asked).unwrap();
        let mut answer = vec![0; *bytes];
        stream.read_exact(&mut answer).unwrap();
        let is_good = answer.starts_with(&[5, 0]) || answer.starts_with(b"HTTP/1.1 200");
        assert!(is_good, "{}", String::from_utf8_lossy(&answer));
    }
    stream
}

fn by_socks(netns: &Netns, last: u8) -> TcpStream {
    by_proxy(netns, 1080, &[(&[5, 1, 0], 2), (&[5, 1, 0, 1, 10, 77, 0, last, 0, 80], 10)])
}

/// A question for a member's port 80 that nobody answers yet.
fn asked_of_socks(netns: &Netns, last: u8) -> TcpStream {
    let mut stream = connect(netns, "127.0.0.1:1080");
    stream.write_all(&[5, 1, 0, 5, 1, 0, 1, 10, 77, 0, last, 0, 80]).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    stream
}

/// The answer is that it cannot be had, and comes soon.
fn is_refused(mut stream: TcpStream) {
    stream.set_read_timeout(Some(BRIEF)).unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer[0] == 5 && answer[1] != 0, "{answer:?}");
}

/// An association, and a socket that has had an answer of that member's port 53 through it.
fn associated(netns: &Netns, last: u8) -> (TcpStream, UdpSocket, Vec<u8>) {
    let mut control = connect(netns, "127.0.0.1:1080");
    control.write_all(&[5, 1, 0]).unwrap();
    control.read_exact(&mut [0; 2]).unwrap();
    control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut answer = [0; 10];
    control.read_exact(&mut answer).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([answer[8], answer[9]])));
    let socket = netns.enter(|| UdpSocket::bind("127.0.0.1:0")).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let datagram = [&[0, 0, 0, 1, 10, 77, 0, last, 0, 53][..], b"datagram"].concat();
    socket.send(&datagram).unwrap();
    let mut room = [0; 64];
    let length = socket.recv(&mut room).unwrap();
    assert_eq!(room[..length], datagram);
    (control, socket, datagram)
}

/// It is reset before `until`.
fn ends(mut stream: TcpStream, until: Instant, what: &str) {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left)).unwrap();
    match stream.read(&mut [0; 16]) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("{what} is not reset: {other:?}"),
    }
}

/// An organization, and a token of it.
fn organization(field: &Field) -> (Running, String) {
    let registrar = field.registrar();
    field.owner("mesh org create acme --network 10.77.0.0/24");
    (registrar, field.owner("mesh key create --org acme --uses 10"))
}

/// What runs a member with these rules.
fn join(host: usize, token: &str, rules: &str) -> String {
    let (name, address, gateway) = HOSTS[host];
    let ip = host + 1;
    format!(
        "proxy --join https://{gateway}:51821 --key {token} --device {name} --request-ip 10.77.0.{ip} \
         --endpoint {address}:51820 {rules}"
    )
}

/// How many connections each rule and proxy of two has, but for those from and to three.
fn live(field: &Field) -> u64 {
    let status = field.status(TWO);
    let of = |list: &str| -> u64 {
        let all = status[list].as_array().unwrap();
        all.iter().map(|one| one["connections_now"].as_u64().unwrap()).sum()
    };
    of("rules") + of("proxies")
}

/// Fails when: a connection to or from a member that was revoked, and does nothing about it, goes on for longer than two
/// seconds, by whatever way it was made, is made still, or ends as if all had been said, or one of another member ends with it; an organization's network has no proxies, pings or trace.
fn all_of_one_end(engine: &str) {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Direct);
    let (_registrar, token) = organization(&field);
    let words = |host: usize, rules: &str| {
        let rules = format!("--ingress tcp:80:127.0.0.1:8000 --ingress udp:53:127.0.0.1:5300 {rules}");
        join(host, &token, &rules)
    };
    (ONE..=THREE).for_each(|host| serve(&field.hosts[host]));
    let calls = "--egress tcp:127.0.0.1:9000:10.77.0.2:8080 --egress udp:127.0.0.1:9053:10.77.0.2:53";
    let one = field.member(ONE, engine, &words(ONE, calls));
    let _three = field.member(THREE, engine, &words(THREE, calls));
    let trace = field.home("two").join("trace");
    let rules = format!(
        "--egress tcp:127.0.0.1:9000:10.77.0.1:80 --egress udp:127.0.0.1:9053:10.77.0.1:53 --socks5 1080 \
         --http-connect 3128 --ingress tcp:8080:127.0.0.1:8001 --trace {}",
        trace.display()
    );
    let _two = field.member(TWO, engine, &words(TWO, &rules));
    let host = &field.hosts[TWO];
    wait_for("the others", || (field.status(TWO)["peers"].as_array()?.len() == 2).then_some(())).unwrap();
    let pinged = host.run(&mut field.command("two", "mesh ping 10.77.0.1 -c 2 -i 0.2")).unwrap();
    assert!(pinged.contains("10.77.0.1"), "{pinged}");

    // Into two, from both; what is said to it stays unanswered.
    let service = host.enter(|| TcpListener::bind("127.0.0.1:8001").unwrap()).unwrap();
    let mut clients = Vec::new();
    let mut called = |from: usize| {
        clients.push(connect(&field.hosts[from], "127.0.0.1:9000"));
        clients.last_mut().unwrap().write_all(b"x").unwrap();
        let (mut stream, _) = service.accept().unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        echo_udp(&field.hosts[from], "127.0.0.1:9053");
        stream
    };
    let (from_one, mut from_three) = (called(ONE), called(THREE));
    let http = |last: u8| {
        let asked = format!("CONNECT 10.77.0.{last}:80 HTTP/1.1\r\nHost: x\r\n\r\n");
        by_proxy(host, 3128, &[(asked.as_bytes(), b"HTTP/1.1 200 Connection established\r\n\r\n".len())])
    };
    let mut of_one = [connect(host, "127.0.0.1:9000"), by_socks(host, 1), http(1)];
    let mut of_three = [by_socks(host, 3), http(3)];
    of_one.iter_mut().chain(&mut of_three).for_each(|stream| echo(stream, "before"));
    echo_udp(host, "127.0.0.1:9053");
    let (_control, socket, datagram) = associated(host, 1);
    // Connections are counted once the relay has told of them, a moment after they are made.
    let before = wait_for("all that were made", || Some(live(&field)).filter(|live| *live >= 8)).unwrap();

    // It does not end anything itself, nor answers what is being dialled.
    let _frozen = one.freeze();
    let dialled = connect(host, "127.0.0.1:9000");
    let proxied = asked_of_socks(host, 1);
    field.owner("mesh device revoke one --org acme");
    let until = Instant::now() + BRIEF;
    for (stream, what) in of_one.into_iter().chain([from_one]).zip(["rule", "socks", "http", "inbound"]) {
        ends(stream, until, what);
    }
    ends(dialled, until, "dialled");
    is_refused(proxied);
    // Of one there were these, a flow each way, and perhaps that of the association, which is no rule's.
    wait_for("its flows end", || (live(&field) <= before - 6).then_some(())).unwrap();
    println!("{engine}: all has ended after {:?}", BRIEF - until.saturating_duration_since(Instant::now()));
    assert!(Instant::now() < until + Duration::from_millis(500));
    of_three.iter_mut().for_each(|stream| echo(stream, "after"));
    clients[1].write_all(b"y").unwrap();
    from_three.read_exact(&mut [0; 1]).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket.send(&datagram).unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err());
    let traced = std::fs::read_to_string(trace).unwrap();
    assert!(traced.contains("\"keys\"") && traced.contains("\"peer gone\""), "{traced}");
}

/// Fails when: what is to end with a member that is revoked waits until a change of rules is made.
#[test]
fn a_change_of_rules_holds_up_no_revocation() {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Direct);
    let (_registrar, token) = organization(&field);
    let words = |host: usize, rules: &str| join(host, &token, rules);
    serve(&field.hosts[ONE]);
    let one = field.member(ONE, "kernel", &words(ONE, "--ingress tcp:80:127.0.0.1:8000"));
    let two = field.member(TWO, "kernel", &words(TWO, "--socks5 1080"));
    let host = &field.hosts[TWO];
    wait_for("the other", || (field.status(TWO)["peers"].as_array()?.len() == 1).then_some(())).unwrap();
    echo(&mut by_socks(host, 1), "before");

    // A rule is added, and the worker does not say that it serves it.
    let worker = two.freeze_child("portway-relay");
    let mut add = field.command("two", "mesh rule add --ingress tcp:99:127.0.0.1:99");
    let mut adding = host.spawn(&mut add).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(adding.try_wait().unwrap(), None);
    let _frozen = one.freeze();
    let dialled = asked_of_socks(host, 1);
    field.owner("mesh device revoke one --org acme");
    is_refused(dialled);
    assert_eq!(adding.try_wait().unwrap(), None, "it still waits");
    drop(worker);
    assert!(adding.wait().unwrap().success());
}

#[test]
fn all_connections_of_one_end_on_the_kernels_engine() {
    all_of_one_end("kernel");
}

#[test]
fn all_connections_of_one_end_on_smoltcp() {
    all_of_one_end("smoltcp");
}
