use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::*;

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn options_arrive_in_the_kernel() {
    let (client, _server) = connected();
    let fd = client.as_fd();
    keepalive(fd, Duration::from_millis(29_001), Duration::from_secs(7), 5).unwrap();
    assert!(sockopt::socket_keepalive(fd).unwrap());
    assert_eq!(sockopt::tcp_keepidle(fd).unwrap(), Duration::from_secs(30));
    assert_eq!(sockopt::tcp_keepintvl(fd).unwrap(), Duration::from_secs(7));
    assert_eq!(sockopt::tcp_keepcnt(fd).unwrap(), 5);
    user_timeout(fd, Duration::from_secs(120)).unwrap();
    assert_eq!(sockopt::tcp_user_timeout(fd).unwrap(), 120_000);
    nodelay(fd).unwrap();
    assert!(client.nodelay().unwrap());
}

#[test]
fn extreme_times_are_kept_within_the_kernels_bounds() {
    let (client, _server) = connected();
    keepalive(client.as_fd(), Duration::ZERO, Duration::MAX, 0).unwrap();
    assert_eq!(sockopt::tcp_keepidle(client.as_fd()).unwrap(), Duration::from_secs(1));
    assert_eq!(sockopt::tcp_keepintvl(client.as_fd()).unwrap(), Duration::from_secs(MAX_KEEPALIVE_SECS));
    keepalive(client.as_fd(), Duration::MAX, Duration::ZERO, u32::MAX).unwrap();
    user_timeout(client.as_fd(), Duration::MAX).unwrap();
}

#[test]
fn linger_reset_sends_a_reset() {
    let (client, mut server) = connected();
    linger_reset(client.as_fd()).unwrap();
    drop(client);
    assert_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn take_error_clears_the_error() {
    let (client, server) = connected();
    assert!(take_error(server.as_fd()).unwrap().is_none());
    linger_reset(client.as_fd()).unwrap();
    drop(client);
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(server.as_fd(), rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    let error = take_error(server.as_fd()).unwrap().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(take_error(server.as_fd()).unwrap().is_none());
}
