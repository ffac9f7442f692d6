//! Names of unix datagram clients, each kept once for as long as a flow has it, so that a flow's key stays small.

use std::collections::HashMap;

use rustix::net::{SocketAddrAny, SocketAddrUnix};

use crate::worker::slab::{Key, Slab};

/// Longest name, bytes: a leading zero for an abstract one, and 108 of `sun_path`.
const NAME_BYTES: usize = 109;

/// A name as the kernel tells it: a path, or a zero and an abstract name.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerName {
    bytes: [u8; NAME_BYTES],
    length: usize,
}

impl PeerName {
    /// The name of a sender; `None` when it has none.
    pub(super) fn of(sender: Option<SocketAddrAny>) -> Option<PeerName> {
        let address = SocketAddrUnix::try_from(sender?).ok()?;
        let mut name = PeerName { bytes: [0; NAME_BYTES], length: 0 };
        if let Some(text) = address.abstract_name() {
            if text.is_empty() {
                return None;
            }
            name.put(&[0]);
            name.put(text);
        } else {
            name.put(address.path_bytes()?);
        }
        Some(name)
    }

    fn put(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(part);
            self.length = end;
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Entry {
    name: Box<[u8]>,
    flow_count: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Names {
    entries: Slab<Entry>,
    by_name: HashMap<Box<[u8]>, Key>,
}

impl Names {
    pub(super) fn new() -> Names {
        Names { entries: Slab::new(), by_name: HashMap::new() }
    }

    /// The number of `name`, which it keeps until it is released as often as it was held.
    pub(super) fn hold_name(&mut self, name: &[u8]) -> Key {
        let key = self.number(name);
        self.hold(key);
        key
    }

    fn number(&mut self, name: &[u8]) -> Key {
        if let Some(key) = self.by_name.get(name) {
            return *key;
        }
        let key = self.entries.insert(Entry { name: name.into(), flow_count: 0 });
        self.by_name.insert(name.into(), key);
        key
    }

    /// The name behind a number.
    pub(super) fn name(&self, key: Key) -> Option<&[u8]> {
        self.entries.get(key).map(|entry| &*entry.name)
    }

    /// A flow has this name.
    pub(super) fn hold(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.flow_count += 1;
        }
    }

    /// A flow has it no longer.
    pub(super) fn release(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.flow_count = entry.flow_count.saturating_sub(1);
        }
        self.forget_unused(key);
    }

    /// Lets go of a name that no flow has.
    fn forget_unused(&mut self, key: Key) {
        if self.entries.get(key).is_some_and(|entry| entry.flow_count == 0)
            && let Some(entry) = self.entries.remove(key)
        {
            self.by_name.remove(&entry.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lives_as_long_as_its_flows() {
        let mut names = Names::new();
        let key = names.number(b"/run/a");
        names.hold(key);
        names.hold(names.by_name[&b"/run/a"[..]]);
        assert_eq!(names.number(b"/run/a"), key);
        assert_ne!(names.number(b"\0/run/a"), key);
        names.release(key);
        assert_eq!(names.name(key), Some(&b"/run/a"[..]));
        names.release(key);
        assert_eq!(names.name(key), None);
        assert_ne!(names.number(b"/run/a"), key);
    }

    #[test]
    fn names_of_every_kind() {
        let of =
            |address: SocketAddrUnix| PeerName::of(Some(address.into())).map(|name| name.as_bytes().to_vec());
        assert_eq!(of(SocketAddrUnix::new("/run/a").unwrap()), Some(b"/run/a".to_vec()));
        assert_eq!(of(SocketAddrUnix::new_abstract_name(b"a\0b").unwrap()), Some(b"\0a\0b".to_vec()));
        assert_eq!(of(SocketAddrUnix::new_unnamed()), None);
        assert_eq!(PeerName::of(None).map(|name| name.length), None);
        let longest = [b'x'; 107];
        assert_eq!(
            of(SocketAddrUnix::new_abstract_name(&longest).unwrap()).map(|name| name.len()),
            Some(108)
        );
    }
}
