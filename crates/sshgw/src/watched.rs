//! Descriptors that the runtime watches, and packets over them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use portway_sys::seqpacket::Channel;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor that `owner` owns.
///
/// # Errors
/// When the kernel refuses, for instance for lack of memory.
pub(crate) fn watched<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    #[expect(deprecated, reason = "its successor is unsafe for owners without I/O safety; AsFd proves it")]
    AsyncFd::new(owner)
}

/// The same for a channel, made non-blocking first.
pub(crate) fn watched_channel(channel: Channel) -> io::Result<AsyncFd<Channel>> {
    channel.set_nonblocking(true)?;
    watched(channel)
}

/// Sends a packet with copies of descriptors; waits while the other side does not keep up.
pub(crate) async fn send(channel: &AsyncFd<Channel>, packet: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    loop {
        let mut guard = channel.writable().await?;
        if let Ok(sent) = guard.try_io(|channel| channel.get_ref().send(packet, &fds)) {
            return sent;
        }
    }
}

/// Receives a packet, replacing what is in it, and its descriptors; `UnexpectedEof` at the end. Cancel safe.
///
/// Another side that has left packets of ours unread is told by `ECONNRESET` before the packets it had sent: Linux reports a
/// socket's error once, ahead of its queue. They are read all the same, up to the end.
pub(crate) async fn receive(channel: &AsyncFd<Channel>, packet: &mut Vec<u8>) -> io::Result<Vec<OwnedFd>> {
    loop {
        let mut guard = channel.readable().await?;
        match guard.try_io(|channel| channel.get_ref().recv(packet)) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Ok(received) => return received?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
            Err(_would_block) => {}
        }
    }
}
