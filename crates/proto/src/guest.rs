//! The protocol between the SSH gateway and the small program it runs inside an instance.
//!
//! It is spoken over a pair of byte streams, the standard input and output of that program. Each side begins with
//! [`Frame::Hello`]; the gateway may move both to one socket then ([`Frame::Move`]). The gateway starts programs, each on a channel whose number it chooses, and both sides send
//! frames about channels until the gateway closes the stream. A channel lives from [`Frame::Start`] to
//! [`Frame::Closed`], or to [`Frame::Refused`]; its number may be used again after that.
//!
//! A frame is its length (32 bits, without these four bytes), its kind (8 bits), and what the kind says; numbers are
//! big endian, texts are bytes with a length of 32 bits before them. [`Inbox`] finds frames in a stream, [`Frame`] reads
//! and writes one. Nothing a peer announces takes memory before it has come, and bytes of a channel flow by credit
//! ([`Grant`], [`Allowance`]): a sender that says more than it was allowed ends the connection.
//!
//! Kinds from 32 on are about sockets inside the instance ([`Socket`]), those from 48 on are left for terminals that outlive
//! a connection, and 64 is a socket again: what a program is lent ([`Lent`]).

mod credit;
mod fields;
mod frame;
mod held;
mod inbox;
mod lent;
mod listed;
mod socket;
mod start;
mod variables;

pub use credit::{Allowance, Exceeded, Grant};
pub use frame::{
    DATA_HEAD_BYTES, Exit, Frame, Hello, Signal, Size, Started, Step, Stream, WAY_NAME_BYTES,
    WAY_TOKEN_BYTES, Way,
};
pub use held::{HELD_NAME_MAX_BYTES, HELD_VERSION, Held, HeldState, TITLE_MAX_BYTES, is_held_name};
pub use inbox::Inbox;
pub use lent::Lent;
pub use listed::{COMMAND_MAX_BYTES, Listed, Says};
pub use socket::{ACCEPTED, HOST_MAX_BYTES, Place, SOCKET_PATH_MAX_BYTES, SOCKETS, Socket, Why};
pub use start::{Credits, Environment, Ids, Keep, Program, Pty, Start};
pub use variables::is_clients_variable;

/// Version of this protocol. Raised with every change that an older peer would misread.
pub const VERSION: u16 = 1;

/// Longest frame, bytes: a command of 131,071 bytes (`MAX_ARG_STRLEN`, execve(2)) and an environment.
pub const FRAME_MAX_BYTES: usize = 512 * 1024;

/// Most bytes of a stream in one frame.
pub const DATA_MAX_BYTES: usize = 64 * 1024;

/// Most entries of a list in a frame, groups apart.
pub const LIST_MAX_COUNT: usize = 4096;

/// Most supplementary groups: `NGROUPS_MAX` of Linux.
pub const GROUPS_MAX_COUNT: usize = 65_536;

/// Most modes of a terminal: its opcodes are one byte (RFC 4254, 8).
pub const MODES_MAX_COUNT: usize = 256;

/// Why bytes are no frame of this protocol. A stream that said one is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`FRAME_MAX_BYTES`], or empty.
    #[error("a frame of {0} bytes")]
    Length(u32),
    /// A kind that this version does not know.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// It ends in the middle of a field.
    #[error("a frame of kind {0} that is cut short")]
    Short(u8),
    /// It goes on after its last field.
    #[error("a frame of kind {0} with bytes after its end")]
    Long(u8),
    /// A field holds what it cannot hold.
    #[error("a frame of kind {kind} with a wrong {field}")]
    Field {
        /// Kind of the frame.
        kind: u8,
        /// Its field.
        field: &'static str,
    },
}

#[cfg(test)]
mod tests;
