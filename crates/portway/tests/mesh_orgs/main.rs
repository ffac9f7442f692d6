//! Organizations by the program alone: a registrar, its owner, devices, and a kernel's tool that reads what they export.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod hubs;
#[cfg(test)]
mod multihomed;
#[cfg(test)]
mod nat;
#[cfg(test)]
mod network;
#[cfg(test)]
mod place;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod revoked;
#[cfg(test)]
mod rotate;
