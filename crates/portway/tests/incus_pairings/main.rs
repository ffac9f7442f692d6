//! Every pairing of listen and connect on both sides of a real container: bytes, ends of stream,
//! resets, datagrams, records, frames, headers, port lists, changed targets.

#[cfg(test)]
mod changes;
#[cfg(test)]
mod datagrams;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod place;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod resets;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod table;

/// The program under test.
#[cfg(test)]
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
