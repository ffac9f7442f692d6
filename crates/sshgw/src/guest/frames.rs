//! Frames on their way to the program in an instance.
//!
//! What a client sends is not copied into its frame, and frames that wait are written together: of a flood of them the
//! program is woken once for many.

use std::io::{self, IoSlice};

use bytes::Bytes;
use portway_proto::guest::{DATA_HEAD_BYTES, Frame, FrameError, Stream};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// Frames that wait to be written, and as many that are being written.
pub(super) const FRAMES_MAX_COUNT: usize = 16;

/// Where they go.
pub(super) type Frames = mpsc::Sender<Outbound>;

/// One frame.
#[derive(Debug)]
pub(super) enum Outbound {
    /// As it is written.
    Whole(Vec<u8>),
    /// Of bytes that lie where they came.
    Data { head: [u8; DATA_HEAD_BYTES], bytes: Bytes },
}

impl Default for Outbound {
    /// Nothing at all.
    fn default() -> Self {
        Self::Whole(Vec::new())
    }
}

impl Outbound {
    pub(super) fn of(frame: &Frame<'_>) -> Result<Self, FrameError> {
        written(frame).map(Self::Whole)
    }

    /// Bytes of a stream, not more than there may be in a frame.
    pub(super) fn data(channel: u32, stream: Stream, bytes: Bytes) -> Self {
        Self::Data { head: Frame::data_head(channel, stream, bytes.len()), bytes }
    }

    fn parts(&self) -> [&[u8]; 2] {
        match self {
            Self::Whole(bytes) => [bytes, &[]],
            Self::Data { head, bytes } => [head, bytes],
        }
    }
}

pub(super) fn written(frame: &Frame<'_>) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    frame.write(&mut bytes).map(|()| bytes)
}

/// Sends a short frame; `false` when nobody takes it any more.
pub(super) async fn send(frames: &Frames, frame: &Frame<'_>) -> bool {
    match Outbound::of(frame) {
        Ok(frame) => frames.send(frame).await.is_ok(),
        Err(_) => false,
    }
}

/// Writes until nobody is left who could say something.
pub(super) async fn speak<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut waiting: mpsc::Receiver<Outbound>,
) -> io::Result<()> {
    let mut frames = Vec::with_capacity(FRAMES_MAX_COUNT);
    while waiting.recv_many(&mut frames, FRAMES_MAX_COUNT).await > 0 {
        write(writer, &frames).await?;
        frames.clear();
        if waiting.is_empty() {
            writer.flush().await?;
        }
    }
    writer.shutdown().await
}

/// Writes all of them: by one call, where the stream takes several parts at a time.
async fn write<W: AsyncWrite + Unpin>(writer: &mut W, frames: &[Outbound]) -> io::Result<()> {
    if !writer.is_write_vectored() {
        for frame in frames {
            // Each write is a message of its own there.
            match frame {
                Outbound::Whole(bytes) => writer.write_all(bytes).await?,
                Outbound::Data { head, bytes } => writer.write_all(&[&head[..], bytes].concat()).await?,
            }
        }
        return Ok(());
    }
    let parts = frames.iter().flat_map(Outbound::parts).filter(|part| !part.is_empty());
    let mut parts: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
    let mut left = parts.as_mut_slice();
    while !left.is_empty() {
        match writer.write_vectored(left).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => IoSlice::advance_slices(&mut left, count),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncReadExt as _, DuplexStream};

    use super::*;

    /// A stream that takes one part at a time, as the server's exec does.
    struct OneByOne(DuplexStream);

    impl AsyncWrite for OneByOne {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Fails when frames come in another order, or bytes that lie elsewhere are another frame than those that are copied.
    #[tokio::test]
    async fn frames_are_written_in_order() {
        let (mut expected, bytes) = (Vec::new(), vec![7; 50_000]);
        let (frames, waiting) = mpsc::channel(FRAMES_MAX_COUNT);
        // Both take less than there is.
        let (mut ours, mut theirs) = tokio::net::UnixStream::pair().expect("a pair");
        assert!(ours.is_write_vectored());
        let writing = tokio::spawn(async move { speak(&mut ours, waiting).await });
        let (plain, mut read_plain) = tokio::io::duplex(1000);
        let mut plain = OneByOne(plain);
        assert!(!plain.is_write_vectored());
        let (others, waiting) = mpsc::channel(FRAMES_MAX_COUNT);
        let writing_plain = tokio::spawn(async move { speak(&mut plain, waiting).await });
        let sending = async {
            for channel in 0..100 {
                for frames in [&frames, &others] {
                    let data = Outbound::data(channel, Stream::In, Bytes::from(bytes.clone()));
                    assert!(frames.send(data).await.is_ok());
                    assert!(send(frames, &Frame::Close { channel }).await);
                }
                let data = Frame::Data { channel, stream: Stream::In, bytes: &bytes };
                expected.extend(written(&data).expect("it is short"));
                expected.extend(written(&Frame::Close { channel }).expect("it is short"));
            }
            drop((frames, others));
        };
        let (mut came, mut came_plain) = (Vec::new(), Vec::new());
        let (read, read_too, ()) =
            tokio::join!(theirs.read_to_end(&mut came), read_plain.read_to_end(&mut came_plain), sending);
        assert!(read.is_ok() && read_too.is_ok());
        assert!(came == expected && came_plain == expected);
        assert!(writing.await.expect("no panic").is_ok() && writing_plain.await.expect("no panic").is_ok());
    }
}
