//! One direction of a unix to unix stream that passes file descriptors.
//!
//! Descriptors belong to the first byte of the message they came with (unix(7)), but one read may join plain bytes with
//! the message behind them, and then nobody can tell any more which byte that was; nor can the queue be asked
//! (a look at it, `MSG_PEEK`, reports descriptors wherever they are in it). So:
//!
//! 1. look at the queue. Without descriptors in it: send what was seen, then take exactly what was sent. Of large
//!    amounts exactly what was seen is spliced through a pipe: splice(2) drops descriptors, and what has come
//!    since the look may bring some;
//!    A stream that carries much is not even read for that: how many bytes are there is asked first (`FIONREAD`), and
//!    then one byte is looked at, which tells of descriptors anywhere in the queue, where the kernel does that;
//! 2. with descriptors: take byte by byte until they come. The bytes before are plain. The one they come with, and
//!    the rest that was seen (a look ends with the message it finds descriptors in), are sent with them.
//!
//! What the destination does not take stays with the kernel; at most one message's descriptors are held here.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, recvmsg, send};

use super::lane::{Lane, Step, TURN_BYTES, take};
use super::message::{Held, Taken, put, receive};
use super::pipes::{LARGE_BYTES, Pipes};
use super::socket::Socket;

/// What taking one byte costs of a turn, in bytes.
const SINGLE_COST: usize = 64;

/// Bytes taken one by one in a row before what they are is sent.
const SINGLES: usize = 2048;

/// So many bytes go through a pipe: a look has read them once already, and they are not copied out and in again.
/// Measured from 16 to 64 KiB without a difference.
const SPLICED_BYTES: usize = 16 * 1024;

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
        if let Some(step) = lane.flush(to, pipes).or_else(|| flush_held(lane, to, pipes)) {
            return step;
        }
        if lane.eof || !from.read {
            lane.release(pipes);
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
pub(super) fn flush_held(lane: &mut Lane, to: &mut Socket, pipes: &mut Pipes) -> Option<Step> {
    let held = lane.held.as_ref()?;
    if !to.write {
        return Some(Step::Waits);
    }
    match put(&*to, &held.bytes, &held.descriptors) {
        Ok(_) => {
            lane.let_go(pipes);
            None
        }
        Err(errno) => Some(blocked(to, errno)),
    }
}

/// What a failed send means.
pub(super) fn blocked(to: &mut Socket, errno: Errno) -> Step {
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
    from: &mut Socket,
    to: &mut Socket,
    buffer: &mut [u8],
    pipes: &mut Pipes,
    refused: &mut u64,
) -> Result<Passed, Errno> {
    if lane.is_heavy()
        && let Some(count) = pass_unread(lane, from, pipes)?
    {
        return Ok(Passed::Bytes { count, cost: count });
    }
    let (seen, descriptors) = look(&*from, buffer)?;
    if seen == 0 {
        return Ok(Passed::End);
    }
    let was_all = seen < buffer.len();
    let bytes = buffer.get_mut(..seen).unwrap_or_default();
    if descriptors {
        return pass_descriptors(lane, from, to, bytes, pipes, refused);
    }
    let passed = pass_bytes(lane, from, to, bytes, pipes)?;
    if was_all && matches!(passed, Passed::Bytes { count, .. } if count == seen) {
        from.note_short_read();
    }
    Ok(passed)
}

/// Passes on what is in the queue, if that is much and no descriptors are in it, without reading it. What was there before
/// the look is what the look has told of; what has come meanwhile stays.
fn pass_unread(lane: &mut Lane, from: &mut Socket, pipes: &mut Pipes) -> Result<Option<usize>, Errno> {
    if !pipes.looks_reach || from.urgent {
        return Ok(None);
    }
    let count = usize::try_from(ioctl_fionread(&*from)?).unwrap_or(0).min(LARGE_BYTES);
    if count == 0 {
        from.note_short_read();
        return Ok((!from.read).then_some(0));
    }
    if count < SPLICED_BYTES || look(&*from, &mut [0])?.1 {
        return Ok(None);
    }
    lane.take_plain(from, count, pipes)
}

/// No descriptors come with `bytes`, which were seen in the queue: passes on and takes as many of them as go.
fn pass_bytes(
    lane: &mut Lane,
    from: &Socket,
    to: &mut Socket,
    bytes: &mut [u8],
    pipes: &mut Pipes,
) -> Result<Passed, Errno> {
    if bytes.len() >= SPLICED_BYTES
        && let Some(count) = lane.take_plain(from, bytes.len(), pipes)?
    {
        return Ok(Passed::Bytes { count, cost: count });
    }
    let sent = match send(&*to, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
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
    // Past the limit, what would have to wait here stays with the kernel.
    if !pipes.may_stall_fds() && !to.has_room() {
        to.write = false;
        return Ok(Passed::Stop(Step::Waits));
    }
    if !pipes.may_hold_fds() {
        return Ok(Passed::Stop(Step::Later));
    }
    // A look takes duplicates: if they do not fit in here, the real ones would be lost.
    if receive(from, &mut [0], RecvFlags::PEEK)?.beside == Taken::Short {
        return Ok(Passed::Stop(Step::Later));
    }
    let mut plain = 0;
    let mut found = None;
    while plain < bytes.len().min(SINGLES) && found.is_none() {
        let byte = receive(from, bytes.get_mut(plain..=plain).unwrap_or_default(), RecvFlags::empty());
        match byte.map(|got| (got.length, got.beside)) {
            Ok((1, Taken::Nothing)) => plain += 1,
            Ok((1, beside)) => found = Some(beside),
            Err(Errno::INTR) => {}
            Ok(_) | Err(Errno::AGAIN) => break,
            Err(errno) => return Err(errno),
        }
    }
    let cost = (plain + 1) * SINGLE_COST;
    if let Err(errno) = lane.put(to, bytes.get(..plain).unwrap_or_default(), pipes) {
        return Ok(Passed::Stop(Step::SinkFailed(errno)));
    }
    let Some(beside) = found else { return Ok(Passed::Bytes { count: plain, cost }) };
    if beside == Taken::Short {
        *refused += 1;
        return Err(Errno::MFILE);
    }
    let descriptors = beside.passable(refused);
    let message = bytes.get_mut(plain..).unwrap_or_default();
    let sent = if lane.is_clear() && to.write { put(&*to, message, &descriptors) } else { Err(Errno::AGAIN) };
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
            let bytes = message.get(..1).unwrap_or_default().to_vec();
            lane.hold(Held { bytes, descriptors }, pipes);
            match blocked(to, errno) {
                Step::Waits | Step::More => Ok(Passed::Bytes { count: plain + 1, cost }),
                step => {
                    lane.count(plain + 1);
                    Ok(Passed::Stop(step))
                }
            }
        }
    }
}

/// Looks at the queue: how many bytes, up to the end of the first message with descriptors, and whether there
/// is one. Without room for them the kernel only says so.
fn look(from: impl AsFd, buffer: &mut [u8]) -> Result<(usize, bool), Errno> {
    let mut control = RecvAncillaryBuffer::new(&mut []);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(from, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    Ok((message.bytes, message.flags.contains(ReturnFlags::CTRUNC)))
}

/// Whether a look at one byte tells of descriptors behind it: it goes through the whole queue (`unix_stream_read_generic`
/// in net/unix/af_unix.c), of which no manual speaks, so it is tried.
pub(super) fn looks_reach() -> bool {
    let tried = || -> Result<bool, Errno> {
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let (sender, receiver) = UnixStream::pair().map_err(failed)?;
        put(&sender, &[0], &[])?;
        let plain = look(&receiver, &mut [0])?;
        let descriptor = OwnedFd::from(sender.try_clone().map_err(failed)?);
        put(&sender, &[0], &[descriptor])?;
        Ok(plain == (1, false) && look(&receiver, &mut [0])? == (1, true))
    };
    tried().unwrap_or(false)
}

#[cfg(test)]
mod tests;
