//! The relay worker: accepts, dials, copies; nothing else.
//!
//! One process for the devices of one instance that dial from the same network namespace as the
//! same user. It is started inside that namespace, gets its listeners from the daemon, and has no privilege of its
//! own. It outlives the daemon: the next one adopts it.
//!
//! - `startup`: from a fresh process to a confined one; `engine`: the loop; `life`: how it ends;
//! - `control`, `table`, `slots`, `device`, `listing`, `failures`: what the daemon says and is told;
//! - `accept`, `guard`, `dial`, `broker`, `hold`, `header`: from a client to a connected pair of sockets;
//! - `stream`, `lane`, `pipes`, `unix_fds`, `records`, `message`, `datagram`, `frames`, `sweep`: a connected pair;
//! - `udp`: datagrams to datagrams;
//! - `haul`, `mix`: a second thread, for streams that carry much beside what is small;
//! - `core`, `poller`, `timers`, `slab`, `counters`, `socket`: what all of these use.
//!
//! No call blocks, no per-message allocation is made, and every queue has a bound.

mod accept;
mod access;
mod broker;
mod control;
mod core;
mod counters;
mod datagram;
mod device;
mod dial;
mod engine;
mod failures;
mod frames;
mod guard;
mod haul;
mod header;
mod hold;
mod lane;
mod life;
mod listing;
mod message;
mod mix;
mod pipes;
mod poller;
mod records;
mod slab;
mod slots;
mod socket;
mod startup;
mod stream;
mod sweep;
mod table;
mod timers;
mod udp;
mod unix_fds;

use std::process::ExitCode;

use portway_sys::process;
use portway_sys::seqpacket::Channel;

pub use dial::is_shortage;
pub use startup::{Confinement, WorkerError, serve};

/// The channel to the daemon.
const CHANNEL_FD: i32 = process::FIRST_FD;

/// The listener a later daemon connects to.
const ADOPTION_FD: i32 = process::FIRST_FD + 1;

/// Role `portway worker`: fd 3 is the channel to the daemon, fd 4 the adoption listener; without one nobody adopts it.
#[must_use]
pub fn run() -> ExitCode {
    let started = || {
        let channel = Channel::from_fd(process::inherited(CHANNEL_FD)?)?;
        Ok((channel, process::inherited(ADOPTION_FD).ok()))
    };
    let result = started()
        .map_err(WorkerError::NotStarted)
        .and_then(|(channel, adoption)| serve(channel, adoption, Confinement::Process));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "worker ended");
            ExitCode::FAILURE
        }
    }
}
