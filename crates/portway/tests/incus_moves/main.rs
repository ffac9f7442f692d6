//! Proxy devices of real servers that move to Portway, and back.

#[cfg(test)]
mod back;
#[cfg(test)]
mod document;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod trouble;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");

/// Runs each of the functions as a test on each of the servers.
#[cfg(test)]
macro_rules! on_every_server {
    ($($case:ident),* $(,)?) => {
        mod incus6 { $(#[test] fn $case() { super::$case(portway_testkit::Server::Incus6); })* }
        mod incus7 { $(#[test] fn $case() { super::$case(portway_testkit::Server::Incus7); })* }
        mod lxd { $(#[test] fn $case() { super::$case(portway_testkit::Server::Lxd); })* }
    };
}
#[cfg(test)]
use on_every_server;
