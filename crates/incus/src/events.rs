//! The stream of lifecycle events: a websocket at `/1.0/events`.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, http};

use crate::encode::percent_decode;
use crate::transport::{Door, protocol};
use crate::{IncusError, Result};

/// What is asked for. `all-projects` cannot be combined with a project.
const TARGET: &str = "/1.0/events?type=lifecycle&all-projects=true";

/// Where instances live in an event's source; the second and third are what old LXD says.
const INSTANCES: [&str; 3] = ["/1.0/instances/", "/1.0/containers/", "/1.0/virtual-machines/"];

/// Events that change nothing about an instance and may come by the hundred.
const NOISE: [&str; 4] = ["instance-exec", "instance-console", "instance-file-", "instance-log-"];

/// Something happened to an instance.
///
/// Only a hint: the order and number of events are not to be relied upon (the crate's description
/// shows what a real server sends), so the answer to any of them is to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `instance-started`, `instance-restarted`, `instance-renamed`, …; unknown ones are passed on.
    pub action: String,
    /// Project; of a move between projects, the new one in one event and the old one in another.
    pub project: String,
    /// Name; after a rename the new one.
    pub name: String,
    /// The former name, of a rename.
    pub old_name: Option<String>,
}

/// An open stream of events. Drop closes it.
#[derive(Debug)]
pub struct Events {
    stream: WebSocketStream<UnixStream>,
    socket: PathBuf,
    silence: Duration,
    event_bytes: usize,
    /// When a sign of life came last.
    heard: Instant,
    /// Whether a ping of ours waits for its answer.
    asked: bool,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    project: String,
    #[serde(default)]
    metadata: Option<Lifecycle>,
}

#[derive(Deserialize)]
struct Lifecycle {
    #[serde(default)]
    action: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    context: Option<Context>,
}

#[derive(Deserialize)]
struct Context {
    #[serde(default)]
    old_name: Option<String>,
}

impl Events {
    /// Opens the stream; what happens after this returns is not missed.
    pub(crate) async fn open(door: Door<'_>) -> Result<Self> {
        let limit = door.limits.request;
        let stream = tokio::time::timeout(limit, handshake(door))
            .await
            .map_err(|_| IncusError::TimedOut { request: format!("GET {TARGET}"), limit })??;
        Ok(Self {
            stream,
            socket: door.socket.to_owned(),
            silence: door.limits.silence,
            event_bytes: door.limits.event_bytes,
            heard: Instant::now(),
            asked: false,
        })
    }

    /// The next event. Waits without limit while the server shows that it lives. Cancel safe.
    ///
    /// # Errors
    /// [`StreamEnded`](IncusError::StreamEnded) when the server closed it, `Unreachable`,
    /// `TimedOut` after silence, `TooLarge` and `Protocol`. After any of them the stream is of
    /// no more use, and events may have been missed.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let Ok(message) = tokio::time::timeout_at(self.heard + self.silence, self.stream.next()).await
            else {
                self.ask_for_life().await?;
                continue;
            };
            let message = message
                .ok_or(tungstenite::Error::ConnectionClosed)
                .and_then(|message| message)
                .map_err(|error| self.failure(error))?;
            self.heard = Instant::now();
            self.asked = false;
            let event = match &message {
                Message::Text(text) => parse(text.as_bytes())?,
                Message::Binary(bytes) => parse(bytes)?,
                Message::Close(_) => return Err(self.ended()),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => None,
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    /// Incus pings every 10 s of itself; a server that does not is asked to answer ours.
    async fn ask_for_life(&mut self) -> Result<()> {
        let dead = IncusError::TimedOut { request: format!("GET {TARGET}"), limit: self.silence * 2 };
        if self.asked {
            return Err(dead);
        }
        self.asked = true;
        self.heard = Instant::now();
        let ping = self.stream.send(Message::Ping(Vec::new().into()));
        match tokio::time::timeout(self.silence, ping).await {
            Ok(sent) => sent.map_err(|error| self.failure(error)),
            Err(_) => Err(dead),
        }
    }

    fn ended(&self) -> IncusError {
        IncusError::StreamEnded { path: self.socket.clone() }
    }

    fn failure(&self, error: tungstenite::Error) -> IncusError {
        match error {
            tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
                self.ended()
            }
            tungstenite::Error::Io(source) => IncusError::Unreachable { path: self.socket.clone(), source },
            tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                IncusError::TooLarge { request: format!("GET {TARGET}"), limit_bytes: self.event_bytes }
            }
            error => protocol(TARGET, error),
        }
    }
}

async fn handshake(door: Door<'_>) -> Result<WebSocketStream<UnixStream>> {
    let stream = door.connect().await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(door.limits.event_bytes))
        .max_frame_size(Some(door.limits.event_bytes));
    let url = format!("ws://incus{TARGET}");
    let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
    match opened {
        Ok((stream, _)) => Ok(stream),
        Err(tungstenite::Error::Io(source)) => Err(door.unreachable(source)),
        Err(tungstenite::Error::Http(answer)) => match answer.status() {
            http::StatusCode::FORBIDDEN => Err(door.denied()),
            status => Err(protocol(TARGET, format!("status {status} instead of a websocket"))),
        },
        Err(error) => Err(protocol(TARGET, error)),
    }
}

/// An event about an instance itself, or `None` for one about anything else.
pub(crate) fn parse(message: &[u8]) -> Result<Option<Event>> {
    let envelope: Envelope = serde_json::from_slice(message).map_err(|error| protocol(TARGET, error))?;
    let Some(lifecycle) = envelope.metadata.filter(|_| envelope.kind == "lifecycle") else {
        return Ok(None);
    };
    let action = lifecycle.action;
    if !action.starts_with("instance-") || NOISE.iter().any(|noise| action.starts_with(noise)) {
        return Ok(None);
    }
    let (path, query) = lifecycle.source.split_once('?').unwrap_or((&lifecycle.source, ""));
    // A longer path is a snapshot, a backup, a log: not the instance.
    let name = INSTANCES
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix))
        .filter(|name| !name.is_empty() && !name.contains('/'))
        .and_then(percent_decode);
    let Some(name) = name else { return Ok(None) };
    let project = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("project="))
        .and_then(percent_decode)
        .or(Some(envelope.project))
        .filter(|project| !project.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    Ok(Some(Event {
        action,
        project,
        name,
        old_name: lifecycle.context.and_then(|context| context.old_name),
    }))
}

#[cfg(test)]
#[path = "events/tests.rs"]
mod tests;
