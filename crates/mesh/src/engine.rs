//! Engines: where the tunnel's TCP and UDP live.
//!
//! Engine K is the kernel's own, in a network namespace that belongs to this user alone ([`kernel`]). What goes between
//! it and the crypto are whole packets of up to 64 KiB: [`Frames`].

mod frames;
pub mod kernel;
mod rtnetlink;

pub use frames::{FRAME_BYTES, Frame, Frames};
