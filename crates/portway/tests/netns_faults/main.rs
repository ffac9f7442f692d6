//! What may go wrong under load, with numbers: rows of docs/reliability.md. Each test has a short form and a long one
//! (`cargo xtask faults --long`); what it asserts is the same in both.

#[cfg(test)]
mod kills;
#[cfg(test)]
mod load;
#[cfg(test)]
mod reloads;
#[cfg(test)]
mod stand;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
