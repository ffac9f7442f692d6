//! Paths of a client for a server that knows no home: what does not begin at the root begins there.

use super::request::Fields;

const EXTENDED: u8 = 200;

/// What of a packet's fields are paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paths {
    /// The first field.
    First,
    /// The second: a link's target stays as it is.
    Second,
    /// The first two.
    Both,
}

/// A packet of a client, without its length, whose relative paths begin at `home`; `None` when it has none. Whatever is
/// malformed stays as it is: the server says so.
#[must_use]
pub fn from_home(packet: &[u8], home: &[u8]) -> Option<Vec<u8>> {
    let (kind, rest) = packet.split_first()?;
    let mut fields = Fields(rest);
    // Its number.
    fields.u32()?;
    let paths = match kind {
        // open, lstat, setstat, opendir, remove, mkdir, rmdir, realpath, stat, readlink
        3 | 7 | 9 | 11 | 13..=17 | 19 => Paths::First,
        18 => Paths::Both,
        20 => Paths::Second,
        &EXTENDED => match fields.bytes()? {
            b"posix-rename@openssh.com" | b"hardlink@openssh.com" => Paths::Both,
            b"statvfs@openssh.com" | b"lsetstat@openssh.com" | b"expand-path@openssh.com" => Paths::First,
            _ => return None,
        },
        _ => return None,
    };
    let head = packet.len() - fields.0.len();
    let one = fields.bytes()?;
    let two = if paths == Paths::First { None } else { Some(fields.bytes()?) };
    let first = if paths == Paths::Second { None } else { at_home(one, home) };
    let second = two.and_then(|path| at_home(path, home));
    if first.is_none() && second.is_none() {
        return None;
    }
    let mut changed = packet.get(..head)?.to_vec();
    let before = [Some((first, one)), two.map(|two| (second, two))];
    for (path, before) in before.into_iter().flatten() {
        let path = path.as_deref().unwrap_or(before);
        changed.extend_from_slice(&u32::try_from(path.len()).ok()?.to_be_bytes());
        changed.extend_from_slice(path);
    }
    changed.extend_from_slice(fields.0);
    Some(changed)
}

/// A path below `home`, if it is relative. An empty one is the home.
fn at_home(path: &[u8], home: &[u8]) -> Option<Vec<u8>> {
    match path {
        [b'/', ..] => None,
        b"" | b"." => Some(home.to_vec()),
        path => Some([home.strip_suffix(b"/").unwrap_or(home), b"/", path].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sftp::{Operation, Request};

    fn packet(kind: u8, fields: &[&[u8]], rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![kind, 0, 0, 0, 7];
        for field in fields {
            packet.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
            packet.extend_from_slice(field);
        }
        packet.extend_from_slice(rest);
        packet
    }

    fn changed(kind: u8, fields: &[&[u8]], rest: &[u8], expected: &[&[u8]]) {
        let found = from_home(&packet(kind, fields, rest), b"/root");
        assert_eq!(found, Some(packet(kind, expected, rest)), "{kind} {fields:?}");
    }

    /// Fails when a relative path begins elsewhere, or what follows it is lost.
    #[test]
    fn what_is_relative_begins_at_home() {
        changed(16, &[b"."], b"", &[b"/root"]);
        changed(16, &[b""], b"", &[b"/root"]);
        changed(3, &[b"a/../b"], b"\0\0\0\x1arest", &[b"/root/a/../b"]);
        changed(18, &[b"a", b"/b"], b"", &[b"/root/a", b"/b"]);
        changed(18, &[b"/a", b"b"], b"", &[b"/a", b"/root/b"]);
        changed(20, &[b"../target", b"link"], b"", &[b"../target", b"/root/link"]);
        changed(
            200,
            &[b"posix-rename@openssh.com", b"a", b"b"],
            b"",
            &[b"posix-rename@openssh.com", b"/root/a", b"/root/b"],
        );
        changed(200, &[b"statvfs@openssh.com", b"."], b"", &[b"statvfs@openssh.com", b"/root"]);
        assert_eq!(from_home(&packet(17, &[b"x"], b""), b"/"), Some(packet(17, &[b"/x"], b"")));
    }

    /// Fails when a handle, a link's target or a packet that is none is taken for a path.
    #[test]
    fn the_rest_stays_as_it_is() {
        for (kind, fields) in [
            (4, &[&b"handle"[..]][..]),
            (6, &[b"handle"]),
            (17, &[b"/x"]),
            (20, &[b"target", b"/link"]),
            (200, &[b"fsync@openssh.com", b"handle"]),
            (200, &[b"unknown", b"x"]),
            (18, &[b"one"]),
            (99, &[b"x"]),
        ] {
            assert_eq!(from_home(&packet(kind, fields, b""), b"/root"), None, "{kind}");
        }
        for short in [&b""[..], b"\x03", b"\x03\0\0\0\x01\0\0\0\x05abc", b"\x03\0\0\0\x01\xff\xff\xff\xff"] {
            assert_eq!(from_home(short, b"/root"), None);
        }
    }

    #[test]
    fn what_comes_out_is_a_request() {
        let open = packet(3, &[b"name"], b"\0\0\0\x1a\0\0\0\0");
        let open = from_home(&open, b"/root").expect("changed");
        let Ok(Request::Do { id: 7, operation: Operation::Open { path, .. } }) = Request::read(&open) else {
            panic!("no request")
        };
        assert_eq!(path, b"/root/name");
    }
}
