//! One message of a unix socket, with the descriptors beside it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrAny, SocketAddrUnix, recvmsg, sendmsg, sendmsg_addr,
};

/// `SCM_MAX_FD` of the kernel: descriptors of one message.
pub(super) const MESSAGE_FDS: usize = 253;

/// A message, or the first bytes of one, that has been taken and not yet passed on, and its descriptors.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// What came beside bytes.
#[derive(Debug)]
pub(super) enum Taken {
    Nothing,
    Descriptors(Vec<OwnedFd>),
    /// This process could not take all of them; those it could are closed. What they came with cannot go on
    /// as what it was: a datagram is dropped, a connection ends.
    Short,
}

impl Taken {
    /// The descriptors that may go on; the others are closed and added to `refused`. Of those that did not come
    /// nobody knows how many they were: they count as one.
    pub(super) fn passable(self, refused: &mut u64) -> Vec<OwnedFd> {
        match self {
            Taken::Nothing => Vec::new(),
            Taken::Short => {
                *refused += 1;
                Vec::new()
            }
            Taken::Descriptors(mut descriptors) => {
                let offered = descriptors.len();
                descriptors.retain(|descriptor| may_pass(descriptor.as_fd()));
                *refused += count(offered - descriptors.len());
                descriptors
            }
        }
    }

    /// Closes the descriptors and adds them to `refused`.
    pub(super) fn refuse(self, refused: &mut u64) {
        *refused += match &self {
            Taken::Nothing => 0,
            Taken::Descriptors(descriptors) => count(descriptors.len()),
            Taken::Short => 1,
        };
    }
}

impl PartialEq for Taken {
    fn eq(&self, other: &Taken) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

fn count(descriptors: usize) -> u64 {
    u64::try_from(descriptors).unwrap_or(0)
}

/// What one call brought.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) length: usize,
    pub(super) beside: Taken,
    /// The message was longer than the buffer.
    pub(super) truncated: bool,
    /// It came with the sender's credentials: a message, however short, and not the end of a connection. Only
    /// where the socket asks for them (`SO_PASSCRED`).
    pub(super) signed: bool,
    /// Who sent it, where it has a name (datagrams).
    pub(super) sender: Option<SocketAddrAny>,
}

/// Takes bytes and what comes beside them.
pub(super) fn receive(from: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(from, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    let mut signed = false;
    for part in control.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(received) => descriptors.extend(received),
            RecvAncillaryMessage::ScmCredentials(_) => signed = true,
            _ => {}
        }
    }
    let beside = if message.flags.contains(ReturnFlags::CTRUNC) {
        Taken::Short
    } else if descriptors.is_empty() {
        Taken::Nothing
    } else {
        Taken::Descriptors(descriptors)
    };
    Ok(Received {
        length: message.bytes.min(buffer.len()),
        beside,
        truncated: message.flags.contains(ReturnFlags::TRUNC),
        signed,
        sender: message.address,
    })
}

/// The next message, which stays where it is.
#[derive(Debug)]
pub(super) struct Next {
    /// It brings descriptors.
    pub(super) descriptors: bool,
    /// Who sent it, where it has a name (datagrams).
    pub(super) sender: Option<SocketAddrAny>,
}

/// Whether the next message brings descriptors; see [`look`].
pub(super) fn brings_descriptors(from: impl AsFd) -> Result<bool, Errno> {
    look(from).map(|next| next.descriptors)
}

/// Looks at the next message. There is room for credentials only, so that most descriptors are not taken for that.
pub(super) fn look(from: impl AsFd) -> Result<Next, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(from, &mut [IoSliceMut::new(&mut [0])], &mut control, flags)?;
    let rights = |part| matches!(part, RecvAncillaryMessage::ScmRights(_));
    let descriptors = message.flags.contains(ReturnFlags::CTRUNC) || control.drain().any(rights);
    Ok(Next { descriptors, sender: message.address })
}

/// Sends `bytes` with copies of `descriptors`.
pub(super) fn put(to: impl AsFd, bytes: &[u8], descriptors: &[OwnedFd]) -> Result<usize, Errno> {
    send(to, None, bytes, descriptors)
}

/// As [`put`], from a socket that is not connected.
pub(super) fn put_to(
    from: impl AsFd,
    to: &SocketAddrUnix,
    bytes: &[u8],
    descriptors: &[OwnedFd],
) -> Result<usize, Errno> {
    send(from, Some(to), bytes, descriptors)
}

fn send(
    socket: impl AsFd,
    to: Option<&SocketAddrUnix>,
    bytes: &[u8],
    descriptors: &[OwnedFd],
) -> Result<usize, Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let bytes = [IoSlice::new(bytes)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(Errno::TOOMANYREFS);
    }
    match to {
        Some(to) => sendmsg_addr(socket, to, &bytes, &mut control, flags),
        None => sendmsg(socket, &bytes, &mut control, flags),
    }
}

/// Whether a descriptor may go to the other side. A directory, or a place in the file system opened with
/// `O_PATH`, would open the way to everything below it, past the other side's own root.
fn may_pass(descriptor: BorrowedFd<'_>) -> bool {
    let is_directory =
        fstat(descriptor).map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    let is_path = fcntl_getfl(descriptor).map(|flags| flags.contains(OFlags::PATH));
    is_directory == Ok(false) && is_path == Ok(false)
}
