//! Processes as instances: `pid:N`.

#[cfg(test)]
mod process;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
