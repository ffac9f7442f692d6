//! Places in the instance where somebody listens for the client: what comes there becomes a channel to it.
//!
//! A place is the connection's. It goes when the client takes it back and with the client, and whoever came by it stays
//! until then.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portway_proto::guest::Place;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelId};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::forward::{self, FORWARDS, Gateway, Note, named};
use super::inbox::Outlet;
use crate::guest::{Come, Listener};
use crate::wire::{ForwardEnd, ForwardWay};

/// How long a client waits for a place, and with it everything else on its connection: the library answers its requests in
/// their order.
const LISTEN: Duration = Duration::from_secs(20);

/// Places of one connection.
const LISTENERS: usize = 64;

/// How long it takes at most from a client's yes until we have heard of it.
const CONFIRMED: Duration = Duration::from_secs(10);

/// Channels that the client has agreed to, until somebody takes them.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    outlets: Mutex<HashMap<ChannelId, Outlet>>,
    changed: Notify,
}

impl Confirmed {
    fn outlets(&self) -> MutexGuard<'_, HashMap<ChannelId, Outlet>> {
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client has agreed.
    pub(super) fn put(&self, id: ChannelId, outlet: Outlet) {
        self.outlets().insert(id, outlet);
        self.changed.notify_waiters();
    }

    /// What comes in on a channel that was agreed to. `None`: the connection is gone.
    pub(super) async fn take(&self, id: ChannelId) -> Option<Outlet> {
        let taken = async {
            loop {
                let changed = self.changed.notified();
                if let Some(outlet) = self.outlets().remove(&id) {
                    return outlet;
                }
                changed.await;
            }
        };
        tokio::time::timeout(CONFIRMED, taken).await.ok()
    }
}

/// Those of one connection.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// By what the client calls them, with the port they have.
    open: BTreeMap<(String, u32), DropGuard>,
}

/// What they are made by.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) gateway: Gateway,
    pub(super) handle: Handle,
    pub(super) forwards: TaskTracker,
    pub(super) confirmed: Arc<Confirmed>,
    pub(super) come: Arc<Semaphore>,
}

/// Connections that have come at a time, at all places of a client: whoever comes leaves the client half of what may be open
/// for what it asks for itself.
pub(super) const COME: usize = FORWARDS / 2;

impl Listeners {
    /// Listens at a place, which the client calls `name`; the port, or `None` when that cannot be.
    pub(super) async fn add(&mut self, server: Server, name: &str, at: Option<Place>) -> Option<u32> {
        let at = at?;
        let asked = match &at {
            Place::Tcp { port, .. } => u32::from(*port),
            Place::Unix(_) => 0,
        };
        let is_port = matches!(at, Place::Tcp { .. });
        let is_taken = (!is_port || asked != 0) && self.open.contains_key(&(name.to_owned(), asked));
        if is_taken || self.open.len() >= LISTENERS {
            return None;
        }
        let mut note = Note::new(ForwardWay::Listen, named(&at));
        let opened = tokio::time::timeout(LISTEN, server.gateway.helper.listen(at.clone())).await;
        let refusal = match opened {
            Ok(Ok(listener)) => {
                let port = u32::from(listener.port);
                let token = CancellationToken::new();
                let at = match at {
                    Place::Tcp { host, .. } => Place::Tcp { host, port: listener.port },
                    path @ Place::Unix(_) => path,
                };
                note.begin(&server.gateway).await;
                let tasks = server.forwards.clone();
                tasks.spawn(serve(server, listener, at, note, token.clone()));
                self.open.insert((name.to_owned(), port), token.drop_guard());
                return Some(port);
            }
            Ok(Err(unconnected)) => forward::refusal("listen at", &note.target, &unconnected).1,
            Err(_) => "the helper in the instance does not answer".to_owned(),
        };
        tracing::info!(target = ?note.target, reason = ?refusal, "nothing listens there");
        note.tell(&server.gateway, ForwardEnd::Refused, Some(refusal)).await;
        None
    }

    /// Nobody is to come there any more. Whether somebody could.
    pub(super) fn remove(&mut self, name: &str, port: u32) -> bool {
        self.open.remove(&(name.to_owned(), port)).is_some()
    }
}

/// Takes who comes until nobody is to come any more.
async fn serve(server: Server, mut listener: Listener, at: Place, note: Note, token: CancellationToken) {
    let end = loop {
        let come = tokio::select! {
            come = listener.next() => come,
            () = token.cancelled() => {
                listener.close().await;
                break ForwardEnd::Closed;
            }
        };
        match come {
            Some(come) => match Arc::clone(&server.come).try_acquire_owned() {
                // Those who listen are among them.
                Ok(place) if server.forwards.len() < FORWARDS => {
                    let (server, at) = (server.clone(), at.clone());
                    server.forwards.clone().spawn(async move {
                        remote(server, come, at).await;
                        drop(place);
                    });
                }
                Ok(_) | Err(_) => come.reset().await,
            },
            None => break ForwardEnd::Reset,
        }
    };
    note.tell(&server.gateway, end, None).await;
}

/// One who has come.
async fn remote(server: Server, come: Come, at: Place) {
    let mut note = Note::new(ForwardWay::Remote, named(&at));
    note.peer = match &at {
        Place::Tcp { .. } => named(&Place::Tcp { host: come.source().as_bytes().to_vec(), port: come.port }),
        Place::Unix(_) => String::new(),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let handle = &server.handle;
    let opened = match &at {
        Place::Tcp { host, port } => {
            let (source, source_port) = (come.source().to_owned(), u32::from(come.port));
            handle.channel_open_forwarded_tcpip(text(host), u32::from(*port), source, source_port).await
        }
        Place::Unix(path) => handle.channel_open_forwarded_streamlocal(text(path)).await,
    };
    let end = match opened {
        Ok(channel) => {
            note.begin(&server.gateway).await;
            attend(&server, channel, come, &note).await
        }
        Err(_) => {
            come.reset().await;
            None
        }
    };
    let reason = end.is_none().then(|| "the client does not take it".to_owned());
    note.tell(&server.gateway, end.unwrap_or(ForwardEnd::Refused), reason).await;
}

/// Carries bytes of a channel that the client has agreed to.
pub(super) async fn attend(
    server: &Server,
    channel: Channel<Msg>,
    come: Come,
    note: &Note,
) -> Option<ForwardEnd> {
    let id = channel.id();
    // What comes in is handed to us by another way.
    let (unread, channel) = channel.split();
    // One that is kept and not read would hold up the whole connection, a hundred messages later.
    drop(unread);
    let Some(outlet) = server.confirmed.take(id).await else {
        come.reset().await;
        return None;
    };
    let connection = come.open().await;
    Some(forward::converse(&channel, outlet, connection, &note.counts).await)
}
