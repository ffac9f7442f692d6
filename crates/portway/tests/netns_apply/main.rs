//! `portway apply`: a file of devices becomes the state, as a whole or not at all.

#[cfg(test)]
mod hung;
#[cfg(test)]
mod place;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod turns;
#[cfg(test)]
mod whole;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
