//! Unix sockets on both sides of a real container: descriptors, files in the way, owners and modes,
//! what is left behind, files that vanish, and whom the target sees.

#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod id_maps;
#[cfg(test)]
mod in_flight;
#[cfg(test)]
mod in_the_way;
#[cfg(test)]
mod leftovers;
#[cfg(test)]
mod obstacles;
#[cfg(test)]
mod odd_paths;
#[cfg(test)]
mod owners;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod side;
#[cfg(test)]
mod vanishing;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
