//! Devices that cannot work, cannot work yet, or cannot be changed so; and whose they are when
//! instances come, go and are named anew. All on a real server.

#[cfg(test)]
mod busy;
#[cfg(test)]
mod changes;
#[cfg(test)]
mod expect;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod places;
#[cfg(test)]
mod projects;
#[cfg(test)]
mod stored;
#[cfg(test)]
mod waiting;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
