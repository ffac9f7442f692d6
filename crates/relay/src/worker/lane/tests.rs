//! Real sockets: `sender -> from | carry | to -> receiver`.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use portway_testkit::fds::{memfd, send as send_fds};
use rustix::event::epoll::EventFlags;

use super::*;

fn pair() -> (UnixStream, Socket) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    ours.set_nonblocking(true).unwrap();
    (theirs, Socket::new(OwnedFd::from(ours), Carrier::Unix))
}

/// A read of a unix socket ends at descriptors, and what is behind them is no event of its own. Fails when: a short
/// read of it always counts as the last one, or never.
#[test]
fn a_short_read_is_the_last_one_unless_it_met_descriptors() {
    let (mut sender, mut from) = pair();
    let (mut receiver, mut to) = pair();
    let (mut lane, mut pipes, mut buffer) = (Lane::default(), Pipes::new(4096), vec![0; 64 * 1024]);
    for (descriptors, text) in [(0, b"plain"), (1, b"other")] {
        if descriptors > 0 {
            send_fds(&sender, b"first", &[memfd(b"x").unwrap().as_fd()]).unwrap();
        }
        sender.write_all(text).unwrap();
        from.note(EventFlags::IN);
        assert_eq!(lane.carry(&mut from, &mut to, &mut buffer, &mut pipes), Step::Waits);
        let mut got = vec![0; (descriptors + 1) * text.len()];
        receiver.read_exact(&mut got).unwrap();
        assert!(got.ends_with(text), "{got:?}");
        assert!(!from.read);
    }
    sender.write_all(b"one").unwrap();
    assert_eq!(read(&mut from, &mut buffer), Ok(3));
    assert!(!from.read, "a second read would find nothing");
    send_fds(&sender, b"two", &[memfd(b"x").unwrap().as_fd()]).unwrap();
    from.note(EventFlags::IN);
    assert_eq!(read(&mut from, &mut buffer), Ok(3));
    assert!(from.read, "there may be more behind descriptors");
}
