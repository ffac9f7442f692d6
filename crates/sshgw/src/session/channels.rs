//! Channels that are open: what comes in on them goes to what waits for it, within what the client was given leave to send.

use std::collections::HashMap;
use std::time::Duration;

use portway_proto::guest::Size;
use russh::server::Msg;
use russh::{ChannelId, ChannelWriteHalf};

use super::algorithms::WINDOW_BYTES;
use super::inbox::{Crowd, Inlet, NoRoom, Outlet, Total, inbox};
use super::lent;
use super::program::Screen;

/// Those of one connection.
#[derive(Default)]
pub(super) struct Channels {
    open: HashMap<ChannelId, Open>,
    total: Total,
}

/// A channel that is open.
struct Open {
    inlet: Inlet,
    /// What the client may send. The library does not look whether it sends more.
    window: usize,
    /// Until its program is asked for.
    idle: Option<Idle>,
    /// It is no session's: nothing is asked for on it.
    is_forward: bool,
}

/// What a channel has before its program.
pub(super) struct Idle {
    pub(super) channel: ChannelWriteHalf<Msg>,
    pub(super) outlet: Outlet,
    pub(super) screen: Option<Screen>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) asked: lent::Asked,
}

impl Channels {
    /// Takes one in, a forward until it is said to be something else. What comes in on it.
    pub(super) fn receive(&mut self, id: ChannelId) -> Outlet {
        self.clear();
        let (inlet, outlet) = inbox(&self.total);
        let window = usize::try_from(WINDOW_BYTES).unwrap_or(usize::MAX);
        self.open.insert(id, Open { inlet, window, idle: None, is_forward: true });
        outlet
    }

    /// Whose program has ended is closed from here; russh does not tell of the client's answer to that.
    fn clear(&mut self) {
        self.open.retain(|_, open| !open.inlet.is_over());
    }

    /// How many are a session's, and how many of them wait for a program.
    pub(super) fn sessions(&mut self) -> (usize, usize) {
        self.clear();
        let sessions = self.open.values().filter(|open| !open.is_forward).count();
        (sessions, self.open.values().filter(|open| open.idle.is_some()).count())
    }

    /// It is a session's, and waits for a program.
    pub(super) fn await_program(&mut self, id: ChannelId, idle: Idle) {
        if let Some(open) = self.open.get_mut(&id) {
            (open.idle, open.is_forward) = (Some(idle), false);
        }
    }

    /// What it has, if its program was not asked for yet.
    pub(super) fn idle(&mut self, id: ChannelId) -> Option<&mut Idle> {
        self.open.get_mut(&id)?.idle.as_mut()
    }

    /// The same, for its program.
    pub(super) fn begin(&mut self, id: ChannelId) -> Option<Idle> {
        self.open.get_mut(&id)?.idle.take()
    }

    /// What its terminal, or program, is told by; `None`: it is not open.
    pub(super) fn resize(&mut self, id: ChannelId, size: Option<Size>) -> Option<()> {
        let open = self.open.get_mut(&id)?;
        if let Some(size) = size {
            match open.idle.as_mut().and_then(|idle| idle.screen.as_mut()) {
                Some(screen) => screen.size = size,
                None => open.inlet.resize(size),
            }
        }
        Some(())
    }

    pub(super) fn signal(&self, id: ChannelId, number: i32) {
        if let Some(open) = self.open.get(&id) {
            open.inlet.signal(number);
        }
    }

    /// The client sends no more.
    pub(super) fn end(&self, id: ChannelId) {
        if let Some(open) = self.open.get(&id) {
            open.inlet.end();
        }
    }

    /// It is closed; its program learns of it by this.
    pub(super) fn close(&mut self, id: ChannelId) {
        self.open.remove(&id);
    }

    /// Counts what a client has sent; `left` is what it may send from here on.
    pub(super) fn count(&mut self, id: ChannelId, bytes: usize, left: usize) -> Result<(), NoRoom> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(()) };
        let granted = std::mem::replace(&mut open.window, left);
        if bytes > granted { Err(NoRoom) } else { Ok(()) }
    }

    /// Takes what a client has sent. How long it is not read from now.
    pub(super) fn take(
        &mut self,
        id: ChannelId,
        data: &[u8],
        left: usize,
    ) -> Result<Option<Duration>, NoRoom> {
        self.count(id, data.len(), left)?;
        // Before there is a program there is nobody to keep it for.
        let Some(open) = self.open.get(&id).filter(|open| !data.is_empty() && open.idle.is_none()) else {
            return Ok(None);
        };
        open.inlet.bytes(data)?;
        let pause = open.inlet.crowd().pause();
        Ok(pause.filter(|_| !self.cut_stuck()))
    }

    /// What a client may send at a time, on whichever channel.
    pub(super) fn window_bytes(&mut self) -> u32 {
        let mut most = self.crowd();
        if most > Crowd::None && self.cut_stuck() {
            most = self.crowd();
        }
        most.window_bytes().unwrap_or(WINDOW_BYTES)
    }

    /// The most crowded one.
    fn crowd(&self) -> Crowd {
        self.open.values().map(|open| open.inlet.crowd()).max().unwrap_or(Crowd::None)
    }

    /// Ends forwards that crowd the connection and are not read of; whether there was one. What is lost is lost to somebody
    /// who does not take it, and everything else goes on.
    fn cut_stuck(&mut self) -> bool {
        let is_stuck = |open: &Open| open.is_forward && open.inlet.is_stuck();
        let stuck: Vec<ChannelId> =
            self.open.iter().filter(|(_, open)| is_stuck(open)).map(|(id, _)| *id).collect();
        for open in stuck.iter().filter_map(|id| self.open.remove(id)) {
            open.inlet.cut();
        }
        !stuck.is_empty()
    }
}
