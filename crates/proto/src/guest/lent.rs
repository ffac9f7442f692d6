//! What a program inside is lent of the client's: its agent of keys, or its display.

use super::FrameError;
use super::fields::{Reader, Writer};
use crate::x11::COOKIE_BYTES;

/// One of them. Whoever comes to it has come to a listener.
#[derive(Clone, PartialEq, Eq)]
pub enum Lent {
    /// The agent: a unix socket, which the program knows by `SSH_AUTH_SOCK`.
    Agent,
    /// The display: a port, which the program knows by `DISPLAY`, and a file with a cookie, by `XAUTHORITY`.
    Display {
        /// Screen of the client's.
        screen: u32,
        /// What a program has to show there.
        cookie: [u8; COOKIE_BYTES],
    },
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent => f.write_str("Agent"),
            Self::Display { screen, .. } => {
                f.debug_struct("Display").field("screen", screen).finish_non_exhaustive()
            }
        }
    }
}

impl Lent {
    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        match from.u8()? {
            0 => Ok(Self::Agent),
            1 => Ok(Self::Display { screen: from.u32()?, cookie: from.array()? }),
            _ => Err(from.wrong("loan")),
        }
    }

    pub(super) fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Agent => to.u8(0),
            Self::Display { screen, cookie } => {
                to.u8(1);
                to.u32(*screen);
                to.raw(cookie);
            }
        }
    }
}
