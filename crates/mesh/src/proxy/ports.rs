//! Ports of rules, opened on the side they listen on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use portway_model::{RuleListen, Transport};
use portway_sys::listen::{self, V6Only};
use rustix::io::Errno;

use crate::engine::{self, Engine, Inlet};
use crate::spec::InterfaceAddr;

/// A port that is open.
pub(super) enum Opened {
    /// For the worker to accept from, or to receive from.
    Sockets(Vec<OwnedFd>),
    /// Connections come as descriptors.
    Calls(Vec<engine::Listener>),
    /// Flows do.
    Flows(Vec<Inlet>),
}

/// On the host: without an address on every one of both families, as far as there are both.
pub(super) fn on_host(listen: &RuleListen) -> io::Result<Opened> {
    let socket = if listen.transport == Transport::Tcp { listen::tcp } else { listen::udp };
    let at = |ip: IpAddr| SocketAddr::new(ip, listen.port.get());
    let opened = match listen.address {
        Some(ip) => socket(at(ip), V6Only::Yes)?,
        None => match socket(at(Ipv6Addr::UNSPECIFIED.into()), V6Only::No) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => {
                socket(at(Ipv4Addr::UNSPECIFIED.into()), V6Only::Yes)?
            }
            opened => opened?,
        },
    };
    Ok(Opened::Sockets(vec![opened]))
}

/// On the inside: without an address on every one of each family that this node has an address of.
pub(super) fn in_network(
    engine: &dyn Engine,
    listen: &RuleListen,
    own: &[InterfaceAddr],
) -> io::Result<Opened> {
    let every = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let has = |ip: &IpAddr| own.iter().any(|own| own.ip.is_ipv4() == ip.is_ipv4());
    let addresses: Vec<IpAddr> = match listen.address {
        Some(ip) => vec![ip],
        None => every.into_iter().filter(has).collect(),
    };
    let at = addresses.into_iter().map(|ip| SocketAddr::new(ip, listen.port.get()));
    let (mut sockets, mut calls, mut flows) = (Vec::new(), Vec::new(), Vec::new());
    for address in at {
        match listen.transport {
            Transport::Tcp => match engine.listen_tcp(address)? {
                engine::Listener::Socket(fd) => sockets.push(fd),
                other @ engine::Listener::Channel(_) => calls.push(other),
            },
            Transport::Udp => match engine.bind_udp(address)? {
                Inlet::Socket(fd) => sockets.push(fd),
                other @ Inlet::Flows(_) => flows.push(other),
            },
        }
    }
    Ok(match (calls.is_empty(), flows.is_empty()) {
        (true, true) => Opened::Sockets(sockets),
        (false, _) => Opened::Calls(calls),
        (true, false) => Opened::Flows(flows),
    })
}
