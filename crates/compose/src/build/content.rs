//! What is in an archive of files, without when: a hash that two builds of the same inputs have in common.
//!
//! Builders that keep times, and containers that are made to have files written, give another archive each time. Names, kinds,
//! owners, permissions, links, attributes and bytes count here; times do not (POSIX, pax: ustar and pax interchange formats).

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::tar::{RECORD, hexadecimal};

/// Fields of a header: where they are.
const SIZE: std::ops::Range<usize> = 124..136;
const CHANGED: std::ops::Range<usize> = 136..148;
const SUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;

/// Longest list of attributes of an entry.
const ATTRIBUTES_BYTES: u64 = 1 << 20;

/// Attributes that are times.
const TIMES: [&[u8]; 4] = [b"mtime", b"atime", b"ctime", b"LIBARCHIVE.creationtime"];

/// SHA-256 of what is in an archive, in hexadecimal.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn hash(mut archive: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut attributed = None;
    loop {
        let mut header = [0; RECORD];
        archive.read_exact(&mut header)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(hexadecimal(hash));
        }
        let kind = header[KIND];
        let size = number(&header[SIZE]).ok_or_else(|| broken("an entry without a size"))?;
        if matches!(kind, b'x' | b'g') {
            let size = Some(size).filter(|size| *size <= ATTRIBUTES_BYTES);
            let size = size.ok_or_else(|| broken("an entry with too many attributes"))?;
            let mut text = Vec::new();
            piece(&mut archive, size, |bytes| text.extend_from_slice(bytes))?;
            attributed = attributes(kind, &text, &mut hash)?.or(attributed);
            continue;
        }
        // The size that stands in a header of its own holds for what follows, if that is no header of another kind.
        let size = if matches!(kind, b'L' | b'K') { size } else { attributed.take().unwrap_or(size) };
        header[CHANGED].fill(0);
        header[SUM].fill(0);
        hash.update(header);
        // Links and the like have a size and no bytes.
        if !matches!(kind, b'1'..=b'6') {
            piece(&mut archive, size, |bytes| hash.update(bytes))?;
        }
    }
}

/// Reads an entry's bytes, and what fills its last record.
fn piece(archive: &mut impl Read, size: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut left = size;
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..most).unwrap_or_default();
        archive.read_exact(part)?;
        take(part);
        left -= most as u64;
    }
    let rest = usize::try_from(size.next_multiple_of(RECORD as u64) - size).unwrap_or_default();
    archive.read_exact(buffer.get_mut(..rest).unwrap_or_default())
}

/// Counts `LENGTH KEY=VALUE` lines, all but times. The size among them, if it is.
fn attributes(kind: u8, mut text: &[u8], hash: &mut Sha256) -> io::Result<Option<u64>> {
    let mut size = None;
    while !text.is_empty() {
        let end = text.iter().position(|byte| *byte == b' ').ok_or_else(|| broken("an odd attribute"))?;
        let length = text.get(..end).and_then(|digits| str::from_utf8(digits).ok()?.parse::<usize>().ok());
        let length = length.filter(|length| *length > end + 1 && *length <= text.len());
        let (line, rest) = text.split_at(length.ok_or_else(|| broken("an attribute of an odd length"))?);
        let said = line.get(end + 1..).unwrap_or_default();
        let at = said.iter().position(|byte| *byte == b'=').ok_or_else(|| broken("an odd attribute"))?;
        let (key, value) = (&said[..at], said.get(at + 1..).unwrap_or_default());
        if key == b"size" {
            let digits = str::from_utf8(value).ok().map(str::trim_end);
            size = digits.and_then(|digits| digits.parse().ok());
        }
        if !TIMES.contains(&key) {
            hash.update([kind]);
            hash.update((said.len() as u64).to_le_bytes());
            hash.update(said);
        }
        text = rest;
    }
    Ok(size)
}

/// A number: octal digits, or as GNU has it bytes after a first one of 0x80.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, bytes @ ..] = field {
        return bytes.iter().try_fold(0_u64, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let text = str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the builder's archive has {what}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    /// The archive of a folder, by another program.
    fn archive(dir: &Path, args: &[&str]) -> Vec<u8> {
        let mut tar = Command::new("tar");
        tar.arg("--sort=name").args(args).arg("-C").arg(dir).args(["-cf", "-", "."]);
        let made = tar.stdin(Stdio::null()).output().expect("tar");
        assert!(made.status.success(), "{made:?}");
        made.stdout
    }

    /// Fails when a time counts, or when anything else does not.
    #[test]
    fn all_counts_but_times() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str| dir.path().join(name);
        let long = "long/".repeat(30);
        std::fs::create_dir_all(file(&long)).expect("folders");
        std::fs::write(file(&long).join("deep"), "deep").expect("a file");
        std::fs::write(file("a"), "one").expect("a file");
        std::os::unix::fs::symlink("a", file("link")).expect("a link");
        std::fs::hard_link(file("a"), file("same")).expect("a link");
        let of = |args: &[&str]| hash(&archive(dir.path(), args)[..]).expect("an archive");
        for format in ["--format=pax", "--format=gnu"] {
            let first = of(&[format]);
            assert_eq!(of(&[format, "--mtime=@1.25"]), first, "{format}");
            assert_eq!(of(&[format, "--mtime=@1700000000"]), first, "{format}");
            assert_ne!(of(&[format, "--owner=7", "--numeric-owner"]), first, "{format}");
            assert_ne!(of(&[format, "--mode=0751"]), first, "{format}");
            assert_ne!(of(&[format, "--transform=s,deep,dead,"]), first, "{format}");
            std::fs::write(file("a"), "two").expect("a file");
            assert_ne!(of(&[format]), first, "{format}: what is in a file");
            std::fs::write(file("a"), "one").expect("a file");
            std::fs::remove_file(file("link")).expect("gone");
            std::os::unix::fs::symlink("b", file("link")).expect("a link");
            assert_ne!(of(&[format]), first, "{format}: where a link leads");
            std::fs::remove_file(file("link")).expect("gone");
            std::os::unix::fs::symlink("a", file("link")).expect("a link");
            assert_eq!(of(&[format]), first, "{format}");
        }
    }

    /// Fails when an attribute is not counted, a long size is misread, or what is no archive is taken for one.
    #[test]
    fn attributes_and_what_is_no_archive() {
        let entry = |kind: u8, size: &str, bytes: &[u8]| {
            let mut record = vec![0; RECORD];
            record[..4].copy_from_slice(b"name");
            record[SIZE][..size.len()].copy_from_slice(size.as_bytes());
            record[KIND] = kind;
            record.extend_from_slice(bytes);
            record.resize(record.len().next_multiple_of(RECORD), 0);
            record
        };
        let end = vec![0; 2 * RECORD];
        let with = |attributes: &[u8]| {
            let size = format!("{:o}", attributes.len());
            let parts = [entry(b'x', &size, attributes), entry(b'0', "3", b"abc"), end.clone()];
            hash(&parts.concat()[..])
        };
        let plain = with(b"").expect("an archive");
        assert_eq!(with(b"20 mtime=1234567.25\n").expect("an archive"), plain);
        assert_ne!(with(b"30 SCHILY.xattr.user.a=123456\n").expect("an archive"), plain);
        assert_ne!(with(b"10 size=3\n").expect("an archive"), plain, "said twice, and read");
        for broken in [&b"x"[..], b"5 a=b\n", b"99 a=b\n", b"0 a=b\n", b"6 abc\n"] {
            assert!(with(broken).is_err(), "{broken:?}");
        }
        let mut many = [entry(b'0', "77777777777", b""), end.clone()].concat();
        assert!(hash(&many[..]).is_err(), "it ends too early");
        many[KIND] = b'x';
        assert!(hash(&many[..]).is_err(), "too many attributes");
        for none in [&b""[..], b"short", &[b'x'; RECORD]] {
            assert!(hash(none).is_err());
        }
        let device = [entry(b'3', "17", b""), entry(b'2', "5", b""), end].concat();
        assert!(hash(&device[..]).is_ok());
    }
}
