//! Hears when addresses change inside an instance: no server tells of it.
//!
//! A socket in the instance's network namespace says that something has changed, never what. The server is asked
//! then, and an instance's own word counts as little as it always does. The socket keeps the namespace alive, so it
//! goes with init, whatever the actor is doing; and it is never read: one that has something to say is given up, and a
//! look opens another.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_sys::netlink::{Family, Socket};
use portway_sys::netns;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::WeakSender;
use tokio::task::JoinHandle;
use tracing::debug;

use super::{Command, Instance};
use crate::provider::Run;
use crate::watched::watched;

/// Least time between two looks because of changed addresses: an instance may change them all the time.
const SPACING: Duration = Duration::from_millis(700);

/// Pause before it is tried again to hear of changes.
const RETRY: Duration = Duration::from_secs(30);

/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` of linux/rtnetlink.h.
const GROUPS: [u32; 2] = [5, 9];

/// Longest wait of a socket that nobody reads.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether somebody listens, and when it is time to look.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Listens.
    ear: Option<Ear>,
    /// When the next look is due because of a change.
    due: Option<Instant>,
    /// When the last one was.
    last: Option<Instant>,
}

/// A task with the socket; both end when it is dropped.
#[derive(Debug)]
struct Ear(JoinHandle<()>);

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Addresses {
    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Notes that one has changed.
    pub(super) fn note(&mut self, now: Instant) {
        self.ear = None;
        self.due = Some(self.last.map_or(now, |last| now.max(last + SPACING)));
    }

    /// Stops listening, as the namespace must not live on.
    pub(super) fn give_up(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    fn is_idle(&self) -> bool {
        self.ear.is_none() && self.due.is_none()
    }
}

impl Instance {
    /// Begins to listen where addresses matter. What has changed before is found by a look of its own.
    pub(super) async fn hear_addresses(&mut self) {
        if !self.wants_nics() || self.hub.nat.is_none() {
            self.addresses.give_up();
        } else if self.addresses.is_idle() && self.listen().await {
            self.addresses.due = Some(Instant::now() + SPACING);
        }
    }

    /// Looks because an address has changed, if that is due. Listens first: what changes meanwhile is heard.
    pub(super) async fn look_at_addresses(&mut self, now: Instant) {
        if self.looking || self.addresses.due.is_none_or(|due| due > now) {
            return;
        }
        self.addresses.due = None;
        self.addresses.last = Some(now);
        if self.addresses.ear.is_none() {
            self.listen().await;
        }
        self.look();
    }

    /// Whether there is something to listen to. Where it cannot be heard, it is tried again later.
    async fn listen(&mut self) -> bool {
        let run = self.run.clone().filter(|run| !run.is_machine());
        let Some((run, init)) = run.and_then(|run| run.init.clone().map(|init| (run, init))) else {
            return false;
        };
        let opened = tokio::task::spawn_blocking(move || open(&run)).await;
        let heard = opened.map_err(io::Error::other).flatten().and_then(watched);
        let over = Arc::clone(&init.pidfd).try_clone().and_then(watched);
        match heard.and_then(|heard| Ok((heard, over?))) {
            Ok((heard, over)) => {
                self.addresses.ear = Some(Ear(tokio::spawn(hear(heard, over, self.own.clone()))))
            }
            Err(problem) => {
                debug!(instance = %self.key, error = %problem, "changes of its addresses are not heard");
                self.addresses.due = Some(Instant::now() + RETRY);
            }
        }
        self.addresses.ear.is_some()
    }
}

/// Tells the actor of the first change, unless init ends before.
async fn hear(heard: AsyncFd<OwnedFd>, over: AsyncFd<OwnedFd>, own: WeakSender<Command>) {
    tokio::select! {
        biased;
        () = super::readable(Some(&over)) => return,
        () = super::readable(Some(&heard)) => drop(heard),
    }
    if let Some(own) = own.upgrade() {
        // The actor is gone when the daemon ends.
        let _ = own.send(Command::Readdressed).await;
    }
}

/// Opens a socket that becomes readable when an address changes in the run's network namespace.
fn open(run: &Run) -> io::Result<OwnedFd> {
    let namespace = run.netns()?;
    netns::run_in(Some(namespace), || {
        let socket = Socket::open(Family::Route, PATIENCE)?;
        GROUPS.iter().try_for_each(|group| socket.join(*group))?;
        socket.as_fd().try_clone_to_owned()
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: an instance that changes its addresses all the time has the server asked all the time, or a change
    /// waits longer than it must.
    #[test]
    fn looks_keep_their_distance() {
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        addresses.note(now);
        assert_eq!(addresses.due(), Some(now));
        addresses.last = Some(now);
        addresses.note(now + SPACING / 2);
        assert_eq!(addresses.due(), Some(now + SPACING));
        addresses.note(now + SPACING * 3);
        assert_eq!(addresses.due(), Some(now + SPACING * 3));
        addresses.give_up();
        assert!(addresses.is_idle() && addresses.last == Some(now));
    }
}
