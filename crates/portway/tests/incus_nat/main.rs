//! Devices that the kernel carries, of real containers: who reaches them, what follows a container, what
//! stays over the daemon's own ends, and whom they leave alone.

#[cfg(test)]
mod addresses;
#[cfg(test)]
mod claims;
#[cfg(test)]
mod counts;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod follow;
#[cfg(test)]
mod host;
#[cfg(test)]
mod kept;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod reuse;
#[cfg(test)]
mod rivals;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod stay;
#[cfg(test)]
mod tampering;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
