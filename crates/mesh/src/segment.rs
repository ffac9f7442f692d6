//! Long packets and short ones: what the kernel's TCP gives and takes in pieces of up to 64 KiB is cut into packets of
//! the tunnel's size, and packets that follow each other are joined again.
//!
//! [`Cut`] makes what a network card with segmentation offload would send; [`Join`] is the reverse, and joins only what
//! [`Cut`] would cut into the very same packets. No length in a packet is believed before it is compared with what is
//! there. Nothing is allocated. Where a way takes less than the tunnel, TCP is cut smaller, and asked for less by
//! [`clamp()`]; all else goes in [`Fragments`].

pub(crate) mod checksum;
mod clamp;
mod cut;
mod fragment;
mod header;
mod join;
mod offload;
mod tcp;

pub use clamp::clamp;
pub use cut::{Cut, Uncut};
pub use fragment::Fragments;
pub use join::{Join, LONGEST_HEADERS_BYTES, MOST_JOINED};
pub use offload::{OFFLOAD_BYTES, Offload, Segmented};
pub use tcp::Segment;

#[cfg(test)]
mod tests;
