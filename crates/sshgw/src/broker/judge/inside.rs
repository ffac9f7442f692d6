//! Users inside instances who prove to be themselves there: by a key of theirs (`-I`) or their password (`-P`).
//!
//! This alone asks a server before anybody has logged in. What is asked is read once for all questions of a while, a few
//! at a time; whoever asks waits as long, whether there is such an instance or not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portway_incus::{Client, FileContent, InstanceFile};
use tokio::sync::{OnceCell, Semaphore};

use super::super::account;
use super::super::lock;
use super::super::servers::Servers;
use crate::auth::accounts::{self, Shadow, User};
use crate::auth::authorized_keys::{AuthorizedKeys, FILE_MAX_BYTES};
use crate::policy::Target;

/// How long what was read counts.
const KEPT: Duration = Duration::from_secs(10);

/// Most users of instances that are remembered.
const KEPT_MAX: usize = 256;

/// Instances of one server that are read at the same time: one that does not answer keeps nobody from the others.
const READING: usize = 4;

/// How long a question takes at least: ten times what reading the files takes on an idle machine.
const LEAST: Duration = Duration::from_millis(100);

/// The same of a server elsewhere, where each file takes a few ways there and back.
const LEAST_FAR: Duration = Duration::from_secs(1);

/// And at most, with its turn.
const MOST: Duration = Duration::from_secs(10);

/// A user inside an instance, and what he proves himself by.
#[derive(Debug)]
pub(super) struct InsideUser {
    /// His keys; none where others could have written them.
    pub(super) keys: AuthorizedKeys,
    /// His password.
    pub(super) shadow: Option<Shadow>,
}

/// Where, and who: server, project, instance, user.
type Key = [String; 4];
type Cell = Arc<OnceCell<Option<Arc<InsideUser>>>>;

/// Reads users of instances.
#[derive(Debug, Default)]
pub(super) struct Inside {
    known: Mutex<HashMap<Key, (Instant, Cell)>>,
    /// Of each server that there is: no more than the configuration names.
    reading: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Inside {
    /// The user of a place; `None` when he, the instance, the project or an answer is not there.
    pub(super) async fn find(&self, servers: &Servers, place: &Target) -> Option<Arc<InsideUser>> {
        let is_far = servers.is_far(&place.remote);
        let least = tokio::time::sleep(if is_far { LEAST_FAR } else { LEAST });
        let cell = self.cell(place);
        let reading = cell.get_or_init(|| async {
            let client = servers.client(&place.remote).ok()?;
            let turns = self.turns(&place.remote);
            let _turn = turns.acquire().await.ok();
            Files { client: &client, place }.user().await.map(Arc::new)
        });
        let found = tokio::time::timeout(MOST, reading).await.ok().and_then(Clone::clone);
        least.await;
        found
    }

    fn turns(&self, remote: &str) -> Arc<Semaphore> {
        let mut reading = lock(&self.reading);
        let turns = reading.entry(remote.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(READING)));
        Arc::clone(turns)
    }

    fn cell(&self, place: &Target) -> Cell {
        let now = Instant::now();
        let mut known = lock(&self.known);
        let Target { remote, project, instance, instance_user } = place.clone();
        let key = [remote, project, instance, instance_user];
        if let Some((until, cell)) = known.get(&key)
            && *until > now
        {
            return Arc::clone(cell);
        }
        if known.len() >= KEPT_MAX {
            known.retain(|_, (until, _)| *until > now);
        }
        let cell = Cell::default();
        if known.len() < KEPT_MAX {
            known.insert(key, (now + KEPT, Arc::clone(&cell)));
        }
        cell
    }
}

/// Files of an instance.
struct Files<'a> {
    client: &'a Client,
    place: &'a Target,
}

impl Files<'_> {
    async fn user(&self) -> Option<InsideUser> {
        let passwd = self.text("/etc/passwd", accounts::FILE_MAX_BYTES).await?;
        let user = accounts::find_user(&passwd, &self.place.instance_user).found?;
        let shadow = self.text("/etc/shadow", accounts::FILE_MAX_BYTES).await;
        let shadow = shadow.and_then(|shadow| accounts::find_shadow(&shadow, &user.name).found);
        let keys = self.keys(&user).await.unwrap_or_default();
        Some(InsideUser { keys, shadow })
    }

    /// His keys, where nobody else could have written them: as `StrictModes` has it, from his home on.
    async fn keys(&self, user: &User) -> Option<AuthorizedKeys> {
        if !user.home.starts_with('/') {
            return None;
        }
        let home = user.home.trim_end_matches('/');
        let top = if home.is_empty() { "/" } else { home };
        let mut list = None;
        for path in [top.to_owned(), format!("{home}/.ssh"), format!("{home}/.ssh/authorized_keys")] {
            let found = self.file(&path, FILE_MAX_BYTES).await?;
            if found.mode & 0o022 != 0 || (found.uid != 0 && found.uid != user.uid) {
                return None;
            }
            if let FileContent::Plain(bytes) = found.content {
                list = Some(AuthorizedKeys::parse(&bytes));
            }
        }
        list
    }

    async fn text(&self, path: &str, limit_bytes: usize) -> Option<bytes::Bytes> {
        match self.file(path, limit_bytes).await?.content {
            FileContent::Plain(bytes) => Some(bytes),
            FileContent::Link(_) | FileContent::Directory => None,
        }
    }

    async fn file(&self, path: &str, limit_bytes: usize) -> Option<InstanceFile> {
        let Target { project, instance, .. } = self.place;
        account::read(self.client, project, instance, path, limit_bytes).await.ok().flatten()
    }
}
