//! A channel with files behind it that the server serves: those of an instance that does not run.
//!
//! The server's own SFTP begins at the root of the instance and knows no home, so the client's relative paths are made
//! absolute on their way. What it answers goes to the client as it comes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use bytes::Bytes;
use portway_proto::guest::Inbox;
use portway_proto::sftp::{PACKET_MAX_BYTES, from_home};
use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::inbox::{Outlet, Pieces};
use super::program::{Counts, End, say};

/// Bytes that are read of the server at a time: as much as one of its answers has.
const READ_BYTES: usize = 64 << 10;

/// The files.
#[derive(Debug)]
pub(super) struct Stored {
    stream: UnixStream,
    home: String,
}

impl Stored {
    /// What came from the broker; `None` where that is no connection. Needs a runtime.
    pub(super) fn new(fds: Vec<OwnedFd>, home: String) -> Option<Self> {
        let [fd] = <[OwnedFd; 1]>::try_from(fds).ok()?;
        let stream = StdStream::from(fd);
        stream.set_nonblocking(true).ok()?;
        Some(Self { stream: UnixStream::from_std(stream).ok()?, home })
    }
}

/// Carries packets until one side ends; the end, if anybody is there to be told.
pub(super) async fn converse(
    channel: &ChannelWriteHalf<Msg>,
    outlet: Outlet,
    files: Stored,
    counts: &Arc<Counts>,
) -> Option<End> {
    let Outlet { input: pieces, mut steering } = outlet;
    let (mut reader, writer) = files.stream.into_split();
    let mut feeding = tokio::spawn(feed(pieces, writer, files.home, Arc::clone(counts)));
    let is_heard = tokio::select! {
        is_heard = carry(&mut reader, channel, counts) => is_heard,
        Ok(Err(Strange)) = &mut feeding => {
            say(channel, "the client does not speak SFTP", false).await;
            return Some(End::Status(1));
        }
        () = steering.hangup() => false,
    };
    feeding.abort();
    // The server closes it once the client has, or with a start of the instance.
    is_heard.then_some(End::Status(0))
}

/// What the client sends is no SFTP.
#[derive(Debug)]
struct Strange;

/// What the client sends, to the server.
async fn feed(
    mut pieces: Pieces,
    mut writer: OwnedWriteHalf,
    home: String,
    counts: Arc<Counts>,
) -> Result<(), Strange> {
    let mut inbox = Inbox::default();
    while let Some(piece) = pieces.next().await {
        if let Some(transfers) = &counts.transfers {
            transfers.asks(&piece);
        }
        counts.came(piece.len());
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let room = inbox.room();
            let count = room.len().min(rest.len());
            let (now, later) = rest.split_at(count);
            room[..count].copy_from_slice(now);
            inbox.filled(count);
            rest = later;
            let mut packets = Vec::new();
            while let Some(packet) = inbox.next().map_err(|_| Strange)? {
                if packet.len() > PACKET_MAX_BYTES {
                    return Err(Strange);
                }
                let changed = from_home(packet, home.as_bytes());
                let packet = changed.as_deref().unwrap_or(packet);
                let length = u32::try_from(packet.len()).map_err(|_| Strange)?;
                packets.extend_from_slice(&length.to_be_bytes());
                packets.extend_from_slice(packet);
            }
            if writer.write_all(&packets).await.is_err() {
                return Ok(());
            }
        }
    }
    // The server's answers may still come: only this direction ends.
    let _gone = writer.shutdown().await;
    Ok(())
}

/// What the server answers, to the client. Whether it ended before the client did.
async fn carry(reader: &mut OwnedReadHalf, channel: &ChannelWriteHalf<Msg>, counts: &Counts) -> bool {
    let mut piece = vec![0; READ_BYTES];
    loop {
        let count = match reader.read(&mut piece).await {
            Ok(0) | Err(_) => return true,
            Ok(count) => count,
        };
        if let Some(transfers) = &counts.transfers {
            transfers.answers(&piece[..count]).await;
        }
        if channel.data_bytes(Bytes::copy_from_slice(&piece[..count])).await.is_err() {
            return false;
        }
        counts.went(count);
    }
}
