//! Plain lists, and what a binary one must not do. Lists of `ssh-keygen` are read in `tests/keygen`.

use super::*;
use crate::auth::key;

const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPTsJa29VQ2HJfPRSh8A/5Ie8TtuctMXe5dBfMVDLyj4";
const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx3YMIFgnd70p3JJZgX3kkLexkQnolhMLjyB1os15eP";

fn parse_key(line: &str) -> KeyData {
    let (kind, base64) = line.split_once(' ').unwrap();
    key::parse(kind, base64).unwrap()
}

/// Fails when: a key of a list is not revoked, or a line that cannot be read is passed over.
#[test]
fn a_plain_list() {
    let revoked = Revoked::parse(format!("# gone\r\n\r\n{A} ann\r\n").as_bytes()).unwrap();
    assert!(revoked.has_key(&parse_key(A)) && !revoked.has_key(&parse_key(B)));
    assert!(!Revoked::parse(b"").unwrap().has_key(&parse_key(A)));
    for text in ["nonsense", "ssh-ed25519", "SHA256:abc", "\u{fffd}"] {
        assert_eq!(Revoked::parse(format!("{A}\n{text}\n").as_bytes()).unwrap_err(), RevokedError::Line(2));
    }
}

/// A binary list of these sections.
fn list(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend([0; 24]);
    bytes.extend(string(b""));
    bytes.extend(string(b"comment"));
    for (kind, section) in sections {
        bytes.push(*kind);
        bytes.extend(string(section));
    }
    bytes
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// Fails when: a list that is cut anywhere, or holds what is not known, is read as one that revokes less.
#[test]
fn a_binary_list_is_read_whole_or_not_at_all() {
    let blob = encoded(&parse_key(A)).unwrap();
    let whole =
        list(&[(2, string(&blob)), (3, string(&[7; 20])), (5, string(&[7; 32])), (255, extension(0))]);
    assert!(Revoked::parse(&whole).unwrap().has_key(&parse_key(A)));
    let ends: Vec<usize> = (0..whole.len()).filter(|end| Revoked::parse(&whole[..*end]).is_ok()).collect();
    let (first, second) = (list(&[]).len(), list(&[(2, string(&blob))]).len());
    // A list that ends with a section is whole as far as it says; in front of the magic it is a plain one.
    assert!(ends.iter().all(|end| *end == 0 || *end == first || *end == second || *end > second), "{ends:?}");
    for (bytes, error) in [
        (list(&[(6, vec![])]), RevokedError::Unknown(6)),
        (list(&[(255, extension(1))]), RevokedError::Unknown(255)),
        (
            list(&[(1, [string(b""), string(b""), vec![0x24], string(b"")].concat())]),
            RevokedError::Unknown(0x24),
        ),
    ] {
        assert_eq!(Revoked::parse(&bytes).unwrap_err(), error);
    }
    assert!(matches!(Revoked::parse(&list(&[(3, string(&[7; 19]))])), Err(RevokedError::Malformed(_))));
    let mut version = whole;
    version[11] = 2;
    assert_eq!(Revoked::parse(&version).unwrap_err(), RevokedError::Version(2));
    let huge = [list(&[]), vec![2, 0xff, 0xff, 0xff, 0xff]].concat();
    assert!(matches!(Revoked::parse(&huge), Err(RevokedError::Malformed(_))));
}

fn extension(critical: u8) -> Vec<u8> {
    [string(b"x@example.com"), vec![critical], string(b"y")].concat()
}

/// Fails when: a bit is counted from the wrong end, or serial 0 is revoked by a number.
#[test]
fn serials_of_a_bitmap() {
    let list = Certificates {
        serials: vec![(5, 7)],
        bitmaps: vec![(100, vec![0x00, 0x81, 0x01])],
        ids: BTreeSet::from([b"ann".to_vec()]),
        ..Certificates::default()
    };
    let has: Vec<u64> = (0..200).filter(|serial| list.has(*serial, "bob")).collect();
    assert_eq!(has, [5, 6, 7, 100, 108, 115]);
    assert!(list.has(0, "ann") && !list.has(u64::MAX, "bob"));
}
