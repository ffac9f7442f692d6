//! Members that cannot meet: one and two stand behind routers that take another port for each destination. Three and four
//! can be hubs.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use portway_testkit::{Netns, is_root, wait_for};

use crate::network::{Field, HOSTS, Running, Way, connect, echo, echo_udp, serve};

const ONE: usize = 0;
const TWO: usize = 1;
const THREE: usize = 2;
const FOUR: usize = 3;

/// An organization, and a token of it.
fn organization(field: &Field) -> (Running, String) {
    let registrar = field.registrar();
    field.owner("mesh org create acme --network 10.77.0.0/24");
    (registrar, field.owner("mesh key create --org acme --uses 10"))
}

fn join(host: usize, token: &str) -> String {
    let (name, _, gateway) = HOSTS[host];
    let ip = host + 1;
    format!(
        "proxy --join https://{gateway}:51821 --key {token} --device {name} --request-ip 10.77.0.{ip} --listen-port 51820"
    )
}

/// A member that everybody reaches, and that is marked as a hub.
fn hub(field: &Field, host: usize, engine: &str, token: &str) -> Running {
    let (name, address, _) = HOSTS[host];
    let words = format!("{} --endpoint {address}:51820", join(host, token));
    let running = field.member(host, engine, &words);
    field.owner(&format!("mesh device set-hub {name} --org acme"));
    running
}

/// One serves and calls two, two serves and calls one.
fn members(field: &Field, engine: &str, token: &str) -> [Running; 2] {
    let rules = |other: usize| {
        format!(
            "--ingress tcp:80:127.0.0.1:8000 --ingress udp:53:127.0.0.1:5300 \
             --egress tcp:127.0.0.1:9000:10.77.0.{other}:80 --egress udp:127.0.0.1:9053:10.77.0.{other}:53"
        )
    };
    [(ONE, 2), (TWO, 1)].map(|(host, other)| {
        serve(&field.hosts[host]);
        field.member(host, engine, &format!("{} {}", join(host, token), rules(other)))
    })
}

/// How `host` reaches the other member.
fn way(field: &Field, host: usize) -> serde_json::Value {
    let other = if host == ONE { "two" } else { "one" };
    let status = field.status(host);
    let peers = status["peers"].as_array().unwrap();
    peers
        .iter()
        .find(|peer| peer["name"] == other)
        .map_or(serde_json::Value::Null, |peer| peer["through"].clone())
}

/// Sends so much there and back.
fn carry(netns: &Netns, bytes: usize) -> Duration {
    let mut stream = connect(netns, "127.0.0.1:9000");
    let mut sending = stream.try_clone().unwrap();
    let begin = Instant::now();
    let sender = std::thread::spawn(move || {
        let pattern: Vec<u8> = (0..=250).collect();
        for piece in pattern.iter().copied().cycle().take(bytes).collect::<Vec<u8>>().chunks(1 << 16) {
            sending.write_all(piece).unwrap();
        }
        sending.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert_eq!(back.len(), bytes);
    assert!(back.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
    begin.elapsed()
}

/// Fails when: two members that cannot meet do not reach each other through a hub, both ways and with long datagrams and
/// streams, it is not said that they do, the hub passes nothing on, or drops what is longer than its way to a member takes,
/// or a member that is revoked is still passed on to.
fn through_a_hub(engine: &str) {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Symmetric);
    let (_registrar, token) = organization(&field);
    let three = hub(&field, THREE, engine, &token);
    let [mut one, two] = members(&field, engine, &token);
    let begin = Instant::now();
    for host in [ONE, TWO] {
        echo(&mut connect(&field.hosts[host], "127.0.0.1:9000"), "through a hub");
        println!("{engine}: after {:?}", begin.elapsed());
        echo_udp(&field.hosts[host], "127.0.0.1:9053");
        assert_eq!(way(&field, host), "three");
    }
    let took = carry(&field.hosts[TWO], 8 << 20);
    println!("{engine}: 8 MiB there and back through a hub: {took:?}");
    let status = field.status(THREE);
    assert!(status["passed_on"].as_u64().unwrap() > 10_000, "{status}");
    assert_eq!(status["organization"]["hub"], true);
    // The hub is told, by whoever says so, that the way to one of them takes less than what it passes on.
    field.hosts[THREE].ip("route add 198.51.100.1/32 via 203.0.113.254 mtu 700").unwrap();
    let took = carry(&field.hosts[TWO], 1 << 20);
    println!("{engine}: 1 MiB there and back by a way that takes less: {took:?}");
    let text = field.hosts[TWO].run(&mut field.command("two", "mesh status")).unwrap();
    assert!(text.contains("peer one through hub three: "), "{text}");

    let mut stream = connect(&field.hosts[TWO], "127.0.0.1:9000");
    echo(&mut stream, "before");
    // It ends nothing itself.
    let frozen = one.freeze();
    field.owner("mesh device revoke one --org acme");
    let begin = Instant::now();
    let ended = stream.read(&mut [0; 16]).map_err(|error| error.kind());
    let after = begin.elapsed();
    assert!(after < Duration::from_secs(2), "{after:?} {ended:?}");
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
    drop(frozen);
    one.hear("this device was revoked");
    one.child.wait().unwrap();
    assert_eq!(field.status(THREE)["peers"].as_array().unwrap().len(), 1);
    drop((two, three));
}

#[test]
fn two_that_cannot_meet_meet_at_a_hub_on_the_kernels_engine() {
    through_a_hub("kernel");
}

#[test]
fn two_that_cannot_meet_meet_at_a_hub_on_smoltcp() {
    through_a_hub("smoltcp");
}

/// Fails when: a hub that is gone is not left for another, a stream does not survive that, the absence of any is not said,
/// or a way that has opened is not taken.
#[test]
fn hubs_go_and_ways_open() {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Symmetric);
    let (_registrar, token) = organization(&field);
    let mut hubs = [THREE, FOUR].map(|host| Some(hub(&field, host, "kernel", &token)));
    let _members = members(&field, "kernel", &token);
    let mut stream = connect(&field.hosts[TWO], "127.0.0.1:9000");
    echo(&mut stream, "by one hub");
    let first = way(&field, TWO);
    let (gone, other) = if first == "three" { (0, "four") } else { (1, "three") };
    hubs[gone].take().unwrap().kill();
    let begin = Instant::now();
    echo(&mut stream, "by the other");
    println!("by another hub after {:?}", begin.elapsed());
    assert_eq!((way(&field, ONE), way(&field, TWO)), (other.into(), other.into()));

    // The router in front of the first lets everybody in.
    let open = "add chain ip r d { type nat hook prerouting priority -100; }; \
        add rule ip r d iifname wan meta l4proto udp dnat to 10.1.0.2:51820";
    field.routers[ONE].nft(open).unwrap();
    let begin = Instant::now();
    wait_for("the straight way", || {
        echo(&mut stream, "again");
        (way(&field, ONE).is_null() && way(&field, TWO).is_null()).then_some(())
    })
    .unwrap();
    println!("straight after {:?}", begin.elapsed());
    hubs.into_iter().flatten().for_each(|mut hub| hub.kill());
    echo(&mut stream, "without a hub");
}
