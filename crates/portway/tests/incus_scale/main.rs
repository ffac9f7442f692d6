//! Very many devices: a thousand on one container, and a thousand spread over two hundred instances.
//!
//! Continuous integration looks at counts, memory and whom a change touches, and at no clock; the times
//! are shown by `cargo xtask figures`.

#[cfg(test)]
mod figures;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod led;
#[cfg(test)]
mod thousand;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
