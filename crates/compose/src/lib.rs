//! Compose projects on Incus.
//!
//! [`want`] is what a project comes to on a server: the mapping fills it from the canonical form, the planner compares
//! it with what the server has. What is there is known by labels ([`label`]), never by guessing names.

pub mod label;
pub mod want;
