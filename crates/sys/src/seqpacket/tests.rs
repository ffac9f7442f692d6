use std::fs::File;
use std::io::{Read, Write};

use super::*;
use crate::testing;

fn open_count() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn packets_arrive_whole_with_their_descriptors() {
    let (one, two) = Channel::pair().unwrap();
    let (mut end, file) = io::pipe().unwrap();
    let mut packet = vec![1; 3];
    let lengths = [
        (1, 0),
        (64 * 1024, 1),
        (FIRST_BYTES, 0),
        (FIRST_BYTES + 1, 2),
        (MAX_PACKET_BYTES, MAX_FDS),
        (1, MAX_FDS),
        (5, 0),
    ];
    let copies: usize = lengths.iter().map(|(_, count)| count).sum();
    for (length, count) in lengths {
        let sent: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
        one.send(&sent, &vec![file.as_fd(); count]).unwrap();
        let fds = two.recv(&mut packet).unwrap().unwrap();
        assert!(packet == sent, "{length} bytes");
        assert_eq!(fds.len(), count);
        for fd in fds {
            assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            File::from(fd).write_all(b"x").unwrap();
        }
    }
    drop(file);
    let mut text = String::new();
    end.read_to_string(&mut text).unwrap();
    assert_eq!(text.len(), copies, "every descriptor was the pipe");
    drop(one);
    assert!(two.recv(&mut packet).unwrap().is_none(), "the end");
    assert!(packet.is_empty());
}

#[test]
fn packets_out_of_bounds_are_not_sent() {
    let (one, two) = Channel::pair().unwrap();
    two.set_nonblocking(true).unwrap();
    let zero = File::open("/dev/zero").unwrap();
    let many = vec![zero.as_fd(); MAX_FDS + 1];
    for result in [one.send(&[], &[]), one.send(&vec![0; MAX_PACKET_BYTES + 1], &[]), one.send(b"x", &many)] {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(two.recv(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(two);
    assert_eq!(one.send(b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_packet_that_is_too_long_is_consumed_and_its_descriptors_closed() {
    let (one, two) = Channel::pair().unwrap();
    let (mut end, file) = io::pipe().unwrap();
    sockopt::set_socket_send_buffer_size(&one, 4 * MAX_PACKET_BYTES).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let long = vec![7; MAX_PACKET_BYTES + 1];
    net::sendmsg(&one, &[IoSlice::new(&long)], &mut control, SendFlags::empty()).unwrap();
    one.send(b"next", &[]).unwrap();
    drop(file);

    let mut packet = Vec::new();
    assert_eq!(two.recv(&mut packet).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(packet.is_empty() && packet.capacity() <= MAX_PACKET_BYTES);
    assert_eq!(end.read(&mut [0]).unwrap(), 0, "no copy of the descriptor is left");
    assert!(two.recv(&mut packet).unwrap().is_some());
    assert_eq!(packet, b"next");
}

#[test]
fn descriptors_that_do_not_fit_are_an_error_and_none_stays() {
    testing::expect_child(None, || {
        let (one, two) = Channel::pair().unwrap();
        let zero = File::open("/dev/zero").unwrap();
        one.send(b"x", &[zero.as_fd(); 40]).unwrap();
        one.send(b"y", &[zero.as_fd()]).unwrap();
        let before = open_count();
        let few =
            rustix::process::Rlimit { current: Some(before as u64 + 8), maximum: Some(before as u64 + 8) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
        let mut packet = Vec::new();
        assert_eq!(two.recv(&mut packet).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(open_count(), before);
        assert_eq!(packet, b"x", "what it says is not lost");
        assert_eq!(two.recv(&mut packet).unwrap().unwrap().len(), 1, "the next packet is not disturbed");
    });
}

#[test]
fn listeners_know_their_peers() {
    testing::expect_child(None, listeners_know_their_peers_alone);
}

fn listeners_know_their_peers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.sock");
    assert_eq!(Channel::connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    let listener = Channel::listen(&path).unwrap();
    assert_eq!(Channel::listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(Channel::accept(listener.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    let client = Channel::connect(&path).unwrap();
    let server = Channel::accept(listener.as_fd()).unwrap();
    assert_eq!(server.peer_uid().unwrap(), rustix::process::geteuid().as_raw());
    assert_eq!(server.peer_pid().unwrap(), Some(std::process::id().try_into().unwrap()));
    client.send(b"hello", &[]).unwrap();
    let mut packet = Vec::new();
    assert!(server.recv(&mut packet).unwrap().unwrap().is_empty());
    assert_eq!(packet, b"hello");
    client.set_timeout(Some(Duration::from_millis(10))).unwrap();
    assert_eq!(client.recv(&mut packet).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    drop(listener);
    assert_eq!(Channel::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn connecting_to_a_listener_that_is_stuck_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.sock");
    let _listener = Channel::listen(&path).unwrap();
    let mut waiting = Vec::new();
    let error = loop {
        match Channel::connect(&path) {
            Ok(channel) => waiting.push(channel),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100);
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn the_peer_of_another_user() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Channel::listen(&path).unwrap();
    for place in [dir.path(), &path] {
        rustix::fs::chmod(place, rustix::fs::Mode::from_raw_mode(0o777)).unwrap();
    }
    testing::expect_child(Some(testing::NOBODY), || drop(Channel::connect(&path).unwrap()));
    let server = Channel::accept(listener.as_fd()).unwrap();
    assert_eq!(server.peer_uid().unwrap(), testing::NOBODY);
}

#[test]
fn only_seqpacket_sockets_are_taken_over() {
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(Channel::from_fd(stream.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let file = File::open("/dev/null").unwrap();
    assert!(Channel::from_fd(file.into()).is_err());
    let (one, _two) = Channel::pair().unwrap();
    assert!(Channel::from_fd(one.into()).is_ok());
}
