//! One direction of a unix to unix stream that passes file descriptors.
//!
//! Descriptors belong to the first byte of the message they came with (unix(7)), but one read may join plain bytes with
//! the message behind them, and then nobody can tell any more which byte that was; nor can the queue be asked
//! (a look at it, `MSG_PEEK`, reports descriptors wherever they are in it). So:
//!
//! 1. look at the queue. Without descriptors in it: send what was seen, then take exactly what was sent;
//! 2. with descriptors: take byte by byte until they come. The bytes before are plain. The one they come with, and
//!    the rest that was seen (a look ends with the message it finds descriptors in), are sent with them.
//!
//! What the destination does not take stays with the kernel; at most one message's descriptors are held here.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::lane::{Lane, Step, TURN_BYTES, take};
use super::pipes::Pipes;
use super::socket::Socket;

/// `SCM_MAX_FD` of the kernel: descriptors of one message.
const MESSAGE_FDS: usize = 253;

/// What taking one byte costs of a turn, in bytes.
const SINGLE_COST: usize = 64;

/// Bytes taken one by one in a row before what they are is sent.
const SINGLES: usize = 2048;

/// Descriptors that have been taken and not yet passed on, and the byte they belong to.
#[derive(Debug)]
pub(super) struct Held {
    byte: u8,
    descriptors: Vec<OwnedFd>,
}

/// Moves what can be moved in one turn; adds to `refused` how many descriptors were not passed on.
pub(super) fn carry(
    lane: &mut Lane,
    from: &mut Socket,
    to: &mut Socket,
    buffer: &mut [u8],
    pipes: &mut Pipes,
    refused: &mut u64,
) -> Step {
    let mut left = TURN_BYTES;
    loop {
        if let Some(step) = lane.flush(to, pipes).or_else(|| flush_held(lane, to)) {
            return step;
        }
        if lane.eof {
            return Step::Ended;
        }
        if !from.read || !to.write {
            return Step::Waits;
        }
        if left == 0 {
            return Step::More;
        }
        match pass(lane, from, to, buffer, pipes, refused) {
            Ok(Passed::Bytes { count, cost }) => {
                lane.count(count);
                left = left.saturating_sub(cost);
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
    Bytes { count: usize, cost: usize },
    End,
    Stop(Step),
}

/// Sends what is held. `None`: nothing is left of it.
fn flush_held(lane: &mut Lane, to: &mut Socket) -> Option<Step> {
    let held = lane.held.as_ref()?;
    if !to.write {
        return Some(Step::Waits);
    }
    match put(to, &[held.byte], &held.descriptors) {
        Ok(_) => {
            lane.held = None;
            None
        }
        Err(errno) => Some(blocked(to, errno)),
    }
}

/// What a failed send means.
fn blocked(to: &mut Socket, errno: Errno) -> Step {
    match errno {
        Errno::AGAIN => {
            to.write = false;
            Step::Waits
        }
        Errno::INTR => Step::More,
        // Too many descriptors of this user are on their way (unix(7)), or memory is short.
        Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM => Step::Later,
        errno => Step::SinkFailed(errno),
    }
}

/// Passes what the queue holds up to the end of the first message with descriptors.
fn pass(
    lane: &mut Lane,
    from: &Socket,
    to: &mut Socket,
    buffer: &mut [u8],
    pipes: &mut Pipes,
    refused: &mut u64,
) -> Result<Passed, Errno> {
    let (seen, descriptors) = look(from, buffer)?;
    if seen == 0 {
        return Ok(Passed::End);
    }
    let bytes = buffer.get_mut(..seen).unwrap_or_default();
    if descriptors {
        pass_descriptors(lane, from, to, bytes, pipes, refused)
    } else {
        pass_bytes(from, to, bytes)
    }
}

/// No descriptors are in the queue: sends `bytes`, which were seen there, and takes what was sent.
fn pass_bytes(from: &Socket, to: &mut Socket, bytes: &mut [u8]) -> Result<Passed, Errno> {
    let sent = match put(to, bytes, &[]) {
        Ok(sent) => sent,
        Err(errno) => return Ok(Passed::Stop(blocked(to, errno))),
    };
    if sent < bytes.len() {
        to.write = false;
    }
    take(from, bytes.get_mut(..sent).unwrap_or_default())?;
    Ok(Passed::Bytes { count: sent, cost: sent })
}

/// Descriptors are in the queue, with one of `bytes` or behind them.
fn pass_descriptors(
    lane: &mut Lane,
    from: &Socket,
    to: &mut Socket,
    bytes: &mut [u8],
    pipes: &mut Pipes,
    refused: &mut u64,
) -> Result<Passed, Errno> {
    // A look takes duplicates: if they do not fit in here, the real ones would be lost.
    if receive(from, &mut [0], RecvFlags::PEEK)?.1 == Taken::Short {
        return Ok(Passed::Stop(Step::Later));
    }
    let mut plain = 0;
    let mut found = None;
    while plain < bytes.len().min(SINGLES) && found.is_none() {
        match receive(from, bytes.get_mut(plain..=plain).unwrap_or_default(), RecvFlags::empty()) {
            Ok((1, Taken::Descriptors(descriptors))) => found = Some(descriptors),
            Ok((1, Taken::Nothing)) => plain += 1,
            // All that could be taken is closed.
            Ok((1, Taken::Short)) => found = Some(Vec::new()),
            Err(Errno::INTR) => {}
            Ok(_) | Err(Errno::AGAIN) => break,
            Err(errno) => return Err(errno),
        }
    }
    let cost = (plain + 1) * SINGLE_COST;
    if let Err(errno) = lane.put(to, bytes.get(..plain).unwrap_or_default(), pipes) {
        return Ok(Passed::Stop(Step::SinkFailed(errno)));
    }
    let Some(mut descriptors) = found else { return Ok(Passed::Bytes { count: plain, cost }) };
    let offered = descriptors.len();
    descriptors.retain(|descriptor| may_pass(descriptor.as_fd()));
    *refused += u64::try_from(offered - descriptors.len()).unwrap_or(0);
    let message = bytes.get_mut(plain..).unwrap_or_default();
    let sent = if lane.is_clear() && to.write { put(to, message, &descriptors) } else { Err(Errno::AGAIN) };
    match sent {
        Ok(sent) => {
            let rest = message.get_mut(1..sent).unwrap_or_default();
            let taken = rest.len();
            if sent < message.len() {
                to.write = false;
            }
            take(from, message.get_mut(1..sent).unwrap_or_default())?;
            Ok(Passed::Bytes { count: plain + 1 + taken, cost: cost + taken })
        }
        Err(errno) => {
            lane.held = Some(Box::new(Held { byte: message.first().copied().unwrap_or(0), descriptors }));
            match blocked(to, errno) {
                Step::Waits | Step::More => Ok(Passed::Bytes { count: plain + 1, cost }),
                step => Ok(Passed::Stop(step)),
            }
        }
    }
}

/// Looks at the queue: how many bytes, up to the end of the first message with descriptors, and whether there
/// is one. Without room for them the kernel only says so.
fn look(from: &Socket, buffer: &mut [u8]) -> Result<(usize, bool), Errno> {
    let mut control = RecvAncillaryBuffer::new(&mut []);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(from, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    Ok((message.bytes, message.flags.contains(ReturnFlags::CTRUNC)))
}

/// What came beside bytes.
#[derive(Debug)]
enum Taken {
    Nothing,
    Descriptors(Vec<OwnedFd>),
    /// This process could not take all of them; those it could are closed.
    Short,
}

impl PartialEq for Taken {
    fn eq(&self, other: &Taken) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// Takes bytes and what comes beside them.
fn receive(from: &Socket, buffer: &mut [u8], flags: RecvFlags) -> Result<(usize, Taken), Errno> {
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
    let taken = if message.flags.contains(ReturnFlags::CTRUNC) {
        Taken::Short
    } else if descriptors.is_empty() {
        Taken::Nothing
    } else {
        Taken::Descriptors(descriptors)
    };
    Ok((message.bytes, taken))
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
