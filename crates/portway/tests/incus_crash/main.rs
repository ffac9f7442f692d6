//! Our processes die, alone and together, at every stage, under a load of 500 connections a second:
//! what is lost is what the dead process carried, nobody is refused, and nothing is left over.

#[cfg(test)]
mod daemon;
#[cfg(test)]
mod held;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod together;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod worker;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
