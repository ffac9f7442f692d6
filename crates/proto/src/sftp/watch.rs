//! Which files a client reads and writes, seen from between it and its server.
//!
//! Both directions are looked at as they pass: of a packet its beginning, of a file its name and how many bytes went. What
//! files hold is skipped. Neither side is trusted: what makes no sense is passed over, and what is kept is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::request::Fields;

/// Of a packet as much is looked at: a request with the longest path of Linux (`PATH_MAX`, 4,096) fits.
const HEAD_BYTES: usize = 4200;

/// Of a path as much is kept.
const PATH_BYTES: usize = 1024;

/// Files that are open at a time, asked for among them. The helper has 400.
const FILES: usize = 400;

/// Requests without an answer.
const ASKED: usize = 1024;

/// Longest handle (draft-ietf-secsh-filexfer-02, section 6.3).
const HANDLE_BYTES: usize = 256;

/// A file that was opened, or was to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// As the client says it, cut; it need not be absolute.
    pub path: Vec<u8>,
    /// Opened to be read.
    pub reads: bool,
    /// Opened to be written.
    pub writes: bool,
    /// Bytes that the client has got.
    pub read_bytes: u64,
    /// Bytes of the client's that the server has taken.
    pub written_bytes: u64,
    /// From its opening on.
    pub lasted: Duration,
    /// What became of it.
    pub end: Ended,
}

/// How a file ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was closed.
    Closed,
    /// Closing it failed.
    Failed,
    /// It could not be opened.
    Refused,
    /// The connection was first.
    Unfinished,
}

/// What is known of a client and its server.
#[derive(Debug, Default)]
pub struct Watch {
    client: Heads,
    server: Heads,
    asked: BTreeMap<u32, Asked>,
    open: BTreeMap<Vec<u8>, File>,
    /// Opens among what is asked.
    opening: usize,
    done: VecDeque<Transfer>,
    unseen: u64,
}

/// A request whose answer matters.
#[derive(Debug)]
enum Asked {
    Open(File),
    Close(Vec<u8>),
    Read(Vec<u8>),
    Write(Vec<u8>, u64),
}

#[derive(Debug)]
struct File {
    path: Vec<u8>,
    reads: bool,
    writes: bool,
    read_bytes: u64,
    written_bytes: u64,
    since: Duration,
}

impl File {
    fn ended(self, end: Ended, now: Duration) -> Transfer {
        let Self { path, reads, writes, read_bytes, written_bytes, since } = self;
        let lasted = now.saturating_sub(since);
        Transfer { path, reads, writes, read_bytes, written_bytes, lasted, end }
    }
}

impl Watch {
    /// Looks at what the client sends; `now` is since any moment.
    pub fn client_sends(&mut self, bytes: &[u8], now: Duration) {
        let mut heads = std::mem::take(&mut self.client);
        heads.push(bytes, |head, length| {
            // What cannot be read is the server's to refuse.
            let _strange = self.request(head, length, now);
        });
        self.client = heads;
    }

    /// Looks at what the server sends.
    pub fn server_sends(&mut self, bytes: &[u8], now: Duration) {
        let mut heads = std::mem::take(&mut self.server);
        heads.push(bytes, |head, length| {
            let _strange = self.answer(head, length, now);
        });
        self.server = heads;
    }

    /// Nothing more will come.
    pub fn end(&mut self, now: Duration) {
        self.opening = 0;
        let asked = std::mem::take(&mut self.asked).into_values();
        let asked = asked.filter_map(|asked| if let Asked::Open(file) = asked { Some(file) } else { None });
        let open = std::mem::take(&mut self.open).into_values();
        self.done.extend(open.chain(asked).map(|file| file.ended(Ended::Unfinished, now)));
    }

    /// The first file that has ended and was not [taken](Self::pop) yet.
    #[must_use]
    pub fn front(&self) -> Option<&Transfer> {
        self.done.front()
    }

    /// Takes the first file that has ended.
    pub fn pop(&mut self) -> Option<Transfer> {
        self.done.pop_front()
    }

    /// How many files nothing is known of: more were open than are looked after.
    #[must_use]
    pub const fn unseen(&self) -> u64 {
        self.unseen
    }

    fn request(&mut self, head: &[u8], length: usize, now: Duration) -> Option<()> {
        let (kind, rest) = head.split_first()?;
        let mut fields = Fields(rest);
        let id = fields.u32()?;
        let handle = |fields: &mut Fields<'_>| {
            fields.bytes().filter(|handle| handle.len() <= HANDLE_BYTES).map(<[u8]>::to_vec)
        };
        let asked = match kind {
            3 => {
                let path = fields.bytes()?;
                let how = fields.u32()?;
                if self.open.len() + self.opening >= FILES {
                    self.unseen = self.unseen.saturating_add(1);
                    return None;
                }
                let path = path.get(..PATH_BYTES).unwrap_or(path).to_vec();
                let (reads, writes) = (how & 1 != 0, how & 2 != 0);
                Asked::Open(File { path, reads, writes, read_bytes: 0, written_bytes: 0, since: now })
            }
            4 => Asked::Close(handle(&mut fields)?),
            5 => Asked::Read(handle(&mut fields)?),
            6 => {
                let handle = handle(&mut fields)?;
                let _offset = fields.u64()?;
                Asked::Write(handle, bounded(fields.u32()?, length))
            }
            _ => return None,
        };
        let known = match &asked {
            Asked::Open(_) => true,
            Asked::Close(handle) | Asked::Read(handle) | Asked::Write(handle, _) => {
                self.open.contains_key(handle)
            }
        };
        if !known || self.asked.len() >= ASKED {
            return None;
        }
        if matches!(asked, Asked::Open(_)) {
            self.opening += 1;
        }
        self.forget(id);
        self.asked.insert(id, asked);
        Some(())
    }

    /// An answer of two requests with one number would be of either.
    fn forget(&mut self, id: u32) -> Option<Asked> {
        let asked = self.asked.remove(&id)?;
        if matches!(asked, Asked::Open(_)) {
            self.opening = self.opening.saturating_sub(1);
        }
        Some(asked)
    }

    fn answer(&mut self, head: &[u8], length: usize, now: Duration) -> Option<()> {
        let (kind, rest) = head.split_first()?;
        let mut fields = Fields(rest);
        let id = fields.u32()?;
        if !matches!(kind, 101..=103) {
            return None;
        }
        match (kind, self.forget(id)?) {
            (101, asked) => {
                let is_good = fields.u32()? == 0;
                match asked {
                    Asked::Open(file) => self.done.push_back(file.ended(Ended::Refused, now)),
                    Asked::Close(handle) => {
                        let end = if is_good { Ended::Closed } else { Ended::Failed };
                        let file = self.open.remove(&handle)?;
                        self.done.push_back(file.ended(end, now));
                    }
                    Asked::Write(handle, bytes) if is_good => {
                        let file = self.open.get_mut(&handle)?;
                        file.written_bytes = file.written_bytes.saturating_add(bytes);
                    }
                    Asked::Read(_) | Asked::Write(..) => {}
                }
            }
            (102, Asked::Open(file)) => {
                let handle = fields.bytes().filter(|handle| handle.len() <= HANDLE_BYTES)?;
                if let Some(other) = self.open.insert(handle.to_vec(), file) {
                    self.done.push_back(other.ended(Ended::Unfinished, now));
                }
            }
            (103, Asked::Read(handle)) => {
                let file = self.open.get_mut(&handle)?;
                file.read_bytes = file.read_bytes.saturating_add(bounded(fields.u32()?, length));
            }
            _ => {}
        }
        Some(())
    }
}

/// Bytes that a packet of this length can hold at most.
fn bounded(bytes: u32, length: usize) -> u64 {
    u64::from(bytes).min(u64::try_from(length).unwrap_or(u64::MAX))
}

/// Length of a packet's length, bytes.
const LENGTH_BYTES: usize = 4;

/// Finds the beginnings of the packets in a stream.
#[derive(Debug, Default)]
struct Heads {
    /// The length, and what follows of it.
    head: Vec<u8>,
    /// What is left of a packet that was looked at, bytes.
    skip: usize,
}

impl Heads {
    /// Calls `each` with the beginning of each packet, without its length, and with its length.
    fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8], usize)) {
        while !bytes.is_empty() {
            let wanted = match self.length() {
                _ if self.skip > 0 => self.skip,
                None => LENGTH_BYTES - self.head.len(),
                Some(length) => LENGTH_BYTES + length.min(HEAD_BYTES) - self.head.len(),
            };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if self.skip > 0 {
                self.skip -= now.len();
                continue;
            }
            self.head.extend_from_slice(now);
            let Some(length) = self.length() else { continue };
            let seen = self.head.len() - LENGTH_BYTES;
            if seen == length.min(HEAD_BYTES) {
                each(self.head.get(LENGTH_BYTES..).unwrap_or_default(), length);
                self.skip = length - seen;
                self.head.clear();
            }
        }
    }

    fn length(&self) -> Option<usize> {
        let length = self.head.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
        usize::try_from(length).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    /// A packet with its length.
    fn packet(kind: u8, id: u32, fields: &[&[u8]]) -> Vec<u8> {
        text(&[&[kind][..], &id.to_be_bytes(), &fields.concat()].concat())
    }

    fn open(id: u32, path: &[u8], how: u32) -> Vec<u8> {
        packet(3, id, &[&text(path), &how.to_be_bytes(), &[0; 4]])
    }

    fn write(id: u32, handle: &[u8], bytes: usize) -> Vec<u8> {
        packet(6, id, &[&text(handle), &[0; 8], &text(&vec![7; bytes])])
    }

    fn status(id: u32, code: u32) -> Vec<u8> {
        packet(101, id, &[&code.to_be_bytes(), &text(b"words"), &text(b"")])
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn all(watch: &mut Watch) -> Vec<Transfer> {
        std::iter::from_fn(|| watch.pop()).collect()
    }

    fn transfer(path: &[u8], how: (bool, bool), bytes: (u64, u64), end: Ended) -> Transfer {
        let (reads, writes) = how;
        let (read_bytes, written_bytes) = bytes;
        Transfer { path: path.to_vec(), reads, writes, read_bytes, written_bytes, lasted: SECOND, end }
    }

    /// One file written, one read, one refused, one left open; in pieces of every size.
    ///
    /// Fails when a file is missed, or its bytes are counted wrongly, wherever the stream is cut.
    #[test]
    fn files_are_seen_however_their_packets_are_cut() {
        let asked = [
            packet(1, 3, &[]),
            open(1, b"in", 0x1a),
            write(2, b"h1", 40_000),
            write(3, b"h1", 5),
            packet(4, 4, &[&text(b"h1")]),
            open(5, b"/out", 1),
            packet(5, 6, &[&text(b"h2"), &[0; 12]]),
            packet(5, 7, &[&text(b"h2"), &[0; 12]]),
            packet(4, 8, &[&text(b"h2")]),
            open(9, b"no", 1),
            open(10, b"stays", 3),
        ];
        let answered = [
            packet(2, 3, &[]),
            packet(102, 1, &[&text(b"h1")]),
            status(2, 0),
            status(3, 4),
            status(4, 0),
            packet(102, 5, &[&text(b"h2")]),
            packet(103, 6, &[&text(&[1; 30_000])]),
            status(7, 1),
            status(8, 0),
            status(9, 3),
            packet(102, 10, &[&text(b"h3")]),
        ];
        for size in [1, 2, 3, 7, 4096, 100_000] {
            let mut watch = Watch::default();
            for (asked, answered) in asked.iter().zip(&answered) {
                asked.chunks(size).for_each(|piece| watch.client_sends(piece, Duration::ZERO));
                answered.chunks(size).for_each(|piece| watch.server_sends(piece, SECOND));
            }
            watch.end(SECOND);
            let expected = [
                transfer(b"in", (false, true), (0, 40_000), Ended::Closed),
                transfer(b"/out", (true, false), (30_000, 0), Ended::Closed),
                transfer(b"no", (true, false), (0, 0), Ended::Refused),
                transfer(b"stays", (true, true), (0, 0), Ended::Unfinished),
            ];
            assert_eq!(all(&mut watch), expected, "pieces of {size}");
            assert_eq!(watch.unseen(), 0);
        }
    }

    /// Fails when a client or a server makes it keep more, or count what cannot be.
    #[test]
    fn what_is_kept_is_bounded() {
        let mut watch = Watch::default();
        for id in 0..3000 {
            watch.client_sends(&open(id, &[b'x'; 4000], 2), Duration::ZERO);
        }
        assert_eq!((watch.asked.len(), watch.unseen()), (FILES, 3000 - 400));
        for id in 0..3000 {
            watch.server_sends(&packet(102, id, &[&text(&id.to_be_bytes())]), Duration::ZERO);
        }
        for id in 0..3000 {
            // It says that it has 4 GiB.
            let lie = packet(6, id, &[&text(&0_u32.to_be_bytes()), &[0; 8], &[0xff; 4]]);
            watch.client_sends(&lie, Duration::ZERO);
        }
        assert_eq!((watch.open.len(), watch.asked.len()), (FILES, ASKED));
        watch.server_sends(&status(0, 0), Duration::ZERO);
        watch.end(SECOND);
        let ended = all(&mut watch);
        assert!(ended.len() == FILES && ended.iter().all(|file| file.path.len() == PATH_BYTES));
        assert!(ended.iter().all(|file| file.written_bytes < 100), "more than the packet has");
    }

    /// Fails when bytes that are no packets end it, or are taken for files.
    #[test]
    fn what_makes_no_sense_is_passed_over() {
        let mut watch = Watch::default();
        let empty = [0; 64];
        for strange in
            [&empty[..], &packet(3, 1, &[&text(b"cut")]), &packet(3, 1, &[&[0xff; 8]]), b"\0\0\0\x02\x03\0"]
        {
            watch.client_sends(strange, Duration::ZERO);
            watch.server_sends(strange, Duration::ZERO);
        }
        watch.server_sends(&packet(102, 1, &[&text(b"h")]), Duration::ZERO);
        watch.end(SECOND);
        assert_eq!(watch.front(), None);
        // A packet that never ends.
        watch.client_sends(&[0xff; 4], Duration::ZERO);
        watch.client_sends(&vec![0xff; 1 << 20], Duration::ZERO);
        assert!(watch.client.head.len() <= LENGTH_BYTES + HEAD_BYTES);
    }
}
