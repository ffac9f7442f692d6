//! What a client lends a program: its agent, and its display. Who comes to one of them inside becomes a channel to the
//! client.
//!
//! Asked for: on the program's channel, before it starts. Lent: the helper listens for that program alone, and takes it
//! back at its end; who has come by then stays. To a display nobody comes who does not show the cookie first, one that is
//! made for each program: the client's own never gets into the instance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use portway_proto::guest::{Lent, Place};
use portway_proto::x11::{COOKIE_BYTES, DATA_MAX_BYTES, NAME_MAX_BYTES, Setup};
use russh::Channel;
use russh::server::Msg;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::forward::{self, FORWARDS, Note, named};
use super::listeners::Server;
use crate::guest::{Come, Connection, Listener, Output};
use crate::wire::{ForwardEnd, ForwardWay, Lends};

/// Connections to the agent, and to the display, of one program at a time.
const AGENT_CONNECTIONS: usize = 64;
const DISPLAY_CONNECTIONS: usize = 256;

/// Of them to a display, those that have not shown the cookie yet, and how long that may take.
const STRANGERS: usize = 32;
const SETUP: Duration = Duration::from_secs(5);

/// How long the place of one who may not come stays taken: anybody in the instance can come, and each is told of.
const REFUSED: Duration = Duration::from_secs(1);

/// What a client has asked for on a channel.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) agent: bool,
    pub(super) display: Option<Display>,
}

/// A client's display.
#[derive(Debug)]
pub(super) struct Display {
    /// One connection, and no more.
    is_single: bool,
    screen: u32,
    /// Name and data of its authorization.
    name: String,
    data: Zeroizing<Vec<u8>>,
}

impl Asked {
    pub(super) const fn lends(&self) -> Lends {
        Lends { agent: self.agent, x11: self.display.is_some() }
    }

    /// What the helper is to make of it, where the broker allows it.
    pub(super) fn loans(&self, agent: bool, cookie: Option<[u8; COOKIE_BYTES]>) -> Vec<Lent> {
        let agent = (self.agent && agent).then_some(Lent::Agent);
        let display = self.display.as_ref().zip(cookie);
        let display = display.map(|(display, cookie)| Lent::Display { screen: display.screen, cookie });
        agent.into_iter().chain(display).collect()
    }

    /// Serves them until the helper takes them back.
    pub(super) fn serve(self, server: &Server, made: Vec<(Lent, Listener)>) {
        let mut display = self.display;
        for (lent, listener) in made {
            match lent {
                Lent::Agent => drop(tokio::spawn(agent(server.clone(), listener))),
                Lent::Display { cookie, .. } => {
                    if let Some(display) = display.take() {
                        drop(tokio::spawn(serve_display(server.clone(), listener, display, cookie)));
                    }
                }
            }
        }
    }
}

impl Display {
    /// As a client says it: the data in hexadecimal. `None` for what is no authorization.
    pub(super) fn new(is_single: bool, name: &str, data: &str, screen: u32) -> Option<Self> {
        let fits = name.len() <= NAME_MAX_BYTES && data.len() <= 2 * DATA_MAX_BYTES;
        let pairs = data.as_bytes().chunks(2).map(|pair| {
            let digits =
                str::from_utf8(pair).ok().filter(|pair| pair.len() == 2 && !pair.starts_with('+'))?;
            u8::from_str_radix(digits, 16).ok()
        });
        let data = Zeroizing::new(pairs.collect::<Option<Vec<u8>>>()?);
        fits.then(|| Self { is_single, screen, name: name.to_owned(), data })
    }
}

/// Takes who comes to the agent.
async fn agent(server: Server, mut listener: Listener) {
    let places = Arc::new(Semaphore::new(AGENT_CONNECTIONS));
    while let Some(come) = listener.next().await {
        match place(&server, &places) {
            Some(place) => drop(server.forwards.spawn(to_agent(server.clone(), come, place))),
            None => come.reset().await,
        }
    }
}

async fn to_agent(server: Server, come: Come, _place: OwnedSemaphorePermit) {
    let mut note = Note::new(ForwardWay::Agent, "agent".to_owned());
    let end = match server.handle.channel_open_agent().await {
        Ok(channel) => {
            note.begin(&server.gateway).await;
            super::listeners::attend(&server, channel, come, &note).await
        }
        Err(_) => {
            come.reset().await;
            None
        }
    };
    tell(note, &server, end.ok_or_else(refused)).await;
}

/// What serves one program's display.
struct Showing {
    server: Server,
    display: Display,
    cookie: [u8; COOKIE_BYTES],
    /// Somebody has come to it who may.
    is_used: AtomicBool,
    /// Nobody is to come any more.
    enough: CancellationToken,
}

/// Takes who comes to the display.
async fn serve_display(server: Server, mut listener: Listener, display: Display, cookie: [u8; COOKIE_BYTES]) {
    let places = Arc::new(Semaphore::new(DISPLAY_CONNECTIONS));
    let doors = Arc::new(Semaphore::new(STRANGERS));
    let enough = CancellationToken::new();
    let (is_used, token) = (AtomicBool::new(false), enough.clone());
    let showing = Arc::new(Showing { server: server.clone(), display, cookie, is_used, enough });
    loop {
        let come = tokio::select! {
            come = listener.next() => come,
            () = token.cancelled() => return listener.close().await,
        };
        let Some(come) = come else { return };
        match place(&server, &places).zip(Arc::clone(&doors).try_acquire_owned().ok()) {
            Some((place, door)) => {
                drop(server.forwards.spawn(to_display(Arc::clone(&showing), come, place, door)));
            }
            None => come.reset().await,
        }
    }
}

async fn to_display(
    showing: Arc<Showing>,
    come: Come,
    _place: OwnedSemaphorePermit,
    door: OwnedSemaphorePermit,
) {
    let mut note = Note::new(ForwardWay::X11, "display".to_owned());
    let (source, port) = (come.source().to_owned(), come.port);
    note.peer = named(&Place::Tcp { host: source.clone().into_bytes(), port });
    let mut connection = come.open().await;
    let said = tokio::time::timeout(SETUP, showing.beginning(&mut connection.output)).await;
    let said = said.unwrap_or_else(|_| Err("nothing was shown in time".to_owned()));
    let door = Some(door).filter(|_| said.is_err());
    let is_late = said.is_ok() && showing.is_used.swap(true, Ordering::Relaxed) && showing.display.is_single;
    let end = match said {
        Ok(_) if is_late => Err("one connection was asked for, and there was one".to_owned()),
        Ok(said) => {
            if showing.display.is_single {
                showing.enough.cancel();
            }
            match showing.server.handle.channel_open_x11(source, u32::from(port)).await {
                Ok(channel) => {
                    return show(&showing.server, channel, connection, said, note).await;
                }
                Err(_) => Err(refused()),
            }
        }
        Err(why) => Err(why),
    };
    connection.farewell.reset().await;
    if let Err(why) = &end {
        tracing::info!(peer = note.peer, reason = why, "nobody comes to the display");
    }
    tell(note, &showing.server, end).await;
    if let Some(_door) = door {
        tokio::time::sleep(REFUSED).await;
    }
}

/// Carries bytes of a channel that the client has agreed to, what was said first before all others.
async fn show(server: &Server, channel: Channel<Msg>, connection: Connection, said: Vec<u8>, mut note: Note) {
    note.begin(&server.gateway).await;
    let id = channel.id();
    // What comes in is handed to us by another way.
    let (unread, channel) = channel.split();
    // One that is kept and not read would hold up the whole connection, a hundred messages later.
    drop(unread);
    let end = match server.confirmed.take(id).await {
        Some(outlet) => {
            let count = said.len();
            if channel.data_bytes(Bytes::from(said)).await.is_ok() {
                note.counts.went(count);
            }
            Ok(forward::converse(&channel, outlet, connection, &note.counts).await)
        }
        None => {
            connection.farewell.reset().await;
            Err(refused())
        }
    };
    tell(note, server, end).await;
}

impl Showing {
    /// What a program says first, with the client's authorization in the place of ours, and whatever has come behind it.
    async fn beginning(&self, output: &mut Output) -> Result<Vec<u8>, String> {
        let mut come = Vec::new();
        loop {
            match Setup::read(&come) {
                Err(error) => return Err(error.to_string()),
                Ok(Some((setup, _))) if !setup.shows(&self.cookie) => {
                    return Err("another cookie was shown".to_owned());
                }
                Ok(Some((setup, length))) => {
                    let mut said = setup.with(self.display.name.as_bytes(), &self.display.data);
                    said.extend_from_slice(come.get(length..).unwrap_or_default());
                    return Ok(said);
                }
                Ok(None) => {}
            }
            // What comes is bounded by what was granted.
            come.extend(output.read().await.ok_or("it went again")?);
        }
    }
}

fn place(server: &Server, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // Those who listen are among them.
    let has_room = server.forwards.len() < FORWARDS;
    Arc::clone(places).try_acquire_owned().ok().filter(|_| has_room)
}

fn refused() -> String {
    "the client does not take it".to_owned()
}

async fn tell(note: Note, server: &Server, end: Result<ForwardEnd, String>) {
    let (end, reason) = match end {
        Ok(end) => (end, None),
        Err(reason) => (ForwardEnd::Refused, Some(reason)),
    };
    note.tell(&server.gateway, end, reason).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authorization_is_hexadecimal() {
        let data =
            |text: &str| Display::new(false, "MIT-MAGIC-COOKIE-1", text, 0).map(|display| display.data);
        assert_eq!(data("00fFa1").as_deref(), Some(&vec![0, 255, 0xa1]));
        assert_eq!(data("").as_deref(), Some(&Vec::new()));
        for text in ["0", "0x", "+1", "zz", "é0", &"00".repeat(257)] {
            assert_eq!(data(text), None, "{text}");
        }
        assert!(Display::new(true, &"N".repeat(65), "00", 0).is_none());
    }

    /// Fails when something is lent that was not asked for, or is not allowed.
    #[test]
    fn what_is_asked_for_and_allowed_is_lent() {
        let display = || Display::new(false, "MIT-MAGIC-COOKIE-1", "00", 3);
        let both = Asked { agent: true, display: display() };
        let lent = Lent::Display { screen: 3, cookie: [1; 16] };
        assert_eq!(both.loans(true, Some([1; 16])), [Lent::Agent, lent.clone()]);
        assert_eq!(both.loans(false, Some([1; 16])), [lent]);
        assert_eq!(both.loans(true, None), [Lent::Agent]);
        assert_eq!(Asked::default().loans(true, Some([1; 16])), []);
    }
}
