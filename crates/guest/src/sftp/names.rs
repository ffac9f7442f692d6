//! Names of users and groups, from the instance's own files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Most that is read of either file, bytes.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// Longest name that counts: the longest a login has (`LOGIN_NAME_MAX`).
const NAME_MAX_BYTES: usize = 256;

/// Both lists, each read when it is asked for first.
#[derive(Default)]
pub(super) struct Names {
    users: Option<BTreeMap<u32, Vec<u8>>>,
    groups: Option<BTreeMap<u32, Vec<u8>>>,
}

impl Names {
    /// The name of a user; empty when nobody has the id.
    pub(super) fn user(&mut self, uid: u32) -> Vec<u8> {
        look(&mut self.users, PASSWD, uid)
    }

    /// The name of a group; empty when none has the id.
    pub(super) fn group(&mut self, gid: u32) -> Vec<u8> {
        look(&mut self.groups, GROUP, gid)
    }
}

fn look(list: &mut Option<BTreeMap<u32, Vec<u8>>>, path: &str, id: u32) -> Vec<u8> {
    let list = list.get_or_insert_with(|| by_id(&read(path)));
    list.get(&id).cloned().unwrap_or_default()
}

/// Both files have the name first and the id third; of two lines with one id the first holds.
fn by_id(text: &[u8]) -> BTreeMap<u32, Vec<u8>> {
    let mut names = BTreeMap::new();
    for fields in lines(text) {
        let id = fields.get(2).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        if let (Some(id), Some(name)) = (id, fields.first().filter(|name| name.len() <= NAME_MAX_BYTES)) {
            names.entry(id).or_insert_with(|| name.to_vec());
        }
    }
    names
}

/// Where a user is at home, by the list of users.
pub(super) fn home_of(user: &[u8]) -> Option<Vec<u8>> {
    let text = read(PASSWD);
    let entry = lines(&text).find(|fields| fields.first() == Some(&user))?;
    entry.get(5).filter(|home| !home.is_empty()).map(|home| home.to_vec())
}

fn lines(text: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    text.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':').collect())
}

/// A file that is not there, or not to be read, holds nothing.
fn read(path: &str) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = File::open(path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut text));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_lines_name_nobody() {
        let names =
            by_id(b"root:x:0:0\n\n:::\nx\nbob:x:1000\nagain:x:1000\nbad:x:-1\nbig:x:4294967296\n\xff:x:7:\n");
        assert!(by_id(format!("{}:x:5\n", "x".repeat(257)).as_bytes()).is_empty());
        let found: Vec<(u32, &[u8])> = names.iter().map(|(id, name)| (*id, &name[..])).collect();
        assert_eq!(found, [(0, &b"root"[..]), (7, b"\xff"), (1000, b"bob")]);
    }
}
