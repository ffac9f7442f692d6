//! Opens everything, in the order in which it is most likely to fail.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use portway_model::{Direction, RuleListen};
use portway_relay::wire::Slot;
use tokio::sync::broadcast;

use super::endpoints::{self, Whereabouts};
use super::events::Events;
use super::flows::Flows;
use super::names::Names;
use super::org::Organization;
use super::ports::{self, Opened};
use super::room::Room;
use super::serve::{About, Shared};
use super::table::Table;
use super::{EngineChoice, Options, ProxyError, Ready};
use crate::engine::{Engine, EngineError, Frames, kernel, smoltcp};
use crate::spec::{Listener, Network, ProxyListen, Rules};
use crate::tunnel::{Tunnel, TunnelSpec};
use crate::udp::Udp;
use crate::wg::PeerSpec;

/// Revocations that whoever has flows of his own may be behind; one more, and those flows end.
const CUTS: usize = 16;

/// A network whose ports are open.
pub(super) struct Started {
    pub(super) shared: Arc<Shared>,
    pub(super) rules: Rules,
    pub(super) ready: Ready,
    /// Where clients come as descriptors.
    pub(super) inlets: Vec<(Slot, Opened)>,
    /// Where clients say where they want to go.
    pub(super) gates: Vec<(Slot, ProxyListen, OwnedFd)>,
}

/// See the module. What is asked for was checked. The process may have so many files.
pub(super) fn start(
    options: &Options,
    organization: Option<Organization>,
    files: u64,
) -> Result<Started, ProxyError> {
    let spec = &options.spec;
    let rules = spec.rules.clone();
    let listeners = rules.listeners();
    let egress = listen(listeners, Direction::Egress, ports::on_host)?;
    let gates = open_gates(&spec.proxies)?;
    let port = spec.network.listen_port.map_or(0, portway_model::Port::get);
    let udp = Udp::bind(port).map_err(|source| ProxyError::Outer { port, source })?;
    let Chosen { engine, frames, why } = choose(&spec.network, options.engine)?;
    let (engine_name, way, udp_address) = (engine.name(), frames.way(), udp.address);
    let inside = |listen: &RuleListen| ports::in_network(engine.as_ref(), listen, &spec.network.addresses);
    let ingress = listen(listeners, Direction::Ingress, inside)?;
    let mut wanted = tunnel_spec(options);
    if organization.is_some() {
        // They are what is followed, from the first news on.
        wanted.peers.clear();
    }
    let tunnel = Tunnel::start(wanted, frames, udp)?;
    let mut table = Table::new(engine.most_connections(files));
    let mut inlets = Vec::new();
    for (listener, opened) in egress.into_iter().chain(ingress) {
        let (sockets, inlet) = match opened {
            Opened::Sockets(sockets) => (sockets, None),
            other => (Vec::new(), Some(other)),
        };
        let slot = table.serve(listener.listen, listener.rules, sockets, options.policy);
        inlets.extend(inlet.map(|inlet| (slot, inlet)));
    }
    let gates = gates.into_iter().map(|(listen, fd)| (table.serve_gate(&listen), listen, fd)).collect();
    let names = Names::new(spec.network.dns.clone());
    let about = About {
        name: options.home.name.clone(),
        network: spec.network.clone(),
        why: why.clone(),
        since: Instant::now(),
    };
    let (link, table) = (Mutex::default(), Mutex::new(table));
    let whereabouts = match &organization {
        Some(_) => Whereabouts::default(),
        None => Whereabouts::new(&spec.network.peers),
    };
    let (room, flows, events) = (Room::new(files), Flows::new(files), Events::new());
    let (cuts, _) = broadcast::channel(CUTS);
    let shared = Shared {
        about,
        engine,
        tunnel,
        names,
        link,
        table,
        whereabouts,
        room,
        flows,
        events,
        organization,
        cuts,
    };
    let shared = Arc::new(shared);
    let ready = Ready {
        engine: engine_name,
        way,
        why,
        udp: udp_address,
        rules: rules.iter().count(),
        proxies: spec.proxies.len(),
    };
    Ok(Started { shared, rules, ready, inlets, gates })
}

/// An engine, and why it is not another.
pub(super) struct Chosen {
    engine: Arc<dyn Engine>,
    frames: Frames,
    why: Option<String>,
}

pub(super) fn choose(network: &Network, choice: EngineChoice) -> Result<Chosen, EngineError> {
    let kernel = || {
        let (stack, frames) = kernel::Stack::start(&network.addresses, network.mtu, None)?;
        Ok(Chosen { engine: Arc::new(stack), frames, why: None })
    };
    let smoltcp = |why: Option<String>| {
        let (stack, frames) = smoltcp::Stack::start(&network.addresses, network.mtu)?;
        Ok(Chosen { engine: Arc::new(stack), frames, why })
    };
    match choice {
        EngineChoice::Kernel => kernel(),
        EngineChoice::Smoltcp => smoltcp(None),
        EngineChoice::Auto => match kernel() {
            // Whatever the reason is, the other one does not need what was refused.
            Err(EngineError::SetUp { step, source }) => smoltcp(Some(format!("{step}: {source}"))),
            other => other,
        },
    }
}

fn listen(
    listeners: &[Listener],
    direction: Direction,
    open: impl Fn(&RuleListen) -> io::Result<Opened>,
) -> Result<Vec<(Listener, Opened)>, ProxyError> {
    let side = if direction == Direction::Egress { "on this host" } else { "in the network" };
    let wanted = listeners.iter().filter(|listener| listener.listen.direction == direction);
    let opened = wanted.map(|listener| match (open(&listener.listen), listener.rules.first()) {
        (Err(source), Some(first)) => {
            Err(ProxyError::Listen { place: first.place.clone(), listen: listener.listen, side, source })
        }
        (Err(source), None) => Err(ProxyError::System { step: "listen", source }),
        (Ok(opened), _) => Ok((listener.clone(), opened)),
    });
    opened.collect()
}

fn open_gates(proxies: &[ProxyListen]) -> Result<Vec<(ProxyListen, OwnedFd)>, ProxyError> {
    let mut gates = Vec::new();
    for proxy in proxies {
        let (listen, side) = (proxy.listen(), "on this host");
        let failed = |source| ProxyError::Listen { place: proxy.place.clone(), listen, side, source };
        if let Opened::Sockets(sockets) = ports::on_host(&listen).map_err(failed)? {
            gates.extend(sockets.into_iter().map(|fd| (proxy.clone(), fd)));
        }
    }
    Ok(gates)
}

fn tunnel_spec(options: &Options) -> TunnelSpec {
    let network = &options.spec.network;
    let peer = |peer: &crate::spec::Peer| PeerSpec {
        public_key: peer.public_key,
        preshared_key: peer.preshared_key.clone(),
        allowed_ips: peer.allowed_ips.clone(),
        endpoint: peer.endpoint.as_ref().and_then(endpoints::known),
        keepalive: peer.keepalive,
    };
    TunnelSpec {
        private_key: network.private_key.clone(),
        peers: network.peers.iter().map(peer).collect(),
        mtu: network.mtu,
        rows: network.rows,
        trace: options.trace.clone(),
    }
}
