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
