//! Standard input and output of a program as one stream of bytes, for programs that speak a protocol on them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Message;

use super::{Exec, Input, Output};

/// Most bytes of one message to the server, as large as it hands them on.
const MESSAGE_BYTES: usize = 64 << 10;

/// The stream. Its end is the end of what the program writes, and closing it that of what it reads.
#[derive(Debug)]
pub struct Pipe {
    input: Input,
    output: Output,
    /// What has come and was not read.
    rest: Bytes,
}

impl Exec {
    /// The two streams as one; what else there is of the program, and its standard error, stay as they are.
    #[must_use]
    pub fn into_pipe(self) -> (Pipe, super::Control, Option<Output>, super::Outcome) {
        let pipe = Pipe { input: self.input, output: self.output, rest: Bytes::new() };
        (pipe, self.control, self.errors, self.outcome)
    }
}

fn lost(_: tokio_tungstenite::tungstenite::Error) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Nothing comes from there but pings, which are answered by this.
        if let Some(reads) = &mut this.input.reads {
            while let Poll::Ready(Some(Ok(_))) = Pin::new(&mut *reads).poll_next(cx) {}
        }
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.output.reads).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.rest = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_) | Message::Close(_)) | Err(_)) | None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.rest.len().min(buf.remaining());
        buf.put_slice(&this.rest[..count]);
        this.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut sink = Pin::new(&mut self.input.sink);
        ready!(sink.as_mut().poll_ready(cx)).map_err(lost)?;
        let now = &buf[..buf.len().min(MESSAGE_BYTES)];
        sink.start_send(Message::Binary(Bytes::copy_from_slice(now))).map_err(lost)?;
        Poll::Ready(Ok(now.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input.sink).poll_flush(cx).map_err(lost)
    }

    /// An empty text is the server's sign for the end.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.input.is_over {
            let mut sink = Pin::new(&mut self.input.sink);
            ready!(sink.as_mut().poll_ready(cx)).map_err(lost)?;
            sink.start_send(Message::text("")).map_err(lost)?;
            self.input.is_over = true;
        }
        Pin::new(&mut self.input.sink).poll_flush(cx).map_err(lost)
    }
}
