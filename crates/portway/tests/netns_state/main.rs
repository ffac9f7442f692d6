//! The daemon's own files and clocks go wrong, under load: what serves goes on, what was answered is true, and what is on
//! disk is what is in memory.

#[cfg(test)]
mod clocks;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod traced;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
