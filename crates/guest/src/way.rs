//! From the pipes of an exec to a socket of the gateway's own, which nobody carries bytes for.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use portway_proto::guest::{Frame, WAY_TOKEN_BYTES, Way};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::outbox::Outbox;

/// How long the gateway may take to answer.
const ANSWER: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Tells the gateway by `outbox`, which goes to `old`, whether it moves. The socket by which everything goes from then
/// on; `None` when it cannot be reached and all stays as it is.
///
/// # Errors
/// When the gateway cannot be told, or who is there is not the gateway.
pub(crate) fn take(way: &Way, outbox: &mut Outbox, old: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let socket = reach(way).ok();
    outbox.push(&Frame::Moved { moved: socket.is_some() });
    while !outbox.is_empty() {
        outbox.flush(old)?;
        if !outbox.is_empty() {
            rustix::event::poll(&mut [PollFd::from_borrowed_fd(old, PollFlags::OUT)], None)?;
        }
    }
    match socket {
        Some(socket) => answered(&socket, way).map(|()| Some(socket)),
        None => Ok(None),
    }
}

/// Waits until the gateway has shown that it is there. Whoever else listens by that name learns the token, and nothing
/// of what follows is obeyed.
fn answered(socket: &OwnedFd, way: &Way) -> io::Result<()> {
    let mut said = [0; WAY_TOKEN_BYTES];
    let mut length = 0;
    while let Some(room) = said.get_mut(length..).filter(|room| !room.is_empty()) {
        let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
        if rustix::event::poll(&mut polled, Some(&ANSWER))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match rustix::io::read(socket, room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => length += count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if said == way.answer { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
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
