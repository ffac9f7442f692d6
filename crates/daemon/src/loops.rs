//! Devices that lead where none may: back to their own listener, or to the control socket.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use portway_model::{Address, DeviceSpec, IpHost, PortList};

/// Whether a device whose two sides are one place dials its own listener. A longer way round is not
/// seen.
pub(crate) fn leads_back(spec: &DeviceSpec) -> bool {
    match (spec.listen.address(), spec.connect.address()) {
        (Address::Tcp { host, ports }, Address::Tcp { host: dialled, ports: targets })
        | (Address::Udp { host, ports }, Address::Udp { host: dialled, ports: targets }) => {
            reaches(host, dialled) && share(ports, targets)
        }
        (listen, connect) => listen.unix().is_some() && listen.to_string() == connect.to_string(),
    }
}

/// Whether what dials `dialled` may come to a listener at `host`.
fn reaches(host: &IpHost, dialled: &IpHost) -> bool {
    let (at, to) = (host.ip(), dialled.dial_ip());
    let same_family = at.is_ipv4() == to.is_ipv4();
    let everywhere = at.is_unspecified() && (same_family || matches!(at, IpAddr::V6(_)));
    at == to || (everywhere && to.is_loopback())
}

/// Whether a port is listened on and dialled.
fn share(ports: &PortList, targets: &PortList) -> bool {
    let both = |one: &portway_model::PortRange| {
        targets.ranges().iter().any(|other| one.first() <= other.last() && other.first() <= one.last())
    };
    ports.ranges().iter().any(both)
}

/// Whether a path of the host is the control socket, by whatever name.
pub(crate) fn is_control_socket(path: &Path, control: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    path == control || (file(path).is_some() && file(path) == file(control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(listen: &str, connect: &str) -> bool {
        leads_back(&DeviceSpec::from_keys([("listen", listen), ("connect", connect)]).unwrap())
    }

    #[test]
    fn a_device_that_dials_itself_is_seen() {
        for (listen, connect) in [
            ("tcp:127.0.0.1:80", "tcp:127.0.0.1:80"),
            ("tcp:0.0.0.0:80", "tcp:127.0.0.1:80"),
            ("tcp::80", "tcp::80"),
            ("tcp:[::]:80", "tcp:0.0.0.0:80"),
            ("udp:[::1]:70-90", "udp:[::1]:80"),
            ("tcp:10.0.0.1:80", "tcp:10.0.0.1:80"),
            ("unix:/run/a", "unix:/run/a"),
            ("unix:@a", "unix:@a"),
            ("tcp:127.0.0.1:80-81", "tcp:127.0.0.1:81,80"),
        ] {
            assert!(back(listen, connect), "{listen} {connect}");
        }
        for (listen, connect) in [
            ("tcp:127.0.0.1:80", "tcp:127.0.0.1:81"),
            ("tcp:127.0.0.1:80", "tcp:127.0.0.2:80"),
            ("tcp:0.0.0.0:80", "tcp:10.0.0.2:80"),
            ("tcp:0.0.0.0:80", "tcp:[::1]:80"),
            ("unix:/run/a", "unix:@/run/a"),
            ("tcp:127.0.0.1:80", "udp:127.0.0.1:80"),
        ] {
            assert!(!back(listen, connect), "{listen} {connect}");
        }
    }
}
