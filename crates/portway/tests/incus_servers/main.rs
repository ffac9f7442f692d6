//! The same devices on every server that Portway knows, and the same servers in every state they can be in:
//! what differs between Incus 6.0, Incus 7.0 and LXD 5.0 must not be seen.
//!
//! | module | on |
//! |---|---|
//! | `matrix`, `identity`, `forwards`, `theirs` | each of the three |
//! | `foreign`, `denied` | Incus 6.0 behind a socket that fails in every way; Incus 7.0 for a real restart |
//! | `boot` | Incus 7.0, stopped and started |
//! | `replaced` | Incus 6.0 and Incus 7.0, by turns behind one socket |
//! | `machines`, `members` | recorded answers: neither virtual machines nor clusters run on a test machine |

#[cfg(test)]
mod boot;
#[cfg(test)]
mod churn;
#[cfg(test)]
mod denied;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod forwards;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod machines;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod members;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod replaced;
#[cfg(test)]
mod talk;
#[cfg(test)]
mod theirs;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
