//! Who someone is: keys, certificates, passwords and one-time codes, each checked apart from the others.
//!
//! Everything here is a pure decision about bytes that were read elsewhere, except [`files`], which reads what a user
//! of the host has put down for us, and [`run`], which asks programs of the host. What is decided comes out as a [`Grant`](grant::Grant) or a refusal with its
//! reason, which goes to the log and never to the client.

pub mod accounts;
pub mod authorized_keys;
pub mod certificate;
pub mod chain;
pub mod command;
pub mod files;
pub mod grant;
pub mod key;
pub mod nss;
pub mod password;
pub mod revoked;
pub mod run;
pub mod settings;
pub mod source;
pub mod time;
pub mod totp;
