//! Compose projects on a real Incus 7.0 with images of a registry, which they are pushed to here and fetched from over
//! TLS.

#[cfg(test)]
mod guest;
#[cfg(test)]
mod health;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod life;
#[cfg(test)]
mod networks;
#[cfg(test)]
#[expect(dead_code, reason = "shared with the tests of published ports")]
#[path = "../incus_compose_ports/outside.rs"]
mod outside;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod registry;
#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../incus_compose/scene.rs"]
mod scene;

/// The program.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
