//! HTTP/1.1 to etcd: which of its members is asked, and what is known when one does not answer.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use portway_model::Host;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::StoreError;
use crate::org::wire;
use crate::spec::Endpoint;

/// Its port unless said otherwise.
const PORT: &str = "2379";

/// Most members.
const MEMBERS_MAX: usize = 16;

/// How long a connection may take, and an answer. etcd elects another leader in about a second.
const CONNECT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer: a page of entries, each of which has at most some kilobytes.
const ANSWER_MAX_BYTES: usize = 32 << 20;

/// Longest line of a watch.
const LINE_MAX_BYTES: usize = 1 << 20;

/// What TLS to etcd is made of.
pub type EtcdTls = Arc<rustls::ClientConfig>;

/// Why a text names no etcd.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}, expected etcd://HOST:PORT,HOST:PORT or etcds:// for TLS")]
pub struct EtcdAddressError(&'static str);

/// Where etcd is: its members, any of which may be asked.
#[derive(Clone)]
pub struct EtcdAddress {
    members: Vec<Endpoint>,
    tls: Option<EtcdTls>,
    wants_tls: bool,
}

impl EtcdAddress {
    /// Whether it is to be spoken to over TLS, and nothing is known of that yet.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.wants_tls && self.tls.is_none()
    }

    /// The same, over TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: EtcdTls) -> EtcdAddress {
        self.tls = Some(tls);
        self
    }
}

impl fmt::Debug for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(ToString::to_string)).finish()
    }
}

impl FromStr for EtcdAddress {
    type Err = EtcdAddressError;

    fn from_str(text: &str) -> Result<EtcdAddress, EtcdAddressError> {
        let (scheme, members) = text.split_once("://").ok_or(EtcdAddressError("the store has no scheme"))?;
        let wants_tls = match scheme {
            "etcd" => false,
            "etcds" => true,
            _ => return Err(EtcdAddressError("the store is of an unknown kind")),
        };
        let member = |text: &str| {
            let has_port = text.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
            wire::endpoint(&if has_port { text.to_owned() } else { format!("{text}:{PORT}") })
        };
        let members: Option<Vec<Endpoint>> = members.trim_end_matches('/').split(',').map(member).collect();
        let members = members.ok_or(EtcdAddressError("a member of the store has no address"))?;
        if members.len() > MEMBERS_MAX {
            return Err(EtcdAddressError("the store has too many members"));
        }
        Ok(EtcdAddress { members, tls: None, wants_tls })
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// What was asked for is no longer there.
    Compacted,
    /// Anything else.
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed::Store(error)
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> StoreError {
        match failed {
            Failed::Compacted => StoreError::Broken("etcd: what was read was compacted away".to_owned()),
            Failed::Store(error) => error,
        }
    }
}

/// What etcd says when it does not do it.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    code: i64,
}

/// Code of gRPC for what is out of range: here, that it was compacted away.
const OUT_OF_RANGE: i64 = 11;

/// One member after the other.
#[derive(Debug)]
pub(super) struct Http {
    address: EtcdAddress,
    /// The one that answered last.
    current: AtomicUsize,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Where an attempt ended.
enum Attempt {
    /// Nothing was sent, or nothing was done.
    Before(String),
    /// It was sent, and perhaps done.
    After(String),
    Failed(Failed),
}

impl Http {
    pub(super) fn new(address: EtcdAddress) -> Http {
        Http { address, current: AtomicUsize::new(0) }
    }

    /// Something that changes nothing: any member may be asked, one after the other.
    pub(super) async fn ask<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failed> {
        self.each(path, body, true).await
    }

    /// Something that may change: a member that does not answer ends the attempt, since it may have done it.
    pub(super) async fn change<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, StoreError> {
        Ok(self.each(path, body, false).await?)
    }

    async fn each<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        may_repeat: bool,
    ) -> Result<T, Failed> {
        let first = self.current.load(Ordering::Relaxed);
        let mut why = String::new();
        for step in 0..self.address.members.len() {
            let at = first.wrapping_add(step) % self.address.members.len();
            match self.once(at, path, body).await {
                Ok(answer) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Attempt::Failed(failed)) => return Err(failed),
                Err(Attempt::After(text)) if !may_repeat => {
                    self.current.store(at.wrapping_add(1), Ordering::Relaxed);
                    return Err(StoreError::Unsure(text).into());
                }
                Err(Attempt::Before(text) | Attempt::After(text)) => why = text,
            }
        }
        Err(StoreError::Unreachable(why).into())
    }

    async fn once<T: DeserializeOwned>(&self, at: usize, path: &str, body: &Value) -> Result<T, Attempt> {
        let late = || Attempt::After(format!("{} is silent", self.name(at)));
        let response = self.send(at, path, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect();
        let body = tokio::time::timeout(PATIENCE, body).await.map_err(|_| late())?;
        let body = body.map_err(|error| Attempt::After(format!("{}: {error}", self.name(at))))?.to_bytes();
        if status.is_success() {
            let strange = |_| StoreError::Broken(format!("{} answers no etcd's answer", self.name(at)));
            return serde_json::from_slice(&body).map_err(|error| Attempt::Failed(strange(error).into()));
        }
        Err(self.problem(at, status.as_u16(), &body))
    }

    fn problem(&self, at: usize, status: u16, body: &[u8]) -> Attempt {
        let problem: Option<Problem> = serde_json::from_slice(body).ok();
        let (code, words) = problem.map_or((0, String::new()), |problem| {
            (problem.code, problem.error.as_str().unwrap_or_default().chars().take(200).collect())
        });
        let text = format!("{}: status {status} {words}", self.name(at));
        match (code, status) {
            (OUT_OF_RANGE, _) => Attempt::Failed(Failed::Compacted),
            // No leader, or none for long enough: what was sent may still be done.
            (_, 500..) => Attempt::After(text),
            _ => Attempt::Failed(StoreError::Broken(text).into()),
        }
    }

    /// An answer that goes on, as lines.
    pub(super) async fn stream(&self, path: &str, body: &Value) -> Result<Lines, StoreError> {
        let at = self.current.load(Ordering::Relaxed) % self.address.members.len();
        match self.send(at, path, body).await {
            Ok(response) if response.status().is_success() => {
                Ok(Lines { body: response.into_body(), rest: Vec::new() })
            }
            Ok(response) => Err(StoreError::Broken(format!("{}: {}", self.name(at), response.status()))),
            Err(Attempt::Before(text) | Attempt::After(text)) => {
                self.current.store(at.wrapping_add(1), Ordering::Relaxed);
                Err(StoreError::Unreachable(text))
            }
            Err(Attempt::Failed(failed)) => Err(failed.into()),
        }
    }

    fn name(&self, at: usize) -> String {
        self.address.members.get(at).map(ToString::to_string).unwrap_or_default()
    }

    async fn send(&self, at: usize, path: &str, body: &Value) -> Result<Response<Incoming>, Attempt> {
        let name = self.name(at);
        let stream = tokio::time::timeout(CONNECT, self.connect(at)).await;
        let stream = stream.map_err(|_| Attempt::Before(format!("{name} is silent")))?;
        let stream = stream.map_err(|error| Attempt::Before(format!("{name}: {error}")))?;
        let request = Request::post(path)
            .header(header::HOST, &name)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())));
        let request = request.map_err(|error| Attempt::Before(error.to_string()))?;
        let lost = |error: hyper::Error| Attempt::After(format!("{name}: {error}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // It ends with the answer, or when nobody waits for that any more.
        tokio::spawn(connection);
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
        answer.map_err(|_| Attempt::After(format!("{name} is silent")))?.map_err(lost)
    }

    async fn connect(&self, at: usize) -> io::Result<Box<dyn Wire>> {
        let member = self.address.members.get(at).ok_or(io::ErrorKind::NotFound)?;
        let (host, port) = (&member.host, member.port.get());
        let stream = match host {
            Host::Ip(ip) => TcpStream::connect((ip.ip(), port)).await?,
            Host::Name(name) => TcpStream::connect((name.as_str(), port)).await?,
        };
        stream.set_nodelay(true)?;
        let Some(tls) = &self.address.tls else { return Ok(Box::new(stream)) };
        let name = match host {
            Host::Ip(ip) => ServerName::from(ip.ip()),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).map_err(io::Error::other)?,
        };
        Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?))
    }
}

/// An answer of lines.
pub(super) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// The next one; `None` when the answer has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let behind = self.rest.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.rest, behind)));
            }
            if self.rest.len() > LINE_MAX_BYTES {
                return Err(StoreError::Broken("etcd sends a line without an end".to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    self.rest.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
                }
                Some(Err(error)) => return Err(StoreError::Unreachable(error.to_string())),
            }
        }
    }
}
