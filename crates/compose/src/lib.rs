//! Compose projects on Incus.
//!
//! [`want`] is what a project comes to on a server: [`mod@map`] fills it from the canonical form, by the table of
//! [`keys`]. [`observe`] is what the server has, known by labels ([`label`]), never by guessing names. [`plan`] is the
//! difference as steps, each after those it needs. [`look`] sees, [`engine`] carries out, [`apply`] is what each step
//! does.

pub mod address;
pub mod apply;
pub mod build;
pub mod daemon;
pub mod difference;
pub mod engine;
pub mod grant;
pub mod hook;
pub mod inside;
pub mod keys;
pub mod label;
mod lead;
pub mod lock;
pub mod look;
pub mod map;
pub mod observe;
pub mod order;
mod place;
pub mod plan;
mod ports;
pub mod render;
pub mod want;
mod words;

#[cfg(test)]
mod scene;
