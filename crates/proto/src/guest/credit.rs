//! How many bytes of a stream may be under way.

/// The sender's side: what it may still send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance(u32);

impl Allowance {
    /// As the receiver granted it at the start.
    #[must_use]
    pub const fn new(bytes: u32) -> Self {
        Self(bytes)
    }

    /// What is left, bytes.
    #[must_use]
    pub const fn left(self) -> usize {
        self.0 as usize
    }

    /// Takes off what is sent.
    ///
    /// # Errors
    /// [`Exceeded`] when that is more than is left; nothing is taken off then.
    pub fn spend(&mut self, bytes: usize) -> Result<(), Exceeded> {
        let bytes = u32::try_from(bytes).map_err(|_| Exceeded)?;
        self.0 = self.0.checked_sub(bytes).ok_or(Exceeded)?;
        Ok(())
    }

    /// Adds what the receiver has granted.
    ///
    /// # Errors
    /// [`Exceeded`] when the sum is past 32 bits: no receiver grants that.
    pub fn add(&mut self, bytes: u32) -> Result<(), Exceeded> {
        self.0 = self.0.checked_add(bytes).ok_or(Exceeded)?;
        Ok(())
    }
}

/// The receiver's side: what the peer may still send, and what has been dealt with since it was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    window: u32,
    /// Granted and not yet received.
    open: u32,
    /// Dealt with and not yet granted again.
    done: u32,
}

impl Grant {
    /// A window of so many bytes, all of it granted.
    #[must_use]
    pub const fn new(window: u32) -> Self {
        Self { window, open: window, done: 0 }
    }

    /// Counts what has come.
    ///
    /// # Errors
    /// [`Exceeded`] when the peer was not allowed to send that much.
    pub fn receive(&mut self, bytes: usize) -> Result<(), Exceeded> {
        let bytes = u32::try_from(bytes).map_err(|_| Exceeded)?;
        self.open = self.open.checked_sub(bytes).ok_or(Exceeded)?;
        Ok(())
    }

    /// Counts what has been dealt with and needs no memory any more; `Some` is to be told to the peer. That is so once
    /// half the window is free: a frame for every few bytes would cost more than it brings.
    pub fn finish(&mut self, bytes: usize) -> Option<u32> {
        self.done = self.done.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)).min(self.window);
        if self.done < self.window.div_ceil(2) || self.done == 0 {
            return None;
        }
        let granted = self.done;
        self.open = self.open.saturating_add(granted).min(self.window);
        self.done = 0;
        Some(granted)
    }
}

/// More bytes than were granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more bytes than were granted")]
pub struct Exceeded;
