//! Requests and replies of the control socket, shared by the daemon and the command line.

pub mod api;
