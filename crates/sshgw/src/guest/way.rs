//! From the streams of an exec to a socket inside the instance's network namespace.
//!
//! The server of the instance carries every byte of an exec through a process of its own. Here it carries the greeting:
//! the broker listens for the program where the program can reach it, and this side tells the program where that is and
//! by what token it is known. Whoever else comes by is turned away, and whoever else listened would not know the answer.

use std::io;

use portway_proto::guest::{Frame, FrameError, Inbox, WAY_TOKEN_BYTES, Way};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::frames::written;
use super::link::{GuestError, fill};

/// Most that come by before the program: no more wait at a listener (`somaxconn` is 4096, listen(2)), and it does not wait.
const STRANGERS_MAX_COUNT: usize = 8192;

/// Tells the program that was met at the other end of `stream` to come to `listener`. The connection to it, or `None`
/// when it cannot come there and stays.
///
/// # Errors
/// [`GuestError`], after which the program is of no use. Cancelled, neither.
pub async fn lead<S>(
    stream: &mut S,
    listener: &UnixListener,
    way: &Way,
) -> Result<Option<UnixStream>, GuestError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let frame = written(&Frame::Move(way.clone())).map_err(GuestError::Frame)?;
    stream.write_all(&frame).await.map_err(GuestError::Stream)?;
    stream.flush().await.map_err(GuestError::Stream)?;
    let mut inbox = Inbox::default();
    let moved = loop {
        if let Some(frame) = inbox.next().map_err(GuestError::Frame)? {
            match Frame::read(frame).map_err(GuestError::Frame)? {
                Frame::Moved { moved } => break moved,
                _ => return Err(GuestError::Other),
            }
        }
        fill(stream, &mut inbox).await.map_err(GuestError::Stream)?;
    };
    if inbox.is_amid() {
        return Err(GuestError::Frame(FrameError::Length(0)));
    }
    if !moved {
        return Ok(None);
    }
    // It has said its token before it said that it had moved.
    for _ in 0..STRANGERS_MAX_COUNT {
        let (mut stream, _unnamed) = listener.accept().await.map_err(GuestError::Stream)?;
        if says(&stream, &way.token).map_err(GuestError::Stream)? {
            stream.write_all(&way.answer).await.map_err(GuestError::Stream)?;
            return Ok(Some(stream));
        }
    }
    Err(GuestError::Other)
}

/// Whether a stream begins with the token.
fn says(stream: &UnixStream, token: &[u8; WAY_TOKEN_BYTES]) -> io::Result<bool> {
    let mut said = [0; WAY_TOKEN_BYTES];
    match rustix::net::recv(stream, &mut said[..], rustix::net::RecvFlags::DONTWAIT) {
        // The same time for every wrong one: it is a secret.
        Ok((count, _)) => {
            let differ = said.iter().zip(token).fold(0, |differ, (one, other)| differ | (one ^ other));
            Ok(count == said.len() && differ == 0)
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNRESET) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
