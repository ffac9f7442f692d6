//! What a terminal that outlives a connection is spoken to with, on a unix socket inside the instance.
//!
//! A holder ([`super::Program::Keep`]) may be weeks older than who comes to it, so this protocol changes by
//! [`HELD_VERSION`] alone: each side says its own, and who meets another one goes. A frame is as those of the guest's
//! stream, found by [`super::Inbox`]; kinds are those from 48 on.

use super::fields::{Reader, Writer};
use super::frame::{read_exit, write_exit};
use super::{DATA_MAX_BYTES, Exit, FrameError, Size};

/// Version of these frames.
pub const HELD_VERSION: u16 = 1;

/// Longest name of a session that is kept, bytes: with its folder it is the path of a socket (unix(7): 108).
pub const HELD_NAME_MAX_BYTES: usize = 64;

/// Longest title of a terminal that is told, bytes.
pub const TITLE_MAX_BYTES: usize = 256;

/// One frame. Which side may send it stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held<'a> {
    /// Viewer, first: show me the terminal, which mine has the size of.
    Attach {
        /// [`HELD_VERSION`].
        version: u16,
        /// Of the viewer's terminal.
        size: Size,
    },
    /// Viewer, first: say what you are. [`Held::State`] is answered.
    Ask {
        /// [`HELD_VERSION`].
        version: u16,
    },
    /// Viewer, first: hang up what runs. The connection ends with it.
    Kill {
        /// [`HELD_VERSION`].
        version: u16,
    },
    /// Both: what was typed, or what is to be shown. Never nothing.
    Bytes(&'a [u8]),
    /// Viewer: its terminal has another size.
    Resize(Size),
    /// Holder: what runs has ended, and nothing more comes.
    Ended(Exit),
    /// Holder: what it is.
    State(HeldState),
    /// Holder: it speaks another version.
    Other {
        /// Which.
        version: u16,
    },
}

/// What a holder says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldState {
    /// Pid of the shell.
    pub pid: u32,
    /// Viewers.
    pub viewers: u16,
    /// Of its terminal.
    pub size: Size,
    /// Since when it is there, seconds.
    pub age_secs: u64,
    /// Title that its program has set, UTF-8 without control characters, cut.
    pub title: String,
}

const ATTACH: u8 = 48;
const ASK: u8 = 49;
const KILL: u8 = 50;
const BYTES: u8 = 51;
const RESIZE: u8 = 52;
const ENDED: u8 = 53;
const STATE: u8 = 54;
const OTHER: u8 = 55;

impl<'a> Held<'a> {
    /// Reads a frame, without its length, as [`super::Inbox::next`] finds it. What another version says first is read
    /// for its version alone.
    ///
    /// # Errors
    /// All but [`FrameError::Length`].
    pub fn read(frame: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, fields) = frame.split_first().ok_or(FrameError::Length(0))?;
        let mut from = Reader::new(*kind, fields);
        let read = Self::read_kind(*kind, &mut from)?;
        from.end()?;
        Ok(read)
    }

    fn read_kind(kind: u8, from: &mut Reader<'a>) -> Result<Self, FrameError> {
        Ok(match kind {
            ATTACH => match from.u16()? {
                HELD_VERSION => Self::Attach { version: HELD_VERSION, size: Size::read(from)? },
                version => {
                    from.remainder();
                    Self::Attach { version, size: Size::default() }
                }
            },
            ASK => {
                let version = from.u16()?;
                from.remainder();
                Self::Ask { version }
            }
            KILL => {
                let version = from.u16()?;
                from.remainder();
                Self::Kill { version }
            }
            BYTES => {
                let bytes = from.remainder();
                if bytes.is_empty() || bytes.len() > DATA_MAX_BYTES {
                    return Err(from.wrong("length"));
                }
                Self::Bytes(bytes)
            }
            RESIZE => Self::Resize(Size::read(from)?),
            ENDED => Self::Ended(read_exit(from)?),
            STATE => Self::State(HeldState::read(from)?),
            OTHER => {
                let version = from.u16()?;
                from.remainder();
                Self::Other { version }
            }
            other => return Err(FrameError::Kind(other)),
        })
    }

    /// Writes it, with its length, to the end of `to`.
    ///
    /// # Errors
    /// [`FrameError::Length`] when it is longer than a frame can be; `to` is as it was then.
    pub fn write(&self, to: &mut Vec<u8>) -> Result<(), FrameError> {
        let mut to = Writer::new(self.kind(), to);
        match self {
            Self::Attach { version, size } => {
                to.u16(*version);
                size.write(&mut to);
            }
            Self::Ask { version } | Self::Kill { version } | Self::Other { version } => to.u16(*version),
            Self::Bytes(bytes) => to.raw(bytes),
            Self::Resize(size) => size.write(&mut to),
            Self::Ended(exit) => write_exit(*exit, &mut to),
            Self::State(state) => state.write(&mut to),
        }
        to.end()
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Attach { .. } => ATTACH,
            Self::Ask { .. } => ASK,
            Self::Kill { .. } => KILL,
            Self::Bytes(_) => BYTES,
            Self::Resize(_) => RESIZE,
            Self::Ended(_) => ENDED,
            Self::State(_) => STATE,
            Self::Other { .. } => OTHER,
        }
    }
}

impl HeldState {
    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let (pid, viewers, size) = (from.u32()?, from.u16()?, Size::read(from)?);
        let age_secs = from.array().map(u64::from_be_bytes)?;
        let title = from.text("title")?;
        let title = String::from_utf8(title).ok();
        let plain = |title: &String| title.len() <= TITLE_MAX_BYTES && !title.chars().any(char::is_control);
        let title = title.filter(plain).ok_or_else(|| from.wrong("title"))?;
        Ok(Self { pid, viewers, size, age_secs, title })
    }

    fn write(&self, to: &mut Writer<'_>) {
        to.u32(self.pid);
        to.u16(self.viewers);
        self.size.write(to);
        to.raw(&self.age_secs.to_be_bytes());
        to.bytes(self.title.as_bytes());
    }
}

/// Whether a session that is kept can be called so: ASCII letters, digits, `-` and `_`, as logins have it, and no
/// more than fits into the path of a socket.
#[must_use]
pub fn is_held_name(name: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= HELD_NAME_MAX_BYTES && name.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(frame: &Held<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.write(&mut bytes).expect("it is short");
        bytes.split_off(4)
    }

    #[test]
    fn what_is_written_is_read() {
        let size = Size { columns: 80, rows: 24, width: 1, height: 2 };
        let state = HeldState { pid: 7, viewers: 2, size, age_secs: 99, title: "vi \u{e4}".to_owned() };
        let signal = Exit::Signal { signal: crate::guest::Signal::new(9).expect("one"), core: true };
        for frame in [
            Held::Attach { version: HELD_VERSION, size },
            Held::Ask { version: 3 },
            Held::Kill { version: 1 },
            Held::Bytes(b"x"),
            Held::Resize(size),
            Held::Ended(signal),
            Held::State(state),
            Held::Other { version: 9 },
        ] {
            assert_eq!(Held::read(&written(&frame)), Ok(frame));
        }
    }

    /// Fails when what a later version says first is no frame any more, so that nobody hears of the version.
    #[test]
    fn another_version_is_told_by_its_number() {
        for kind in [ATTACH, ASK, KILL, OTHER] {
            let said = [&[kind, 0, 9][..], b"and more"].concat();
            let read = Held::read(&said).expect("a frame");
            assert!(format!("{read:?}").contains("version: 9"), "{read:?}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let size = Size::default();
        let long = HeldState { pid: 7, viewers: 2, size, age_secs: 9, title: "x".repeat(257) };
        let odd = HeldState { title: "\u{1b}[2J".to_owned(), ..long.clone() };
        for state in [long, odd] {
            let refused = Held::read(&written(&Held::State(state))).map(|_| ());
            assert_eq!(refused, Err(FrameError::Field { kind: STATE, field: "title" }));
        }
        assert_eq!(Held::read(&[BYTES]), Err(FrameError::Field { kind: BYTES, field: "length" }));
        assert_eq!(Held::read(&[47]), Err(FrameError::Kind(47)));
        assert!(is_held_name(b"work-1_X") && !is_held_name(b"") && !is_held_name(b"../x"));
        assert!(is_held_name(&[b'x'; 64]) && !is_held_name(&[b'x'; 65]));
    }
}
