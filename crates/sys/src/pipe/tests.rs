use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::testing;

#[test]
fn bytes_cross_a_pipe_between_sockets() {
    testing::expect_child(None, bytes_cross_a_pipe_between_sockets_alone);
}

fn bytes_cross_a_pipe_between_sockets_alone() {
    let pipe = Pipe::new(256 * 1024).unwrap();
    let (mut client, from) = UnixStream::pair().unwrap();
    let (to, mut server) = UnixStream::pair().unwrap();
    from.set_nonblocking(true).unwrap();
    let block = |result: io::Result<usize>| result.unwrap_err().kind() == io::ErrorKind::WouldBlock;
    assert!(block(splice(from.as_fd(), pipe.write.as_fd(), 4096)), "nothing has come yet");
    assert!(block(splice(pipe.read.as_fd(), to.as_fd(), 4096)), "the pipe is empty");
    client.write_all(b"payload").unwrap();
    assert_eq!(splice(from.as_fd(), pipe.write.as_fd(), 4096).unwrap(), 7);
    assert_eq!(splice(pipe.read.as_fd(), to.as_fd(), 4096).unwrap(), 7);
    let mut got = [0; 7];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"payload");
    drop(client);
    assert_eq!(splice(from.as_fd(), pipe.write.as_fd(), 4096).unwrap(), 0, "the end");
}

#[test]
fn the_size_is_what_the_kernel_grants() {
    let pipe = Pipe::new(256 * 1024).unwrap();
    assert_eq!(pipe.capacity_bytes, rustix::pipe::fcntl_getpipe_size(&pipe.read).unwrap());
    if testing::root() {
        assert_eq!(pipe.capacity_bytes, 256 * 1024);
        testing::expect_child(Some(testing::NOBODY), || {
            let pipe = Pipe::new(1 << 30).unwrap();
            assert_eq!(pipe.capacity_bytes, rustix::pipe::fcntl_getpipe_size(&pipe.read).unwrap());
        });
    }
}
