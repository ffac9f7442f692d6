//! How a program ended, asked for before it starts.
//!
//! The question is one of HTTP/1.0: by its rules the server closes the connection with the answer and takes no second
//! request on it. So the descriptor is worth nothing to anybody but as the answer, and the process that reads it
//! needs no way to the API. What has not ended is waited for without limit.

use std::io;
use std::os::fd::OwnedFd;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::Result;
use crate::transport::{Door, one_line};

/// Longest answer, head and all; the servers' are about 2 kB beside the program's arguments and variables.
const ANSWER_BYTES: u64 = 4 << 20;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEnd {
    /// With this status; 128 and a signal's number when a signal ended it. 126: not executable; 127: not found.
    Status(u8),
    /// The server could not run it, or lost it: its words on one line.
    Failed(String),
}

/// The answer to come.
#[derive(Debug)]
pub struct Outcome {
    stream: UnixStream,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: String,
    #[serde(default)]
    metadata: Option<Operation>,
}

#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    err: String,
    #[serde(default)]
    metadata: Option<Returned>,
}

#[derive(Deserialize)]
struct Returned {
    #[serde(rename = "return")]
    status: Option<i64>,
}

/// Asks for the end of the operation at `path`.
pub(super) async fn ask(door: Door<'_>, path: &str) -> Result<OwnedFd> {
    let mut stream = door.connect().await?;
    let request = format!("GET {path}/wait?timeout=-1 HTTP/1.0\r\nHost: incus\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|source| door.unreachable(source))?;
    let stream = stream.into_std().map_err(|source| door.unreachable(source))?;
    Ok(stream.into())
}

impl Outcome {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Waits for the end of the program. Not cancel safe.
    ///
    /// # Errors
    /// When the server has gone, which says nothing about the program.
    pub async fn wait(self) -> io::Result<ExecEnd> {
        let mut answer = Vec::new();
        self.stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let body = end.map(|at| &answer[at + 4..]).ok_or(io::ErrorKind::UnexpectedEof)?;
        read(body).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not the API's"))
    }
}

/// The end in an answer. What the servers say of a program that they could not start is in words only.
fn read(body: &[u8]) -> Option<ExecEnd> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let (status, said) = match answer.metadata {
        Some(operation) => (operation.metadata.and_then(|returned| returned.status), operation.err),
        None => (None, String::new()),
    };
    if let Some(status) = status.and_then(|status| u8::try_from(status).ok()) {
        return Some(ExecEnd::Status(status));
    }
    match if said.is_empty() { &answer.error } else { &said }.as_str() {
        "Command not found" => Some(ExecEnd::Status(127)),
        "Command not executable" => Some(ExecEnd::Status(126)),
        "" => None,
        words => Some(ExecEnd::Failed(one_line(words))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_status_or_words() {
        let end = |body: &str| read(body.as_bytes());
        let status = |number| Some(ExecEnd::Status(number));
        assert_eq!(end(r#"{"type":"sync","metadata":{"metadata":{"return":0}}}"#), status(0));
        assert_eq!(end(r#"{"type":"sync","metadata":{"metadata":{"return":255}}}"#), status(255));
        assert_eq!(end(r#"{"type":"error","error":"Command not found","metadata":null}"#), status(127));
        assert_eq!(end(r#"{"type":"error","error":"Command not executable"}"#), status(126));
        let late = r#"{"type":"sync","metadata":{"err":"Command not found","metadata":{"return":127}}}"#;
        assert_eq!(end(late), status(127));
        let odd = r#"{"type":"sync","metadata":{"err":"a\nb","metadata":{"return":-1}}}"#;
        assert_eq!(end(odd), Some(ExecEnd::Failed("a b".to_owned())));
        for broken in ["", "[]", "{}", r#"{"metadata":{"metadata":{"return":"0"}}}"#] {
            assert_eq!(end(broken), None, "{broken}");
        }
    }
}
