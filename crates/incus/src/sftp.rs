//! Files of an instance by SFTP, version 3 (draft-ietf-secsh-filexfer-02), as the server speaks it on
//! [`Client::sftp`](crate::Client::sftp): of any size, folders and links among them.
//!
//! One request at a time. What the server answers is a stranger's: lengths are bounded, and a name in a folder is a name
//! only when it leads nowhere else.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Longest answer; what servers send is at most a read and its head, or a hundred names of a folder.
const ANSWER_BYTES: u32 = 1 << 20;

/// Bytes in one read or write: the most that every server takes.
pub const PIECE_BYTES: u32 = 32 << 10;

/// Most names of one folder.
const NAMES_MAX: usize = 1_000_000;

/// Kinds of packets.
mod kind {
    pub(super) const INIT: u8 = 1;
    pub(super) const VERSION: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const SETSTAT: u8 = 9;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const STAT: u8 = 17;
    pub(super) const READLINK: u8 = 19;
    pub(super) const SYMLINK: u8 = 20;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
}

/// Statuses.
const OK: u32 = 0;
const EOF: u32 = 1;
const NO_SUCH_FILE: u32 = 2;

/// Members of attributes.
const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_MORE: u32 = 1 << 31;

/// Ways to open.
const READS: u32 = 1;
const WRITES: u32 = 2 | 8 | 16;

/// Why something cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SftpError {
    /// The connection has broken.
    #[error("the connection to the files has broken")]
    Broken(#[source] io::Error),
    /// The server refuses.
    #[error("{path}: {message}")]
    Refused {
        /// The file.
        path: String,
        /// The server's own words.
        message: String,
    },
    /// The answer is not what the protocol has.
    #[error("{0}: the server's answer is not of the protocol")]
    Strange(String),
}

type Result<T> = std::result::Result<T, SftpError>;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A plain file.
    Plain,
    /// A folder.
    Directory,
    /// A link.
    Link,
    /// A device, a socket, a pipe.
    Other,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// What it is.
    pub kind: FileKind,
    /// Length of a plain one.
    pub size_bytes: u64,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// When it was changed last, seconds since 1970.
    pub changed: u32,
}

/// An open file. Not closed on drop: [`Sftp::close`] does.
#[derive(Debug)]
pub struct FileHandle {
    handle: Bytes,
    path: String,
}

/// Whether a file is read or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// It is there and is read.
    Read,
    /// It is made, or emptied, and written.
    Write,
}

/// A connection that speaks of files.
#[derive(Debug)]
pub struct Sftp {
    stream: UnixStream,
    next: u32,
}

/// An answer: its kind and what it says.
struct Answer {
    kind: u8,
    body: Bytes,
}

impl Sftp {
    /// Begins to speak. Needs a runtime.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn new(fd: OwnedFd) -> Result<Sftp> {
        let stream = StdStream::from(fd);
        stream.set_nonblocking(true).map_err(SftpError::Broken)?;
        let stream = UnixStream::from_std(stream).map_err(SftpError::Broken)?;
        let mut sftp = Sftp { stream, next: 0 };
        sftp.send(kind::INIT, &3_u32.to_be_bytes()).await?;
        let answer = sftp.receive().await?;
        if answer.kind != kind::VERSION {
            return Err(SftpError::Strange("hello".to_owned()));
        }
        Ok(sftp)
    }

    async fn send(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 1).map_err(|_| SftpError::Strange("request".to_owned()))?;
        let mut packet = BytesMut::with_capacity(body.len() + 5);
        packet.put_u32(length);
        packet.put_u8(kind);
        packet.put_slice(body);
        self.stream.write_all(&packet).await.map_err(SftpError::Broken)
    }

    async fn receive(&mut self) -> Result<Answer> {
        let length = self.stream.read_u32().await.map_err(SftpError::Broken)?;
        if length == 0 || length > ANSWER_BYTES {
            return Err(SftpError::Strange(format!("{length} bytes")));
        }
        let kind = self.stream.read_u8().await.map_err(SftpError::Broken)?;
        let mut body = vec![0; usize::try_from(length - 1).unwrap_or_default()];
        self.stream.read_exact(&mut body).await.map_err(SftpError::Broken)?;
        Ok(Answer { kind, body: body.into() })
    }

    /// Asks, and gives the answer to it. Not cancel safe.
    async fn ask(&mut self, kind: u8, path: &str, body: &[u8]) -> Result<Answer> {
        self.next = self.next.wrapping_add(1);
        let mut request = BytesMut::with_capacity(body.len() + 4);
        request.put_u32(self.next);
        request.put_slice(body);
        self.send(kind, &request).await?;
        let mut answer = self.receive().await?;
        if answer.body.len() < 4 || answer.body.get_u32() != self.next {
            return Err(SftpError::Strange(path.to_owned()));
        }
        Ok(answer)
    }

    /// The same where only a status is answered.
    async fn done(&mut self, kind: u8, path: &str, body: &[u8]) -> Result<()> {
        let answer = self.ask(kind, path, body).await?;
        match status(&answer, path)? {
            (OK, _) => Ok(()),
            (_, message) => Err(SftpError::Refused { path: path.to_owned(), message }),
        }
    }

    /// What is known of a file, of a link of the link itself; `None` when there is none.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn facts(&mut self, path: &str) -> Result<Option<FileFacts>> {
        self.facts_by(kind::LSTAT, path).await
    }

    /// The same where links are followed, inside.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn facts_behind(&mut self, path: &str) -> Result<Option<FileFacts>> {
        self.facts_by(kind::STAT, path).await
    }

    async fn facts_by(&mut self, by: u8, path: &str) -> Result<Option<FileFacts>> {
        let mut answer = self.ask(by, path, &text(path)).await?;
        if answer.kind == kind::ATTRS {
            return facts(&mut answer.body).map(Some).ok_or_else(|| SftpError::Strange(path.to_owned()));
        }
        match status(&answer, path)? {
            (NO_SUCH_FILE, _) => Ok(None),
            (_, message) => Err(SftpError::Refused { path: path.to_owned(), message }),
        }
    }

    /// The way a link leads, as it is written there.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn link(&mut self, path: &str) -> Result<Vec<u8>> {
        let mut answer = self.ask(kind::READLINK, path, &text(path)).await?;
        if answer.kind == kind::NAME && answer.body.len() > 4 {
            answer.body.advance(4);
            return string(&mut answer.body)
                .map(|target| target.to_vec())
                .ok_or_else(|| SftpError::Strange(path.to_owned()));
        }
        let (_, message) = status(&answer, path)?;
        Err(SftpError::Refused { path: path.to_owned(), message })
    }

    /// The names in a folder, without itself and the one above it, in order.
    ///
    /// # Errors
    /// [`SftpError`], any; `Strange` for a name that is none.
    pub async fn names(&mut self, path: &str) -> Result<Vec<String>> {
        let folder = self.handle(kind::OPENDIR, path, &text(path)).await?;
        let mut names = Vec::new();
        loop {
            let mut answer = self.ask(kind::READDIR, path, &prefixed(&folder.handle)).await?;
            if answer.kind != kind::NAME {
                match status(&answer, path)? {
                    (EOF, _) => break,
                    (_, message) => return Err(SftpError::Refused { path: path.to_owned(), message }),
                }
            }
            let more = listed(&mut answer.body).ok_or_else(|| SftpError::Strange(path.to_owned()))?;
            names.extend(more);
            if names.len() > NAMES_MAX {
                return Err(SftpError::Strange(path.to_owned()));
            }
        }
        self.close(folder).await?;
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Opens a plain file; one that is made gets `mode`.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn open(&mut self, path: &str, open: Open, mode: u32) -> Result<FileHandle> {
        let mut body = text(path);
        body.put_u32(if open == Open::Read { READS } else { WRITES });
        body.put_u32(HAS_MODE);
        body.put_u32(mode & 0o7777);
        self.handle(kind::OPEN, path, &body).await
    }

    async fn handle(&mut self, kind: u8, path: &str, body: &[u8]) -> Result<FileHandle> {
        let mut answer = self.ask(kind, path, body).await?;
        if answer.kind == kind::HANDLE {
            let handle = string(&mut answer.body).ok_or_else(|| SftpError::Strange(path.to_owned()))?;
            return Ok(FileHandle { handle, path: path.to_owned() });
        }
        let (_, message) = status(&answer, path)?;
        Err(SftpError::Refused { path: path.to_owned(), message })
    }

    /// At most [`PIECE_BYTES`] from there on; `None` at the end.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn read(&mut self, file: &FileHandle, at: u64) -> Result<Option<Bytes>> {
        let mut body = prefixed(&file.handle);
        body.put_u64(at);
        body.put_u32(PIECE_BYTES);
        let mut answer = self.ask(kind::READ, &file.path, &body).await?;
        if answer.kind == kind::DATA {
            let data = string(&mut answer.body).filter(|data| !data.is_empty());
            return data.map(Some).ok_or_else(|| SftpError::Strange(file.path.clone()));
        }
        match status(&answer, &file.path)? {
            (EOF, _) => Ok(None),
            (_, message) => Err(SftpError::Refused { path: file.path.clone(), message }),
        }
    }

    /// Writes at most [`PIECE_BYTES`] there.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn write(&mut self, file: &FileHandle, at: u64, bytes: &[u8]) -> Result<()> {
        let mut body = prefixed(&file.handle);
        body.put_u64(at);
        body.put_slice(&prefixed(bytes));
        self.done(kind::WRITE, &file.path, &body).await
    }

    /// Closes a file: what was written is there.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn close(&mut self, file: FileHandle) -> Result<()> {
        self.done(kind::CLOSE, &file.path, &prefixed(&file.handle)).await
    }

    /// Makes a folder.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn make_dir(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut body = text(path);
        body.put_u32(HAS_MODE);
        body.put_u32(mode & 0o7777);
        self.done(kind::MKDIR, path, &body).await
    }

    /// Makes a link that leads to `target`.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn make_link(&mut self, path: &str, target: &[u8]) -> Result<()> {
        // In the order that OpenSSH has, which is not the draft's.
        let mut body = prefixed(target);
        body.put_slice(&text(path));
        self.done(kind::SYMLINK, path, &body).await
    }

    /// Removes a file that is no folder.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn remove(&mut self, path: &str) -> Result<()> {
        self.done(kind::REMOVE, path, &text(path)).await
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn remove_dir(&mut self, path: &str) -> Result<()> {
        self.done(kind::RMDIR, path, &text(path)).await
    }

    /// Sets owner and permissions. Links are followed, inside.
    ///
    /// # Errors
    /// [`SftpError`], any.
    pub async fn set(&mut self, path: &str, owner: Option<(u32, u32)>, mode: u32) -> Result<()> {
        let mut body = text(path);
        body.put_u32(HAS_MODE | if owner.is_some() { HAS_OWNER } else { 0 });
        if let Some((uid, gid)) = owner {
            body.put_u32(uid);
            body.put_u32(gid);
        }
        body.put_u32(mode & 0o7777);
        self.done(kind::SETSTAT, path, &body).await
    }
}

/// Bytes with their length in front.
fn prefixed(bytes: &[u8]) -> BytesMut {
    let mut body = BytesMut::with_capacity(bytes.len() + 4);
    body.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    body.put_slice(bytes);
    body
}

fn text(path: &str) -> BytesMut {
    prefixed(path.as_bytes())
}

fn number(from: &mut Bytes) -> Option<u32> {
    (from.len() >= 4).then(|| from.get_u32())
}

fn string(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(number(from)?).ok()?;
    (from.len() >= length).then(|| from.split_to(length))
}

/// The number of a status, and its words.
fn status(answer: &Answer, path: &str) -> Result<(u32, String)> {
    let mut body = answer.body.clone();
    let strange = || SftpError::Strange(path.to_owned());
    if answer.kind != kind::STATUS {
        return Err(strange());
    }
    let code = number(&mut body).ok_or_else(strange)?;
    let words = string(&mut body).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).chars().filter(|c| !c.is_control()).take(200).collect();
    Ok((code, words))
}

fn facts(from: &mut Bytes) -> Option<FileFacts> {
    let has = number(from)?;
    let size_bytes =
        if has & HAS_SIZE != 0 { u64::from(number(from)?) << 32 | u64::from(number(from)?) } else { 0 };
    let (uid, gid) = if has & HAS_OWNER != 0 { (number(from)?, number(from)?) } else { (0, 0) };
    let mode = if has & HAS_MODE != 0 { number(from)? } else { 0 };
    let changed = if has & HAS_TIMES != 0 {
        let _read = number(from)?;
        number(from)?
    } else {
        0
    };
    if has & HAS_MORE != 0 {
        for _ in 0..number(from)? {
            let (_, _) = (string(from)?, string(from)?);
        }
    }
    let kind = match mode & 0o170_000 {
        0o100_000 => FileKind::Plain,
        0o040_000 => FileKind::Directory,
        0o120_000 => FileKind::Link,
        _ => FileKind::Other,
    };
    Some(FileFacts { kind, size_bytes, uid, gid, mode: mode & 0o7777, changed })
}

/// Names in an answer; `None` when it is broken, or has a name that leads elsewhere.
fn listed(from: &mut Bytes) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for _ in 0..number(from)? {
        let name = string(from)?;
        let _long = string(from)?;
        let _facts = facts(from)?;
        if name == b"."[..] || name == b".."[..] {
            continue;
        }
        let name = String::from_utf8(name.to_vec()).ok()?;
        if name.is_empty() || name.contains(['/', '\0']) {
            return None;
        }
        names.push(name);
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&[u8]]) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u32(u32::try_from(names.len()).expect("few"));
        for name in names {
            body.put_slice(&prefixed(name));
            body.put_slice(&prefixed(b"-rw-r--r-- long"));
            body.put_u32(HAS_SIZE | HAS_OWNER | HAS_MODE | HAS_TIMES);
            body.put_u64(7);
            [1000, 1001, 0o100_640, 1, 2].into_iter().for_each(|number| body.put_u32(number));
        }
        body.freeze()
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        assert_eq!(
            listed(&mut folder(&[b".", b"..", b"a b", b"..."])),
            Some(vec!["a b".into(), "...".into()])
        );
        for name in [&b"../x"[..], b"/etc", b"", b"a\0", b"\xff"] {
            assert_eq!(listed(&mut folder(&[name])), None, "{name:?}");
        }
    }

    #[test]
    fn what_is_cut_short_is_no_answer() {
        let whole = folder(&[b"name"]);
        for length in 0..whole.len() {
            assert_eq!(listed(&mut whole.slice(..length)), None, "{length}");
        }
        let mut attributes = BytesMut::new();
        attributes.put_u32(HAS_MODE);
        attributes.put_u32(0o120_777);
        let found = facts(&mut attributes.freeze()).expect("whole");
        assert_eq!((found.kind, found.mode, found.size_bytes), (FileKind::Link, 0o777, 0));
    }
}
