//! Whether descriptors that somebody hands over are the listeners they are said to be.

use std::os::fd::{AsFd, OwnedFd};

use portway_model::{Address, DeviceSpec};
use portway_sys::{listen, netns};
use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};

use super::socket_type;
use crate::provider::Run;

/// Whether the descriptors are listeners of the wanted addresses in the wanted network namespace.
pub(super) fn is_genuine(descriptors: &[OwnedFd], spec: &DeviceSpec, run: Option<&Run>) -> bool {
    let Some(expected) = expected_cookie(run) else { return false };
    let here = |listener: &OwnedFd| {
        netns::socket_netns_cookie(listener.as_fd()).is_ok_and(|cookie| cookie == expected)
    };
    if !descriptors.iter().all(|listener| here(listener) && has_no_peer(listener)) {
        return false;
    }
    let address = spec.listen.address();
    match address {
        Address::Tcp { host, ports } | Address::Udp { host, ports } => {
            let is_tcp = matches!(address, Address::Tcp { .. });
            let wanted = if is_tcp { SocketType::STREAM } else { SocketType::DGRAM };
            descriptors.iter().zip(ports.iter()).all(|(listener, port)| {
                sockopt::socket_type(listener).is_ok_and(|kind| kind == wanted)
                    && listen::local_addr(listener.as_fd())
                        .is_ok_and(|bound| bound.ip() == host.ip() && bound.port() == port.get())
            })
        }
        Address::Unix(kind, _) => descriptors
            .iter()
            .all(|listener| listen::is_unix(listener.as_fd(), socket_type(*kind)).unwrap_or(false)),
    }
}

/// Whether a socket is connected to nobody. A connection has the address and type of the listener it came in by;
/// whether it listens says less, because a listener that is shut does not.
fn has_no_peer(listener: &OwnedFd) -> bool {
    rustix::net::getpeername(listener).is_err_and(|error| error == Errno::NOTCONN)
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn spec(listen: &str) -> DeviceSpec {
        let mut keys = vec![("listen", listen), ("connect", "tcp:127.0.0.1:80")];
        if listen.starts_with("udp") {
            keys.push(("udp.framing", "raw"));
        }
        DeviceSpec::from_keys(keys).expect("good keys")
    }

    fn tcp() -> (OwnedFd, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        (listener.into(), port)
    }

    /// Fails when: any listener is believed, or its address, port, type or place in the list is not looked at.
    #[test]
    fn only_the_listeners_of_the_device_are_believed() {
        let ((one, first), (other, second)) = (tcp(), tcp());
        let address = format!("tcp:127.0.0.1:{first},{second}");
        let genuine = |fds: &[OwnedFd], listen: &str| is_genuine(fds, &spec(listen), None);
        let both = [one, other];
        assert!(genuine(&both, &address));
        assert!(!genuine(&both, &format!("tcp:127.0.0.1:{second},{first}")), "in another order");
        assert!(!genuine(&both, &format!("tcp:0.0.0.0:{first},{second}")), "another address");
        let third = if first == 9 { 10 } else { 9 };
        assert!(!genuine(&both[..1], &format!("tcp:127.0.0.1:{third}")), "another port");
        assert!(!genuine(&both[..1], &format!("udp:127.0.0.1:{first}")), "another type");
        assert!(!genuine(&both[..1], "unix:@name"), "no unix socket");

        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = udp.local_addr().expect("an address").port();
        let udp = [OwnedFd::from(udp)];
        assert!(genuine(&udp, &format!("udp:127.0.0.1:{port}")));
        assert!(!genuine(&udp, &format!("tcp:127.0.0.1:{port}")), "datagrams for a stream");

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let listen = format!("unix:{}", path.display());
        let unix = [OwnedFd::from(UnixListener::bind(&path).expect("a socket"))];
        assert!(genuine(&unix, &listen));
        let datagrams = UnixDatagram::bind(folder.path().join("d")).expect("a socket");
        assert!(!genuine(&[datagrams.into()], &listen), "datagrams for a stream");
        let file = std::fs::File::open(folder.path()).expect("a folder");
        assert!(!genuine(&[file.into()], &listen), "no socket");
    }

    /// Fails when: a connection is taken for the listener it came in by.
    #[test]
    fn a_connection_is_no_listener() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let _client = TcpStream::connect(address).expect("a connection");
        let (accepted, _) = listener.accept().expect("a connection");
        let of_device = spec(&format!("tcp:{address}"));
        assert!(!is_genuine(&[accepted.into()], &of_device, None));
        // One that a hold has shut is a listener still.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("shut");
        assert!(is_genuine(&[listener.into()], &of_device, None));

        let flow = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = flow.local_addr().expect("an address");
        flow.connect((Ipv4Addr::LOCALHOST, 9)).expect("an address");
        assert!(!is_genuine(&[flow.into()], &spec(&format!("udp:{address}")), None));

        let (one, _other) = UnixStream::pair().expect("a pair");
        assert!(!is_genuine(&[one.into()], &spec("unix:@portway-genuine"), None));
    }

    /// Fails when: the network namespace is not compared.
    #[test]
    fn a_listener_of_another_namespace_is_not_believed() {
        if !portway_testkit::is_root() {
            return;
        }
        let made = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
            OwnedFd::from(UnixListener::bind_addr(&name()).expect("a name"))
        });
        let elsewhere = made.join().expect("no panic");
        assert!(!is_genuine(&[elsewhere], &spec("unix:@portway-genuine"), None));
        let here = UnixListener::bind_addr(&name()).expect("a name");
        assert!(is_genuine(&[here.into()], &spec("unix:@portway-genuine"), None));
    }

    fn name() -> std::os::unix::net::SocketAddr {
        use std::os::linux::net::SocketAddrExt as _;
        std::os::unix::net::SocketAddr::from_abstract_name("portway-genuine").expect("a name")
    }
}
