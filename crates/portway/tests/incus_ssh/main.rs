//! The SSH gateway as people and tools meet it: OpenSSH's client, real servers, no SSH server in the instance.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod agent;
mod auth;
mod backwards;
mod create;
mod drain;
mod errands;
mod faults;
mod files;
mod floods;
mod forwards;
mod inside;
mod keep;
mod kept;
mod mux;
mod proofs;
mod recording;
mod refusals;
mod remotes;
mod scene;
mod service;
mod shell;
mod stopped;
mod survival;
mod tty;
mod unread;
mod upgrade;
mod walk;
mod ways;
mod x11;
