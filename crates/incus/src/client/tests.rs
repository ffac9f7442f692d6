//! The client against a scripted server: recorded answers, and everything a server can do wrong.

use std::future::Future;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::*;
use crate::{IncusError, InstanceKind, status_code};

const SERVER: &str = include_str!("../../tests/answers/server.json");
const INSTANCE: &str = include_str!("../../tests/answers/instance.json");
const STATE: &str = include_str!("../../tests/answers/state.json");
const LIST: &str = include_str!("../../tests/answers/instances.json");
const NOT_FOUND: &str = include_str!("../../tests/answers/not-found.json");
const STOPPING: &str = include_str!("../../tests/answers/state-while-stopping.json");

/// A server that gives one connection to `script`; the task's result is the script's.
struct Scripted<T> {
    dir: TempDir,
    task: JoinHandle<T>,
}

impl<T: Send + 'static> Scripted<T> {
    fn new<F>(script: impl FnOnce(UnixStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = T> + Send,
    {
        let dir = tempfile::tempdir().expect("temporary folder");
        let listener = UnixListener::bind(dir.path().join("s")).expect("bind");
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            script(stream).await
        });
        Self { dir, task }
    }

    fn client(&self) -> Client {
        let limits = Limits {
            request: Duration::from_millis(500),
            change: Duration::from_millis(500),
            answer_bytes: 64 << 10,
            list_bytes: 64 << 10,
            event_bytes: 64 << 10,
            silence: Duration::from_millis(200),
        };
        Client::with_limits(self.dir.path().join("s"), limits)
    }
}

/// Reads the head of a request and returns its first line.
async fn request_line(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("request"));
    }
    let head = String::from_utf8(head).expect("text");
    head.lines().next().expect("line").to_owned()
}

/// Answers one request with these bytes and closes; the task gives the request line.
fn raw(answer: impl Into<Vec<u8>>) -> Scripted<String> {
    let answer = answer.into();
    Scripted::new(|mut stream| async move {
        let line = request_line(&mut stream).await;
        // The client may hang up early.
        let _ = stream.write_all(&answer).await;
        line
    })
}

fn json(status: &str, body: &str) -> Scripted<String> {
    raw(format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Answers every request by its target, until there is none; the task gives the targets asked.
fn answering(answer: fn(&str) -> (&'static str, String), count: usize) -> Scripted<Vec<String>> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let listener = UnixListener::bind(dir.path().join("s")).expect("bind");
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        while asked.len() < count {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let line = request_line(&mut stream).await;
            let target = line.split(' ').nth(1).expect("target").to_owned();
            let (status, body) = answer(&target);
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(head.as_bytes()).await.expect("answer");
            asked.push(target);
        }
        asked
    });
    Scripted { dir, task }
}

/// An instance with an interface in each of these networks; the second last digits of their hardware
/// addresses are their numbers.
fn with_nics(networks: &[&str]) -> Instance {
    let wire: wire::Instance = serde_json::from_value(
        serde_json::from_str::<serde_json::Value>(INSTANCE).expect("json")["metadata"].clone(),
    )
    .expect("an instance");
    let mut instance = Instance::from(wire);
    instance.devices.clear();
    for (number, network) in networks.iter().enumerate() {
        let nic = [("type", "nic"), ("network", network), ("hwaddr", &format!("aa:0{number}"))]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        instance.devices.insert(format!("eth{number}"), nic.into());
    }
    instance
}

fn of_networks(target: &str) -> (&'static str, String) {
    let sync = |metadata: &str| ("200 OK", format!(r#"{{"type":"sync","metadata":{metadata}}}"#));
    match target.trim_start_matches("/1.0/networks/").trim_end_matches("?project=default") {
        "br0" | "odd" => sync(r#"{"type":"bridge","config":{"ipv4.address":"10.0.0.1/24"}}"#),
        "lan" => sync(r#"{"type":"macvlan","config":{"parent":"eth0"}}"#),
        "br0/leases" => sync(r#"[{"hwaddr":"aa:00","address":"10.0.0.9"}]"#),
        "odd/leases" => {
            let body = r#"{"type":"error","error_code":501,"error":"Not implemented"}"#;
            ("501 Not Implemented", body.into())
        }
        _ => ("500 Internal Server Error", r#"{"type":"error","error_code":500,"error":"busy"}"#.into()),
    }
}

/// Fails when the leases of every kind of network are asked for, or when the answer that there are none
/// counts as no answer: the server would pass for unreachable.
#[tokio::test]
async fn a_network_without_leases_takes_no_address_from_another() {
    let scripted = answering(of_networks, 5);
    let found = scripted.client().assigned_addresses(&with_nics(&["br0", "odd", "lan"])).await;
    assert_eq!(found.expect("answer"), ["10.0.0.9".parse::<IpAddr>().expect("an address")]);
    let asked = scripted.task.await.expect("requests");
    let asked: Vec<_> = asked.iter().map(|target| target.trim_start_matches("/1.0/networks/")).collect();
    let project = "?project=default";
    let expected = ["br0", "br0/leases", "odd", "odd/leases", "lan"].map(|path| format!("{path}{project}"));
    assert_eq!(asked, expected);
    let failing = answering(of_networks, 1);
    let found = failing.client().assigned_addresses(&with_nics(&["broken"])).await;
    assert!(matches!(found, Err(IncusError::Status { code: 500, .. })), "{found:?}");
}

#[tokio::test]
async fn reads_the_server() {
    let server = json("200 OK", SERVER).client().server().await.expect("answer");
    assert_eq!(server.version, "6.0.4");
    assert_eq!(server.product, "incus");
    assert_eq!(server.auth, "trusted");
    assert!(!server.clustered);
    assert!(server.has("instance_all_projects"));
}

#[tokio::test]
async fn reads_an_instance() {
    let scripted = json("200 OK", INSTANCE);
    let client = scripted.client();
    let instance = client.instance("default", "c1").await.expect("answer").expect("there");
    assert_eq!(instance.name, "c1");
    assert_eq!(instance.project, "default");
    assert_eq!(instance.kind, InstanceKind::Container);
    assert_eq!(instance.status_code, status_code::RUNNING);
    assert_eq!(instance.uuid.as_deref(), Some("b352bab6-b157-4f2b-955f-1aab9d87e616"));
    assert_eq!(instance.config.get("image.os").map(String::as_str), Some("busybox"));
    assert_eq!(scripted.task.await.expect("request"), "GET /1.0/instances/c1?project=default HTTP/1.1");
}

#[tokio::test]
async fn reads_the_pid_and_its_absence() {
    let running = json("200 OK", STATE).client().state("default", "c1").await;
    assert_eq!(running.expect("answer").expect("there").pid, Some(2910));
    for none in ["0", "-1"] {
        let body = STATE.replace("2910", none);
        let state = json("200 OK", &body).client().state("default", "c1").await;
        assert_eq!(state.expect("answer").expect("there").pid, None);
    }
    let body = STATE.replace("2910", "4294967296");
    let state = json("200 OK", &body).client().state("default", "c1").await;
    assert!(matches!(state, Err(IncusError::Protocol { .. })), "{state:?}");
}

#[tokio::test]
async fn reads_the_list_in_chunks() {
    let (one, two) = LIST.split_at(LIST.len() / 2);
    let scripted = raw(format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
        one.len(),
        two.len()
    ));
    let list = scripted.client().instances().await.expect("answer");
    let names: Vec<_> = list.iter().map(|i| (i.project.as_str(), i.name.as_str())).collect();
    assert_eq!(names, [("default", "c1"), ("blue", "v1")]);
    assert_eq!(list[1].kind, InstanceKind::Vm);
    assert_eq!(list[1].uuid, None);
}

#[tokio::test]
async fn a_uuid_is_looked_up_by_filter_and_checked() {
    let uuid = "b352bab6-b157-4f2b-955f-1aab9d87e616";
    let scripted = json("200 OK", LIST);
    let found = scripted.client().with_uuid(uuid).await.expect("answer");
    assert_eq!(found.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["c1"]);
    assert_eq!(
        scripted.task.await.expect("request"),
        format!(
            "GET /1.0/instances?recursion=1&all-projects=true&filter=config.volatile.uuid%20eq%20{uuid} HTTP/1.1"
        )
    );
    let nobody = Client::new(PathBuf::from("/nowhere"));
    for bad in ["", "x or name eq c1", "1 or 2"] {
        assert_eq!(nobody.with_uuid(bad).await.expect("not asked"), []);
    }
}

#[tokio::test]
async fn names_cannot_change_the_request() {
    let scripted = json("404 Not Found", NOT_FOUND);
    let client = scripted.client();
    let answer = client.state("p&q", "..%2fc1?x#y\r\nZ").await.expect("answer");
    assert_eq!(answer, None);
    assert_eq!(
        scripted.task.await.expect("request"),
        "GET /1.0/instances/..%252fc1%3Fx%23y%0D%0AZ/state?project=p%26q HTTP/1.1"
    );
    let nobody = Client::new(PathBuf::from("/nowhere"));
    for name in ["", ".", "..", "../c1", "c1/state"] {
        assert_eq!(nobody.instance("default", name).await.expect("not asked"), None);
    }
    assert_eq!(nobody.instance("", "c1").await.expect("not asked"), None);
}

#[tokio::test]
async fn only_the_apis_own_404_means_gone() {
    let gone = json("404 Not Found", NOT_FOUND).client().instance("default", "c1").await;
    assert_eq!(gone.expect("answer"), None);
    for body in ["<html>404</html>", "{}", r#"{"type":"sync","metadata":{}}"#, ""] {
        let answer = json("404 Not Found", body).client().instance("default", "c1").await;
        assert!(matches!(answer, Err(IncusError::Protocol { .. })), "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn a_500_while_the_instance_stops_is_transient() {
    let answer = json("500 Internal Server Error", STOPPING).client().state("default", "c1").await;
    let error = answer.expect_err("an error");
    assert!(error.is_transient());
    assert!(matches!(error, IncusError::Status { code: 500, .. }), "{error}");
}

#[tokio::test]
async fn the_servers_words_are_one_bounded_line() {
    let body =
        format!(r#"{{"type":"error","error_code":400,"error":"bad\n\u001b[31m{}"}}"#, "x".repeat(9000));
    let error = json("400 Bad Request", &body)
        .client()
        .instance("default", "c1")
        .await
        .expect_err("an error")
        .to_string();
    assert!(!error.chars().any(char::is_control), "{error}");
    assert!(error.len() < 500, "{error}");
}

#[tokio::test]
async fn forbidden_is_denied() {
    let answer = json("403 Forbidden", "whatever").client().server().await;
    assert!(matches!(answer, Err(IncusError::Denied { .. })), "{answer:?}");
}

#[tokio::test]
async fn what_is_not_the_api_is_told_so() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2p1\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{\"type\":\"async\",\"metadata\":{} }".to_owned(),
        "HTTP/1.1 301 Moved\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n{}", "[".repeat(60_000)),
    ] {
        let shown: String = answer.chars().take(40).collect();
        let answer = raw(answer).client().server().await;
        assert!(matches!(answer, Err(IncusError::Protocol { .. })), "{shown}: {answer:?}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ] {
        let scripted = Scripted::new(move |mut stream| async move {
            request_line(&mut stream).await;
            stream.write_all(head.as_bytes()).await.expect("head");
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
        });
        let answer = scripted.client().server().await;
        assert!(matches!(answer, Err(IncusError::TooLarge { .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let scripted = Scripted::new(|mut stream| async move {
        request_line(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await.expect("head");
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    });
    let answer = scripted.client().server().await;
    assert!(matches!(answer, Err(IncusError::Protocol { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_silent_or_trickling_server_is_given_up() {
    let silent = Scripted::new(|stream| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(stream);
    });
    let answer = silent.client().server().await;
    assert!(matches!(answer, Err(IncusError::TimedOut { .. })), "{answer:?}");
    let trickling = Scripted::new(|mut stream| async move {
        request_line(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").await.expect("head");
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let answer = trickling.client().server().await;
    assert!(matches!(answer, Err(IncusError::TimedOut { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_unreachable() {
    for part in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"type\""] {
        let answer = raw(part).client().server().await;
        assert!(matches!(answer, Err(IncusError::Unreachable { .. })), "{part}: {answer:?}");
    }
}

#[tokio::test]
async fn no_socket_is_unreachable() {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join("file"), "").expect("file");
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("dead")).expect("bind"));
    let long = "x".repeat(200);
    for name in ["absent", "file", "dead", long.as_str()] {
        let client = Client::new(dir.path().join(name));
        for answer in [client.server().await.map(|_| ()), client.events().await.map(|_| ())] {
            let error = answer.expect_err("nothing there");
            assert!(matches!(error, IncusError::Unreachable { .. }), "{name}: {error:?}");
            assert!(error.is_transient());
        }
    }
}

mod events;
