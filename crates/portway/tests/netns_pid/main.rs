//! Instances that no server knows: processes (`pid:N`) and network namespaces by name (`netns:NAME`).

#[cfg(test)]
mod named;
#[cfg(test)]
mod process;
#[cfg(test)]
mod stand;
#[cfg(test)]
mod start;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
