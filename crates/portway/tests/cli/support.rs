//! A folder of its own for each test, the program run in it, and a daemon that only knows a few answers.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// A folder that serves as `PORTWAY_DIR`.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program with these arguments, in an environment that no machine's settings reach.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portway"));
        command
            .args(arguments)
            .env_clear()
            .env("PORTWAY_DIR", self.path())
            // Names an Incus, so that it is the default provider wherever the test runs.
            .env("INCUS_SOCKET", self.path().join("incus.sock"))
            .env("INCUS_CONF", self.path().join("incus"))
            .stdin(Stdio::null());
        command
    }

    /// Runs it and gives all that can be seen of it, with the folder's name taken out.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        self.seen(arguments, &self.command(arguments).output().unwrap())
    }

    pub(crate) fn seen(&self, arguments: &[&str], output: &Output) -> String {
        let mut text = format!("$ portway {}\n", arguments.join(" "));
        for stream in [&output.stdout, &output.stderr] {
            text.push_str(std::str::from_utf8(stream).unwrap());
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => writeln!(text, "[exit {code}]").unwrap(),
            None => panic!("{text}ended by {:?}", output.status),
        }
        text.replace(&self.path().display().to_string(), "DIR")
    }
}

/// A request as a daemon sees it.
pub(crate) struct Request {
    /// `GET /1.0`.
    pub(crate) line: String,
    pub(crate) body: String,
}

/// Answers a request: status and body.
type Answer = dyn Fn(&Request) -> (u16, String) + Send + Sync;

/// A daemon of a few answers. Its thread ends with the test process.
pub(crate) struct FakeDaemon {
    /// Requests until now, `GET /1.0 BODY`.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
}

impl FakeDaemon {
    pub(crate) fn start(
        place: &Place,
        answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static,
    ) -> FakeDaemon {
        let listener = UnixListener::bind(place.path().join("portway.sock")).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                thread::spawn(move || serve(stream.unwrap(), &*answer, &log));
            }
        });
        FakeDaemon { seen }
    }
}

fn serve(mut stream: UnixStream, answer: &Answer, log: &Mutex<Vec<String>>) {
    let Some(request) = read(&mut stream) else { return };
    log.lock().unwrap().push(format!("{} {}", request.line, request.body).trim_end().to_owned());
    let (status, body) = answer(&request);
    let kind =
        if request.line.starts_with("GET /1.0/events") { "text/event-stream" } else { "application/json" };
    let reply = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // A client may have seen enough.
    let _gone = stream.write_all(reply.as_bytes());
}

fn read(stream: &mut UnixStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, body)) = String::from_utf8_lossy(&bytes).split_once("\r\n\r\n") {
            let lower = head.to_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |value| value.parse().unwrap()) {
                let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
                return Some(Request { line: line.to_owned(), body: body.to_owned() });
            }
        }
        match stream.read(&mut buffer).unwrap() {
            0 => return None,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// A device as the daemon sends it.
pub(crate) fn device(name: &str, state: &str, reason: Option<&str>) -> serde_json::Value {
    serde_json::json!({
        "instance": "incus:default/c1", "name": name, "listen": "tcp:0.0.0.0:8080", "connect": "tcp:127.0.0.1:80",
        "bind": "host", "state": state, "mode": "relay", "mode_reason": null, "connections_now": 3,
        "connections_total": 1204, "bytes_in": 1_258_291, "bytes_out": 4_831_838_208_u64, "last_error": null,
        "since": "2026-11-20T10:00:00Z", "reason": reason,
        "keys": {"listen": "tcp:0.0.0.0:8080", "connect": "tcp:127.0.0.1:80", "hold": "1m"},
        "instance_uuid": "6a1f3c9e-5d0b-4a53-9a4e-1f6b8f2f9e01", "dials_failed": 0, "resets": 0, "dropped": 0,
        "evicted": 0, "worker_pid": 4711,
    })
}
