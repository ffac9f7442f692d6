//! What becomes of instances that logins have made: those whose time is over, and those whose last guest has gone, are
//! removed. What is to be removed says so itself ([`super::marks`]), so that a gateway that comes later does it too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portway_config::files::{self, Trust};
use portway_incus::Client;
use portway_sys::random;
use tokio::sync::{Notify, broadcast};

use super::marks::{Marks, now};
use super::turns::{Place, place};
use super::{Broker, Grant, judge, lock, make};
use crate::audit::{Event, bounded};

/// How long after its last guest an instance is still there: the next command of a script comes that soon.
const LINGER: Duration = Duration::from_secs(2);

/// How often a server with instances of ours is looked at, and again when something could not be removed.
const ROUND: Duration = Duration::from_secs(600);
const AGAIN: Duration = Duration::from_secs(60);

/// How long before the end of an instance's time those in it are told.
const WARNING: Duration = Duration::from_secs(60);

/// How long they are waited for at that end, and how often they are counted meanwhile.
const LEAVE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

/// What waits for one connection to be told.
const NEWS: usize = 64;

/// Longest list of servers.
const LIST_BYTES: u64 = 64 << 10;

/// Who is where, and which servers have instances of ours.
#[derive(Debug)]
pub(super) struct House {
    guests: Mutex<BTreeMap<Place, usize>>,
    remotes: Mutex<BTreeSet<String>>,
    changed: Notify,
    /// What those in an instance are to know.
    news: broadcast::Sender<News>,
    /// Of which times those in an instance were told that they are soon over.
    warned: Mutex<BTreeMap<Place, Duration>>,
    /// Those servers, for the next gateway.
    list: PathBuf,
    /// What instances say that this gateway has made. It is the installation's, and not a key that others may have too:
    /// who is in an instance of another gateway's is not known here.
    pub(super) gateway: String,
}

/// What those in an instance are told.
#[derive(Debug, Clone)]
pub(super) struct News {
    place: Place,
    /// A line for people.
    pub(super) text: String,
    /// Their connections have to end.
    pub(super) is_end: bool,
}

impl News {
    /// Whether somebody is there.
    pub(super) fn is_for(&self, grant: &Grant) -> bool {
        !grant.instance.is_empty() && self.place == place(grant)
    }
}

/// Why an instance is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Expired,
    Left,
}

impl House {
    /// Knows the servers that the gateway before this one has noted. Where there was none, none is asked.
    ///
    /// # Errors
    /// The name of this installation can neither be read nor made.
    pub(super) fn open(list: PathBuf) -> std::io::Result<Self> {
        let remotes = read(&list);
        let gateway = installation(&list.with_extension("id"))?;
        Ok(Self {
            guests: Mutex::default(),
            remotes: Mutex::new(remotes),
            changed: Notify::new(),
            news: broadcast::Sender::new(NEWS),
            warned: Mutex::default(),
            list,
            gateway,
        })
    }

    /// What is told from here on.
    pub(super) fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    fn tell(&self, place: &Place, text: String, is_end: bool) {
        // There may be nobody at all.
        let _unheard = self.news.send(News { place: place.clone(), text, is_end });
    }

    /// Tells those in an instance that so much time is left, once, when it is little.
    fn warn(&self, place: &Place, expires: Duration, left: Duration) {
        if left > WARNING || lock(&self.warned).insert(place.clone(), expires) == Some(expires) {
            return;
        }
        let seconds = left.as_secs().max(1);
        let name = &place.2;
        self.tell(place, format!("the time of {name} is over in {seconds} s, and it is removed then"), false);
    }

    /// Somebody is in an instance.
    pub(super) fn enter(&self, grant: &Grant) {
        // The shell of commands is nowhere, as is a login that is not understood.
        if grant.instance.is_empty() {
            return;
        }
        *lock(&self.guests).entry(place(grant)).or_default() += 1;
    }

    /// Somebody has gone. Whether that one was the last.
    fn leave(&self, grant: &Grant) -> bool {
        let mut guests = lock(&self.guests);
        let place = place(grant);
        let Some(count) = guests.get_mut(&place) else { return false };
        *count = count.saturating_sub(1);
        let is_last = *count == 0;
        if is_last {
            guests.remove(&place);
        }
        is_last
    }

    /// Whether somebody is in an instance of that name, by whichever name of its server: one may have several.
    fn has_guests(&self, place: &Place) -> bool {
        self.count(place) > 0
    }

    /// Sessions in an instance besides one.
    pub(super) fn others(&self, place: &Place) -> usize {
        self.count(place).saturating_sub(1)
    }

    fn count(&self, (_, project, name): &Place) -> usize {
        let guests = lock(&self.guests);
        let there = guests.iter().filter(|((_, of, guest), _)| of == project && guest == name);
        there.map(|(_, count)| count).sum()
    }

    /// An instance is about to be made on a server.
    pub(super) fn note(&self, remote: &str) {
        let list = {
            let mut remotes = lock(&self.remotes);
            remotes.insert(remote.to_owned()).then(|| remotes.clone())
        };
        if let Some(list) = list
            && let Err(error) = write(&self.list, &list)
        {
            tracing::warn!(%error, path = %self.list.display(), "servers of instances are not noted");
        }
        self.changed.notify_one();
    }
}

/// The name of this installation, made when there is none.
fn installation(path: &Path) -> std::io::Result<String> {
    let read = || {
        let text = files::read(path, 256, Trust::Own).and_then(|bytes| files::text(path, bytes)).ok()?;
        let name = text.trim().to_owned();
        (name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(name)
    };
    if let Some(name) = read() {
        return Ok(name);
    }
    let name = format!("{:032x}", u128::from_ne_bytes(random::bytes()?));
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    replace(path, &format!("{name}\n"))?;
    Ok(name)
}

fn read(path: &Path) -> BTreeSet<String> {
    let text = files::read(path, LIST_BYTES, Trust::Own).and_then(|bytes| files::text(path, bytes));
    text.unwrap_or_default().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn write(path: &Path, remotes: &BTreeSet<String>) -> std::io::Result<()> {
    let lines: String = remotes.iter().map(|remote| format!("{remote}\n")).collect();
    replace(path, &lines)
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, path)
}

impl Broker {
    /// Somebody has gone from an instance.
    pub(super) fn depart(self: &Arc<Self>, grant: &Grant) {
        if !self.house.leave(grant) {
            return;
        }
        let (broker, place) = (Arc::clone(self), place(grant));
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            broker.look_at(&place).await;
        });
    }

    /// Removes what is to go, for ever.
    pub(super) async fn keep_house(self: Arc<Self>) {
        loop {
            let remotes = lock(&self.house.remotes).clone();
            let mut next = ROUND;
            for remote in remotes {
                next = next.min(self.round(&remote).await);
            }
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = self.house.changed.notified() => {}
            }
        }
    }

    /// Looks at all instances of ours on a server; when to look again.
    async fn round(&self, remote: &str) -> Duration {
        let Ok(client) = self.servers.client(remote) else { return ROUND };
        let listed = match client.list_everywhere().await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::debug!(error = judge::why(&error), remote, "instances are not looked at");
                return AGAIN;
            }
        };
        let mut next = ROUND;
        for definition in listed.into_iter().map(|listed| listed.definition) {
            let Some(marks) = Marks::read(&definition, &self.house.gateway) else { continue };
            let place = (remote.to_owned(), definition.project, definition.name);
            let is_late = self.why(&place, &marks).is_some();
            if is_late && !self.look_at(&place).await {
                next = next.min(AGAIN);
            } else if let Some(expires) = marks.expires.filter(|_| !is_late) {
                let left = expires.saturating_sub(now());
                self.house.warn(&place, expires, left);
                // A moment later than too early.
                next = next.min(left.checked_sub(WARNING).unwrap_or(left) + Duration::from_millis(50));
            }
        }
        lock(&self.house.warned).retain(|_, expires| *expires > now());
        next
    }

    fn why(&self, place: &Place, marks: &Marks) -> Option<Why> {
        match marks.expires {
            Some(expires) if expires <= now() => Some(Why::Expired),
            _ if marks.leaves && !self.house.has_guests(place) => Some(Why::Left),
            _ => None,
        }
    }

    /// Removes an instance if it is one that is to go. Whether there is nothing left to be done.
    async fn look_at(&self, place: &Place) -> bool {
        let Ok(client) = self.servers.client(&place.0) else { return true };
        // Whoever makes it now is waited for, and waits.
        let _turn = self.makers.turns.take(place).await;
        let found = match client.listing(&place.1, &place.2).await {
            Ok(Some(found)) => found,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let Some(marks) = Marks::read(&found.definition, &self.house.gateway) else { return true };
        let Some(why) = self.why(place, &marks) else { return true };
        if make::is_protected(&found) {
            let (remote, project, instance) = place;
            tracing::info!(remote, project, instance, "protected from deletion, and left alone");
            return true;
        }
        self.remove(&client, place, &marks, why).await
    }

    async fn remove(&self, client: &Client, place: &Place, marks: &Marks, why: Why) -> bool {
        if why == Why::Expired {
            self.house.tell(place, format!("the time of {} is over, and it is removed", place.2), true);
            // Who is told by the end of his program does not learn why.
            let left = async {
                while self.house.has_guests(place) {
                    tokio::time::sleep(LOOK).await;
                }
            };
            let _all_or_enough = tokio::time::timeout(LEAVE, left).await;
        }
        let failed = match make::remove(client, place).await {
            Ok(()) => None,
            // A removal that was begun before, of a gateway that has ended, may have been faster.
            Err(_) if matches!(client.listing(&place.1, &place.2).await, Ok(None)) => None,
            Err(error) => Some(bounded(&judge::why(&error))),
        };
        let (remote, project, instance) = (place.0.as_str(), place.1.as_str(), place.2.as_str());
        let why = match why {
            Why::Expired => "expired",
            Why::Left => "disconnected",
        };
        match &failed {
            None => tracing::info!(remote, project, instance, why, "instance removed"),
            Some(error) => tracing::warn!(remote, project, instance, why, error, "instance not removed"),
        }
        let is_gone = failed.is_none();
        let owner = marks.owner.as_str();
        let event = Event::InstanceRemoved { owner, remote, project, instance, why, failed };
        self.audit.write("-", "-", &event);
        is_gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when one of two goes and the place counts as left, or a server is forgotten by the next gateway.
    #[test]
    fn the_last_one_leaves() {
        let dir = tempfile::tempdir().expect("a folder");
        let list = dir.path().join("made");
        let open = || House::open(list.clone()).expect("a house");
        let house = open();
        let grant = Grant::of_root();
        house.enter(&grant);
        house.enter(&grant);
        assert!(!house.leave(&grant) && house.has_guests(&place(&grant)));
        assert!(house.leave(&grant) && !house.has_guests(&place(&grant)));
        assert!(!house.leave(&grant), "nobody leaves twice");
        assert!(lock(&house.remotes).is_empty());
        house.note("far");
        house.note("local");
        assert_eq!(open().gateway, house.gateway);
        assert_ne!(House::open(dir.path().join("other")).expect("a house").gateway, house.gateway);
        let names = |house: &House| lock(&house.remotes).iter().cloned().collect::<Vec<_>>();
        assert_eq!(names(&open()), ["far", "local"]);
    }
}
