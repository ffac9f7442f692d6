//! Changes that cannot be made leave the device working as before; those that can cut nobody.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use portway_testkit::{Addr, Behaviour, Rig, Service, Stream, Talk, check};
use serde_json::json;

use crate::PORTWAY;
use crate::expect::{REFUSED, Traces, USAGE, heard, local, say, says, wait_until_heard};

/// A device with an open connection, and what must stay as it is.
struct Serving<'a> {
    rig: &'a Rig,
    port: u16,
    open: Stream,
    before: Traces,
    _service: Service,
}

impl<'a> Serving<'a> {
    /// `web`, at a new port, to an echo at port 7 of the container.
    fn start(rig: &'a Rig, more: &[&str]) -> Self {
        let site = rig.inside().unwrap();
        let service = Service::start(&site, &Addr::Tcp(local(7)), Behaviour::Echo).unwrap();
        let port = rig.ports.one().unwrap();
        let listen = format!("listen=tcp:127.0.0.1:{port}");
        rig.add("web", &[&[&*listen, "connect=tcp:127.0.0.1:7"], more].concat()).unwrap();
        let open = check::dial(rig.host(), &Addr::Tcp(local(port))).unwrap();
        check::exchange(&open).unwrap();
        Self { rig, port, open, before: Traces::of(rig), _service: service }
    }

    /// `device set web KEYS...`, which must be refused and change nothing, for nobody.
    fn refuses(&self, keys: &[&str], code: i32, texts: &[&str]) {
        let output = self.rig.device("set", &[&["web"][..], keys].concat()).unwrap();
        says(&output, code, texts);
        self.rig.daemon.wait_for_state("web", "active").unwrap();
        self.before.check(self.rig, &keys.join(" "));
        check::exchange(&self.open).unwrap();
        check::echo(&check::dial(self.rig.host(), &Addr::Tcp(local(self.port))).unwrap(), 10_000, 1).unwrap();
    }
}

/// Every way a change can fail, with a live connection: the old keys, the old listener, the same
/// worker, the same connection, and new ones.
///
/// Fails when: the old listener is closed before the new one is open, or a refused change is not undone.
#[test]
fn a_refused_change_changes_nothing() {
    let Some(rig) = Rig::start(PORTWAY, "change").unwrap() else { return };
    let taken = rig.ports.one().unwrap();
    let _foreign = rig.host().run(|| TcpListener::bind(local(taken))).unwrap().unwrap();
    fs::write(rig.path("file"), "precious").unwrap();
    let web = Serving::start(&rig, &[]);
    let busy = format!("listen=tcp:127.0.0.1:{taken}");
    web.refuses(&[&busy], REFUSED, &["is in use", "hint: the device is unchanged"]);
    let file = format!("listen=unix:{}", rig.path("file").display());
    web.refuses(&[&file], REFUSED, &["is not a socket"]);
    let missing = format!("listen=unix:{}", rig.path("no/s").display());
    web.refuses(&[&missing], REFUSED, &["does not exist on this host"]);
    web.refuses(&["security.uid=100000000"], REFUSED, &["outside the id map"]);
    let nowhere = format!("connect=unix:{}", rig.path("no/s").display());
    let keys = ["bind=instance", "listen=tcp:127.0.0.1:99", &nowhere];
    web.refuses(&keys, REFUSED, &["does not exist"]);
    let keys = ["bind=instance", "listen=tcp:127.0.0.1:7", "connect=tcp:127.0.0.1:9"];
    web.refuses(&keys, REFUSED, &["tcp:127.0.0.1:7 is in use"]);
    web.refuses(&["listen=tcp:127.0.0.1:0"], USAGE, &["port 0"]);
    web.refuses(&["hld=1s"], USAGE, &["did you mean `hold`?"]);
    web.refuses(&["connect=tcp:127.0.0.1:1-3"], USAGE, &["3 ports for 1"]);
    web.refuses(&["nat=true"], USAGE, &["nat: "]);
    let output = rig.device("unset", &["web", "listen"]).unwrap();
    says(&output, USAGE, &["key `listen` is missing"]);
    let output = rig.device("unset", &["web", "hld"]).unwrap();
    says(&output, USAGE, &["unknown key"]);
    web.before.check(&rig, "unset");
    check::exchange(&web.open).unwrap();
}

/// New and old listeners in each other's way (the same port and a busy one): the old ones are opened
/// again, and connections that were open go on.
///
/// Fails when: `exchange` does not open the old listeners again.
#[test]
fn a_refused_change_that_overlaps() {
    let Some(rig) = Rig::start(PORTWAY, "overlap").unwrap() else { return };
    let web = Serving::start(&rig, &[]);
    let taken = rig.ports.one().unwrap();
    let _foreign = rig.host().run(|| TcpListener::bind(local(taken))).unwrap().unwrap();
    let talk = Talk::start(rig.host(), &Addr::Tcp(local(web.port)), 1).unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{},{taken}", web.port);
    let output = rig.device("set", &["web", &listen]).unwrap();
    says(&output, REFUSED, &[&format!("tcp:127.0.0.1:{taken} is in use"), "(pid "]);
    rig.daemon.wait_for_state("web", "active").unwrap();
    check::echo(&check::dial(rig.host(), &Addr::Tcp(local(web.port))).unwrap(), 10_000, 1).unwrap();
    check::exchange(&web.open).unwrap();
    talk.wait_for_rounds(10).unwrap();
    talk.finish().unwrap();
    let keys = rig.daemon.device("web").unwrap()["keys"]["listen"].as_str().unwrap().to_owned();
    assert_eq!(keys, format!("tcp:127.0.0.1:{}", web.port));
}

/// What a device had is free when the command returns: after `remove`, and after a new `listen`.
///
/// Fails when: `settle` does not wait for the keeper, which has a copy of every listener.
#[test]
fn an_address_is_free_at_once() {
    let Some(rig) = Rig::start(PORTWAY, "free").unwrap() else { return };
    let (first, second) = (rig.ports.run(15).unwrap(), rig.ports.run(15).unwrap());
    let listen = |port: u16| format!("tcp:127.0.0.1:{port}-{}", port + 14);
    let instance = format!("incus:default/{}", rig.container.name());
    let device = format!("/1.0/devices/{}/web", instance.replace(':', "%3A").replace('/', "%2F"));
    let call = |method: &str, target: &str, body: Option<&serde_json::Value>| {
        let answer = rig.daemon.api().call(method, target, body, Duration::from_secs(10)).unwrap();
        assert_eq!(answer.status, 200, "{method} {target}: {}", answer.body);
    };
    let assert_free = |port: u16| {
        let taken: Vec<_> =
            (port..port + 15).filter_map(|port| TcpListener::bind(local(port)).err()).collect();
        assert!(taken.is_empty(), "{taken:?}");
    };
    // In the namespace and without a command in between: what is late by a moment is seen.
    let rounds = || {
        for _ in 0..50 {
            let keys = json!({"listen": listen(first), "connect": "tcp:127.0.0.1:7"});
            call("POST", "/1.0/devices", Some(&json!({"instance": instance, "name": "web", "keys": keys})));
            call("PATCH", &device, Some(&json!({"set": {"listen": listen(second)}})));
            assert_free(first);
            call("DELETE", &device, None);
            assert_free(second);
        }
    };
    rig.host().run(rounds).unwrap();
}

/// A new target keeps the listener and the connections to the old one; a new listen address opens
/// before the old one closes, which is free when the command returns; an overlapping one works too.
///
/// Fails when: a change of the target opens the listener again, or cuts.
#[test]
fn a_change_cuts_nobody() {
    let Some(rig) = Rig::start(PORTWAY, "alive").unwrap() else { return };
    let web = Serving::start(&rig, &[]);
    let other = rig.ports.run(2).unwrap();
    let neighbour = format!("listen=tcp:127.0.0.1:{}", rig.ports.one().unwrap());
    rig.add("neighbour", &[&neighbour, "connect=tcp:127.0.0.1:7"]).unwrap();
    let port = rig.daemon.device("neighbour").unwrap()["listen"].as_str().unwrap().to_owned();
    let port = port.rsplit_once(':').unwrap().1.parse().unwrap();
    let beside = Talk::start(rig.host(), &Addr::Tcp(local(port)), 2).unwrap();
    let talk = Talk::start(rig.host(), &Addr::Tcp(local(web.port)), 3).unwrap();
    let _new = say(&rig, 8, "the new one");
    rig.device_ok("set", &["web", "connect=tcp:127.0.0.1:8"]).unwrap();
    assert_eq!(heard(rig.host(), web.port).as_deref(), Some("the new one"));
    check::exchange(&web.open).unwrap();
    rig.device_ok("set", &["web", &format!("listen=tcp:127.0.0.1:{other}")]).unwrap();
    assert_eq!(heard(rig.host(), other).as_deref(), Some("the new one"));
    // Free for anybody, at once.
    let free = rig.host().run(|| TcpListener::bind(local(web.port))).unwrap();
    drop(free.unwrap());
    check::exchange(&web.open).unwrap();
    rig.device_ok("set", &["web", &format!("listen=tcp:0.0.0.0:{other}-{}", other + 1)]).unwrap();
    for port in [other, other + 1] {
        wait_until_heard(&rig, port, "the new one");
    }
    check::exchange(&web.open).unwrap();
    rig.device_ok("rename", &["web", "www"]).unwrap();
    check::exchange(&web.open).unwrap();
    rig.device_ok("set", &["www", "hold=1s", "connect.timeout=2s"]).unwrap();
    rig.device_ok("unset", &["www", "hold"]).unwrap();
    check::exchange(&web.open).unwrap();
    for talk in [talk, beside] {
        talk.wait_for_rounds(10).unwrap();
        talk.finish().unwrap();
    }
    assert_eq!(rig.daemon.device("www").unwrap()["keys"]["connect.timeout"], "2s");
}
