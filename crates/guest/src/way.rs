//! From the pipes of an exec to a socket of the gateway's own, which nobody carries bytes for.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use portway_proto::guest::{Frame, Way};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::outbox::Outbox;

/// Tells the gateway by `outbox`, which goes to `old`, whether it moves. The socket by which everything goes from then
/// on; `None` when it cannot be reached and all stays as it is.
///
/// # Errors
/// When the gateway cannot be told.
pub(crate) fn take(way: &Way, outbox: &mut Outbox, old: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let socket = reach(way).ok();
    outbox.push(&Frame::Moved { moved: socket.is_some() });
    while !outbox.is_empty() {
        outbox.flush(old)?;
        if !outbox.is_empty() {
            rustix::event::poll(&mut [PollFd::from_borrowed_fd(old, PollFlags::OUT)], None)?;
        }
    }
    Ok(socket)
}

/// Connects, and says the token. Never waits.
fn reach(way: &Way) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(&way.name)?)?;
    match rustix::io::write(&socket, &way.token)? {
        written if written == way.token.len() => Ok(socket),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
