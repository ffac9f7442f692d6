//! A channel with a connection inside the instance behind it.
//!
//! Asked for: the helper connects, and the channel is confirmed or refused by what comes of that. Open: bytes go both
//! ways, and each way ends for itself. Ended: the channel is closed, in order or, as far as SSH can say it, not: without
//! its end being said before. A client that leaves without having said that it has no more resets the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use portway_proto::guest::{HOST_MAX_BYTES, Place, SOCKET_PATH_MAX_BYTES, Why};
use russh::server::{ChannelOpenHandle, Msg};
use russh::{ChannelOpenFailure, ChannelWriteHalf};
use tokio::task::JoinHandle;

use super::helper::{Helper, Unconnected};
use super::inbox::{Outlet, Pieces};
use super::link::Link;
use super::teller::in_words;
use crate::guest::{Connection, Farewell, Input, Output};
use crate::wire::{ForwardEnd, ForwardWay, Forwarded, Request};

/// Forwards of one connection at a time: below what the helper can have open beside as many programs as may run.
pub(super) const FORWARDS: usize = 400;

/// How long what a client has sent before it left may take on its way.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// RFC 4254, section 5.1.
const CONNECT_FAILED: u32 = 2;

/// What forwards are made by.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    pub(super) link: Arc<Link>,
    pub(super) helper: Arc<Helper>,
}

/// Bytes of a forward.
#[derive(Debug, Default)]
pub(super) struct Counts {
    from_client: AtomicU64,
    to_client: AtomicU64,
}

impl Counts {
    /// Something was sent to the client.
    pub(super) fn went(&self, bytes: usize) {
        self.to_client.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What is told of a forward in the end.
#[derive(Debug)]
pub(super) struct Note {
    way: ForwardWay,
    pub(super) target: String,
    pub(super) peer: String,
    pub(super) counts: Arc<Counts>,
    begin: Instant,
    /// Once it is known to the gateway.
    number: Option<u64>,
}

impl Note {
    pub(super) fn new(way: ForwardWay, target: String) -> Self {
        let (counts, begin) = (Arc::default(), Instant::now());
        Self { way, target, peer: String::new(), counts, begin, number: None }
    }

    /// It has begun.
    pub(super) async fn begin(&mut self, gateway: &Gateway) {
        self.number = Some(gateway.link.begin_forward(self.way, &self.target, &self.peer).await);
    }

    pub(super) async fn tell(self, gateway: &Gateway, end: ForwardEnd, reason: Option<String>) {
        let told = Forwarded {
            number: self.number,
            way: self.way,
            target: self.target,
            peer: self.peer,
            bytes_in: self.counts.from_client.load(Ordering::Relaxed),
            bytes_out: self.counts.to_client.load(Ordering::Relaxed),
            millis: u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            end,
            reason,
        };
        gateway.link.tell(Request::Forwarded(told)).await;
    }
}

/// A place as a client names it: a port above the last one, a name or a path that is too long is none.
pub(super) fn tcp(host: &str, port: u32) -> Option<Place> {
    let is_name = host.len() <= HOST_MAX_BYTES && !host.contains(char::is_control);
    let port = u16::try_from(port).ok().filter(|_| is_name)?;
    Some(Place::Tcp { host: host.as_bytes().to_vec(), port })
}

/// The same of a unix socket.
pub(super) fn unix(path: &str) -> Option<Place> {
    let fits = !path.is_empty() && path.len() <= SOCKET_PATH_MAX_BYTES && !path.contains('\0');
    fits.then(|| Place::Unix(path.as_bytes().to_vec()))
}

/// As people write it.
pub(super) fn named(place: &Place) -> String {
    match place {
        Place::Tcp { host, port } => {
            let host = String::from_utf8_lossy(host);
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        }
        Place::Unix(path) => String::from_utf8_lossy(path).into_owned(),
    }
}

/// Connects a channel to a place, and serves it to its end.
pub(super) async fn local(
    gateway: Gateway,
    to: Place,
    reply: ChannelOpenHandle,
    channel: ChannelWriteHalf<Msg>,
    outlet: Outlet,
) {
    let mut note = Note::new(ForwardWay::Local, named(&to));
    match gateway.helper.connect(to).await {
        Ok(connection) => {
            note.peer.clone_from(&connection.peer);
            note.begin(&gateway).await;
            reply.accept().await;
            let end = converse(&channel, outlet, connection, &note.counts).await;
            note.tell(&gateway, end, None).await;
        }
        Err(unconnected) => {
            // Gone before anybody is told: nothing waits for it.
            drop(outlet);
            let (failure, reason) = refusal("connect to", &note.target, &unconnected);
            reply.reject(failure).await;
            note.tell(&gateway, ForwardEnd::Refused, Some(reason)).await;
        }
    }
}

/// What a client is told, and the log.
pub(super) fn refusal(what: &str, target: &str, unconnected: &Unconnected) -> (ChannelOpenFailure, String) {
    let failed = |why: &dyn std::fmt::Display| {
        let reason = in_words(&format!("cannot {what} {target}: {why}"));
        (ChannelOpenFailure::Other { code: CONNECT_FAILED, reason: reason.clone() }, reason)
    };
    match unconnected {
        Unconnected::Helper(text) => failed(text),
        Unconnected::Refused { why: Why::Forbidden, .. } => {
            (ChannelOpenFailure::AdministrativelyProhibited, format!("{target} is not allowed"))
        }
        Unconnected::Refused { why: Why::Count, .. } => {
            (ChannelOpenFailure::ResourceShortage, "too many forwards on this connection".to_owned())
        }
        Unconnected::Refused { why: Why::Name, .. } => failed(&"the name has no address"),
        Unconnected::Refused { why: Why::System, source } => failed(source),
    }
}

/// Carries bytes until both ways have ended.
pub(super) async fn converse(
    channel: &ChannelWriteHalf<Msg>,
    outlet: Outlet,
    connection: Connection,
    counts: &Arc<Counts>,
) -> ForwardEnd {
    let Connection { input, mut output, farewell, .. } = connection;
    let Outlet { input: pieces, mut steering } = outlet;
    let mut feeding = tokio::spawn(feed(pieces, input, Arc::clone(counts)));
    let carried = tokio::select! {
        carried = carry(&mut output, channel, &farewell, counts) => carried,
        () = steering.hangup() => false,
    };
    if carried && !farewell.is_reset() {
        // The client may go on for as long as it likes.
        tokio::select! {
            _fed = &mut feeding => {
                let _gone = channel.close().await;
                farewell.close().await;
                // The client may have left meanwhile; of what it said nothing is missing.
                return if farewell.is_reset() { ForwardEnd::Reset } else { ForwardEnd::Closed };
            }
            () = steering.hangup() => {}
        }
    }
    if farewell.is_reset() {
        feeding.abort();
        // Without the end being said: as near as SSH comes to a reset.
        let _gone = channel.close().await;
        return ForwardEnd::Reset;
    }
    if steering.was_cut() {
        feeding.abort();
        farewell.reset().await;
        let _gone = channel.close().await;
        return ForwardEnd::Stuck;
    }
    left(feeding, &farewell).await
}

/// The client has left the channel, or is gone: what it has sent before still goes its way.
async fn left(mut feeding: JoinHandle<Sent>, farewell: &Farewell) -> ForwardEnd {
    match tokio::time::timeout(LEFT_BEHIND, &mut feeding).await {
        Ok(Ok(Sent::Whole)) => {
            farewell.close().await;
            ForwardEnd::Closed
        }
        Ok(_) | Err(_) => {
            feeding.abort();
            farewell.reset().await;
            ForwardEnd::Left
        }
    }
}

/// What of a client's bytes has been passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// All of them, and that there are no more.
    Whole,
    /// Not that there are no more.
    Part,
}

/// What the client sends, to the socket.
async fn feed(mut pieces: Pieces, mut input: Input, counts: Arc<Counts>) -> Sent {
    while let Some(bytes) = pieces.next().await {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if !input.write(bytes).await {
            return Sent::Part;
        }
        counts.from_client.fetch_add(count, Ordering::Relaxed);
    }
    if pieces.is_whole() {
        input.end().await;
        return Sent::Whole;
    }
    Sent::Part
}

/// What comes from the socket, to the client, and its end. Whether it ended before the client did.
async fn carry(
    output: &mut Output,
    channel: &ChannelWriteHalf<Msg>,
    farewell: &Farewell,
    counts: &Counts,
) -> bool {
    while let Some(bytes) = output.read().await {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if channel.data_bytes(Bytes::from(bytes)).await.is_err() {
            return false;
        }
        counts.to_client.fetch_add(count, Ordering::Relaxed);
    }
    if !farewell.is_reset() {
        let _gone = channel.eof().await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_what_a_client_can_mean() {
        assert_eq!(tcp("::1", 80).as_ref().map(named).as_deref(), Some("[::1]:80"));
        assert_eq!(tcp("", 80).as_ref().map(named).as_deref(), Some(":80"));
        assert_eq!(unix("/run/x.sock").as_ref().map(named).as_deref(), Some("/run/x.sock"));
        assert_eq!((tcp("a", 65_536), tcp("a\u{1b}", 1), tcp(&"a".repeat(301), 1)), (None, None, None));
        assert_eq!((unix(""), unix("/a\0b"), unix(&"a".repeat(108))), (None, None, None));
    }
}
