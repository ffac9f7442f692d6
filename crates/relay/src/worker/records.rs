//! One direction of a connection that carries records (`SOCK_SEQPACKET`): each goes on whole, with its descriptors,
//! as the one record it was.
//!
//! - An empty record is one, and not the end of the connection: both read as 0 bytes, but only a message comes with
//!   its sender's credentials, so the sockets ask for them.
//! - A record above the buffer of `core` cannot be passed on. Leaving one out would be a fault nobody notices, so
//!   the connection ends.
//! - What the destination does not take waits here, one record per direction; past the limits of what all streams may
//!   keep, a record is taken only when there is room for it on the other side.
//! - A record whose descriptors this process cannot take ends the connection, as one that is too long does.

use std::os::fd::AsFd;

use portway_model::FdPassing;
use portway_sys::sockopt;
use portway_sys::unix_path::widen;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketType};

use super::core::Core;
use super::lane::{Lane, Step, TURN_BYTES};
use super::message::{Held, Received, Taken, brings_descriptors, put, receive};
use super::socket::Socket;
use super::unix_fds::{blocked, flush_held};

/// What a record costs of a turn at least, in bytes.
const RECORD_COST: usize = 256;

/// Makes `socket` tell an empty record from the end of its connection, and take the longest.
pub(super) fn prepare(socket: &Socket) {
    if let Err(error) = widen(socket.as_fd(), SocketType::SEQPACKET) {
        tracing::debug!(%error, "long records may not fit");
    }
    if let Err(error) = sockopt::pass_credentials(socket.as_fd(), true) {
        tracing::debug!(%error, "an empty record counts as the end");
    }
}

/// Moves what can be moved in one turn.
pub(super) fn carry(
    lane: &mut Lane,
    from: &mut Socket,
    to: &mut Socket,
    core: &mut Core,
    fds: FdPassing,
) -> Step {
    let mut left = TURN_BYTES;
    loop {
        if let Some(step) = flush_held(lane, to, &mut core.pipes) {
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
        if !core.pipes.may_take_for(to) {
            return Step::Waits;
        }
        if fds == FdPassing::On && !core.pipes.may_hold_fds() && brings_descriptors(&*from) == Ok(true) {
            return Step::Later;
        }
        let record = match receive(&*from, core.messages(), RecvFlags::empty()) {
            Ok(record) => record,
            // The peer is gone; it is told once, and what it sent before is still there.
            Err(Errno::CONNRESET | Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                from.read = false;
                continue;
            }
            Err(errno) => return Step::SourceFailed(errno),
        };
        if record.length == 0 && !record.signed && record.beside == Taken::Nothing {
            lane.eof = true;
            continue;
        }
        left = left.saturating_sub(record.length.max(RECORD_COST));
        if let Some(step) = pass(lane, to, core, record, fds) {
            return step;
        }
    }
}

/// Passes on a record that has been taken. `None`: that is done.
fn pass(lane: &mut Lane, to: &mut Socket, core: &mut Core, record: Received, fds: FdPassing) -> Option<Step> {
    if record.truncated {
        return Some(Step::SourceFailed(Errno::MSGSIZE));
    }
    let descriptors = match fds {
        FdPassing::On if record.beside == Taken::Short => {
            core.refused += 1;
            return Some(Step::SourceFailed(Errno::MFILE));
        }
        FdPassing::On => record.beside.passable(&mut core.refused),
        FdPassing::Off => {
            record.beside.refuse(&mut core.refused);
            Vec::new()
        }
    };
    lane.count(record.length);
    let bytes = core.messages().get(..record.length).unwrap_or_default();
    match put(&*to, bytes, &descriptors) {
        Ok(_) => None,
        Err(Errno::MSGSIZE) => Some(Step::SourceFailed(Errno::MSGSIZE)),
        Err(errno) => {
            let held = Held { bytes: bytes.to_vec(), descriptors };
            lane.hold(held, &mut core.pipes);
            Some(blocked(to, errno))
        }
    }
}
