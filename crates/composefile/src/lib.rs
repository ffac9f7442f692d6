//! Compose files: from texts to one project in the canonical form of `docker compose config`.
//!
//! Stages: a YAML tree with places ([`tree`]), interpolation, a check against one table of keys that also brings every
//! value into its canonical form, `extends`, merging of files, `include`, then names, defaults and profiles, then
//! whether it all fits together. Nothing here runs anything or knows a server; files are read through [`Host`].
//!
//! A file is what somebody else wrote: its size, its depth, what its aliases, variables and includes stand for are all
//! bounded, and every fault has its place.

mod consistency;
mod dotenv;
mod emit;
mod extends;
mod fault;
mod forms;
pub mod fuzz;
mod hash;
mod host;
mod include;
mod instant;
pub mod keys;
mod load;
mod merge;
mod name;
mod normalise;
mod options;
mod own;
mod paths;
mod project;
mod scalar;
mod schema;
mod shape;
mod template;
pub mod tree;
mod units;
mod yaml;

pub use fault::{Fault, Kind, Place};
pub use host::Host;
pub use load::Environment;
pub use name::project_name;
pub use options::{Options, Source, load, variables};
pub use project::Project;
pub use template::Variable;
pub use yaml::MAX_FILE_BYTES;
