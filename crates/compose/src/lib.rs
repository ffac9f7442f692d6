//! Compose projects on Incus.
//!
//! [`want`] is what a project comes to on a server: the mapping fills it from the canonical form. [`observe`] is what
//! the server has, known by labels ([`label`]), never by guessing names. [`plan`] is the difference as steps, each
//! after those it needs.

pub mod address;
pub mod difference;
pub mod label;
pub mod observe;
pub mod order;
mod place;
pub mod plan;
mod ports;
pub mod render;
pub mod want;

#[cfg(test)]
mod scene;
