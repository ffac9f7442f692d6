//! What happens to a network that runs, for those who follow it: one line each, as it happens. Nothing waits for a
//! follower; one that does not keep up is told how much it has missed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use portway_control::api::MeshEvent;
use portway_model::rfc3339;
use tokio::sync::{broadcast, mpsc};
use tokio::time::timeout;

use super::serve::Shared;
use crate::spec::PublicKey;
use crate::wg::PeerState;

/// Events that a follower may be behind.
const BEHIND: usize = 256;

/// Bytes of events that are on their way to one: so many lines.
const ON_THE_WAY: usize = 8;

/// How long nothing happens before a comment says that the stream is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How often peers are looked at, while somebody follows.
const LOOK: Duration = Duration::from_secs(1);

/// Age of a handshake at which a peer is silent: keys are refused then.
const SILENT: Duration = Duration::from_secs(180);

/// Where events are told.
#[derive(Debug)]
pub(super) struct Events(broadcast::Sender<MeshEvent>);

impl Events {
    pub(super) fn new() -> Events {
        Events(broadcast::channel(BEHIND).0)
    }

    /// Something has happened, to a peer or a rule where one is named.
    pub(super) fn tell(
        &self,
        kind: &str,
        peer: Option<String>,
        rule: Option<String>,
        text: impl Into<String>,
    ) {
        if self.0.receiver_count() > 0 {
            // Nobody may be left.
            self.0.send(event(kind, peer, rule, text.into())).ok();
        }
    }

    fn is_followed(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

fn event(kind: &str, peer: Option<String>, rule: Option<String>, text: String) -> MeshEvent {
    MeshEvent { at: rfc3339(SystemTime::now()), kind: kind.to_owned(), peer, rule, text }
}

/// Follows: what comes out are server-sent events, the first of which says what runs.
pub(super) fn follow(shared: &Arc<Shared>) -> mpsc::Receiver<Bytes> {
    let (lines, stream) = mpsc::channel(ON_THE_WAY);
    let mut events = shared.events.0.subscribe();
    let first = event("running", None, None, format!("engine {}", shared.engine.name()));
    tokio::spawn(async move {
        let mut next = line(&first);
        // Ends with the follower, at the latest when it is told that the stream is alive.
        while lines.send(next).await.is_ok() {
            next = tokio::select! {
                () = lines.closed() => return,
                event = timeout(SIGN_OF_LIFE, events.recv()) => match event {
                    Err(_) => Bytes::from_static(b":\n\n"),
                    Ok(Ok(event)) => line(&event),
                    Ok(Err(broadcast::error::RecvError::Lagged(count))) => {
                        line(&event_of_loss(count))
                    }
                    Ok(Err(broadcast::error::RecvError::Closed)) => return,
                },
            };
        }
    });
    stream
}

fn event_of_loss(count: u64) -> MeshEvent {
    event("missed", None, None, format!("{count} events came too fast"))
}

fn line(event: &MeshEvent) -> Bytes {
    // A structure of texts can be written.
    let text = serde_json::to_string(event).unwrap_or_default();
    Bytes::from(format!("data: {text}\n\n"))
}

/// What was last seen of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    handshake: Option<Instant>,
    endpoint: Option<SocketAddr>,
    through: Option<PublicKey>,
    silent: bool,
}

/// Looks after what peers do, for ever.
pub(super) async fn watch_peers(shared: Arc<Shared>) {
    let mut seen: Option<BTreeMap<PublicKey, Seen>> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        if !shared.events.is_followed() {
            seen = None;
            continue;
        }
        let asked = Arc::clone(&shared);
        let Ok(Some(states)) = shared.room.read(move || Ok(asked.tunnel.peers())).await else { continue };
        let now = Instant::now();
        let present: BTreeMap<_, _> =
            states.iter().map(|state| (state.public_key, look(state, now))).collect();
        if let Some(before) = &seen {
            for (key, kind, text) in changes(before, &present) {
                shared.events.tell(kind, Some(key.to_string()), None, text);
            }
        }
        seen = Some(present);
    }
}

fn look(state: &PeerState, now: Instant) -> Seen {
    let age = state.last_handshake.map(|at| now.saturating_duration_since(at));
    Seen {
        handshake: state.last_handshake,
        endpoint: state.endpoint,
        through: state.through,
        silent: age.is_some_and(|age| age >= SILENT),
    }
}

/// What has become of peers.
fn changes(
    before: &BTreeMap<PublicKey, Seen>,
    present: &BTreeMap<PublicKey, Seen>,
) -> Vec<(PublicKey, &'static str, String)> {
    let mut told = Vec::new();
    for (key, now) in present {
        let Some(then) = before.get(key) else {
            told.push((*key, "peer-added", "there is another peer".to_owned()));
            continue;
        };
        if let Some(endpoint) = now.endpoint.filter(|_| now.endpoint != then.endpoint) {
            told.push((*key, "peer-moved", format!("is at {endpoint}")));
        }
        match now.through.filter(|_| now.through != then.through) {
            Some(hub) => told.push((*key, "peer-moved", format!("is reached through the hub {hub}"))),
            None if then.through.is_some() && now.through.is_none() => {
                told.push((*key, "peer-moved", "is reached without a hub".to_owned()));
            }
            None => {}
        }
        if now.handshake != then.handshake && now.handshake.is_some() {
            told.push((*key, "peer-handshake", "keys were agreed on".to_owned()));
        }
        if now.silent && !then.silent {
            let text = format!("no keys were agreed on for {} seconds", SILENT.as_secs());
            told.push((*key, "peer-silent", text));
        }
    }
    let gone = before.keys().filter(|key| !present.contains_key(key));
    told.extend(gone.map(|key| (*key, "peer-removed", "is no peer any more".to_owned())));
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::PrivateKey;

    /// Fails when: a handshake, a move or a silence is not told, or told again and again.
    #[test]
    fn what_peers_do_is_told_once() {
        let key = PrivateKey::generate().unwrap().public();
        let begin = Instant::now();
        let quiet = Seen { handshake: None, endpoint: None, through: None, silent: false };
        let endpoint = Some(SocketAddr::from(([192, 0, 2, 1], 7)));
        let met = Seen { handshake: Some(begin), endpoint, ..quiet };
        let again = Seen { handshake: Some(begin + Duration::from_secs(120)), ..met };
        let silent = Seen { silent: true, ..again };
        let through = Seen { through: Some(key), ..again };
        let kinds = |before: &[Seen], present: &[Seen]| -> Vec<&'static str> {
            let map = |seen: &[Seen]| seen.iter().map(|seen| (key, *seen)).collect::<BTreeMap<_, _>>();
            changes(&map(before), &map(present)).into_iter().map(|(_, kind, _)| kind).collect()
        };
        assert_eq!(kinds(&[], &[quiet]), ["peer-added"]);
        assert_eq!(kinds(&[quiet], &[met]), ["peer-moved", "peer-handshake"]);
        assert_eq!(kinds(&[met], &[again]), ["peer-handshake"]);
        assert_eq!(kinds(&[again], &[silent]), ["peer-silent"]);
        assert_eq!(kinds(&[silent], &[silent]), [""; 0]);
        assert_eq!(kinds(&[again], &[through]), ["peer-moved"]);
        assert_eq!(kinds(&[through], &[through]), [""; 0]);
        assert_eq!(kinds(&[through], &[again]), ["peer-moved"]);
        assert_eq!(kinds(&[silent], &[]), ["peer-removed"]);
    }
}
