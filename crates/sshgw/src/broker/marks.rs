//! What an instance that a login has made says of itself, in its configuration. Only what is marked as this gateway's is
//! ever removed by itself.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portway_incus::Definition;

use super::turns::Place;
use crate::policy::Making;

/// Who had it made, by which gateway, and when, seconds after 1970.
const OWNER: &str = "user.portway.ssh.owner";
const GATEWAY: &str = "user.portway.ssh.gateway";
const MADE: &str = "user.portway.ssh.made";

/// As what it was made, `PROJECT/NAME`. A copy and a renamed one have the marks of the first, and are their owner's.
const PLACE: &str = "user.portway.ssh.place";

/// From when on it is removed, seconds after 1970. An operator may change it, or take it away.
const EXPIRES: &str = "user.portway.ssh.expires";

/// It is removed with the last who was in it.
const LEAVES: &str = "user.portway.ssh.delete-on-disconnect";

/// What is marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) owner: String,
    pub(super) made: Duration,
    pub(super) expires: Option<Duration>,
    pub(super) leaves: bool,
}

/// Time since 1970.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Marks {
    /// Of an instance that is made now.
    pub(super) fn new(owner: &str, making: &Making) -> Self {
        let made = now();
        let expires = making.ttl.map(|ttl| made.saturating_add(ttl));
        Self { owner: owner.to_owned(), made, expires, leaves: making.delete_on_disconnect }
    }

    /// As keys of the configuration.
    pub(super) fn keys(&self, gateway: &str, (_, project, name): &Place) -> BTreeMap<String, String> {
        let own = [
            (OWNER, Some(self.owner.clone())),
            (GATEWAY, Some(gateway.to_owned())),
            (PLACE, Some(format!("{project}/{name}"))),
            (MADE, Some(self.made.as_secs().to_string())),
            // Never earlier than it is said.
            (EXPIRES, self.expires.map(|at| at.as_millis().div_ceil(1000).to_string())),
            (LEAVES, self.leaves.then(|| "true".to_owned())),
        ];
        own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    /// Of an instance that this gateway has made; `None` of any other.
    pub(super) fn read(definition: &Definition, gateway: &str) -> Option<Self> {
        let place = format!("{}/{}", definition.project, definition.name);
        if definition.config(GATEWAY) != Some(gateway) || definition.config(PLACE) != Some(place.as_str()) {
            return None;
        }
        let seconds = |key: &str| Some(Duration::from_secs(definition.config(key)?.trim().parse().ok()?));
        Some(Self {
            owner: definition.config(OWNER)?.to_owned(),
            made: seconds(MADE)?,
            expires: seconds(EXPIRES),
            leaves: definition.config(LEAVES) == Some("true"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(config: &BTreeMap<String, String>) -> Definition {
        let value = json!({"name": "t1", "project": "default", "type": "container", "config": config});
        Definition::read(value).expect("a definition")
    }

    /// Fails when what somebody else has made, or has marked in part, counts as ours.
    #[test]
    fn only_what_is_marked_is_ours() {
        let making =
            Making { ttl: Some(Duration::from_secs(60)), delete_on_disconnect: true, ..Making::default() };
        let marks = Marks::new("ada", &making);
        let place = |name: &str| ("local".to_owned(), "default".to_owned(), name.to_owned());
        let keys = marks.keys("SHA256:one", &place("t1"));
        let read = Marks::read(&instance(&keys), "SHA256:one").expect("ours");
        assert_eq!((read.owner.as_str(), read.leaves), ("ada", true));
        assert!(read.expires.expect("a time") >= marks.expires.expect("a time"));
        assert_eq!(Marks::read(&instance(&keys), "SHA256:two"), None);
        assert_eq!(Marks::read(&instance(&BTreeMap::new()), "SHA256:one"), None);
        let copied = marks.keys("SHA256:one", &place("t0"));
        assert_eq!(Marks::read(&instance(&copied), "SHA256:one"), None, "a copy is its maker's");
        let mut changed = keys.clone();
        changed.insert(EXPIRES.to_owned(), "never".to_owned());
        assert_eq!(Marks::read(&instance(&changed), "SHA256:one").expect("ours").expires, None);
        let plain = Marks::new("ada", &Making::default()).keys("g", &place("t1"));
        let plain = Marks::read(&instance(&plain), "g").expect("ours");
        assert!(plain.expires.is_none() && !plain.leaves);
    }
}
