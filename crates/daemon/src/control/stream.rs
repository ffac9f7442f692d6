//! A connection that takes no descriptors, and can give back what was read of it.

use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, recvmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Somebody sent descriptors. The kernel has closed them: there is no room for any (unix(7)).
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("descriptors are not taken")]
pub(super) struct Descriptors;

/// The connection.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: UnixStream,
    /// Read before, to be read again first.
    before: Vec<u8>,
    /// How much of it has been.
    read: usize,
}

impl Guarded {
    /// Guards a connection.
    pub(super) fn new(stream: UnixStream) -> Guarded {
        Guarded { stream, before: Vec::new(), read: 0 }
    }

    /// The connection with `before` in front of what comes.
    pub(super) fn after(self, before: Vec<u8>) -> Guarded {
        Guarded { before, read: 0, ..self }
    }

    /// The connection itself.
    pub(super) fn into_inner(self) -> UnixStream {
        self.stream
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.before.len() {
            let rest = &self.before[self.read..];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            self.read += count;
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            let received = self.stream.try_io(Interest::READABLE, || {
                let mut none = RecvAncillaryBuffer::default();
                Ok(recvmsg(&self.stream, &mut [IoSliceMut::new(room)], &mut none, RecvFlags::empty())?)
            });
            match received {
                Ok(message) if message.flags.contains(ReturnFlags::CTRUNC) => {
                    return Poll::Ready(Err(io::Error::other(Descriptors)));
                }
                Ok(message) => {
                    buffer.advance(message.bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
