//! Which networks run, by what they are known by: two processes with one key would take each other's packets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::locked;

/// Public keys, each with the network that has it.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims(Arc<Mutex<BTreeMap<String, String>>>);

impl Claims {
    /// Takes a key, if nobody else has it.
    ///
    /// # Errors
    /// Who has.
    pub(super) fn take(&self, key: &str, name: &str) -> Result<(), String> {
        let mut claims = locked(&self.0);
        let owner = claims.entry(key.to_owned()).or_insert_with(|| name.to_owned());
        if owner == name { Ok(()) } else { Err(owner.clone()) }
    }

    /// Gives up one key, if it is this network's.
    pub(super) fn give_up(&self, key: &str, name: &str) {
        locked(&self.0).retain(|other, owner| other != key || owner != name);
    }

    /// Gives up all that a network has.
    pub(super) fn release(&self, name: &str) {
        locked(&self.0).retain(|_, owner| owner != name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: two networks have one key, or one that has ended goes on having it.
    #[test]
    fn a_key_is_had_once() {
        let claims = Claims::default();
        assert_eq!(claims.take("k", "a"), Ok(()));
        assert_eq!(claims.take("k", "a"), Ok(()));
        assert_eq!(claims.take("l", "a"), Ok(()));
        claims.give_up("l", "b");
        assert_eq!(claims.take("l", "b"), Err("a".to_owned()));
        claims.give_up("l", "a");
        assert_eq!((claims.take("l", "b"), claims.take("k", "b")), (Ok(()), Err("a".to_owned())));
        claims.release("a");
        assert_eq!(claims.take("k", "b"), Ok(()));
    }
}
