//! What may go wrong under load, with numbers: rows of docs/reliability.md. Each test has a short form and a long one
//! (`cargo xtask faults --long`); what it asserts is the same in both.

#[cfg(test)]
mod churn;
#[cfg(test)]
mod crew;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod held;
#[cfg(test)]
mod hung;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod load;
#[cfg(test)]
mod reloads;
#[cfg(test)]
mod shortage;
#[cfg(test)]
mod stand;
#[cfg(test)]
mod streams;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
