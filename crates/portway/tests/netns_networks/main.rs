//! Networks of `[mesh.NAME]` that the daemon runs.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod life;
#[cfg(test)]
mod mended;
#[cfg(test)]
mod orgs;
#[cfg(test)]
mod reload;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
