use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::os::fd::AsFd;

use super::*;
use crate::testing;

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const LOCAL4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOCAL6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn port_of(fd: &OwnedFd) -> u16 {
    local_addr(fd.as_fd()).unwrap().port()
}

/// A listener on a port that was asked for by number, as in real life.
fn tcp_on_a_number() -> (OwnedFd, u16) {
    loop {
        let port = port_of(&tcp((LOCAL4, 0).into(), V6Only::No).unwrap());
        if let Ok(listener) = tcp((LOCAL4, port).into(), V6Only::No) {
            return (listener, port);
        }
    }
}

fn connects(ip: IpAddr, port: u16) -> Result<TcpStream, io::ErrorKind> {
    TcpStream::connect((ip, port)).map_err(|error| error.kind())
}

#[test]
fn wildcards_and_families() {
    testing::expect_child(None, wildcards_and_families_alone);
}

fn wildcards_and_families_alone() {
    let refused = io::ErrorKind::ConnectionRefused;
    let both = tcp((ANY6, 0).into(), V6Only::No).unwrap();
    assert!(connects(LOCAL4, port_of(&both)).is_ok() && connects(LOCAL6, port_of(&both)).is_ok());
    let six = tcp((ANY6, 0).into(), V6Only::Yes).unwrap();
    assert!(connects(LOCAL6, port_of(&six)).is_ok());
    assert_eq!(connects(LOCAL4, port_of(&six)).unwrap_err(), refused);
    let four = tcp((ANY4, port_of(&six)).into(), V6Only::No).unwrap();
    assert!(connects(LOCAL4, port_of(&four)).is_ok());
    assert!(is_listening(four.as_fd()).unwrap());
}

#[test]
fn a_busy_address_is_an_error() {
    testing::expect_child(None, a_busy_address_is_an_error_alone);
}

fn a_busy_address_is_an_error_alone() {
    let first = tcp((LOCAL4, 0).into(), V6Only::No).unwrap();
    let busy = |result: io::Result<OwnedFd>| result.unwrap_err().kind() == io::ErrorKind::AddrInUse;
    assert!(busy(tcp((LOCAL4, port_of(&first)).into(), V6Only::No)));
    assert!(busy(tcp((ANY6, port_of(&first)).into(), V6Only::No)));
    let first = udp((LOCAL4, 0).into(), V6Only::No).unwrap();
    assert!(busy(udp((LOCAL4, port_of(&first)).into(), V6Only::No)));
    let absent = tcp("192.0.2.7:80".parse().unwrap(), V6Only::No);
    assert_eq!(absent.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
}

#[test]
fn listeners_do_not_block_and_are_not_inherited() {
    for fd in [
        tcp((LOCAL4, 0).into(), V6Only::No).unwrap(),
        udp((LOCAL6, 0).into(), V6Only::No).unwrap(),
        unix_abstract(SocketType::STREAM, b"portway-sys-flags").unwrap(),
    ] {
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert!(rustix::fs::fcntl_getfl(&fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    }
}

#[test]
fn a_refusing_listener_keeps_its_address() {
    testing::expect_child(None, a_refusing_listener_keeps_its_address_alone);
}

fn a_refusing_listener_keeps_its_address_alone() {
    let (listener, port) = tcp_on_a_number();
    let cookie = socket_cookie(listener.as_fd()).unwrap();
    let established = connects(LOCAL4, port).unwrap();
    let accepted = net::accept(&listener).unwrap();
    let mut in_backlog = connects(LOCAL4, port).unwrap();

    let duplicate = listener.try_clone().unwrap();
    refuse(duplicate.as_fd()).unwrap();
    assert!(!is_listening(listener.as_fd()).unwrap());
    assert_eq!(in_backlog.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    for _ in 0..3 {
        assert_eq!(connects(LOCAL4, port).unwrap_err(), io::ErrorKind::ConnectionRefused);
    }
    // The test of `set_socket_reuseaddr(.., false)` in `refuse`.
    for ip in [LOCAL4, ANY4, ANY6] {
        let thief = tcp((ip, port).into(), V6Only::No);
        assert_eq!(thief.unwrap_err().kind(), io::ErrorKind::AddrInUse, "{ip}");
    }
    assert_eq!(refuse(listener.as_fd()).unwrap_err().kind(), io::ErrorKind::NotConnected);

    // The test of `set_socket_reuseaddr(.., true)` in `relisten`: there is a live connection on the port.
    relisten(listener.as_fd()).unwrap();
    relisten(listener.as_fd()).unwrap();
    assert!(connects(LOCAL4, port).is_ok());
    assert_eq!(socket_cookie(duplicate.as_fd()).unwrap(), cookie);
    drop((established, accepted));
}

#[test]
fn a_port_with_old_connections_can_be_taken_again() {
    testing::expect_child(None, a_port_with_old_connections_can_be_taken_again_alone);
}

fn a_port_with_old_connections_can_be_taken_again_alone() {
    let (listener, port) = tcp_on_a_number();
    refuse(listener.as_fd()).unwrap();
    relisten(listener.as_fd()).unwrap();
    let _client = connects(LOCAL4, port).unwrap();
    let _accepted = net::accept(&listener).unwrap();
    drop(listener);
    tcp((LOCAL4, port).into(), V6Only::No).unwrap();
}

#[test]
fn udp_sockets_tell_where_a_datagram_went() {
    use nix::sys::socket::{getsockopt, sockopt};
    let four = udp((ANY4, 0).into(), V6Only::No).unwrap();
    assert!(getsockopt(&four, sockopt::Ipv4PacketInfo).unwrap());
    let six = udp((ANY6, 0).into(), V6Only::No).unwrap();
    assert!(getsockopt(&six, sockopt::Ipv6RecvPacketInfo).unwrap());
    assert!(!super::sockopt::ipv6_v6only(&six).unwrap());
    let room = super::sockopt::socket_recv_buffer_size(&four).unwrap();
    assert!(room >= 212_992, "not below the default: {room}");
}

#[test]
fn abstract_names() {
    testing::expect_child(None, abstract_names_alone);
}

fn abstract_names_alone() {
    let name = [b'n', 0, 0xff].repeat(35);
    let listener = unix_abstract(SocketType::STREAM, &name).unwrap();
    assert_eq!(unix_abstract(SocketType::STREAM, &name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    net::connect(&socket, &SocketAddrUnix::new_abstract_name(&name).unwrap()).unwrap();
    assert_eq!(local_addr(listener.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(unix_abstract(SocketType::STREAM, b"").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert!(unix_abstract(SocketType::STREAM, &[1; 107]).is_ok());
    assert!(unix_abstract(SocketType::STREAM, &[1; 108]).is_err());
}
