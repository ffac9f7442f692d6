//! The control socket: rules while it runs, what it is like, one process of a name.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use portway_control::Client;
use portway_control::api::{AskPing, ChangeMeshRules, MeshEvent, MeshRuleStatus, MeshStatus, NewMeshRule};

use super::*;

/// A folder of an ordinary user.
pub(super) fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    dir
}

fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn client(dir: &Path) -> Client {
    Client::new(dir.join("mesh-test.sock"))
}

pub(super) fn status(dir: &Path) -> MeshStatus {
    within(client(dir).mesh()).unwrap()
}

pub(super) fn change(
    dir: &Path,
    add: &[(&str, &str)],
    remove: &[&str],
) -> Result<Vec<MeshRuleStatus>, String> {
    let new = |(direction, rule): &(&str, &str)| NewMeshRule {
        direction: (*direction).to_owned(),
        rule: (*rule).to_owned(),
        configured: false,
    };
    let change = ChangeMeshRules {
        add: add.iter().map(new).collect(),
        remove: remove.iter().map(|id| (*id).to_owned()).collect(),
    };
    within(client(dir).change_rules(&change)).map_err(|error| error.to_string())
}

fn get(dir: &Path, request: &str) -> String {
    let mut socket = UnixStream::connect(dir.join("mesh-test.sock")).unwrap();
    // In one piece: who reads half of a bad one answers and ends.
    socket.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// Rows 6 and 9: rules are added and work; one that is removed takes nobody new, and what it has finishes, or is cut at its
/// time; a restart has those that were added.
pub(super) fn rules_come_and_go(engine: &str) {
    let (bed, peer) = bed();
    let dir = folder();
    let wanted = Wanted {
        drain: 2,
        engine,
        dir: Some(dir.path()),
        egress: &["tcp:9000:10.9.0.2:7000"],
        ..Wanted::default()
    };
    let mut proxy = Proxy::start(&bed, &wanted);
    let added = [("ingress", "TCP:80:127.0.0.1:8000"), ("egress", "tcp:9000:10.9.0.2:7000")];
    let rules = change(dir.path(), &added, &[]).unwrap();
    assert_eq!(rules.len(), 2, "{rules:?}");
    let service = listener(&bed.ours, "127.0.0.1:8000");
    let mut old = connect(&peer.netns, "10.9.0.1:80");
    let (mut end, _) = service.accept().unwrap();
    let is_ours = |rule: &&MeshRuleStatus| rule.rule == "tcp:80:127.0.0.1:8000";
    // It is counted once the relay has it, which may be a moment after the service.
    let open = |rule: &MeshRuleStatus| rule.connections_now == 1;
    let ours = || status(dir.path()).rules.iter().find(is_ours).filter(|rule| open(rule)).cloned();
    let rule = wait_for("a connection", ours).unwrap();
    assert_eq!((rule.connections_total, rule.failures), (1, 0));
    assert_eq!(rule.place, "added while it ran");
    let begin = Instant::now();
    let left = change(dir.path(), &[], &[&rule.id]).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(left.len(), 1);
    let refused = || peer.netns.enter(|| TcpStream::connect("10.9.0.1:80")).unwrap().err();
    wait_for("refusal", || refused().filter(|error| error.kind() == std::io::ErrorKind::ConnectionRefused))
        .unwrap();
    old.write_all(b"still").unwrap();
    let mut text = [0; 5];
    end.read_exact(&mut text).unwrap();
    // Its time is over: cut, not ended.
    assert_eq!(old.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(begin.elapsed() > Duration::from_millis(1900), "{:?}", begin.elapsed());
    // A rule of the file can be removed too, and is there again after a restart, as is what was added.
    change(dir.path(), &[("ingress", "tcp:81:127.0.0.1:8000")], &[&left[0].id]).unwrap();
    assert_eq!(status(dir.path()).rules.len(), 1);
    proxy.signal(rustix::process::Signal::TERM);
    assert!(proxy.ended().success());
    forget(&bed, &peer);
    let _proxy = Proxy::start(&bed, &wanted);
    let texts: Vec<String> = status(dir.path()).rules.into_iter().map(|rule| rule.rule).collect();
    assert_eq!(texts, ["tcp:9000:10.9.0.2:7000", "tcp:81:127.0.0.1:8000"]);
    let serving = serve(service, "kept ", 1);
    assert_eq!(ask(connect(&peer.netns, "10.9.0.1:81"), "x").unwrap(), "kept x");
    serving.join().unwrap();
}

/// Row 8: what is wrong is said to who asked, nothing of the batch is done, and the network goes on.
pub(super) fn a_bad_rule_changes_nothing(engine: &str) {
    let (bed, peer) = bed();
    let dir = folder();
    let wanted =
        Wanted { engine, dir: Some(dir.path()), ingress: &["tcp:80:127.0.0.1:8000"], ..Wanted::default() };
    let mut proxy = Proxy::start(&bed, &wanted);
    let taken = listener(&bed.ours, "0.0.0.0:9001");
    let good = ("egress", "tcp:9000:10.9.0.2:7000");
    let id = status(dir.path()).rules[0].id.clone();
    for (bad, remove, why) in [
        (("egress", "tcp:0:10.9.0.2:1"), &[] as &[&str], "port 0 is not allowed"),
        (("egress", "tcp:9002:10.8.0.2:1"), &[], "no peer has 10.8.0.2"),
        (("ingress", "tcp:80:127.0.0.1:8001+proxy_protocol=v2"), &[], "remove its rules first"),
        (("ingress", "udp:80:127.0.0.1:8001+proxy_protocol=v2"), &[], "a udp rule sends no PROXY header"),
        (("inwards", "tcp:9002:10.9.0.2:1"), &[], "neither ingress nor egress"),
        (("egress", "tcp:80:10.9.0.2:1"), &[], "need a privilege"),
        (("egress", "tcp:9001:10.9.0.2:1"), &[], "Address already in use"),
        (good, &["ffffffffffff"], "no rule has the id"),
    ] {
        let mut remove = remove.to_vec();
        remove.push(&id);
        let error = change(dir.path(), &[good, bad], &remove).unwrap_err();
        assert!(error.contains(why), "{error}");
        let rules = status(dir.path()).rules;
        assert!(rules.len() == 1 && rules[0].id == id, "{rules:?}");
        assert!(bed.ours.enter(|| TcpStream::connect("127.0.0.1:9000")).unwrap().is_err());
    }
    for (request, status) in [
        ("GET /nothing", "404"),
        ("DELETE /1.0", "405"),
        ("POST /1.0/rules", "400"),
        ("no request at all", "400"),
    ] {
        let answer = get(dir.path(), request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    assert!(proxy.child.try_wait().unwrap().is_none());
    let serving = serve(listener(&bed.ours, "127.0.0.1:8000"), "on ", 1);
    assert_eq!(ask(connect(&peer.netns, "10.9.0.1:80"), "x").unwrap(), "on x");
    serving.join().unwrap();
    let metrics = get(dir.path(), "GET /metrics");
    let line = format!(
        "portway_mesh_rule_connections_total{{direction=\"ingress\",rule=\"tcp:80:127.0.0.1:8000\",id=\"{id}\"}} 1"
    );
    assert!(metrics.contains(&line), "{metrics}");
    assert!(metrics.contains("portway_mesh_handshake_age_seconds{peer="), "{metrics}");
    assert!(get(dir.path(), "GET /readyz").starts_with("HTTP/1.1 200"));
    // Row 10: what was taken can be had when it is free.
    drop(taken);
    assert_eq!(change(dir.path(), &[("egress", "tcp:9001:10.9.0.2:7000")], &[]).unwrap().len(), 2);
    let serving = serve(listener(&bed.theirs, "10.9.0.2:7000"), "free ", 1);
    assert_eq!(ask(connect(&bed.ours, "127.0.0.1:9001"), "x").unwrap(), "free x");
    serving.join().unwrap();
}

/// Echoes through the network: asked for in both families, of a peer, of oneself, of who does not answer, of who is not
/// there; and a peer has an answer from here.
pub(super) fn echoes(engine: &str) {
    let (bed, peer) = bed();
    let dir = folder();
    let wanted = Wanted { dir: Some(dir.path()), engine, ..Wanted::default() };
    let _proxy = Proxy::start(&bed, &wanted);
    let ask = |host: &str, timeout_ms| {
        let ask = AskPing { host: host.to_owned(), sequence: 7, timeout_ms };
        within(client(dir.path()).ping(&ask)).map_err(|error| error.to_string())
    };
    for host in ["10.9.0.2", "fd09::2", "[fd09::2]", "10.9.0.1", "fd09::1"] {
        let pong = ask(host, 5000).unwrap();
        println!("{pong:?}");
        assert_eq!((pong.sequence, pong.error), (7, None));
        assert!(pong.seconds.unwrap() < 5.0, "{host}");
    }
    let silent = ask("10.9.0.77", 200).unwrap();
    assert_eq!((silent.address.as_str(), silent.seconds), ("10.9.0.77", None));
    for (host, timeout_ms, why) in [
        ("10.8.0.1", 200, "no peer has 10.8.0.1"),
        ("a b", 200, "neither an address nor a name"),
        ("a.mesh", 200, "no server is known"),
        ("10.9.0.2", 0, "time for an answer"),
        ("10.9.0.2", 30_000, "time for an answer"),
    ] {
        let error = ask(host, timeout_ms).unwrap_err();
        assert!(error.contains(why), "{host}: {error}");
    }
    for own in ["10.9.0.1", "fd09::1"] {
        let mut ping = Command::new("ping");
        peer.netns.run(ping.args(["-c", "2", "-i", "0.1", "-W", "5", own])).unwrap();
    }
}

/// A second process of the same name is refused and disturbs nobody.
pub(super) fn one_process_of_a_name() {
    let bed = Bed::new();
    let dir = folder();
    let wanted = Wanted { dir: Some(dir.path()), ..Wanted::default() };
    let proxy = Proxy::start(&bed, &wanted);
    let trace = dir.path().join("trace");
    let written = || std::fs::read_to_string(&trace).unwrap();
    let peer = wait_for("a trace", || written().lines().next().map(str::to_owned)).unwrap();
    let (mut second, said) = Proxy::begin(&bed, &Wanted { port: 40_000, ..wanted });
    assert_eq!(said, "failed network test runs already:");
    assert!(!second.ended().success());
    assert_eq!(status(dir.path()).pid, proxy.child.id());
    assert!(get(dir.path(), "GET /readyz").starts_with("HTTP/1.1 503"));
    assert!(written().starts_with(&peer), "{}", written());
    // Killed, it leaves its socket behind, which is in nobody's way.
    drop(proxy);
    std::fs::write(&trace, "what was before\n".repeat(100)).unwrap();
    let third = Proxy::start(&bed, &wanted);
    assert!(!written().contains("before"));
    assert_eq!(status(dir.path()).pid, third.child.id());
}

/// Whoever follows is told what runs, and then what happens: rules, destinations that fail, handshakes, the worker.
pub(super) fn events_are_told() {
    let (bed, peer) = bed();
    let dir = folder();
    let wanted = Wanted { dir: Some(dir.path()), ingress: &["tcp:80:127.0.0.1:1"], ..Wanted::default() };
    let proxy = Proxy::start(&bed, &wanted);
    let begun = Instant::now();
    within(async {
        let mut events = client(dir.path()).mesh_events().await.unwrap();
        // What is told of different things may come in any order.
        let mut seen: Vec<MeshEvent> = Vec::new();
        let mut next = async |kind: &str| loop {
            if let Some(at) = seen.iter().position(|event| event.kind == kind) {
                return seen.remove(at);
            }
            let event = tokio::time::timeout(PATIENCE, events.next()).await.expect(kind);
            seen.push(event.unwrap().unwrap());
        };
        assert_eq!(next("running").await.text, "engine kernel");
        let (direction, rule) = ("ingress".to_owned(), "tcp:81:127.0.0.1:1".to_owned());
        let rule = NewMeshRule { direction, rule, configured: false };
        let change = ChangeMeshRules { add: vec![rule], remove: Vec::new() };
        let rules = client(dir.path()).change_rules(&change).await.unwrap();
        let added = next("rule-added").await;
        assert_eq!(
            (added.rule.as_deref(), &*added.text),
            (Some(&*rules[1].id), "ingress tcp:81:127.0.0.1:1")
        );
        // The state of peers must have been looked at once before a handshake is one that is new.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let refused = peer.netns.enter(|| TcpStream::connect("10.9.0.1:80")).unwrap();
        let failed = next("rule-failed").await;
        assert_eq!(failed.rule.as_deref(), Some(&*rules[0].id));
        assert!(
            failed.text.contains("Connection refused") && failed.text.ends_with("put aside for 1 s"),
            "{failed:?}"
        );
        drop(refused);
        let met = next("peer-handshake").await;
        assert_eq!(met.peer, Some(bed.peer.public().to_string()));
        tokio::time::sleep(Duration::from_secs(2).saturating_sub(begun.elapsed())).await;
        rustix::process::kill_process(proxy.child_called("portway-relay"), rustix::process::Signal::KILL)
            .unwrap();
        next("worker-replaced").await;
        // No more than eight follow, and the ninth is told so.
        let mut others = Vec::new();
        for _ in 0..7 {
            others.push(client(dir.path()).mesh_events().await.unwrap());
        }
        let error = client(dir.path()).mesh_events().await.unwrap_err().to_string();
        assert!(error.contains("as many as may follow events already"), "{error}");
    });
}
