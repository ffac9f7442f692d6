//! Many datagrams of one size in one call, sent or received: `UDP_SEGMENT` and `UDP_GRO` of udp(7), as QUIC programs
//! use them.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::sys::socket::sockopt::UdpGroSegment;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};

/// Sends `bytes` in one call as datagrams of `size` bytes each; the last may be shorter. At most 64 go at once.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send(socket: &UdpSocket, bytes: &[u8], size: u16, to: SocketAddr) -> Result<()> {
    let control = [ControlMessage::UdpGsoSegments(&size)];
    let to = SockaddrStorage::from(to);
    let sent = sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), Some(&to))
        .context("cannot send segments")?;
    anyhow::ensure!(sent == bytes.len(), "{sent} of {} bytes were sent", bytes.len());
    Ok(())
}

/// Has the kernel give what came together as one.
///
/// # Errors
/// Those of setsockopt(2).
pub fn join(socket: &UdpSocket) -> Result<()> {
    setsockopt(socket, UdpGroSegment, &true).context("cannot turn UDP_GRO on")
}

/// Receives once, from a socket that joins, and takes the datagrams apart.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(socket: &UdpSocket) -> Result<(Vec<Vec<u8>>, Option<SocketAddr>)> {
    let (mut bytes, mut control) = (vec![0; 1 << 16], nix::cmsg_space!(i32));
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::empty();
    let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
        .context("cannot receive segments")?;
    let size = got.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
        _ => None,
    });
    let from = got.address.and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| SocketAddr::V4((*from).into()));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::V6((*from).into())))
    });
    let length = got.bytes;
    let size = size.unwrap_or(length).max(1);
    Ok((bytes.get(..length).unwrap_or_default().chunks(size).map(<[u8]>::to_vec).collect(), from))
}
