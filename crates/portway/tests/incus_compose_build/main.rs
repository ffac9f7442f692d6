//! Compose projects whose images are built here, on real servers: with buildah, from nothing, without a network; and on
//! servers elsewhere.

#[cfg(test)]
mod apart;
#[cfg(test)]
mod builds;
#[cfg(test)]
mod dropin;
#[cfg(test)]
mod elsewhere;
#[cfg(test)]
mod registry;
#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../incus_compose/scene.rs"]
mod scene;
#[cfg(test)]
mod watched;
#[cfg(test)]
mod yard;

/// The program.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
