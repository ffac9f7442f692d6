//! Client of the control API: HTTP/1.1 on a unix socket, one connection per request.
//!
//! Every exchange is bounded in time and every answer in length, so a daemon that hangs cannot hang its caller.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use portway_model::{DeviceKey, DeviceName, InstanceKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::{
    AddDevice, Applied, Apply, AskPing, ChangeDevice, ChangeMeshRules, Changed, Connections, Device,
    EventFilter, Health, KnownInstance, MeshEvent, MeshRuleStatus, MeshStatus, Move, MoveDevice, Pong,
    RenameDevice, Server,
};
use crate::error::{ClientError, broken, refusal};
use crate::events::Events;

/// What bounds every exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a question, from connect to the last byte of the answer.
    pub ask: Duration,
    /// The same for a change: the daemon may wait for a server and for a worker.
    pub change: Duration,
    /// Length of an answer. A device is about 1 kB.
    pub answer_bytes: usize,
    /// Length of one event.
    pub event_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            ask: Duration::from_secs(10),
            change: Duration::from_secs(60),
            answer_bytes: 64 << 20,
            event_bytes: 1 << 20,
        }
    }
}

/// Which way a device moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From Incus to Portway.
    Import,
    /// From Portway to Incus.
    Export,
}

impl Direction {
    fn path(self) -> &'static str {
        match self {
            Direction::Import => "/1.0/import",
            Direction::Export => "/1.0/export",
        }
    }
}

/// A daemon's address and our limits. Cheap to clone; every call makes its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    limits: Limits,
}

impl Client {
    /// A client of the daemon at `socket`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client::with_limits(socket, Limits::default())
    }

    /// The same with limits of one's own.
    #[must_use]
    pub fn with_limits(socket: impl Into<PathBuf>, limits: Limits) -> Client {
        Client { socket: socket.into(), limits }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the daemon says of itself.
    ///
    /// # Errors
    /// [`ClientError`], any but a refusal.
    pub async fn server(&self) -> Result<Server, ClientError> {
        self.ask("/1.0").await
    }

    /// All devices, or those of one instance.
    ///
    /// # Errors
    /// [`ClientError`], any.
    pub async fn devices(&self, instance: Option<&InstanceKey>) -> Result<Vec<Device>, ClientError> {
        match instance {
            None => self.ask("/1.0/devices").await,
            Some(key) => self.ask(&format!("/1.0/devices?instance={}", encode(&key.to_string()))).await,
        }
    }

    /// One device.
    ///
    /// # Errors
    /// [`ClientError`], any; a refusal of kind `missing` when there is none.
    pub async fn device(&self, key: &DeviceKey) -> Result<Device, ClientError> {
        self.ask(&device_path(key)).await
    }

    /// Live connections of a device, at most `limit` of them, or as many as the daemon lists by itself.
    ///
    /// # Errors
    /// As [`Client::device`].
    pub async fn connections(&self, key: &DeviceKey, limit: Option<u32>) -> Result<Connections, ClientError> {
        let limit = limit.map_or_else(String::new, |limit| format!("?limit={limit}"));
        self.ask(&format!("{}/connections{limit}", device_path(key))).await
    }

    /// Adds a device. Returns once it works, or waits for something that is expected to come.
    ///
    /// # Errors
    /// [`ClientError`], any; after a refusal nothing is left behind.
    pub async fn add(&self, device: &AddDevice) -> Result<Device, ClientError> {
        self.change(Method::POST, "/1.0/devices", Some(device)).await
    }

    /// Sets and unsets keys of a device.
    ///
    /// # Errors
    /// [`ClientError`], any; after a refusal the device is as before.
    pub async fn set(&self, key: &DeviceKey, change: &ChangeDevice) -> Result<Changed, ClientError> {
        self.change(Method::PATCH, &device_path(key), Some(change)).await
    }

    /// Gives a device another name; its connections live on.
    ///
    /// # Errors
    /// [`ClientError`], any.
    pub async fn rename(&self, key: &DeviceKey, name: DeviceName) -> Result<Device, ClientError> {
        let path = format!("{}/rename", device_path(key));
        self.change(Method::POST, &path, Some(&RenameDevice { name })).await
    }

    /// How a network is, of a client of its socket.
    ///
    /// # Errors
    /// [`ClientError`], any but a refusal.
    pub async fn mesh(&self) -> Result<MeshStatus, ClientError> {
        self.ask("/1.0").await
    }

    /// Adds and removes rules of a network: all of them or none. Returns all that there are then.
    ///
    /// # Errors
    /// [`ClientError`], any.
    pub async fn change_rules(&self, change: &ChangeMeshRules) -> Result<Vec<MeshRuleStatus>, ClientError> {
        self.change(Method::POST, "/1.0/rules", Some(change)).await
    }

    /// Asks for one echo through a network.
    ///
    /// # Errors
    /// [`ClientError`], any. That no answer came is none.
    pub async fn ping(&self, ask: &AskPing) -> Result<Pong, ClientError> {
        self.change(Method::POST, "/1.0/ping", Some(ask)).await
    }

    /// Takes a device out.
    ///
    /// # Errors
    /// [`ClientError`], any.
    pub async fn remove(&self, key: &DeviceKey) -> Result<(), ClientError> {
        let _: serde_json::Value = self.change(Method::DELETE, &device_path(key), None::<&()>).await?;
        Ok(())
    }

    /// Gives a re-created instance the devices of its namesake.
    ///
    /// # Errors
    /// [`ClientError`], any.
    pub async fn adopt(&self, instance: &InstanceKey) -> Result<Vec<Device>, ClientError> {
        let path = format!("/1.0/instances/{}/adopt", encode(&instance.to_string()));
        self.change(Method::POST, &path, None::<&()>).await
    }

    /// Every instance that a provider names.
    ///
    /// # Errors
    /// [`ClientError`], any.
    pub async fn instances(&self) -> Result<Vec<KnownInstance>, ClientError> {
        self.ask("/1.0/instances").await
    }

    /// What is known of the health of instances, of one or of all that are asked.
    ///
    /// # Errors
    /// [`ClientError`], any.
    pub async fn health(&self, instance: Option<&InstanceKey>) -> Result<Vec<Health>, ClientError> {
        match instance {
            None => self.ask("/1.0/health").await,
            Some(key) => self.ask(&format!("/1.0/health?instance={}", encode(&key.to_string()))).await,
        }
    }

    /// Has an instance looked at and tested at once, and returns what is known then.
    ///
    /// # Errors
    /// [`ClientError`], any; a refusal of kind `missing` when it is no instance that is asked.
    pub async fn ask_health(&self, instance: &InstanceKey) -> Result<Health, ClientError> {
        let path = format!("/1.0/instances/{}/health", encode(&instance.to_string()));
        self.change(Method::POST, &path, None::<&()>).await
    }

    /// Makes a list of devices the state, as a whole or not at all.
    ///
    /// # Errors
    /// [`ClientError`], any; after a refusal nothing is changed.
    pub async fn apply(&self, list: &Apply) -> Result<Applied, ClientError> {
        self.change(Method::POST, "/1.0/apply", Some(list)).await
    }

    /// What could be moved in a direction, of one instance or of all.
    ///
    /// # Errors
    /// [`ClientError`], any.
    pub async fn movable(
        &self,
        direction: Direction,
        instance: Option<&InstanceKey>,
    ) -> Result<Vec<Move>, ClientError> {
        let path = direction.path();
        match instance {
            None => self.ask(path).await,
            Some(key) => self.ask(&format!("{path}?instance={}", encode(&key.to_string()))).await,
        }
    }

    /// Moves one device.
    ///
    /// # Errors
    /// [`ClientError`], any; after a refusal the device is where it was, or the text says more.
    pub async fn move_device(&self, direction: Direction, device: &MoveDevice) -> Result<Move, ClientError> {
        self.change(Method::POST, direction.path(), Some(device)).await
    }

    /// What changes from this moment on.
    ///
    /// # Errors
    /// [`ClientError`], any. The time limit ends with the handshake.
    pub async fn events(&self) -> Result<Events, ClientError> {
        self.follow("/1.0/events").await
    }

    /// The same of what `filter` asks for. A daemon of an earlier version tells everything.
    ///
    /// # Errors
    /// As [`Client::events`].
    pub async fn events_of(&self, filter: &EventFilter) -> Result<Events, ClientError> {
        self.follow(&format!("/1.0/events{}", query(filter))).await
    }

    /// The same of a network that runs.
    ///
    /// # Errors
    /// As [`Client::events`].
    pub async fn mesh_events(&self) -> Result<Events<MeshEvent>, ClientError> {
        self.follow("/1.0/events").await
    }

    async fn follow<T: DeserializeOwned>(&self, path: &str) -> Result<Events<T>, ClientError> {
        let request = "GET /1.0/events";
        let opened = self.bounded(self.limits.ask, request, async {
            let (mut sender, mut link) = self.connect().await?;
            let sent = sender.send_request(self.request(&Method::GET, path, None, request)?);
            let response = beside(sent, &mut link).await.map_err(|error| self.broken(request, &error))?;
            if !response.status().is_success() {
                let (status, body) = beside(self.collect(response, request), &mut link).await?;
                return Err(refusal(status, &body, request));
            }
            Ok((response, link))
        });
        let (response, link) = opened.await?;
        Ok(Events::new(self.socket.clone(), response.into_body(), link, self.limits.event_bytes))
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, None, self.limits.ask).await
    }

    async fn change<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| ClientError::Protocol {
            request: format!("{method} {path}"),
            reason: format!("the request cannot be written: {error}"),
        })?;
        self.exchange(method, path, body, self.limits.change).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let name = format!("{method} {path}");
        let request = name.as_str();
        let answered = self.bounded(limit, request, async {
            let (mut sender, mut link) = self.connect().await?;
            let message = self.request(&method, path, body, request)?;
            let talk = async move {
                let response =
                    sender.send_request(message).await.map_err(|error| self.broken(request, &error))?;
                self.collect(response, request).await
            };
            beside(talk, &mut link).await
        });
        let (status, body) = answered.await?;
        if !status.is_success() {
            return Err(refusal(status, &body, request));
        }
        serde_json::from_slice(&body)
            .map_err(|error| ClientError::Protocol { request: name, reason: error.to_string() })
    }

    async fn bounded<T>(
        &self,
        limit: Duration,
        request: &str,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ClientError::TimedOut { request: request.to_owned(), limit }),
        }
    }

    async fn connect(&self) -> Result<(http1::SendRequest<Full<Bytes>>, Link), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { path: self.socket.clone() },
            _ => ClientError::Unreachable { path: self.socket.clone(), source },
        })?;
        let (sender, link) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken("the handshake", &error))?;
        Ok((sender, Box::pin(link)))
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<Vec<u8>>,
        name: &str,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut builder =
            Request::builder().method(method).uri(path).header(HOST, "portway").header(ACCEPT, "*/*");
        if body.is_some() {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        builder.body(Full::new(body.unwrap_or_default().into())).map_err(|error| ClientError::Protocol {
            request: name.to_owned(),
            reason: format!("the request cannot be made: {error}"),
        })
    }

    async fn collect(
        &self,
        response: Response<Incoming>,
        request: &str,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), self.limits.answer_bytes);
        let whole = body.collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => self.broken(request, &error),
            Err(_too_long) => ClientError::Protocol {
                request: request.to_owned(),
                reason: format!("the answer is longer than {} bytes", self.limits.answer_bytes),
            },
        })?;
        Ok((status, whole.to_bytes()))
    }

    /// What a failure of hyper means: the stream broke, or what came is no HTTP.
    fn broken(&self, request: &str, error: &hyper::Error) -> ClientError {
        broken(&self.socket, request, error)
    }
}

/// The connection itself, which only moves while it is polled.
pub(crate) type Link = Pin<Box<http1::Connection<TokioIo<UnixStream>, Full<Bytes>>>>;

/// Runs `work` while the connection moves. The connection's own end is no error here: `work` sees it.
async fn beside<T>(work: impl Future<Output = T>, link: &mut Link) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        _ended = link => work.await,
    }
}

fn device_path(key: &DeviceKey) -> String {
    format!("/1.0/devices/{}/{}", encode(&key.instance.to_string()), encode(&key.device.to_string()))
}

/// `?kind=…&…`, or nothing when everything is asked for.
fn query(filter: &EventFilter) -> String {
    let EventFilter { kind, instance, project, device, network, recent, follow } = filter;
    let fields = [
        ("kind", kind.clone()),
        ("instance", instance.as_ref().map(ToString::to_string)),
        ("project", project.as_ref().map(ToString::to_string)),
        ("device", device.as_ref().map(ToString::to_string)),
        ("network", network.clone()),
        ("recent", recent.map(|recent| recent.to_string())),
        ("follow", follow.map(|follow| follow.to_string())),
    ];
    let given = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let mut text = String::new();
    for (name, value) in given {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&encode(&value));
    }
    text
}

/// Percent-encodes all but the unreserved characters of RFC 3986, section 2.3.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for nibble in [byte >> 4, byte & 15] {
                encoded.extend(char::from_digit(nibble.into(), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
