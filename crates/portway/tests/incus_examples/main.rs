//! The worked examples of the documentation with the real programs: agents, a display and sound of a user
//! of the host, used by a user inside a container. The programs inside are the host's own: the container
//! has the host's `/usr`.

#[cfg(test)]
mod agents;
#[cfg(test)]
mod desk;
#[cfg(test)]
mod display;
#[cfg(test)]
mod sound;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
