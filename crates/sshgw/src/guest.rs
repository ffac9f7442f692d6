//! The gateway's program inside an instance: put there, started, and spoken to.
//!
//! [`start`] places it: an executable file in the memory of `/dev/shm`, or where that does not do (it is missing, too
//! small, or not to be executed from) in a folder of root's under `/run`. The program removes its file before it says
//! anything. It may come to a socket then ([`lead`]). Then [`Guest`] starts processes, whose streams flow by credit: one that nobody reads from holds up nobody else.
//!
//! What reaches into the instance is an [`Instance`]; nothing here knows Incus.

mod frames;
mod link;
mod pipe;
mod placing;
mod process;
mod sockets;
mod way;

pub use link::{Guest, GuestError, StartError, greet};
pub use placing::{Instance, PlaceError, Streams, place, start};
pub(crate) use placing::{Launched, build, launch};
pub use process::{Control, Input, Output, Process, Wanted};
pub use sockets::{Come, ConnectError, Connection, Farewell, Listener};
pub use way::lead;
