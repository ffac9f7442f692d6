//! The keeper: a small process that holds a duplicate of every host-side listener, so that no
//! listener is lost when the daemon and a worker die together or an instance is held.
//!
//! It waits for one daemon at a time on its adoption listener, stores what it is given and gives
//! it back when asked. It never accepts, reads or writes on what it holds. It has no privilege,
//! no file, no device and no thread of its own beside the main one, and may make few system calls.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use portway_model::GroupIds;
use portway_sys::sandbox::{Files, Role};
use portway_sys::seqpacket::Channel;
use portway_sys::{process, sandbox};
use rustix::event::{PollFd, PollFlags, poll};

use crate::wire::{FromKeeper, Ids, MAX_FDS, ToKeeper};

/// Pause after a daemon could not be taken in, for want of a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What the daemon passes on the command line: `OWNER_UID` and, when ids can be changed, `UID` and `GID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arguments {
    owner_uid: u32,
    ids: Option<Ids>,
}

#[derive(Default)]
struct Entry {
    note: String,
    descriptors: Vec<OwnedFd>,
}

/// Role `portway keeper OWNER_UID [UID GID]`: fd 3 is the listener to be adopted by. Returns when
/// a daemon says so.
#[must_use]
pub fn run(arguments: &[String]) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(error = %failure, "keeper ended");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<Arguments> {
    let numbers: Vec<u32> = arguments.iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [owner_uid] => Some(Arguments { owner_uid, ids: None }),
        [owner_uid, uid, gid] => {
            Some(Arguments { owner_uid, ids: Some(Ids { uid, gid, groups: GroupIds::default() }) })
        }
        _ => None,
    }
}

fn serve(arguments: &[String]) -> std::io::Result<()> {
    let arguments = parse(arguments).ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, "keeper is started by the daemon only")
    })?;
    let listener = process::inherited(3)?;
    let _limit = process::raise_nofile();
    let ids = arguments.ids.as_ref().map(Ids::of_process);
    let entered = sandbox::enter(Role::Keeper, ids, Files::GoneIfPermitted).map_err(std::io::Error::other)?;
    entered.seal().map_err(std::io::Error::other)?;
    Keeper { listener, owner_uid: arguments.owner_uid, daemon: None, entries: BTreeMap::new() }.run()
}

struct Keeper {
    listener: OwnedFd,
    owner_uid: u32,
    daemon: Option<Channel>,
    entries: BTreeMap<String, Entry>,
}

/// Whether the keeper goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Wait,
    Exit,
}

impl Keeper {
    fn run(mut self) -> std::io::Result<()> {
        let mut packet = Vec::new();
        loop {
            let (daemon_ready, listener_ready) = self.wait()?;
            if daemon_ready && self.receive(&mut packet) == Next::Exit {
                return Ok(());
            }
            // What the former daemon has said comes first.
            if listener_ready && !daemon_ready {
                self.accept();
            }
        }
    }

    /// Waits for a message or a new daemon: (message, new daemon).
    fn wait(&self) -> std::io::Result<(bool, bool)> {
        let mut watched = vec![PollFd::new(&self.listener, PollFlags::IN)];
        if let Some(daemon) = &self.daemon {
            watched.push(PollFd::new(daemon, PollFlags::IN));
        }
        match poll(&mut watched, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok((false, false)),
            Err(errno) => return Err(errno.into()),
        }
        let ready = |at: usize| watched.get(at).is_some_and(|entry| !entry.revents().is_empty());
        Ok((ready(1), ready(0)))
    }

    fn accept(&mut self) {
        match Channel::accept(self.listener.as_fd()) {
            Ok(channel) if channel.peer_uid().is_ok_and(|uid| uid == self.owner_uid) => {
                self.daemon = Some(channel)
            }
            Ok(_) => tracing::warn!("keeper refused a stranger"),
            Err(failure) => {
                tracing::warn!(error = %failure, "keeper cannot accept");
                // Who is at the door stays there: without a pause it would be tried again at once, for ever.
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }

    fn receive(&mut self, packet: &mut Vec<u8>) -> Next {
        let Some(daemon) = &self.daemon else { return Next::Wait };
        let descriptors = match daemon.recv(packet) {
            Ok(Some(descriptors)) => descriptors,
            Err(failure) if failure.kind() == std::io::ErrorKind::WouldBlock => return Next::Wait,
            Ok(None) | Err(_) => {
                self.daemon = None;
                return Next::Wait;
            }
        };
        match serde_json::from_slice(packet) {
            Ok(ToKeeper::Keep { key, note, first }) => self.keep(key, note, first, descriptors),
            Ok(ToKeeper::Drop { key }) => {
                self.entries.remove(&key);
            }
            Ok(ToKeeper::List) => self.answer(send_all),
            Ok(ToKeeper::Sync) => self.answer(|daemon, _| send_end(daemon)),
            Ok(ToKeeper::Exit) => return Next::Exit,
            Err(problem) => tracing::warn!(error = %problem, "keeper got a message it does not know"),
        }
        Next::Wait
    }

    fn keep(&mut self, key: String, note: String, first: u32, descriptors: Vec<OwnedFd>) {
        let entry = self.entries.entry(key).or_default();
        entry.note = note;
        entry.descriptors.truncate(usize::try_from(first).unwrap_or(usize::MAX));
        entry.descriptors.extend(descriptors);
    }

    fn answer(&mut self, send: impl Fn(&Channel, &BTreeMap<String, Entry>) -> std::io::Result<()>) {
        let Some(daemon) = &self.daemon else { return };
        if let Err(failure) = send(daemon, &self.entries) {
            tracing::warn!(error = %failure, "keeper cannot answer");
            self.daemon = None;
        }
    }
}

fn send_all(daemon: &Channel, entries: &BTreeMap<String, Entry>) -> std::io::Result<()> {
    for (key, entry) in entries {
        for (chunk, descriptors) in entry.descriptors.chunks(MAX_FDS).enumerate() {
            let first = u32::try_from(chunk * MAX_FDS).unwrap_or(u32::MAX);
            let kept = FromKeeper::Kept { key: key.clone(), note: entry.note.clone(), first };
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            daemon.send(&serde_json::to_vec(&kept)?, &borrowed)?;
        }
    }
    send_end(daemon)
}

fn send_end(daemon: &Channel) -> std::io::Result<()> {
    daemon.send(&serde_json::to_vec(&FromKeeper::End)?, &[])
}
