//! Where a server is, and whether its events come in.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::{Duration, Instant};

use portway_incus::{Client, Holder};
use portway_model::Provider;
use tokio::sync::{Mutex, Notify};

use crate::rivals::{Rival, Rivals};

/// How long what was read of rivals is good enough, when no event came since. The list of instances takes a
/// server half a millisecond for each that runs.
const RIVALS_FRESH: Duration = Duration::from_secs(2);

/// How long it is good enough whose addresses are whose. The server looks into each instance for it.
const HOLDERS_FRESH: Duration = Duration::from_secs(3);

/// A server of instances, there or not.
#[derive(Debug)]
pub(crate) struct Endpoint {
    provider: Provider,
    /// The socket that the settings name.
    configured: Option<PathBuf>,
    /// The stream of events is open: a change is told at once.
    tells: AtomicBool,
    /// Held while a device moves to the server or from it.
    pub(crate) moving: Mutex<()>,
    /// Something has happened there, for who asks instances for their health.
    pub(crate) news: Notify,
    /// How many events have come.
    events: AtomicU64,
    /// When the rivals were read last, and how many events had come before.
    read: Mutex<Option<(Instant, u64)>>,
    rivals: PlainMutex<Arc<Vec<Rival>>>,
    /// When it was read last whose addresses are whose, and what was read.
    holders: Mutex<Option<(Instant, Arc<Vec<Holder>>)>>,
}

impl Endpoint {
    /// The server of `provider`, at the socket the settings name if they do.
    pub(crate) fn new(provider: Provider, configured: Option<PathBuf>) -> Endpoint {
        Endpoint {
            provider,
            configured,
            tells: AtomicBool::new(false),
            moving: Mutex::default(),
            news: Notify::new(),
            events: AtomicU64::new(0),
            read: Mutex::default(),
            rivals: PlainMutex::default(),
            holders: Mutex::default(),
        }
    }

    /// Whose server it is.
    pub(crate) fn provider(&self) -> Provider {
        self.provider
    }

    /// A client of it; `None` when no socket is to be found. Looked for at each call: the server may be
    /// installed or started after us.
    pub(crate) fn client(&self) -> Option<Client> {
        let env = |name: &str| std::env::var(name).ok();
        let discovered = || match self.provider {
            Provider::Lxd => Client::discover_lxd(env),
            Provider::Incus | Provider::Netns | Provider::Pid => Client::discover(env),
        };
        self.configured.clone().or_else(discovered).map(Client::new)
    }

    /// Whether its events come in.
    pub(crate) fn tells(&self) -> bool {
        self.tells.load(Ordering::Relaxed)
    }

    /// Takes note of whether its events come in.
    pub(crate) fn set_tells(&self, tells: bool) {
        self.tells.store(tells, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// Takes note of an event, or of a change of our own: what was read before may be old.
    pub(crate) fn count_event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// Whose addresses are whose, some seconds ago at most.
    ///
    /// # Errors
    /// When the server does not say.
    pub(crate) async fn holders(&self, client: &Client) -> portway_incus::Result<Arc<Vec<Holder>>> {
        let mut holders = self.holders.lock().await;
        if let Some((at, found)) = holders.as_ref()
            && at.elapsed() < HOLDERS_FRESH
        {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(client.holders().await?);
        *holders = Some((Instant::now(), Arc::clone(&found)));
        Ok(found)
    }

    /// The rivals as they were read last.
    pub(crate) fn rivals(&self) -> Arc<Vec<Rival>> {
        Arc::clone(&self.rivals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The rivals at this moment, or a moment ago.
    ///
    /// # Errors
    /// When the server does not say.
    pub(crate) async fn read_rivals(&self) -> portway_incus::Result<Rivals> {
        let mut read = self.read.lock().await;
        let events = self.events.load(Ordering::Relaxed);
        if read.is_some_and(|(at, before)| before == events && at.elapsed() < RIVALS_FRESH) {
            return Ok(Rivals { present: self.rivals(), gone: Vec::new() });
        }
        let Some(client) = self.client() else { return Ok(Rivals::default()) };
        let found = client.led_proxies().await?;
        let present: Vec<Rival> = found.iter().filter_map(|proxy| Rival::of(self.provider, proxy)).collect();
        let present = Arc::new(present);
        let mut known = self.rivals.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, Arc::clone(&present));
        drop(known);
        *read = Some((Instant::now(), events));
        let gone = before.iter().filter(|rival| !present.contains(rival)).cloned().collect();
        Ok(Rivals { present, gone })
    }
}
