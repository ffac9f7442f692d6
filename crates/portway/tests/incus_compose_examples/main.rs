//! The projects in `examples/`, with real nginx, PostgreSQL and dnsmasq: each comes up, answers, is left alone by another
//! `up`, changes in one service only, and goes without a trace.

#[cfg(test)]
mod example;
#[cfg(test)]
mod projects;
#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../incus_compose_oci/registry.rs"]
mod registry;
#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../incus_compose/scene.rs"]
mod scene;

/// The program.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
