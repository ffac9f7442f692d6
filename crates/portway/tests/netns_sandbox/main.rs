//! What every process of a real daemon has given up, as the kernel says.

#[cfg(test)]
mod held;
#[cfg(test)]
mod scene;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
