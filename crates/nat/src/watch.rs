//! Hearing of changes that others make to our table.
//!
//! The kernel announces every transaction: the objects it changed, each with its table's name and the
//! number of the socket that asked, then the new generation. What our own [`Nat`](crate::Nat) asked for is
//! known by that number. An announcement only says that it is time to look.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use portway_sys::netlink::{Family, Socket};

use crate::apply::TableName;
use crate::netlink::{Malformed, Message, Messages};
use crate::nft::{FAMILY_INET, SUBSYSTEM, attr, kind};

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;

/// `ENOBUFS`: more was announced than there was room for.
const OVERRUN: i32 = 105;

/// Room for announcements that wait: those of some thousands of foreign rules. Beyond it everything is
/// looked at.
const RECEIVE_BYTES: usize = 1 << 20;

/// An announcement is one object's, or one message of elements.
const BUFFER_BYTES: usize = 128 << 10;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody else has changed something in our table, or removed it.
    Changed,
    /// Announcements were lost: our table may have changed.
    Lost,
}

/// Why nothing can be heard.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A system call failed.
    #[error("cannot {0} the announcements of the firewall")]
    Socket(&'static str, #[source] io::Error),
    /// An announcement cannot be read.
    #[error("cannot understand the firewall's announcements")]
    Malformed(#[from] Malformed),
}

/// Listens in the network namespace of the thread that opened it. Its descriptor is readable when
/// [`poll`](Self::poll) has something.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    table: TableName,
    own: Vec<u32>,
    buffer: Vec<u8>,
}

impl Watch {
    /// Begins to listen. To be opened before the table is read for the first time: what happens later is
    /// then heard.
    ///
    /// # Errors
    /// When there can be no such socket.
    pub fn open(table: TableName) -> Result<Self, WatchError> {
        let socket = Socket::open(Family::Netfilter, Duration::from_secs(1));
        let socket = socket.map_err(|e| WatchError::Socket("reach", e))?;
        let ready = socket.reserve(4096, RECEIVE_BYTES);
        let ready = ready.and_then(|()| socket.set_nonblocking()).and_then(|()| socket.join(GROUP));
        ready.map_err(|e| WatchError::Socket("hear", e))?;
        Ok(Self { socket, table, own: Vec::new(), buffer: vec![0; BUFFER_BYTES] })
    }

    /// Takes the changes of a [`Nat`](crate::Nat), by its [`port_id`](crate::Nat::port_id), for our own.
    pub fn ignore(&mut self, port_id: u32) {
        self.own.push(port_id);
    }

    /// What has been announced since the last call, as one event; `None` when nothing concerns us. Does not
    /// wait, and reads everything there is.
    ///
    /// # Errors
    /// When an announcement cannot be read.
    pub fn poll(&mut self) -> Result<Option<Event>, WatchError> {
        let mut event = None;
        loop {
            let received = match self.socket.receive(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(event),
                Err(error) if error.raw_os_error() == Some(OVERRUN) => {
                    event = Some(Event::Lost);
                    continue;
                }
                Err(error) => return Err(WatchError::Socket("hear", error)),
            };
            for message in Messages::new(self.buffer.get(..received).unwrap_or_default()) {
                if self.concerns_us(&message?)? {
                    event = event.or(Some(Event::Changed));
                }
            }
        }
    }

    fn concerns_us(&self, message: &Message<'_>) -> Result<bool, Malformed> {
        let of_tables = message.kind & 0xff00 == SUBSYSTEM && message.kind != kind::NEW_GENERATION;
        if !of_tables || message.family() != FAMILY_INET || self.own.contains(&message.port_id) {
            return Ok(false);
        }
        // The first attribute of every object's description.
        match message.attributes()?.find(attr::TABLE)? {
            Some(table) => Ok(table.text() == self.table.as_str()),
            None => Ok(false),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
