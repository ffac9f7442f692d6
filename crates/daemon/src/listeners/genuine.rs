//! Whether descriptors that somebody hands over are the listeners they are said to be.

use std::os::fd::{AsFd, OwnedFd};

use portway_model::{Address, DeviceSpec};
use portway_sys::{listen, netns};

use super::socket_type;
use crate::provider::Run;

/// Whether the descriptors are listeners of the wanted addresses in the wanted network namespace.
pub(super) fn is_genuine(descriptors: &[OwnedFd], spec: &DeviceSpec, run: Option<&Run>) -> bool {
    let Some(expected) = expected_cookie(run) else { return false };
    let here = |listener: &OwnedFd| {
        netns::socket_netns_cookie(listener.as_fd()).is_ok_and(|cookie| cookie == expected)
    };
    if !descriptors.iter().all(here) {
        return false;
    }
    match spec.listen.address() {
        Address::Tcp { host, ports } | Address::Udp { host, ports } => {
            descriptors.iter().zip(ports.iter()).all(|(listener, port)| {
                listen::local_addr(listener.as_fd())
                    .is_ok_and(|bound| bound.ip() == host.ip() && bound.port() == port.get())
            })
        }
        Address::Unix(kind, _) => descriptors
            .iter()
            .all(|listener| listen::is_unix(listener.as_fd(), socket_type(*kind)).unwrap_or(false)),
    }
}

/// The cookie of the namespace that a device's listeners belong to.
fn expected_cookie(run: Option<&Run>) -> Option<u64> {
    let namespace = match run {
        Some(run) => Some(run.netns().ok()?),
        None => None,
    };
    netns::run_in(namespace, || {
        let probe = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
        netns::socket_netns_cookie(probe.as_fd())
    })
    .ok()?
    .ok()
}
