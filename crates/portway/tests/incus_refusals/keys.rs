//! Keys that make no device: usage errors, said with the key and the column, before anything is touched.

use std::collections::BTreeMap;
use std::time::Duration;

use portway_testkit::Rig;
use serde_json::json;

use crate::PORTWAY;
use crate::expect::{MISSING, Traces, USAGE, add_is_refused, says};

const TCP: &str = "listen=tcp:127.0.0.1:10000";
const TARGET: &str = "connect=tcp:127.0.0.1:80";

/// Keys, and what must be said.
const MALFORMED: &[(&[&str], &[&str])] = &[
    (&[TCP, "connect=tcp:127.0.0.1:0"], &["connect: column 15: port 0"]),
    (&["listen=tcp:127.0.0.1:70000", TARGET], &["listen: column 15: port 70000 is above 65535"]),
    (&["listen=tcp:127.0.0.1:90-80", TARGET], &["listen: column 15"]),
    (&["listen=tcp:127.0.0.1:80,80", TARGET], &["listen: column 18", "80"]),
    (&["listen=tcp:localhost:80", TARGET], &["listen: column 5"]),
    (&["listen=tcp:::1:80", TARGET], &["listen: column"]),
    (&["listen=sctp:127.0.0.1:80", TARGET], &["listen: column 1"]),
    (&["listen=unix:relative/path", TARGET], &["listen: column 6"]),
    (&["listen=unix:@", TARGET], &["listen: column"]),
    (&[TARGET], &["key `listen` is missing"]),
    (&[TCP], &["key `connect` is missing"]),
    (
        &["listen=tcp:127.0.0.1:100-102", "connect=tcp:127.0.0.1:100-101"],
        &["connect: 2 ports for 3 listening, expected 1 or as many"],
    ),
    (&["listen=tcp:127.0.0.1:100", "connect=tcp:127.0.0.1:100-109"], &["connect: 10 ports for 1 listening"]),
    (&["listen=udp:127.0.0.1:100", TARGET], &["connect: udp cannot be carried to tcp"]),
    (&["listen=udp:127.0.0.1:100", "connect=unix:/srv/s"], &["connect: udp cannot be carried to unix"]),
    (&[TCP, TARGET, "bnd=host"], &["unknown key `bnd`, did you mean `bind`?"]),
    (&[TCP, TARGET, "bind=middle"], &["bind: "]),
    (&[TCP, TARGET, "nat=true"], &["nat: what is led there never reaches the instance's loopback"]),
    (&[TCP, TARGET, "nat=maybe"], &["nat: column 1: `maybe` is not true, false or auto"]),
    (&[TCP, TARGET, "allow=10.0.0.1/8"], &["allow: column 1: `10.0.0.1/8` has host bits set"]),
    (&[TCP, TARGET, "deny=10.0.0.0/8,::/129"], &["deny: column 15: `129` is outside 0 to 128"]),
    (&[TCP, TARGET, "accept_proxy=0.0.0.0/0"], &["accept_proxy: column 1: ", "write `anybody`"]),
    (&[TCP, TARGET, "accept_proxy=10.0.0.1/8"], &["accept_proxy: column 1: ", "10.0.0.0/8"]),
    (&[TCP, TARGET, "accept_proxy=10.0.0.0/33"], &["accept_proxy: column 10: `33`"]),
    (&[TCP, TARGET, "limits.rate=5/h"], &["limits.rate: column 2: "]),
    (&[TCP, TARGET, "limits.connections=0"], &["limits.connections: column 1: `0`"]),
    (&["listen=unix:/run/x", TARGET, "allow=::1"], &["allow: only for a listen address that is tcp or udp"]),
    (&["listen=unix:/run/x", TARGET, "limits.per_source=1"], &["limits.per_source: only for"]),
    (&["listen=unix:/run/x", TARGET, "accept_proxy=::1"], &["accept_proxy: only for", "that is tcp"]),
    (&[TCP, TARGET, "security.groups=0"], &["security.groups: group 0 needs security.uid=0"]),
    (&[TCP, TARGET, "security.groups=audio"], &["security.groups: column 1: "]),
    (&[TCP, TARGET, "user.note=x"], &["key `user.note` is not kept"]),
    (&[TCP, TARGET, "uid=1000"], &["uid: only for a listen address that is a unix socket with a path"]),
    (&["listen=unix:@x", TARGET, "mode=0600"], &["mode: only for"]),
    (&["listen=unix:/run/x", TARGET, "uid=bob"], &["uid: "]),
    (&["listen=unix:/run/x", TARGET, "uid=4294967296"], &["uid: "]),
    (&["listen=unix:/run/x", TARGET, "uid=-1"], &["uid: "]),
    (&["listen=unix:/run/x", TARGET, "mode=4755"], &["mode: "]),
    (&["listen=unix:/run/x", TARGET, "mode=rw"], &["mode: "]),
    (&[TCP, TARGET, "security.uid=root"], &["security.uid: "]),
    (&[TCP, "connect=unix:/srv/s", "proxy_protocol=v1"], &["proxy_protocol: v1 cannot be sent to unix"]),
    (&[TCP, "connect=udp:127.0.0.1:53", "proxy_protocol=v2"], &["proxy_protocol: v2 cannot be sent to udp"]),
    (&[TCP, TARGET, "fds=on"], &["fds: only from a unix listen address"]),
    (&[TCP, TARGET, "v6only=true"], &["v6only: only for"]),
    (&[TCP, TARGET, "hold=2d"], &["hold: "]),
    (&[TCP, TARGET, "connect.timeout=0"], &["connect.timeout: "]),
    (&[TCP, TARGET, "udp.max_flows=0"], &["udp.max_flows: "]),
];

/// Every malformed device is refused by the command (exit code 2) and by the daemon itself (400), in
/// one line that names the key; nothing is left.
///
/// Fails when: the daemon trusts the command line to have checked.
#[test]
fn malformed_keys() {
    let Some(rig) = Rig::start(PORTWAY, "keys").unwrap() else { return };
    let before = Traces::of(&rig);
    for (keys, texts) in MALFORMED {
        let output = rig.device("add", &[&["bad"][..], keys].concat()).unwrap();
        says(&output, USAGE, texts);
        let map: BTreeMap<&str, &str> = keys.iter().map(|pair| pair.split_once('=').unwrap()).collect();
        let instance = format!("incus:default/{}", rig.container.name());
        let body = json!({"instance": instance, "name": "bad", "keys": map});
        let answer =
            rig.daemon.api().call("POST", "/1.0/devices", Some(&body), Duration::from_secs(10)).unwrap();
        assert_eq!(answer.status, 400, "{keys:?}: {}", answer.body);
        assert_eq!(answer.body["kind"], "usage");
        let error = answer.body["error"].as_str().unwrap();
        for text in *texts {
            assert!(error.contains(text), "{error}");
        }
    }
    before.check(&rig, "all of them");
}

/// Names and references that mean nothing, a key given twice, a device that is not there.
#[test]
fn malformed_names() {
    let Some(rig) = Rig::start(PORTWAY, "names").unwrap() else { return };
    let before = Traces::of(&rig);
    let name = rig.container.name();
    let none = format!("incus:default/{name} has no devices");
    let long = "x".repeat(65);
    let cases: [(&[&str], i32, &[&str]); 10] = [
        (&["device", "add", name, &long, TCP, TARGET], USAGE, &["64"]),
        (&["device", "add", name, "a b", TCP, TARGET], USAGE, &["device"]),
        (&["device", "add", "no such:x", "web", TCP, TARGET], USAGE, &["instance"]),
        (&["device", "add", name, "web", TCP, TCP, TARGET], USAGE, &["key `listen` is given twice"]),
        (&["device", "add", name, "web", "disk", TCP, TARGET], USAGE, &["device type `disk` is not `proxy`"]),
        (&["device", "add", name, "web", TCP, "connect"], USAGE, &["argument `connect` is not key=value"]),
        (&["device", "remove", name, "web"], MISSING, &[&none]),
        (&["device", "set", name, "web", "hold=1s"], MISSING, &[&none]),
        (&["device", "rename", name, "web", "www"], MISSING, &[&none]),
        (&["device", "show", name, "web"], MISSING, &["web"]),
    ];
    for (args, code, texts) in cases {
        says(&rig.daemon.cli(args).unwrap(), code, texts);
    }
    before.check(&rig, "all of them");
}

/// A provider whose server or process is not there, and one that does not exist.
#[test]
fn providers_of_every_sort() {
    let Some(rig) = Rig::start(PORTWAY, "provider").unwrap() else { return };
    let before = Traces::of(&rig);
    for (reference, code, said) in
        [("lxd:c1", 3, "lxd does not answer"), ("pid:4194304", MISSING, "there is no process 4194304")]
    {
        let output = rig.daemon.cli(&["device", "add", reference, "web", TCP, TARGET]).unwrap();
        says(&output, code, &[said]);
    }
    let output = rig.daemon.cli(&["device", "add", "docker:c1", "web", TCP, TARGET]).unwrap();
    says(&output, USAGE, &["docker"]);
    before.check(&rig, "all of them");
}

/// More listeners than a process may have descriptors for: refused before the first is opened.
///
/// Fails when: `check_size` is left out, and the daemon runs out of descriptors.
#[test]
fn too_many_ports() {
    let Some(rig) = Rig::start(PORTWAY, "many").unwrap() else { return };
    let keys = ["listen=tcp:127.0.0.1:1-65535", "connect=tcp:127.0.0.1:80"];
    add_is_refused(&rig, &keys, crate::expect::REFUSED, &["65535 listeners are more than"]);
}
