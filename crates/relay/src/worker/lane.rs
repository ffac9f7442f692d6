//! One direction of a byte stream: from the source's receive queue to the destination's send queue.
//!
//! Small amounts are copied through the engine's buffer. A direction that fills the buffer, or whose destination
//! does not take all of it, moves to splice(2) through a pipe, where what is on its way stays in the kernel; it
//! moves back when the source runs dry. Without a pipe the rest of a buffer is kept in memory. Nothing more is
//! read while anything is on its way, so a direction holds at most one pipe or one buffer. All rests together
//! have a limit: beyond it a direction looks at what its source has and takes only what it has passed on.

use portway_sys::pipe::{self, Pipe};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, recv, recvmsg, send};
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::engine::RETRY_PAUSE;
use super::message::Held;
use super::pipes::{LARGE_BYTES, Pipes, fill};
use super::socket::{Carrier, Socket};

/// Bytes of one direction in one turn of the loop; then it is the others' turn.
pub(super) const TURN_BYTES: usize = 256 * 1024;

/// A rest that is kept in memory rather than in a pipe, bytes.
const SMALL_REST_BYTES: usize = 4096;

/// How long a direction may be short of descriptors before its connection is given up.
const SHORTAGE_PATIENCE: Duration = Duration::from_secs(10);

/// A turn that carries so many bytes is a heavy one.
const HEAVY_BYTES: u64 = 32 * 1024;

/// After so many heavy turns more than others a direction is heavy. It is so until it has had as many others, and
/// they are counted up to a limit.
const HEAVY_TURNS: u8 = 8;
const WEIGHT_LIMIT: u8 = 64;

/// State of a direction.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    piped: usize,
    /// Rest of a buffer, after what is in the pipe.
    rest: Vec<u8>,
    /// How much of the rest has gone.
    rest_sent: usize,
    /// A message on its way, after the rest.
    pub(super) held: Option<Box<Held>>,
    /// The source has ended.
    pub(super) eof: bool,
    /// splice(2) does not work with this source.
    copies: bool,
    /// Heavy turns more than others, within limits.
    weight: u8,
    /// What it is short of has stopped it.
    shortage: Option<Shortage>,
    /// Bytes taken in over the life of the direction.
    pub(super) total: u64,
    /// Bytes taken in and not yet counted.
    pub(super) uncounted: u64,
}

/// A direction that something is short for: it rests meanwhile, though its sockets report changes. A refused send is
/// one of them: the kernel gives its buffer back, which counts as new room.
#[derive(Debug, Clone, Copy)]
struct Shortage {
    /// When it last got on.
    since: Instant,
    /// When it tries again.
    until: Instant,
}

/// Whether a direction may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Nothing is in its way that time would mend.
    Free,
    /// It rests until then.
    Rests(Instant),
    /// It has waited for long enough.
    Over,
}

/// Where a direction has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// To an event of either socket.
    Waits,
    /// To the end of its turn; it could go on.
    More,
    /// To a shortage; it is to be tried again in a while.
    Later,
    /// To the end: the source has ended and everything is written.
    Ended,
    /// The source failed.
    SourceFailed(Errno),
    /// The destination failed.
    SinkFailed(Errno),
}

/// What one read brought.
enum Took {
    Bytes(usize),
    Nothing,
    End,
    Stop(Step),
}

impl Lane {
    /// Moves what can be moved in one turn.
    pub(super) fn carry(
        &mut self,
        from: &mut Socket,
        to: &mut Socket,
        buffer: &mut [u8],
        pipes: &mut Pipes,
    ) -> Step {
        let mut left = TURN_BYTES;
        loop {
            if let Some(step) = self.flush(to, pipes) {
                return step;
            }
            if self.eof {
                self.release(pipes);
                return Step::Ended;
            }
            if !from.read || !to.write {
                return Step::Waits;
            }
            if left == 0 {
                return Step::More;
            }
            let took = if self.pipe.is_some() {
                self.splice(from, pipes)
            } else if pipes.may_keep() {
                self.copy(from, to, buffer, pipes)
            } else {
                self.pass(from, to, buffer)
            };
            match took {
                Took::Bytes(count) => left = left.saturating_sub(count),
                Took::Nothing => {}
                Took::End => self.eof = true,
                Took::Stop(step) => return step,
            }
        }
    }

    /// Writes what is on its way. `None`: nothing is left of it.
    pub(super) fn flush(&mut self, to: &mut Socket, pipes: &mut Pipes) -> Option<Step> {
        while self.piped > 0 {
            let Some(pipe) = &self.pipe else { break };
            if !to.write {
                return Some(Step::Waits);
            }
            match pipe::splice(pipe.read.as_fd(), to.as_fd(), self.piped) {
                Ok(count) => self.piped = self.piped.saturating_sub(count),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => to.write = false,
                    Some(Errno::INTR) => {}
                    errno => return Some(Step::SinkFailed(errno.unwrap_or(Errno::IO))),
                },
            }
        }
        while let Some(rest) = self.rest.get(self.rest_sent..).filter(|rest| !rest.is_empty()) {
            if !to.write {
                return Some(Step::Waits);
            }
            match write(to, rest) {
                Ok(count) => self.rest_sent += count,
                Err(errno) => return Some(Step::SinkFailed(errno)),
            }
        }
        self.drop_rest(pipes);
        None
    }

    fn drop_rest(&mut self, pipes: &mut Pipes) {
        if !self.rest.is_empty() {
            pipes.unkeep(self.rest.len());
            self.rest = Vec::new();
            self.rest_sent = 0;
        }
    }

    /// Takes one buffer from the source to the destination.
    fn copy(&mut self, from: &mut Socket, to: &mut Socket, buffer: &mut [u8], pipes: &mut Pipes) -> Took {
        let asked = buffer.len();
        let bytes = match read(from, buffer) {
            Ok(0) => return Took::End,
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(Errno::AGAIN | Errno::INTR) => return Took::Nothing,
            Err(errno) => return Took::Stop(Step::SourceFailed(errno)),
        };
        self.count(bytes.len());
        if let Err(errno) = self.put(to, bytes, pipes) {
            return Took::Stop(Step::SinkFailed(errno));
        }
        if bytes.len() == asked && self.pipe.is_none() && !self.copies {
            self.pipe = pipes.take();
        }
        Took::Bytes(bytes.len())
    }

    /// As [`Lane::copy`], but what the destination does not take stays in the source's queue.
    fn pass(&mut self, from: &mut Socket, to: &mut Socket, buffer: &mut [u8]) -> Took {
        let seen = match recv(&*from, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((0, _)) => return Took::End,
            Ok((seen, _)) => seen,
            Err(Errno::AGAIN) => {
                from.read = false;
                return Took::Nothing;
            }
            Err(Errno::INTR) => return Took::Nothing,
            Err(errno) => return Took::Stop(Step::SourceFailed(errno)),
        };
        let sent = match write(to, buffer.get(..seen).unwrap_or_default()) {
            Ok(sent) => sent,
            Err(errno) => return Took::Stop(Step::SinkFailed(errno)),
        };
        if sent < seen {
            to.write = false;
        }
        self.count(sent);
        match take(from, buffer.get_mut(..sent).unwrap_or_default()) {
            Ok(()) => Took::Bytes(sent),
            Err(errno) => Took::Stop(Step::SourceFailed(errno)),
        }
    }

    /// Writes `bytes`, or keeps what the destination does not take.
    pub(super) fn put(&mut self, to: &mut Socket, bytes: &[u8], pipes: &mut Pipes) -> Result<(), Errno> {
        let sent = write(to, bytes)?;
        let mut rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        // A stream takes part of a write only when it is full; a signal may cut one short, too, and then
        // the next write would tell.
        to.write = false;
        if rest.len() > SMALL_REST_BYTES && !self.copies {
            self.pipe = self.pipe.take().or_else(|| pipes.take());
            if let Some(pipe) = &self.pipe {
                let kept = fill(pipe, rest).unwrap_or(0);
                self.piped += kept;
                rest = rest.get(kept..).unwrap_or_default();
            }
        }
        pipes.keep(rest.len());
        self.rest = rest.to_vec();
        Ok(())
    }

    /// Takes as much from the source as the pipe holds. The pipe is empty, so it is the source that
    /// would block.
    fn splice(&mut self, from: &mut Socket, pipes: &mut Pipes) -> Took {
        let Some(pipe) = &self.pipe else { return Took::Nothing };
        match pipe::splice(from.as_fd(), pipe.write.as_fd(), LARGE_BYTES) {
            Ok(0) => Took::End,
            Ok(count) => {
                self.piped += count;
                self.count(count);
                Took::Bytes(count)
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) if from.urgent => {
                    // splice(2) does not pass the place of urgent data; a read does.
                    self.copies = true;
                    self.release(pipes);
                    Took::Nothing
                }
                Some(Errno::AGAIN) => {
                    from.read = false;
                    self.release(pipes);
                    Took::Nothing
                }
                Some(Errno::INTR) => Took::Nothing,
                Some(Errno::INVAL) => {
                    self.copies = true;
                    self.release(pipes);
                    Took::Nothing
                }
                errno => Took::Stop(Step::SourceFailed(errno.unwrap_or(Errno::IO))),
            },
        }
    }

    /// Takes the next `count` bytes of the source into a pipe, or as many as it holds. They are known to be there, and to
    /// be nothing but bytes. `None`: there is no pipe, or splice(2) does not work with this source.
    pub(super) fn take_plain(
        &mut self,
        from: &Socket,
        count: usize,
        pipes: &mut Pipes,
    ) -> Result<Option<usize>, Errno> {
        if self.copies {
            return Ok(None);
        }
        self.pipe = self.pipe.take().or_else(|| pipes.take());
        let Some(pipe) = &self.pipe else { return Ok(None) };
        let taken = match pipe::splice(from.as_fd(), pipe.write.as_fd(), count) {
            Ok(taken) => taken,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::INVAL) => 0,
                errno => return Err(errno.unwrap_or(Errno::IO)),
            },
        };
        if taken == 0 {
            self.copies = true;
            self.release(pipes);
            return Ok(None);
        }
        self.piped += taken;
        Ok(Some(taken))
    }

    /// Takes in where a turn at `now` has brought it.
    pub(super) fn note(&mut self, step: Step, now: Instant) {
        if step == Step::Later {
            let since = self.shortage.map_or(now, |shortage| shortage.since);
            self.shortage = Some(Shortage { since, until: now + RETRY_PAUSE });
        } else {
            self.shortage = None;
        }
    }

    /// Whether it may go on at `now`.
    pub(super) fn patience(&self, now: Instant) -> Patience {
        match self.shortage {
            Some(Shortage { since, .. }) if now.saturating_duration_since(since) >= SHORTAGE_PATIENCE => {
                Patience::Over
            }
            Some(Shortage { until, .. }) if now < until => Patience::Rests(until),
            Some(_) | None => Patience::Free,
        }
    }

    pub(super) fn count(&mut self, bytes: usize) {
        self.shortage = None;
        let bytes = u64::try_from(bytes).unwrap_or(0);
        self.total += bytes;
        self.uncounted += bytes;
    }

    /// Takes in what a turn has carried; true when that was much.
    pub(super) fn weigh(&mut self, bytes: u64) -> bool {
        let heavy = bytes >= HEAVY_BYTES;
        self.weight = if heavy {
            self.weight.saturating_add(1).min(WEIGHT_LIMIT)
        } else {
            self.weight.saturating_sub(u8::from(bytes > 0))
        };
        heavy
    }

    /// Whether it has carried much in most turns of late.
    pub(super) const fn is_heavy(&self) -> bool {
        self.weight >= HEAVY_TURNS
    }

    /// Whether it has carried little for as long as it takes to be sure.
    pub(super) const fn is_light(&self) -> bool {
        self.weight == 0
    }

    /// What it holds is counted in `pipes` from here on.
    pub(super) fn come_to(&self, pipes: &mut Pipes) {
        if self.pipe.is_some() {
            pipes.receive();
        }
        pipes.keep(self.rest.len());
    }

    /// What it holds is counted elsewhere.
    pub(super) fn leave(&self, pipes: &mut Pipes) {
        if self.pipe.is_some() {
            pipes.part();
        }
        pipes.unkeep(self.rest.len());
    }

    /// Gives the pipe back, if it has one.
    pub(super) fn release(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            pipes.give_back(pipe, self.piped);
        }
        self.piped = 0;
    }

    /// Keeps a message that the destination does not take.
    pub(super) fn hold(&mut self, held: Held, pipes: &mut Pipes) {
        pipes.keep_message(&held);
        self.held = Some(Box::new(held));
    }

    /// Lets go of the message that was kept.
    pub(super) fn let_go(&mut self, pipes: &mut Pipes) {
        if let Some(held) = self.held.take() {
            self.shortage = None;
            pipes.unkeep_message(&held);
        }
    }

    /// Throws away what is on its way: its destination is gone, or the connection ends.
    pub(super) fn discard(&mut self, pipes: &mut Pipes) {
        self.release(pipes);
        self.drop_rest(pipes);
        self.let_go(pipes);
    }

    /// Whether nothing is on its way.
    pub(super) fn is_clear(&self) -> bool {
        self.piped == 0 && self.rest.is_empty() && self.held.is_none()
    }
}

/// One read; remembers when the source is dry.
pub(super) fn read(from: &mut Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
    if from.carrier == Carrier::Unix {
        return read_unix(from, buffer);
    }
    let asked = buffer.len();
    match recv(&*from, buffer, RecvFlags::DONTWAIT) {
        Ok((count, _)) => {
            // A message is short because it is.
            if count < asked && from.carrier == Carrier::Tcp {
                from.note_short_read();
            }
            Ok(count)
        }
        Err(errno) => {
            from.read &= errno != Errno::AGAIN;
            Err(errno)
        }
    }
}

/// The same of a unix socket, where a read ends at descriptors, for which there is no room.
fn read_unix(from: &mut Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
    let asked = buffer.len();
    let mut control = RecvAncillaryBuffer::new(&mut []);
    match recvmsg(&*from, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::DONTWAIT) {
        Ok(message) => {
            if message.bytes < asked && !message.flags.contains(ReturnFlags::CTRUNC) {
                from.note_short_read();
            }
            Ok(message.bytes)
        }
        Err(errno) => {
            from.read &= errno != Errno::AGAIN;
            Err(errno)
        }
    }
}

/// Takes as many bytes as `buffer` has room for; they have been seen, and no descriptors come with them.
pub(super) fn take(from: &Socket, mut buffer: &mut [u8]) -> Result<(), Errno> {
    while !buffer.is_empty() {
        match recv(from, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Errno::IO),
            Ok((taken, _)) => buffer = buffer.get_mut(taken..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// One write; 0 when the destination is full.
fn write(to: &mut Socket, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        match send(&*to, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::AGAIN) => {
                to.write = false;
                return Ok(0);
            }
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
