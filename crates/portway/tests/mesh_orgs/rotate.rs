//! A member gets another key while it runs; and is killed while it does.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

use portway_testkit::{is_root, wait_for};

use crate::network::{Field, HOSTS, Running, Way, connect, echo, echo_udp, serve};
use crate::place::Place;

const ONE: usize = 0;
const TWO: usize = 1;
const THREE: usize = 2;

/// How long connections may wait: for a handshake that is tried again after 5 seconds, and the TCP that waits meanwhile.
const BRIEF: Duration = Duration::from_secs(12);

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// Somebody with the private key that was the first one's, on host three, who tries to reach the second.
fn with_the_old_key(field: &Field, path: &str) -> Running {
    let words = format!("proxy --config {path} --egress tcp:127.0.0.1:9000:10.77.0.2:80");
    let running = field.member(THREE, "kernel", &words);
    let mut stream = connect(&field.hosts[THREE], "127.0.0.1:9000");
    stream.write_all(b"x").unwrap();
    running
}

/// Fails when: a connection from or to a member that gets another key ends, or waits for longer than is said above; the
/// member has another address, or has to be started again; or who has the old key gets in.
fn connections_outlive_a_key(engine: &str) {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Direct);
    let _registrar = field.registrar();
    field.owner("mesh org create acme --network 10.77.0.0/24");
    let token = field.owner("mesh key create --org acme --uses 10");
    let words = |host: usize| {
        let (name, address, gateway) = HOSTS[host];
        let (ip, other) = (host + 1, 2 - host);
        format!(
            "proxy --join https://{gateway}:51821 --key {token} --device {name} --request-ip 10.77.0.{ip} \
             --endpoint {address}:51820 --ingress tcp:80:127.0.0.1:8000 --ingress udp:53:127.0.0.1:5300 \
             --egress tcp:127.0.0.1:9000:10.77.0.{other}:80 --egress udp:127.0.0.1:9053:10.77.0.{other}:53"
        )
    };
    (ONE..=TWO).for_each(|host| serve(&field.hosts[host]));
    let one = field.member(ONE, engine, &words(ONE));
    let _two = field.member(TWO, engine, &words(TWO));
    wait_for("each other", || {
        let has = |host| field.status(host)["peers"].as_array().is_some_and(|peers| peers.len() == 1);
        (has(ONE) && has(TWO)).then_some(())
    })
    .unwrap();
    let mut streams = [ONE, TWO].map(|host| connect(&field.hosts[host], "127.0.0.1:9000"));
    streams.iter_mut().for_each(|stream| echo(stream, "before"));
    let stolen = field.home("three").join("old.conf").display().to_string();
    let export = format!("mesh export --org acme --wg-quick --output {stolen}");
    field.hosts[ONE].run(&mut field.command("one", &export)).unwrap();
    let before = field.status(ONE);

    let begin = Instant::now();
    let rotate = "mesh device rotate --org acme --format json";
    let said = json(&field.hosts[ONE].run(&mut field.command("one", rotate)).unwrap());
    assert_eq!((&said["name"], &said["ip4"]), (&"one".into(), &"10.77.0.1".into()));
    let key = said["key"].as_str().unwrap();
    assert!(one.hear("this device has another key").contains(key));
    streams.iter_mut().for_each(|stream| echo(stream, "after"));
    println!("{engine}: connections go on after {:?}", begin.elapsed());
    assert!(begin.elapsed() < BRIEF, "{:?}", begin.elapsed());
    for host in [ONE, TWO] {
        echo(&mut connect(&field.hosts[host], "127.0.0.1:9000"), "anew");
        echo_udp(&field.hosts[host], "127.0.0.1:9053");
    }
    let after = field.status(ONE);
    assert_ne!(before["public_key"], after["public_key"]);
    assert_eq!((&after["public_key"], &after["addresses"]), (&key.into(), &before["addresses"]));
    let peer = &field.status(TWO)["peers"][0];
    assert_eq!((&peer["public_key"], &peer["name"]), (&key.into(), &"one".into()));

    let strangers = || field.status(TWO)["dropped"]["stranger"].as_u64().unwrap_or(0);
    let known = strangers();
    let _thief = with_the_old_key(&field, &stolen);
    wait_for("a stranger", || (strangers() > known).then_some(())).unwrap();
    assert_eq!(field.status(TWO)["peers"].as_array().unwrap().len(), 1);
    let theirs = field.status(THREE);
    assert_eq!(theirs["peers"][0]["handshake_seconds"], serde_json::Value::Null, "{theirs}");
    streams.iter_mut().for_each(|stream| echo(stream, "still"));
}

#[test]
fn connections_outlive_a_key_on_the_kernels_engine() {
    connections_outlive_a_key("kernel");
}

#[test]
fn connections_outlive_a_key_on_smoltcp() {
    connections_outlive_a_key("smoltcp");
}

/// Fails when: a device that is killed while it gets another key is not a member afterwards, is there twice, or is somebody
/// else.
#[test]
fn whoever_is_killed_meanwhile_is_a_member() {
    const ROUNDS: u64 = 12;
    let mut place = Place::new();
    place.start(&[]);
    place.run("registrar", &["mesh", "org", "create", "acme"]);
    let token = place.token(&[]);
    let url = place.url();
    let join = ["mesh", "join", &url, "--key", &token, "--name", "one", "--format", "json"];
    let rotate = ["mesh", "device", "rotate", "--org", "acme"];
    let first = json(&place.run("one", &join));
    let (mut keys, mut killed) = (BTreeSet::new(), 0);
    for round in 0..ROUNDS {
        let mut child = place.command("one", &rotate).spawn().unwrap();
        // From before it has read anything to after it is done.
        std::thread::sleep(Duration::from_millis(1 + 2 * round));
        // It may have ended.
        child.kill().ok();
        killed += u32::from(!child.wait().unwrap().success());
        let known = json(&place.run("one", &join));
        for what in ["name", "ip4", "ip6"] {
            assert_eq!(known[what], first[what], "round {round}");
        }
        keys.insert(known["key"].as_str().unwrap().to_owned());
    }
    println!("killed {killed} times, {} keys", keys.len());
    let said = place.run("one", &rotate);
    assert!(said.contains(first["ip6"].as_str().unwrap()) && said.contains("its addresses stay"), "{said}");
    let list =
        json(&place.run("registrar", &["mesh", "device", "list", "--org", "acme", "--format", "json"]));
    assert_eq!(list.as_array().unwrap().len(), 1);
    let mut names: Vec<_> = std::fs::read_dir(place.path().join("one/mesh/acme")).unwrap().collect();
    names.retain(|entry| entry.as_ref().unwrap().file_name() == "private.key.next");
    assert!(names.is_empty(), "{names:?}");
    let cases: &[(&[&str], &str)] = &[
        (
            &["mesh", "device", "rotate", "--org", "other"],
            "error: this device has not joined organization other\nhint: portway mesh join URL --key TOKEN\n[exit 4]",
        ),
        (
            &["mesh", "device", "rotate", "--org", "../x"],
            "error: --org: it has other characters than a-z, 0-9 and hyphens\n[exit 2]",
        ),
    ];
    for (arguments, expected) in cases {
        assert_eq!(place.refused("one", arguments), *expected, "{arguments:?}");
    }
    place.run("registrar", &["mesh", "device", "revoke", "one", "--org", "acme"]);
    let revoked = "error: this device was revoked: it can join again with a new key pair only\n[exit 1]";
    assert_eq!(place.refused("one", &rotate), revoked);
}
