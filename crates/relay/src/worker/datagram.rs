//! A stream on one side, datagrams on the other.
//!
//! Raw: what one read of the stream gives becomes one datagram, and each datagram that comes back is appended to the
//! stream. With framing, each datagram has its length before it in the stream, both ways.
//!
//! Datagrams do not end and do not push back. An error that the network reports of an earlier one is taken, counted
//! and not held against the next one.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use portway_model::UdpFraming;
use portway_proto::len16::{self, Decoder};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::core::Core;
use super::engine::Engine;
use super::frames::UNFINISHED_TIME;
use super::lane::{self, Lane, Step, TURN_BYTES};
use super::slab::Key;
use super::socket::Socket;
use super::stream::End;
use crate::wire::field;

/// Longest payload of a datagram on IPv4, bytes (65,535 less the headers).
const PAYLOAD_BYTES: usize = 65_507;

/// What a frame costs of a turn beside its bytes.
const FRAME_COST: usize = 64;

/// The least that is asked of a stream of frames at the end of a turn, bytes: less would cost more calls than it saves.
const READ_MIN_BYTES: usize = 2048;

/// What an error costs of a turn, so that errors without end do not keep the loop.
const ERROR_BYTES: usize = 1024;

/// A turn of somebody who takes frames out of a stream.
///
/// What has been read is passed on at once, so a read asks for no more than holds a turn's worth of the shortest frames.
#[derive(Debug)]
pub(super) struct FrameTurn(usize);

impl FrameTurn {
    pub(super) const fn new() -> FrameTurn {
        FrameTurn(TURN_BYTES)
    }

    pub(super) const fn is_over(&self) -> bool {
        self.0 == 0
    }

    /// The part of `buffer` for the next read.
    pub(super) fn room<'a>(&self, buffer: &'a mut [u8]) -> &'a mut [u8] {
        let shortest = self.0 / FRAME_COST * len16::HEADER_BYTES;
        let length = shortest.max(READ_MIN_BYTES).min(buffer.len());
        buffer.get_mut(..length).unwrap_or_default()
    }

    /// A read gave `count` bytes, and `frames` with them.
    pub(super) const fn took(&mut self, count: usize, frames: usize) {
        self.0 = self.0.saturating_sub(count + frames * FRAME_COST);
    }
}

/// The frames of a client's stream.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) decoder: Decoder,
    /// When a byte last came.
    came: Instant,
}

impl Frames {
    pub(super) fn new(now: Instant) -> Frames {
        Frames { decoder: Decoder::default(), came: now }
    }

    /// When the frame that has begun is overdue.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.decoder.is_amid().then(|| self.came + UNFINISHED_TIME)
    }
}

/// From the stream to datagrams.
pub(super) fn carry_up(lane: &mut Lane, from: &mut Socket, to: &mut Socket, core: &mut Core) -> Step {
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
        let room = core.buffer.get_mut(..PAYLOAD_BYTES).unwrap_or_default();
        match lane::read(from, room) {
            Ok(0) => lane.eof = true,
            Ok(count) => {
                lane.count(count);
                left = left.saturating_sub(count);
                let datagram = core.buffer.get(..count).unwrap_or_default();
                if send_datagram(to, datagram).is_err() {
                    core.refused += 1;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Step::SourceFailed(errno),
        }
    }
}

/// From the frames of a stream to datagrams. One that is longer than a datagram can be is not passed on.
pub(super) fn carry_frames_up(
    lane: &mut Lane,
    frames: &mut Frames,
    from: &mut Socket,
    to: &mut Socket,
    core: &mut Core,
    device: Key,
) -> Step {
    let decoder = &mut frames.decoder;
    let mut turn = FrameTurn::new();
    loop {
        if lane.eof {
            return Step::Ended;
        }
        if !from.read || !to.write {
            return Step::Waits;
        }
        if turn.is_over() {
            return Step::More;
        }
        match lane::read(from, turn.room(&mut core.buffer)) {
            Ok(0) => {
                lane.eof = true;
                core.refused += u64::from(decoder.is_amid());
                core.frames.unkeep(device, decoder.kept_bytes());
                *decoder = Decoder::default();
            }
            Ok(count) => {
                lane.count(count);
                frames.came = core.now;
                let mut whole = 0;
                let kept = decoder.kept_bytes();
                let mut rest = core.buffer.get(..count).unwrap_or_default();
                while let Some(frame) = decoder.next(&mut rest) {
                    core.refused += u64::from(send_datagram(to, frame).is_err());
                    whole += 1;
                }
                turn.took(count, whole);
                if !core.frames.changed(device, kept, decoder.kept_bytes()) {
                    return Step::SourceFailed(Errno::NOBUFS);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Step::SourceFailed(errno),
        }
    }
}

/// From datagrams to the stream; `last` is when one last came. Past the limit of what all streams may keep, a datagram is
/// taken only when there is room for it in the stream.
pub(super) fn carry_down(
    lane: &mut Lane,
    from: &mut Socket,
    to: &mut Socket,
    core: &mut Core,
    (framing, last): (UdpFraming, &mut Option<Instant>),
) -> Step {
    let mut left = TURN_BYTES;
    loop {
        if let Some(step) = lane.flush(to, &mut core.pipes) {
            return step;
        }
        if !from.read || !to.write {
            return Step::Waits;
        }
        if left == 0 {
            return Step::More;
        }
        if !core.pipes.may_take_for(to) {
            return Step::Waits;
        }
        let before = if framing == UdpFraming::Len16 { len16::HEADER_BYTES } else { 0 };
        match recv(&*from, core.buffer.get_mut(before..).unwrap_or_default(), RecvFlags::DONTWAIT) {
            Ok((count, _)) => {
                *last = Some(core.now);
                lane.count(count);
                left = left.saturating_sub(count.max(ERROR_BYTES));
                if let (Some(to), Some(header)) = (core.buffer.get_mut(..before), len16::header(count)) {
                    to.copy_from_slice(header.get(..before).unwrap_or_default());
                }
                let datagram = core.buffer.get(..before + count).unwrap_or_default();
                if let Err(errno) = lane.put(to, datagram, &mut core.pipes) {
                    return Step::SinkFailed(errno);
                }
            }
            Err(Errno::AGAIN) => from.read = false,
            Err(Errno::INTR) => {}
            Err(_) => left = left.saturating_sub(ERROR_BYTES),
        }
    }
}

impl Engine {
    /// Once the client has ended its side the stream lasts as long as replies keep coming; before, as long as no
    /// frame of the client's stays unfinished.
    pub(super) fn watch_idle(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        if let Some((at, _)) = self.datagrams_end(key)
            && stream.timer.is_none_or(|set| at < set)
        {
            self.set_stream_timer(key, at);
        }
    }

    /// The time is up, or was when it was set.
    pub(super) fn on_idle(&mut self, key: Key) {
        match self.datagrams_end(key) {
            Some((at, end)) if self.core.now >= at => {
                if end == End::Reset
                    && let Some(stream) = self.streams.get(key)
                {
                    self.core.count(stream.device, field::DROPPED);
                }
                self.close(key, end);
            }
            Some((at, _)) => self.set_stream_timer(key, at),
            None => {}
        }
    }

    /// When a stream with datagrams ends if nothing more comes, and how.
    fn datagrams_end(&self, key: Key) -> Option<(Instant, End)> {
        let stream = self.streams.get(key)?;
        if !stream.client_has_ended() {
            return stream.frame_ends().map(|at| (at, End::Reset));
        }
        let idle = self.devices.get(stream.device)?.plan.spec().udp_idle;
        Some((stream.since.unwrap_or(self.core.now) + idle, End::Clean))
    }
}

/// Sends one datagram. An error may be an earlier one's, which the first try takes away.
///
/// # Errors
/// The datagram is lost: what the network said of it, or `AGAIN` when the queue is full.
pub(super) fn send_datagram(to: &Socket, datagram: &[u8]) -> Result<(), Errno> {
    send_bytes(to.as_fd(), datagram)
}

/// As [`send_datagram`].
///
/// # Errors
/// The same.
pub(super) fn send_bytes(to: BorrowedFd<'_>, datagram: &[u8]) -> Result<(), Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let first = send(to, datagram, flags);
    let result = match first {
        Err(Errno::AGAIN) | Ok(_) => first,
        Err(_) => send(to, datagram, flags),
    };
    result.map(drop)
}

#[cfg(test)]
mod tests;
