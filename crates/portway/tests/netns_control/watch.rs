//! What there is to watch a daemon by: metrics, the access log, caps that were hit.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::Place;

/// Longest wait for something that happens at once.
const LIMIT: Duration = Duration::from_secs(30);

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < LIMIT, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A service of the instance, and a device that leads to it.
fn publish(place: &Place) -> TcpListener {
    let service = place.netns.enter(|| TcpListener::bind("127.0.0.1:80").unwrap()).unwrap();
    place
        .daemon
        .add(&place.instance, "web", &["listen=tcp:127.0.0.1:8001", "connect=tcp:127.0.0.1:80"])
        .unwrap();
    service
}

/// A client and the service's end of its connection.
fn connect(place: &Place, service: &TcpListener) -> (TcpStream, TcpStream) {
    let client = place.host.enter(|| TcpStream::connect("127.0.0.1:8001").unwrap()).unwrap();
    let (server, _) = service.accept().unwrap();
    (client, server)
}

/// A connection that is over.
fn visit(place: &Place, service: &TcpListener) {
    let (mut client, mut server) = connect(place, service);
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    server.write_all(b"hi").unwrap();
    drop(server);
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"hellohi");
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The value of a series of `/metrics`, by how it begins.
fn metric(place: &Place, series: &str) -> Option<f64> {
    let text = place.exchange(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").text;
    let line = text.lines().find(|line| line.starts_with(series))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Fails when: a connection has no line, a worker that is killed loses lines that nobody counts, or a reload does not
/// leave the file that was moved away.
#[test]
fn connections_are_logged_across_reloads_and_the_death_of_a_worker() {
    let Some(place) = Place::start_with("[access-log]\non = true\n") else { return };
    let service = publish(&place);
    let path = place.daemon.dir().join("access.jsonl");
    visit(&place, &service);
    let line = until("a line", || lines(&path).pop());
    assert_eq!(line["instance"], place.instance.as_str());
    let said = ["device", "target", "bytes_in", "bytes_out", "end"].map(|field| line[field].to_string());
    assert_eq!(said, ["\"web\"", "\"tcp:127.0.0.1:80\"", "5", "2", "\"done\""], "{line}");
    assert!(line["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")), "{line}");
    assert!(line["dial_us"].is_u64() && line["duration_us"].is_u64(), "{line}");

    let written = "portway_access_log_records_total{result=\"written\"}";
    assert_eq!(metric(&place, written), Some(1.0));
    let label = format!("instance=\"{}\",device=\"web\"", place.instance);
    assert_eq!(metric(&place, &format!("portway_device_dial_seconds_count{{{label}}}")), Some(1.0));
    for process in ["daemon", "keeper", "worker"] {
        let fds = metric(&place, &format!("portway_process_open_fds{{process=\"{process}\""));
        assert!(fds.is_some_and(|count| count > 2.0), "{process}: {fds:?}");
    }
    assert_eq!(metric(&place, "portway_workers_total{event=\"started\"}"), Some(1.0));

    let (client, server) = connect(&place, &service);
    let worker = place.daemon.workers().pop().and_then(Pid::from_raw).unwrap();
    kill_process(worker, Signal::KILL).unwrap();
    let lost = "portway_access_log_records_total{result=\"lost\"}";
    until("the lost connection is counted", || metric(&place, lost).filter(|lost| *lost == 1.0));
    assert_eq!(metric(&place, "portway_drift_total{kind=\"worker\"}"), Some(1.0));
    drop((client, server));

    visit(&place, &service);
    until("a line of the next worker", || (lines(&path).len() == 2).then_some(()));
    let moved = place.daemon.dir().join("moved");
    fs::rename(&path, &moved).unwrap();
    place.daemon.reload().unwrap();
    until("lines go on in a new file", || {
        visit(&place, &service);
        (!lines(&path).is_empty()).then_some(())
    });
    assert!(lines(&moved).len() >= 2);

    fs::write(place.daemon.dir().join("portway.toml"), "").unwrap();
    place.daemon.reload().unwrap();
    until("no line any more", || {
        let before = lines(&path).len();
        visit(&place, &service);
        std::thread::sleep(Duration::from_millis(100));
        (lines(&path).len() == before).then_some(())
    });
}

/// Fails when: a cap is hit and nobody can see that, or a log is there that nobody has asked for.
#[test]
fn a_cap_that_was_hit_is_seen_and_a_log_is_off_by_default() {
    let Some(place) = Place::start() else { return };
    let service = publish(&place);
    visit(&place, &service);
    assert_eq!(place.send("GET", "/1.0", "", "").json()["limits"], serde_json::json!([]));
    // More than may wait at once; the last of them are refused.
    let mut many: Vec<_> = (0..300).map(|_| place.connect()).collect();
    let mut answer = String::new();
    many.last_mut().unwrap().read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(many);
    let hits = until("the cap was hit", || {
        let hits = metric(&place, "portway_limit_hits_total{limit=\"control.connections\"}")?;
        (hits > 0.0).then_some(hits)
    });
    let limits = place.send("GET", "/1.0", "", "").json()["limits"].clone();
    assert_eq!(limits[0]["limit"], "control.connections", "{limits}");
    assert!(limits[0]["hits"].as_f64().is_some_and(|count| count >= hits), "{limits}");
    let output = place.daemon.cli(&["status"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("limits: control.connections hit "), "{text}");
    assert!(!place.daemon.dir().join("access.jsonl").exists());
}
