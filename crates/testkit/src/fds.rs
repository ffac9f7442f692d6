//! File descriptors over unix sockets, for tests of their passing.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most descriptors in one message: `SCM_MAX_FD` of the kernel.
pub const MAX_FDS: usize = 253;

/// Sends bytes with descriptors attached to the first of them.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send(stream: &impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        anyhow::bail!("too many descriptors for one message");
    }
    sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
        .context("cannot send descriptors")
}

/// Receives at most `limit` bytes and the descriptors that came with them.
///
/// # Errors
/// Those of recvmsg(2).
pub fn recv(stream: &impl AsFd, limit: usize) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .context("cannot receive descriptors")?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    bytes.truncate(message.bytes);
    Ok((bytes, fds))
}

/// A file in memory with `text` in it.
///
/// # Errors
/// When it cannot be made.
pub fn memfd(text: impl AsRef<[u8]>) -> Result<OwnedFd> {
    let mut file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).context("cannot make a file")?);
    file.write_all(text.as_ref()).context("cannot fill a file")?;
    Ok(file.into())
}

/// What is in a file, from its beginning.
///
/// # Errors
/// When it cannot be read.
pub fn content(file: OwnedFd) -> Result<Vec<u8>> {
    let (mut file, mut content) = (File::from(file), Vec::new());
    file.rewind().context("cannot go to the beginning")?;
    file.read_to_end(&mut content).context("cannot read a file")?;
    Ok(content)
}
