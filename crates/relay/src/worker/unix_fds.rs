//! One direction of a unix to unix stream that passes file descriptors.
//!
//! Descriptors belong to the first byte of the message they came with (unix(7)), and a read may join bytes of an
//! earlier message with a later one's descriptors. So nothing is taken before it is known where they belong: the
//! queue is looked at (`MSG_PEEK`, which duplicates descriptors), what can be sent is sent, and exactly that much
//! is then taken from the queue. What the destination does not take stays with the kernel; nothing is kept here
//! between turns, neither bytes nor descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

use super::lane::{Lane, Step, TURN_BYTES};
use super::socket::Socket;

/// `SCM_MAX_FD` of the kernel: descriptors of one message.
const MESSAGE_FDS: usize = 253;

/// What the head of a queue holds.
struct Head {
    bytes: usize,
    descriptors: Vec<OwnedFd>,
    /// This process could not take all of them.
    short: bool,
}

/// Moves what can be moved in one turn; adds to `refused` how many descriptors were not passed on.
pub(super) fn carry(
    lane: &mut Lane,
    from: &mut Socket,
    to: &mut Socket,
    buffer: &mut [u8],
    refused: &mut u64,
) -> Step {
    let mut left = TURN_BYTES;
    loop {
        if lane.eof {
            return Step::Ended;
        }
        if !from.read || !to.write {
            return Step::Waits;
        }
        if left == 0 {
            return Step::More;
        }
        match pass_one(from, to, buffer, refused) {
            Ok(Passed::Bytes(count)) => {
                lane.count(count);
                left = left.saturating_sub(count);
            }
            Ok(Passed::End) => lane.eof = true,
            Ok(Passed::Stop(step)) => return step,
            Err(Errno::AGAIN) => from.read = false,
            Err(Errno::INTR) => {}
            Err(errno) => return Step::SourceFailed(errno),
        }
    }
}

enum Passed {
    Bytes(usize),
    End,
    Stop(Step),
}

/// Passes bytes up to the next descriptors, or descriptors with the bytes they belong to.
fn pass_one(from: &Socket, to: &mut Socket, buffer: &mut [u8], refused: &mut u64) -> Result<Passed, Errno> {
    let mut head = look(from, buffer)?;
    if head.short {
        return Ok(Passed::Stop(Step::Later));
    }
    if head.bytes == 0 {
        return Ok(Passed::End);
    }
    if !head.descriptors.is_empty() {
        match bytes_before_descriptors(from, buffer, head.bytes)? {
            Some(0) => {}
            Some(before) => {
                head.bytes = before;
                head.descriptors.clear();
            }
            None => return Ok(Passed::Stop(Step::Later)),
        }
    }
    let offered = head.descriptors.len();
    head.descriptors.retain(|descriptor| may_pass(descriptor.as_fd()));
    let held_back = offered - head.descriptors.len();
    let sent = match put(to, buffer.get(..head.bytes).unwrap_or_default(), &head.descriptors) {
        Ok(sent) => sent,
        Err(Errno::AGAIN) => {
            to.write = false;
            return Ok(Passed::Bytes(0));
        }
        // Too many descriptors of this user are on their way (unix(7)), or memory is short.
        Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => return Ok(Passed::Stop(Step::Later)),
        Err(errno) => return Ok(Passed::Stop(Step::SinkFailed(errno))),
    };
    drop(head.descriptors);
    *refused += u64::try_from(held_back).unwrap_or(0);
    take(from, buffer, sent)?;
    if sent < head.bytes {
        to.write = false;
    }
    Ok(Passed::Bytes(sent))
}

/// Looks at the head of the queue.
fn look(from: &Socket, buffer: &mut [u8]) -> Result<Head, Errno> {
    receive(from, buffer, RecvFlags::PEEK)
}

/// Takes `count` bytes, which have been looked at, and closes what came with them.
fn take(from: &Socket, buffer: &mut [u8], count: usize) -> Result<(), Errno> {
    let mut left = count;
    while left > 0 {
        let part = buffer.get_mut(..left).unwrap_or_default();
        // A plain read closes descriptors in the kernel, before they get a number here.
        match recv(from, part, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Errno::IO),
            Ok((taken, _)) => left = left.saturating_sub(taken),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn receive(from: &Socket, buffer: &mut [u8], flags: RecvFlags) -> Result<Head, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(from, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    Ok(Head { bytes: message.bytes, descriptors, short: message.flags.contains(ReturnFlags::CTRUNC) })
}

/// How many of the first `count` bytes come before the byte the descriptors belong to: the longest
/// beginning of the queue that has none. `None`: descriptors could not be taken.
fn bytes_before_descriptors(from: &Socket, buffer: &mut [u8], count: usize) -> Result<Option<usize>, Errno> {
    let has_descriptors = |buffer: &mut [u8], length: usize| {
        let head = receive(from, buffer.get_mut(..length).unwrap_or_default(), RecvFlags::PEEK)?;
        Ok::<_, Errno>(if head.short { None } else { Some(!head.descriptors.is_empty()) })
    };
    // Nearly always they belong to the first byte.
    let (mut without, mut with) = (0, count);
    let mut middle = 1;
    while with - without > 1 {
        match has_descriptors(buffer, middle)? {
            Some(true) => with = middle,
            Some(false) => without = middle,
            None => return Ok(None),
        }
        middle = without + (with - without) / 2;
    }
    // Looking writes the same bytes to the same places, so the buffer still holds all of them.
    Ok(Some(without))
}

/// Sends `bytes` with copies of `descriptors`.
fn put(to: &Socket, bytes: &[u8], descriptors: &[OwnedFd]) -> Result<usize, Errno> {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(Errno::TOOMANYREFS);
    }
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

/// Whether a descriptor may go to the other side. A directory, or a place in the file system opened with
/// `O_PATH`, would open the way to everything below it, past the other side's own root.
fn may_pass(descriptor: BorrowedFd<'_>) -> bool {
    let is_directory =
        fstat(descriptor).map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    let is_path = fcntl_getfl(descriptor).map(|flags| flags.contains(OFlags::PATH));
    is_directory == Ok(false) && is_path == Ok(false)
}

#[cfg(test)]
mod tests;
