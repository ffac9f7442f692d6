//! Compose projects on a real Incus 6.0 with a native image: up, changed, scaled, cut short, and down again.

#[cfg(test)]
mod conditions;
#[cfg(test)]
mod cut_short;
#[cfg(test)]
mod life;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod scene;

/// The program.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
