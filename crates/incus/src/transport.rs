//! One request, one connection: HTTP/1.1 over the unix socket, or whatever leads to the server instead.
//!
//! A connection costs about 0.1 ms against the 0.4 to 5 ms of the server's own work (measured,
//! see the crate's description), so none is kept: there is no pool to go stale and no request
//! to repeat. The connection is driven inside the request's own future.

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper::http::request;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{IncusError, Limits, Result};

/// Longest head of an answer; the server's are below 300 bytes.
const HEAD_BYTES: usize = 16 << 10;

/// Longest message of the server that is repeated in an error.
const MESSAGE_CHARS: usize = 300;

/// Success, as the API wraps it.
#[derive(Deserialize)]
struct Success<T> {
    #[serde(rename = "type")]
    kind: String,
    metadata: T,
}

/// Failure, as the API wraps it.
#[derive(Deserialize)]
pub(crate) struct Failure {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) error: String,
}

/// What a request says besides its path.
#[derive(Debug, Clone)]
pub(crate) struct Saying {
    pub(crate) method: Method,
    pub(crate) body: Option<Vec<u8>>,
    /// The version that is meant to be changed.
    pub(crate) if_match: Option<String>,
    /// What describes a file, which the body is then.
    pub(crate) headers: Vec<(String, String)>,
}

impl Saying {
    pub(crate) fn get() -> Saying {
        Saying { method: Method::GET, body: None, if_match: None, headers: Vec::new() }
    }

    pub(crate) fn post(body: Vec<u8>) -> Saying {
        Saying { method: Method::POST, body: Some(body), if_match: None, headers: Vec::new() }
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Said {
    /// A header, when it is there and text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|text| text.to_str().ok())
    }
}

/// How a server is reached that has no socket here. What it gives is a connection like one to that socket: the API is
/// spoken on it in the clear, and its descriptor can be handed to another process.
pub trait Dial: fmt::Debug + Send + Sync {
    /// A connection to the server.
    fn dial(&self) -> Pin<Box<dyn Future<Output = io::Result<UnixStream>> + Send + '_>>;
}

/// Where to ask and how long to wait.
#[derive(Clone, Copy)]
pub(crate) struct Door<'a> {
    pub(crate) socket: &'a Path,
    pub(crate) dial: Option<&'a dyn Dial>,
    pub(crate) limits: &'a Limits,
}

impl Door<'_> {
    /// `GET target`, decoded. `None` is the API's own "not found" and nothing else: any other
    /// 404 would let a wrong socket pass for a deleted instance.
    pub(crate) async fn get<T: DeserializeOwned>(
        self,
        target: &str,
        limit_bytes: usize,
    ) -> Result<Option<T>> {
        Ok(self.get_versioned(target, limit_bytes).await?.map(|(value, _)| value))
    }

    /// The same with the version of what was answered.
    pub(crate) async fn get_versioned<T: DeserializeOwned>(
        self,
        target: &str,
        limit_bytes: usize,
    ) -> Result<Option<(T, Option<String>)>> {
        let said = self.say(target, Saying::get(), self.limits.request, limit_bytes).await?;
        let value = self.decode(target, said.status, &said.body)?;
        Ok(value.map(|value| (value, said.header("etag").map(str::to_owned))))
    }

    /// One request and its answer, within `limit`.
    pub(crate) async fn say(
        self,
        target: &str,
        saying: Saying,
        limit: Duration,
        limit_bytes: usize,
    ) -> Result<Said> {
        let request = format!("{} {target}", saying.method);
        tokio::time::timeout(limit, self.exchange(target, saying, limit_bytes))
            .await
            .map_err(|_| IncusError::TimedOut { request, limit })?
    }

    /// A connection to the server.
    pub(crate) async fn connect(self) -> Result<UnixStream> {
        let connected = match self.dial {
            Some(dial) => dial.dial().await,
            None => UnixStream::connect(self.socket).await,
        };
        connected.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => self.denied(),
            _ => self.unreachable(source),
        })
    }

    pub(crate) fn denied(self) -> IncusError {
        IncusError::Denied { path: self.socket.to_owned() }
    }

    pub(crate) fn unreachable(self, source: io::Error) -> IncusError {
        IncusError::Unreachable { path: self.socket.to_owned(), source }
    }

    async fn exchange(self, target: &str, saying: Saying, limit_bytes: usize) -> Result<Said> {
        let kind = if saying.headers.is_empty() { "application/json" } else { "application/octet-stream" };
        let kind = saying.body.is_some().then_some(kind);
        let mut request = request(saying.method, target);
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        for (name, value) in saying.headers {
            request = request.header(name, value);
        }
        if let Some(version) = saying.if_match {
            request = request.header(header::IF_MATCH, version);
        }
        let request = request
            .body(Full::<Bytes>::from(saying.body.unwrap_or_default()))
            .map_err(|error| protocol(target, error))?;
        self.answered(target, request, limit_bytes).await
    }

    /// A request with any body, and its answer. Nothing bounds the time.
    pub(crate) async fn answered<B>(
        self,
        target: &str,
        request: Request<B>,
        limit_bytes: usize,
    ) -> Result<Said>
    where
        B: Body + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(target, error))?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(|error| self.broken(target, error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, limit_bytes)
                .collect()
                .await
                .map_err(|error| self.torn(target, limit_bytes, error))?;
            Ok(Said { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // The end of the connection is no answer: what was read is still on its way.
            _ = connection => answer.await,
        }
    }

    /// A failure of hyper's: the peer speaks no HTTP, or went away.
    fn broken(self, target: &str, error: hyper::Error) -> IncusError {
        if error.is_parse() || error.is_user() {
            protocol(target, error)
        } else {
            self.unreachable(io::Error::other(error))
        }
    }

    /// A failure while the body was read.
    fn torn(
        self,
        target: &str,
        limit_bytes: usize,
        error: Box<dyn std::error::Error + Send + Sync>,
    ) -> IncusError {
        if error.is::<LengthLimitError>() {
            return IncusError::TooLarge { request: format!("GET {target}"), limit_bytes };
        }
        match error.downcast::<hyper::Error>() {
            Ok(error) => self.broken(target, *error),
            Err(error) => protocol(target, error),
        }
    }

    pub(crate) fn decode<T: DeserializeOwned>(
        self,
        target: &str,
        status: StatusCode,
        body: &[u8],
    ) -> Result<Option<T>> {
        if status == StatusCode::OK {
            return success(target, body).map(Some);
        }
        if status == StatusCode::FORBIDDEN {
            return Err(self.denied());
        }
        match serde_json::from_slice::<Failure>(body) {
            Ok(failure) if failure.kind == "error" && status == StatusCode::NOT_FOUND => Ok(None),
            Ok(failure) if failure.kind == "error" => Err(IncusError::Status {
                request: format!("GET {target}"),
                code: status.as_u16(),
                message: one_line(&failure.error),
            }),
            _ => Err(protocol(target, format!("status {status} without an API error"))),
        }
    }
}

/// What every request begins with.
pub(crate) fn request(method: Method, target: &str) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "incus")
        .header(header::USER_AGENT, concat!("portway/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
}

/// What a successful answer holds.
pub(crate) fn success<T: DeserializeOwned>(target: &str, body: &[u8]) -> Result<T> {
    let answer: Success<T> = serde_json::from_slice(body).map_err(|error| protocol(target, error))?;
    match answer.kind.as_str() {
        "sync" => Ok(answer.metadata),
        kind => Err(protocol(target, format!("answer of type {kind:.20?}"))),
    }
}

/// The peer does not speak the API.
pub(crate) fn protocol(target: &str, reason: impl ToString) -> IncusError {
    IncusError::Protocol { request: format!("GET {target}"), reason: one_line(&reason.to_string()) }
}

/// Text of a stranger's made fit for a terminal: one line, no control characters, bounded.
pub(crate) fn one_line(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_CHARS).collect();
    line.truncate(line.trim_end().len());
    line
}
