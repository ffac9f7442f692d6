//! What the server says, as a fuzzer says it. No part of the product.

use crate::network::{Lease, Network};
use crate::types::wire;
use crate::{Instance, Server, State, Summary, events, transport};

/// A body of an answer, as each of the shapes that are read.
pub fn answer(body: &[u8]) {
    let _ = transport::success::<wire::Server>("/", body).map(Server::from);
    let _ = transport::success::<wire::Instance>("/", body).map(Instance::from);
    let _ = transport::success::<wire::State>("/", body).map(State::from);
    let network = transport::success::<wire::Network>("/", body).map(Network::from);
    let leases = transport::success::<Vec<wire::Lease>>("/", body);
    let _ = (network, leases.map(|all| all.iter().filter_map(Lease::from_wire).collect::<Vec<_>>()));
    let listed = transport::success::<Vec<wire::Summary>>("/", body);
    let _ = listed.map(|all| all.into_iter().map(Summary::from).collect::<Vec<_>>());
}

/// A message of the event stream.
pub fn event(message: &[u8]) {
    if let Ok(Some(event)) = events::parse(message) {
        assert!(!event.name.is_empty() && !event.project.is_empty());
    }
}
