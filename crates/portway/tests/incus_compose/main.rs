//! Compose projects on a real Incus 6.0 with a native image: up, changed, scaled, and down again.

#[cfg(test)]
mod attached;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod conditions;
#[cfg(test)]
mod copied;
#[cfg(test)]
mod flags;
#[cfg(test)]
mod foreground;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod health;
mod hooks;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod life;
#[cfg(test)]
mod lxd;
#[cfg(test)]
mod one_off;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod together;
#[cfg(test)]
mod watched;

/// The program.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
