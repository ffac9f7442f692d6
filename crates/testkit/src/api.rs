//! JSON over HTTP on a unix socket, blocking: for Incus and for our own control socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// A socket that speaks HTTP.
#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; `null` when it is empty or no JSON.
    pub body: Value,
}

impl Api {
    /// Talks to the server at `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// One request. `limit` bounds each wait for bytes, not the whole.
    ///
    /// # Errors
    /// When the server cannot be reached or does not speak HTTP; a status is no error.
    pub fn call(&self, method: &str, target: &str, body: Option<&Value>, limit: Duration) -> Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.exchange(method, target, ("application/json", body.as_bytes()), limit)
    }

    fn exchange(
        &self,
        method: &str,
        target: &str,
        (kind, body): (&str, &[u8]),
        limit: Duration,
    ) -> Result<Answer> {
        let what = || format!("{method} {target} on {}", self.socket.display());
        let mut stream = UnixStream::connect(&self.socket).with_context(what)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        // HTTP/1.0: the body ends with the connection, there are no chunks.
        let request = format!(
            "{method} {target} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(request.as_bytes()).with_context(what)?;
        stream.write_all(body).with_context(what)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(what)?;
        let split = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) = answer.split_at(split.with_context(what)?);
        let head = String::from_utf8_lossy(head);
        let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok()).with_context(what)?;
        Ok(Answer { status, body: serde_json::from_slice(&body[4..]).unwrap_or(Value::Null) })
    }

    /// `GET`, with ten seconds of patience.
    ///
    /// # Errors
    /// As [`Api::call`], and for every status but 200.
    pub fn get(&self, target: &str) -> Result<Value> {
        let answer = self.call("GET", target, None, Duration::from_secs(10))?;
        if answer.status != 200 {
            bail!("GET {target} was answered with {}: {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }
}

/// The Incus API: envelopes are opened, operations waited for.
#[derive(Debug, Clone)]
pub struct Incus {
    api: Api,
}

/// How long an operation may take; a loaded machine starts a container in seconds.
const OPERATION: Duration = Duration::from_secs(120);

impl Incus {
    /// Talks to the server at `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { api: Api::new(socket) }
    }

    /// The plain HTTP below.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The metadata of an answer to `GET`; `None` for 404.
    ///
    /// # Errors
    /// As [`Api::call`], and for every other status.
    pub fn find(&self, target: &str) -> Result<Option<Value>> {
        let answer = self.api.call("GET", target, None, Duration::from_secs(30))?;
        match answer.status {
            200 => Ok(Some(answer.body["metadata"].clone())),
            404 => Ok(None),
            _ => bail!("GET {target}: {}", answer.body["error"]),
        }
    }

    /// The metadata of an answer to `GET`.
    ///
    /// # Errors
    /// As [`Incus::find`], and for 404.
    pub fn get(&self, target: &str) -> Result<Value> {
        self.find(target)?.with_context(|| format!("GET {target}: not found"))
    }

    /// Changes something, and waits for the operation if it becomes one.
    ///
    /// # Errors
    /// When the server refuses, or the operation fails or takes more than two minutes.
    pub fn change(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.api.call(method, target, body, OPERATION)?;
        self.finish(&answer, method, target)
    }

    /// Posts a file, and waits for the operation it becomes.
    ///
    /// # Errors
    /// As [`Incus::change`], and when the file cannot be read.
    pub fn upload(&self, target: &str, file: &Path) -> Result<Value> {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let answer = self.api.exchange("POST", target, ("application/octet-stream", &bytes), OPERATION)?;
        self.finish(&answer, "POST", target)
    }

    fn finish(&self, answer: &Answer, method: &str, target: &str) -> Result<Value> {
        match answer.status {
            200 | 201 => Ok(answer.body["metadata"].clone()),
            202 => self.wait(answer.body["operation"].as_str().unwrap_or_default(), method, target),
            status => bail!("{method} {target}: {status}: {}", answer.body["error"]),
        }
    }

    fn wait(&self, operation: &str, method: &str, target: &str) -> Result<Value> {
        let wait = format!("{operation}/wait?timeout={}", OPERATION.as_secs());
        let limit = OPERATION + Duration::from_secs(5);
        let answer = self.api.call("GET", &wait, None, limit)?;
        let done = &answer.body["metadata"];
        // 200: success, by the API's table of status codes.
        if answer.status != 200 || done["status_code"] != 200 {
            let said = if done["err"].is_string() { &done["err"] } else { &answer.body["error"] };
            bail!("{method} {target}: {said}");
        }
        Ok(done["metadata"].clone())
    }
}
