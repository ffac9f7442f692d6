//! The client against servers that answer, refuse, babble, hang up or hang.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use super::*;
use crate::api::FailureKind;

const SHORT: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits { ask: SHORT, change: SHORT, answer_bytes: 4096, event_bytes: 256 }
}

/// A server for one connection: reads a request, writes `answer` in pieces, waits for the client to hang up.
struct OneShot {
    client: Client,
    seen: JoinHandle<String>,
    _dir: tempfile::TempDir,
}

fn one_shot(answer: Vec<String>, stay: bool) -> OneShot {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let seen = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !complete(&request) {
            let count = stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the client hung up inside its request");
            request.extend_from_slice(&buffer[..count]);
        }
        for piece in answer {
            // A client that has seen enough may hang up first.
            let _gone = stream.write_all(piece.as_bytes());
            thread::sleep(Duration::from_millis(2));
        }
        if stay {
            let _end = stream.read(&mut buffer);
        }
        String::from_utf8(request).unwrap()
    });
    OneShot { client: Client::with_limits(socket, limits()), seen, _dir: dir }
}

/// Whether head and body are there.
fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |value| value.parse().unwrap())
}

fn reply(status: &str, body: &str) -> Vec<String> {
    vec![format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len()), body.to_owned()]
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn key() -> DeviceKey {
    DeviceKey { instance: "incus:default/c1".parse().unwrap(), device: "a/web".parse().unwrap() }
}

fn device_json() -> String {
    serde_json::json!({
        "instance": "incus:default/c1", "name": "web", "listen": "tcp:0.0.0.0:80", "connect": "tcp:127.0.0.1:80",
        "bind": "host", "state": "active", "mode": "relay", "mode_reason": null, "connections_now": 1,
        "connections_total": 2, "bytes_in": 3, "bytes_out": 4, "last_error": null,
        "since": "2026-11-20T10:00:00Z", "reason": null, "keys": {}, "instance_uuid": null, "dials_failed": 0,
        "resets": 0, "dropped": 0, "evicted": 0, "worker_pid": null,
    })
    .to_string()
}

#[test]
fn a_device_is_asked_for_by_its_encoded_names() {
    let server = one_shot(reply("200 OK", &device_json()), true);
    let device = run(server.client.device(&key())).unwrap();
    assert_eq!(device.connections_total, 2);
    drop(server.client);
    let request = server.seen.join().unwrap();
    assert!(request.starts_with("GET /1.0/devices/incus%3Adefault%2Fc1/a%2Fweb HTTP/1.1\r\n"), "{request}");
}

#[test]
fn a_change_carries_json() {
    let server = one_shot(reply("200 OK", &device_json()), true);
    let change = ChangeDevice { unset: vec!["hold".to_owned()], ..ChangeDevice::default() };
    run(server.client.set(&key(), &change)).unwrap();
    let request = server.seen.join().unwrap();
    assert!(request.starts_with("PATCH /1.0/devices/"), "{request}");
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    assert!(request.ends_with("{\"set\":{},\"unset\":[\"hold\"]}"), "{request}");
}

#[test]
fn a_refusal_keeps_kind_and_hint() {
    let body = r#"{"kind":"missing","error":"no device web on c1","hint":"see `portway device list`"}"#;
    let server = one_shot(reply("404 Not Found", body), true);
    let error = run(server.client.device(&key())).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Missing);
    assert_eq!(error.to_string(), "no device web on c1");
    assert_eq!(error.hint(), Some("see `portway device list`"));
}

#[test]
fn answers_that_are_not_the_api_are_named() {
    let cases = [
        (reply("404 Not Found", ""), "status 404 Not Found"),
        (reply("200 OK", "{"), "EOF while parsing an object at line 1 column 1"),
        (reply("200 OK", &"x".repeat(5000)), "the answer is longer than 4096 bytes"),
        (vec!["SSH-2.0-x\r\n\r\n".to_owned()], "invalid HTTP version parsed"),
    ];
    for (answer, reason) in cases {
        let server = one_shot(answer, true);
        let error = run(server.client.server()).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Internal, "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("the daemon answered GET /1.0 with something else than the API: {reason}")
        );
    }
}

#[test]
fn a_daemon_that_is_not_there_or_goes_away_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let error = run(Client::new(&socket).server()).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unreachable);
    drop(UnixListener::bind(&socket).unwrap());
    let error = run(Client::new(&socket).server()).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unreachable);
    for answer in [vec![], vec!["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned()]] {
        let server = one_shot(answer, false);
        let error = run(server.client.server()).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Unreachable, "{error:?}");
    }
}

#[test]
fn a_daemon_that_hangs_is_given_up() {
    let server = one_shot(vec![], true);
    let error = run(server.client.server()).unwrap_err();
    assert_eq!(error.to_string(), "the daemon did not answer GET /1.0 within 1 s");
    assert_eq!(error.kind(), FailureKind::Unreachable);
}

#[test]
fn events_come_one_by_one_until_the_stream_ends() {
    let event = r#"{"at":"2026-11-20T10:00:00Z","kind":"device-state","instance":"netns:b","device":"w","text":"up"}"#;
    let mut answer = vec!["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned()];
    for data in [": hello\n\n".to_owned(), format!("data: {event}\n\ndata: {event}\n\n")] {
        answer.push(format!("{:x}\r\n{data}\r\n", data.len()));
    }
    answer.push("0\r\n\r\n".to_owned());
    let server = one_shot(answer, true);
    run(async {
        let mut events = server.client.events().await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap().text, "up");
        assert!(events.next().await.unwrap().is_some());
        assert!(events.next().await.unwrap().is_none());
    });
}

#[test]
fn a_broken_or_refused_event_stream_is_an_error() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    let cut = one_shot(vec![head.clone(), "ff\r\ndata: ".to_owned()], false);
    let long = one_shot(vec![head, format!("{:x}\r\n{}\r\n", 300, "d".repeat(300))], true);
    let refused =
        one_shot(reply("503 Service Unavailable", r#"{"kind":"unreachable","error":"draining"}"#), true);
    run(async {
        let error = cut.client.events().await.unwrap().next().await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Unreachable, "{error:?}");
        let error = long.client.events().await.unwrap().next().await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Internal, "{error:?}");
        let error = refused.client.events().await.unwrap_err();
        assert_eq!(error.to_string(), "draining");
    });
}
