//! WireGuard without a socket or a clock: what comes in, what is to go out, and when to ask again.
//!
//! [`Sessions`] belongs to the thread that receives. It hands [`Sealer`]s, endpoints and [`Routes`] to the thread that
//! sends, as [`Update`]s; what that one leaves behind is [`Activity`]. So neither waits for the other, and nothing
//! is locked. Nobody who is not authentic is answered, with one exception: a cookie, to who knows our public key.

mod allowed;
pub(crate) mod cookie;
mod counters;
pub(crate) mod inner;
mod keypair;
pub(crate) mod message;
mod noise;
mod peer;
mod replay;
mod sessions;
mod watch;

pub use allowed::{AllowedIps, Routes};
pub use counters::{Counters, Dropped};
pub use keypair::Sealer;
pub use peer::Activity;
pub use replay::{Replay, WINDOW};
pub(crate) use sessions::millis;
pub use sessions::{
    Newcomer, Now, Outgoing, PeerChange, PeerSpec, PeerState, Reach, Received, Sessions, SessionsError,
    Update,
};

/// A peer of a tunnel, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u16);
