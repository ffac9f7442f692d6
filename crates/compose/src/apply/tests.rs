//! Steps against a server that answers as it is told: what real ones only do in a race.

use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::render::keys;

/// A server, and the requests it has had.
struct Scripted {
    dir: TempDir,
    asked: Arc<StdMutex<Vec<(String, Value)>>>,
}

type Answer = fn(&str, usize) -> (u16, Value);

impl Scripted {
    /// Answers each request by its first line and by how many came before it.
    fn new(answer: Answer) -> Scripted {
        let dir = tempfile::tempdir().expect("temporary folder");
        let listener = UnixListener::bind(dir.path().join("s")).expect("bind");
        let asked = Arc::new(StdMutex::new(Vec::new()));
        let of = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(BufStream::new(stream), answer, Arc::clone(&of)));
            }
        });
        Scripted { dir, asked }
    }

    fn client(&self) -> Client {
        Client::new(self.dir.path().join("s"))
    }

    /// Bodies of requests of this method.
    fn bodies(&self, method: &str) -> Vec<Value> {
        let asked = self.asked.lock().expect("asked");
        asked.iter().filter(|(line, _)| line.starts_with(method)).map(|(_, body)| body.clone()).collect()
    }
}

async fn serve(
    mut stream: BufStream<UnixStream>,
    answer: Answer,
    asked: Arc<StdMutex<Vec<(String, Value)>>>,
) {
    loop {
        let (mut first, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let low = line.to_ascii_lowercase();
            if let Some(bytes) = low.strip_prefix("content-length:") {
                length = bytes.trim().parse().expect("a length");
            }
            if line.trim().is_empty() {
                break;
            }
            if first.is_empty() {
                first = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        let before = {
            let mut asked = asked.lock().expect("asked");
            asked.push((first.clone(), serde_json::from_slice(&body).unwrap_or_default()));
            asked.len() - 1
        };
        let (status, said) = answer(&first, before);
        let said = said.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nETag: \"a\"\r\nContent-Length: {}\r\n\r\n",
            said.len()
        );
        if stream.write_all((head + &said).as_bytes()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

fn good(metadata: &Value) -> (u16, Value) {
    (200, json!({"type": "sync", "status": "Success", "status_code": 200, "metadata": metadata}))
}

fn bad(code: u16, why: &str) -> (u16, Value) {
    (code, json!({"type": "error", "error": why, "error_code": code}))
}

fn network(config: &Value) -> (u16, Value) {
    good(&json!({"name": "n", "type": "bridge", "managed": true, "config": config}))
}

fn hands(client: &Client) -> Hands<'_> {
    let images = Mutex::new([("busybox".to_owned(), "f00".to_owned())].into());
    let (_, halt) = watch::channel(false);
    Hands { client, project: "p", want: None, images, portway: None, watcher: None, halt }
}

async fn ensured(answer: Answer, there: bool) -> (Result<(), ApplyError>, usize) {
    let server = Scripted::new(answer);
    let client = server.client();
    let want = ComposeProject { name: "p".to_owned(), ..ComposeProject::default() };
    // What is there has its label, and is told only what differs.
    let set = if there { keys(&[("ipv4.nat", "true")]) } else { keys(&[(label::PROJECT, "p")]) };
    let action = Action::Network { name: "n".to_owned(), set, there };
    let done = Hands { want: Some(&want), ..hands(&client) }.perform(&action).await;
    (done, server.bodies("PUT").len())
}

/// Fails when what came between look and step is taken over: it would be ours to remove.
#[tokio::test]
async fn what_came_meanwhile_is_ours_by_its_label_only() {
    let raced: Answer = |line, before| match (line.split(' ').next(), before) {
        (Some("GET"), 0) => bad(404, "Network not found"),
        (Some("POST"), _) => bad(400, "The network already exists"),
        (Some("GET"), _) => network(&json!({"user.portway.project": "other"})),
        _ => good(&Value::Null),
    };
    let (done, puts) = ensured(raced, false).await;
    assert!(matches!(done, Err(ApplyError::Taken)) && puts == 0, "{done:?}, {puts}");
    let moved: Answer = |line, _| match line.split(' ').next() {
        Some("GET") => network(&json!({"user.portway.project": "other"})),
        _ => good(&Value::Null),
    };
    let (done, puts) = ensured(moved, true).await;
    assert!(matches!(done, Err(ApplyError::Taken)) && puts == 0, "{done:?}, {puts}");
    let bare: Answer = |line, _| match line.split(' ').next() {
        Some("GET") => network(&json!({})),
        _ => good(&Value::Null),
    };
    let (done, puts) = ensured(bare, false).await;
    assert!(matches!(done, Err(ApplyError::Taken)) && puts == 0, "{done:?}, {puts}");
    // One that the server is still making for us gets its labels late.
    let late: Answer = |line, before| match line.split(' ').next() {
        Some("GET") if before < 2 => network(&json!({})),
        Some("GET") => network(&json!({"user.portway.project": "p"})),
        _ => good(&Value::Null),
    };
    let (done, puts) = ensured(late, false).await;
    assert!(done.is_ok() && puts == 1, "{done:?}, {puts}");
}

/// Fails when an interface of any instance that goes at that moment makes a change of a network a failure.
#[tokio::test]
async fn a_network_is_changed_past_interfaces_that_go() {
    let passing: Answer = |line, before| match line.split(' ').next() {
        Some("GET") if line.contains("/networks/n") => network(&json!({"user.portway.project": "p"})),
        _ if before < 2 => bad(
            500,
            "Failed to delete bridge children interfaces: Failed to run: ip -d -j link show veth1: exit status 1 \
             (Device \"veth1\" does not exist.)",
        ),
        _ => good(&Value::Null),
    };
    let (done, puts) = ensured(passing, true).await;
    assert!(done.is_ok() && puts == 2, "{done:?}, {puts}");
    let server = Scripted::new(passing);
    let client = server.client();
    let removal = Action::RemoveNetwork { name: "n".to_owned() };
    hands(&client).perform(&removal).await.expect("removed");
    assert_eq!(server.bodies("DELETE").len(), 2, "a look and a refusal before it");
}

/// Fails when a removal overtakes one that the server is at: that would remove what is made of the name next.
#[tokio::test]
async fn a_network_that_is_going_is_left_to_go() {
    let server = Scripted::new(|line, before| match line.split(' ').next() {
        Some("GET") if line.contains("/state?") => good(&json!({"addresses": []})),
        Some("GET") if before < 4 => network(&json!({"ipv4.address": "10.1.2.1/24"})),
        _ => bad(404, "Network not found"),
    });
    let client = server.client();
    hands(&client).perform(&Action::RemoveNetwork { name: "n".to_owned() }).await.expect("gone");
    let asked = server.asked.lock().expect("asked");
    let at = asked.iter().position(|(line, _)| line.starts_with("DELETE")).expect("asked for all the same");
    let looks = asked.iter().take(at).filter(|(line, _)| line.starts_with("GET /1.0/networks/n?")).count();
    assert_eq!(looks, 3, "{asked:?}");
}

/// Fails when something else that the server does not find is taken for the end of what is to be removed.
#[tokio::test]
async fn what_is_not_found_may_be_something_else() {
    let server = Scripted::new(|line, before| match line.split(' ').next() {
        Some("DELETE") if before < 8 || before == 11 => bad(404, "Failed loading network: Network not found"),
        Some("DELETE") => good(&Value::Null),
        _ if line.contains("/network-acls/") => good(&json!({"config": {"user.portway.name": "n"}})),
        _ => network(&json!({})),
    });
    let client = server.client();
    hands(&client).perform(&Action::RemoveNetwork { name: "n".to_owned() }).await.expect("gone");
    let asked = server.asked.lock().expect("asked");
    let lines: Vec<&str> = asked.iter().map(|(line, _)| line.as_str()).collect();
    let [.., network, _, _, _, list] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(network.starts_with("DELETE /1.0/networks/n?"), "{lines:?}");
    assert!(list.starts_with("DELETE /1.0/network-acls/portway-n?"), "{lines:?}");
}

/// Fails when a start of which nothing is known is made again though the server has noted it, or is taken for one that was
/// well when nothing has run.
#[tokio::test]
async fn a_start_that_was_noted_is_not_made_again() {
    fn noted(line: &str, before: usize, state: u16) -> (u16, Value) {
        match line.split(' ').next() {
            Some("PUT") => (202, json!({"type": "async", "operation": "/1.0/operations/ab"})),
            _ if line.contains("/operations/") => bad(404, "Operation not found"),
            _ if line.contains("/files?") => bad(404, "Not found"),
            _ if line.contains("/state?") => good(&json!({"status": "-", "status_code": state, "pid": 7})),
            // The first look is for its hooks.
            _ => good(&json!({
                "name": "job-1", "project": "p", "type": "container", "status": "Stopped", "status_code": 102,
                "config": {}, "expanded_config": {}, "devices": {}, "expanded_devices": {},
                "last_used_at": (before > 1).to_string(),
            })),
        }
    }
    let runs: Answer = |line, before| noted(line, before, 103);
    let stopped: Answer = |line, before| noted(line, before, 102);
    for (answer, is_well) in [(runs, true), (stopped, false)] {
        let server = Scripted::new(answer);
        let client = server.client();
        let start = Action::Start { instance: "job-1".to_owned(), paused: false };
        let done = hands(&client).perform(&start).await;
        assert_eq!(done.is_ok(), is_well, "{done:?}");
        assert_eq!(server.bodies("PUT").len(), 1, "{done:?}");
    }
}

fn rendered() -> Rendered {
    let config = keys(&[
        (label::PROJECT, "p"),
        (label::NAME, "web-1"),
        (label::HASH, "h"),
        (label::BORN, "b"),
        ("limits.cpu", "2"),
    ]);
    Rendered {
        name: "web-1".to_owned(),
        service: "web".to_owned(),
        image: "busybox".to_owned(),
        config,
        devices: BTreeMap::new(),
        files: Vec::new(),
        seal: String::new(),
    }
}

/// Fails when an instance that an earlier command still has the server make is a failure, or another's is taken.
#[tokio::test]
async fn an_instance_that_came_meanwhile_is_taken_when_it_is_the_same() {
    let answer: Answer = |line, _| match line.split(' ').next() {
        Some("POST") => bad(400, "Instance \"web-1\" already exists"),
        Some("GET") => good(&json!({"name": "web-1", "project": "p", "type": "container", "devices": {},
            "config": {"user.portway.project": "p", "user.portway.name": "web-1", "user.portway.hash": "h",
                "user.portway.born": "b"}})),
        _ => good(&Value::Null),
    };
    let server = Scripted::new(answer);
    let client = server.client();
    let create = |one: Rendered| Action::Create(Box::new(one));
    hands(&client).perform(&create(rendered())).await.expect("taken");
    let puts = server.bodies("PUT");
    assert_eq!(puts.len(), 1, "{puts:?}");
    assert_eq!(puts[0]["config"]["limits.cpu"], "2");
    let mut other = rendered();
    other.config.insert(label::HASH.to_owned(), "i".to_owned());
    let done = hands(&client).perform(&create(other)).await;
    assert!(matches!(done, Err(ApplyError::Taken)), "{done:?}");
    assert_eq!(server.bodies("PUT").len(), 1);
}

/// Fails when an instance that the server cannot look at is waited for without an end.
#[tokio::test]
async fn an_instance_that_cannot_be_seen_is_given_up() {
    let server = Scripted::new(|_, _| bad(500, "broken"));
    let client = server.client();
    let seen = hands(&client).look_for("web-1", Duration::from_millis(300)).await;
    assert!(matches!(seen, Err(ApplyError::Server { .. })), "{seen:?}");
    assert!(server.bodies("GET").len() > 1, "once is no wait");
}
