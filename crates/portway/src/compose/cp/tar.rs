//! Archives: the headers of tar, as POSIX (ustar, pax) and GNU have them.

use std::io::{self, Read};

/// Length of a header, and what contents are filled up to.
pub(super) const BLOCK_BYTES: usize = 512;

/// Longest name or list of attributes that is read from a header of its own.
const EXTRA_BYTES: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A plain file.
    Plain,
    /// A folder.
    Directory,
    /// A link that leads there.
    Link(Vec<u8>),
    /// Anything else, by its letter.
    Other(u8),
}

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path, as it is written.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Length of its contents.
    pub(super) size_bytes: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    /// Seconds since 1970.
    pub(super) changed: u32,
}

impl Entry {
    /// Its header, and those before it for what is too long for one.
    pub(super) fn header(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut path = self.path.clone();
        if self.kind == Kind::Directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let (letter, link) = match &self.kind {
            Kind::Plain => (b'0', &[][..]),
            Kind::Directory => (b'5', &[][..]),
            Kind::Link(target) => (b'2', &target[..]),
            Kind::Other(letter) => (*letter, &[][..]),
        };
        for (letter, text) in [(b'L', &path[..]), (b'K', link)] {
            if text.len() > 100 {
                all.extend(block(b"././@LongLink", letter, (text.len() as u64 + 1, 0, 0, 0o644, 0), b""));
                all.extend_from_slice(text);
                all.push(0);
                all.resize(all.len().next_multiple_of(BLOCK_BYTES), 0);
            }
        }
        let numbers = (self.size_bytes, self.uid, self.gid, self.mode, self.changed);
        all.extend(block(&path, letter, numbers, link));
        all
    }
}

/// One header.
fn block(
    path: &[u8],
    letter: u8,
    (size, uid, gid, mode, changed): (u64, u32, u32, u32, u32),
    link: &[u8],
) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, room: usize, bytes: &[u8]| {
        let length = bytes.len().min(room);
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    put(0, 100, path);
    put(100, 8, format!("{:07o}", mode & 0o7777).as_bytes());
    for (at, room, number) in
        [(108, 8, u64::from(uid)), (116, 8, u64::from(gid)), (124, 12, size), (136, 12, u64::from(changed))]
    {
        put(at, room, &digits(number, room));
    }
    put(148, 8, b"        ");
    put(156, 1, &[letter]);
    put(157, 100, link);
    put(257, 8, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// A number in a field: octal, and where that is too long in GNU's binary form.
fn digits(number: u64, room: usize) -> Vec<u8> {
    let octal = format!("{number:0width$o}", width = room - 1).into_bytes();
    if octal.len() < room {
        return octal;
    }
    let mut binary = vec![0; room - 8];
    binary.extend(number.to_be_bytes());
    binary[0] |= 0x80;
    binary
}

/// The reverse; `None` for what is no number.
fn number(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let (high, low) = field.split_at(field.len() - 8);
        let small = high.iter().enumerate().all(|(at, byte)| *byte == if at == 0 { 0x80 } else { 0 });
        let mut low: [u8; 8] = low.try_into().ok()?;
        if high.is_empty() {
            low[0] &= 0x7f;
        }
        return small.then(|| u64::from_be_bytes(low));
    }
    let text = str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// An archive that is read.
pub(super) struct Archive<R> {
    from: R,
    /// Contents of the entry that were not read yet, and what they are filled up with.
    left: (u64, u64),
}

/// What headers of their own say of the next entry.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, left: (0, 0) }
    }

    /// The next entry; `None` at the end. What is left of the one before is passed over.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extra = Extra::default();
        loop {
            let over = self.left.0 + self.left.1;
            io::copy(&mut Read::by_ref(&mut self.from).take(over), &mut io::sink())?;
            let mut block = [0; BLOCK_BYTES];
            if !self.fill(&mut block)? || block.iter().all(|byte| *byte == 0) {
                self.left = (0, 0);
                return Ok(None);
            }
            let (mut entry, letter) = entry(&block).ok_or_else(|| broken("it has a broken header"))?;
            let size = match letter {
                b'L' | b'K' | b'x' | b'g' => entry.size_bytes,
                _ => extra.size_bytes.unwrap_or(entry.size_bytes),
            };
            let filled = size.checked_next_multiple_of(BLOCK_BYTES as u64);
            self.left = (size, filled.ok_or_else(|| broken("an entry has no end"))? - size);
            match letter {
                b'L' => extra.path = Some(cut(&self.extra()?).to_vec()),
                b'K' => extra.link = Some(cut(&self.extra()?).to_vec()),
                b'x' => attributes(&self.extra()?, &mut extra)?,
                b'g' => {}
                _ => {
                    entry.size_bytes = size;
                    entry.path = extra.path.unwrap_or(entry.path);
                    // As archives older than POSIX have it.
                    if entry.kind == Kind::Plain && entry.path.ends_with(b"/") {
                        entry.kind = Kind::Directory;
                    }
                    if let (Kind::Link(target), Some(link)) = (&mut entry.kind, extra.link) {
                        *target = link;
                    }
                    if entry.kind != Kind::Plain && entry.kind != Kind::Directory {
                        entry.size_bytes = 0;
                    }
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Contents of the entry, as many as fit; 0 at their end.
    pub(super) fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left.0).unwrap_or(usize::MAX).min(to.len());
        let count = self.from.read(&mut to[..most])?;
        if count == 0 && most > 0 {
            return Err(broken("it ends in the middle of a file"));
        }
        self.left.0 -= count as u64;
        Ok(count)
    }

    fn extra(&mut self) -> io::Result<Vec<u8>> {
        if self.left.0 > EXTRA_BYTES {
            return Err(broken("a name is too long"));
        }
        let mut bytes = vec![0; usize::try_from(self.left.0).unwrap_or_default()];
        self.from.read_exact(&mut bytes)?;
        self.left.0 = 0;
        Ok(bytes)
    }

    /// Whether there was a whole block.
    fn fill(&mut self, block: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.from.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(broken("it ends in the middle of a header")),
                count => filled += count,
            }
        }
        Ok(true)
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("standard input is no archive: {what}"))
}

/// Up to the first zero.
fn cut(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn entry(block: &[u8; BLOCK_BYTES]) -> Option<(Entry, u8)> {
    let said = number(&block[148..156])?;
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
    if sum - own + 8 * u64::from(b' ') != said {
        return None;
    }
    let mut path = cut(&block[..100]).to_vec();
    let prefix = cut(&block[345..500]);
    if block[257..263] == *b"ustar\0" && !prefix.is_empty() {
        path = [prefix, b"/", &path].concat();
    }
    let letter = block[156];
    let kind = match letter {
        b'0' | 0 | b'7' => Kind::Plain,
        b'5' => Kind::Directory,
        b'2' => Kind::Link(cut(&block[157..257]).to_vec()),
        letter => Kind::Other(letter),
    };
    let small = |from: usize, to: usize| Some(u32::try_from(number(&block[from..to])?).unwrap_or(u32::MAX));
    let entry = Entry {
        path,
        kind,
        size_bytes: number(&block[124..136])?,
        uid: small(108, 116)?,
        gid: small(116, 124)?,
        mode: small(100, 108)? & 0o7777,
        changed: small(136, 148)?,
    };
    Some((entry, letter))
}

/// Lines of `LENGTH KEY=VALUE`.
fn attributes(bytes: &[u8], extra: &mut Extra) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() && rest[0] != 0 {
        let line = (|| {
            let blank = rest.iter().position(|byte| *byte == b' ')?;
            let length: usize = str::from_utf8(&rest[..blank]).ok()?.parse().ok()?;
            let line = rest.get(blank + 1..length)?.strip_suffix(b"\n")?;
            let equals = line.iter().position(|byte| *byte == b'=')?;
            Some((&line[..equals], &line[equals + 1..], length))
        })();
        let (key, value, length) = line.ok_or_else(|| broken("it has broken attributes"))?;
        match key {
            b"path" => extra.path = Some(value.to_vec()),
            b"linkpath" => extra.link = Some(value.to_vec()),
            b"size" => {
                let size = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                extra.size_bytes = Some(size.ok_or_else(|| broken("a length is no number"))?);
            }
            _ => {}
        }
        rest = &rest[length..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(path: &str, size: u64) -> Entry {
        let (path, kind) = (path.as_bytes().to_vec(), Kind::Plain);
        Entry { path, kind, size_bytes: size, uid: 1000, gid: 3_000_000, mode: 0o640, changed: 7 }
    }

    #[test]
    fn what_is_written_is_read() {
        let long = "d/".repeat(100) + "file";
        let link = Kind::Link(long.clone().into_bytes());
        let entries = [
            plain("a", 3),
            Entry { kind: Kind::Directory, size_bytes: 0, ..plain("d/", 0) },
            plain(&long, 0),
            Entry { kind: link, ..plain("link", 0) },
        ];
        let mut bytes = Vec::new();
        for entry in &entries {
            bytes.extend(entry.header());
            if entry.size_bytes > 0 {
                bytes.extend_from_slice(b"abc");
                bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
            }
        }
        assert_eq!(bytes.len() % BLOCK_BYTES, 0);
        let mut archive = Archive::new(&bytes[..]);
        for entry in &entries {
            assert_eq!(archive.next().expect("whole").as_ref(), Some(entry));
            if entry.size_bytes > 0 {
                let mut read = [0; 8];
                assert_eq!((archive.read(&mut read).expect("whole"), &read[..3]), (3, &b"abc"[..]));
            }
        }
        assert_eq!(archive.next().expect("whole"), None);
        for length in 1..bytes.len().min(BLOCK_BYTES) {
            assert!(Archive::new(&bytes[..length]).next().is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        assert!(Archive::new(&[b'x'; 1024][..]).next().is_err());
        let mut huge = plain("a", u64::MAX).header();
        assert!(Archive::new(&huge[..]).next().is_err());
        huge[0] = b'b';
        assert!(Archive::new(&huge[..]).next().is_err(), "its sum");
    }

    #[test]
    fn numbers_have_two_forms() {
        for size in [0, 0o77_777_777_777, 0o100_000_000_000, 1 << 40] {
            assert_eq!(number(&digits(size, 12)), Some(size));
        }
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"9"), None);
    }
}
