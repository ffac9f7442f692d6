//! A connection turned into a websocket, or into SFTP, and not read a byte further.
//!
//! What comes after the server's answer belongs to whoever gets the descriptor, possibly another process: a reader
//! with a buffer would keep the first messages to itself.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::RecvFlags;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::transport::{Door, protocol};
use crate::{IncusError, Result};

/// Longest head of an answer; the servers' are below 300 bytes.
const HEAD_BYTES: usize = 4 << 10;

const END: &[u8] = b"\r\n\r\n";

/// Opens the websocket at `target`.
pub(super) async fn websocket(door: Door<'_>, target: &str) -> Result<OwnedFd> {
    let mut stream = door.connect().await?;
    let key = generate_key();
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: incus\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|source| door.unreachable(source))?;
    let head = head(&stream).await.map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => protocol(target, source),
        _ => door.unreachable(source),
    })?;
    check(&head, &key).map_err(|reason| protocol(target, reason))?;
    let stream = stream.into_std().map_err(|source| door.unreachable(source))?;
    Ok(stream.into())
}

/// Turns a connection into one of SFTP; `None` where the server has nothing at `target`.
pub(crate) async fn sftp(door: Door<'_>, target: &str) -> Result<Option<OwnedFd>> {
    let mut stream = door.connect().await?;
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: incus\r\nConnection: Upgrade\r\nUpgrade: sftp\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|source| door.unreachable(source))?;
    let head = head(&stream).await.map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => protocol(target, source),
        _ => door.unreachable(source),
    })?;
    let status = status(&head).ok_or_else(|| protocol(target, "the answer is not HTTP's"))?;
    match status {
        "101" => {}
        "404" => return Ok(None),
        "403" => return Err(door.denied()),
        "500" => {
            let (request, message) = (format!("GET {target}"), "the files cannot be had".to_owned());
            return Err(IncusError::Status { request, code: 500, message });
        }
        other => return Err(protocol(target, format!("status {other:.10?} instead of SFTP"))),
    }
    let stream = stream.into_std().map_err(|source| door.unreachable(source))?;
    Ok(Some(stream.into()))
}

/// The status in the head of an answer.
fn status(head: &[u8]) -> Option<&str> {
    str::from_utf8(head).ok()?.lines().next()?.split(' ').nth(1)
}

/// The head of an answer, with nothing taken of what follows it.
async fn head(stream: &UnixStream) -> io::Result<Vec<u8>> {
    let (mut head, mut piece) = (Vec::new(), [0; 512]);
    loop {
        stream.readable().await?;
        let peeked = stream
            .try_io(Interest::READABLE, || Ok(rustix::net::recv(stream, &mut piece[..], RecvFlags::PEEK)?.0));
        let count = match peeked {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let before = head.len();
        head.extend_from_slice(&piece[..count]);
        let from = before.saturating_sub(END.len() - 1);
        let end = head[from..].windows(END.len()).position(|window| window == END);
        let taken = end.map_or(count, |at| from + at + END.len() - before);
        // They are there: this takes all it asks for.
        stream.try_io(Interest::READABLE, || {
            Ok(rustix::net::recv(stream, &mut piece[..taken], RecvFlags::empty())?.0)
        })?;
        if end.is_some() {
            head.truncate(before + taken);
            return Ok(head);
        }
        if head.len() > HEAD_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head of the answer is too long"));
        }
    }
}

/// Whether the server has agreed.
fn check(head: &[u8], key: &str) -> std::result::Result<(), String> {
    let head = str::from_utf8(head).map_err(|_| "the head of the answer is no text".to_owned())?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(format!("{status:.60?} instead of a websocket"));
    }
    let accepts = lines.filter_map(|line| line.split_once(':')).any(|(name, value)| {
        name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == derive_accept_key(key.as_bytes())
    });
    if accepts { Ok(()) } else { Err("the websocket is not the one asked for".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when more than the head is read: a message that follows it at once would be lost.
    #[tokio::test]
    async fn what_follows_the_head_stays() {
        for cut in [1, 7, 19, 20, 23, 24, 27] {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let answer = b"HTTP/1.1 101 X\r\na:b\r\n\r\n\x89\x00more";
            let writer = async {
                theirs.write_all(&answer[..cut]).await.expect("write");
                tokio::task::yield_now().await;
                theirs.write_all(&answer[cut..]).await.expect("write");
            };
            let (read, ()) = tokio::join!(head(&ours), writer);
            assert_eq!(read.expect("a head"), b"HTTP/1.1 101 X\r\na:b\r\n\r\n", "{cut}");
            let mut rest = [0; 6];
            rustix::net::recv(&ours, &mut rest[..], RecvFlags::empty()).expect("the rest");
            assert_eq!(&rest, b"\x89\x00more");
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(&[b'x'; 2 * HEAD_BYTES]).await.expect("write");
        assert_eq!(head(&ours).await.expect_err("too long").kind(), io::ErrorKind::InvalidData);
        drop(theirs);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        assert_eq!(head(&ours).await.expect_err("no answer").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_status_is_found_in_its_line() {
        assert_eq!(status(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: sftp\r\n\r\n"), Some("101"));
        assert_eq!(status(b"HTTP/1.1 404 Not Found\r\n\r\n"), Some("404"));
        assert_eq!((status(b"\xff\r\n\r\n"), status(b"x\r\n\r\n"), status(b"")), (None, None, None));
    }

    #[test]
    fn only_the_answer_to_our_key_is_taken() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        // The example of RFC 6455, section 1.3.
        let good = b"HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(check(good, key), Ok(()));
        assert!(check(good, "x3JJHMbDL1EzLkh9GBhXDw==").is_err());
        assert!(check(b"HTTP/1.1 403 Forbidden\r\n\r\n", key).is_err_and(|why| why.contains("403")));
        assert!(check(b"\xff\r\n\r\n", key).is_err());
    }
}
