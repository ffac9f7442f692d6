//! L4 proxy devices: the worker process and its engine, the protocol that drives it, the keeper.

pub mod keeper;
pub mod talk;
pub mod wire;
pub mod worker;
