//! Users of the host, and whether their groups may use the gateway at all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::super::lock;
use super::Reason;
use crate::auth::nss;

/// How long an answer of the name service counts: for the questions of one login, and those of the next few.
const KEPT: Duration = Duration::from_secs(10);

/// Most answers that are kept.
const KEPT_MAX: usize = 512;

/// Programs that ask the name service at the same time.
const ASKING: usize = 4;

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostUser {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) home: String,
    /// Names.
    pub(super) groups: Vec<String>,
}

/// An answer, and until when it counts.
type Known = (Instant, Option<Arc<HostUser>>);

/// Asks the name service, and remembers its answers for a while.
#[derive(Debug)]
pub(super) struct People {
    known: Mutex<HashMap<String, Known>>,
    asking: Semaphore,
}

impl Default for People {
    fn default() -> Self {
        Self { known: Mutex::default(), asking: Semaphore::new(ASKING) }
    }
}

impl People {
    /// The user of a name.
    pub(super) async fn find(&self, name: &str) -> Result<Arc<HostUser>, Reason> {
        let absent = || Reason::NoUser(name.to_owned());
        let now = Instant::now();
        if let Some((until, known)) = lock(&self.known).get(name)
            && *until > now
        {
            return known.clone().ok_or_else(absent);
        }
        let failed = |error: nss::NssError| Reason::Names(super::why(&error));
        // It is never closed.
        let _turn = self.asking.acquire().await.ok();
        let found = match nss::find_user(name).await.map_err(failed)? {
            None => None,
            Some(user) => {
                let groups = nss::groups_of(&user).await.map_err(failed)?;
                Some(Arc::new(HostUser { name: user.name, uid: user.uid, home: user.home, groups }))
            }
        };
        let mut known = lock(&self.known);
        if known.len() >= KEPT_MAX {
            known.retain(|_, (until, _)| *until > now);
        }
        if known.len() < KEPT_MAX {
            known.insert(name.to_owned(), (now + KEPT, found.clone()));
        }
        found.ok_or_else(absent)
    }
}

/// Whether one of a user's groups is among those that may come in. Root may, and without a list everybody.
pub(super) fn may_enter(user: &HostUser, groups: &[String]) -> bool {
    user.uid == 0 || groups.is_empty() || user.groups.iter().any(|group| groups.contains(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: somebody outside the groups comes in, or root does not.
    #[test]
    fn the_gate() {
        let user = |uid, groups: &[&str]| HostUser {
            name: "u".to_owned(),
            uid,
            home: "/".to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        let list = ["incus".to_owned(), "incus-admin".to_owned()];
        assert!(may_enter(&user(0, &[]), &list) && may_enter(&user(7, &["a", "incus"]), &list));
        assert!(!may_enter(&user(7, &["incusx", "a"]), &list) && !may_enter(&user(7, &[]), &list));
        assert!(may_enter(&user(7, &[]), &[]));
    }
}
