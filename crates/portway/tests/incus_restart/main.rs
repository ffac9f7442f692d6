//! An instance that stops, starts and restarts under its devices: nobody is refused for as long as
//! the hold lasts, everybody is served afterwards, and the instance never notices.

#[cfg(test)]
mod hold;
#[cfg(test)]
mod kinds;
#[cfg(test)]
mod latency;
#[cfg(test)]
mod load;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod transfers;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
