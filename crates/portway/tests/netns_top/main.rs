//! `portway top`, `portway events` and live connections against a real daemon: its page on a real terminal and in a real
//! tmux.
//!
//! ```text
//!  host: daemon, clients ── tcp:127.0.0.1:8080 ──▶ instance: a service that sends back what it gets
//! ```

#[cfg(test)]
mod events;
#[cfg(test)]
mod listed;
#[cfg(test)]
mod page;
#[cfg(test)]
mod place;
#[cfg(test)]
mod tmux;
#[cfg(test)]
mod tty;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
