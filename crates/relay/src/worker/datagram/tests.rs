//! What one turn does.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::worker::socket::Carrier;

/// Two ends of a stream that do not block, the first as one of a relayed connection.
fn stream() -> (Socket, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    let mut ours = Socket::new(ours, Carrier::Unix);
    ours.read = true;
    (ours, theirs)
}

/// Writes zeros until the other end is full.
fn pour(to: impl AsFd) -> usize {
    let mut poured = 0;
    while let Ok(count) = rustix::io::write(&to, &[0; 4096]) {
        poured += count;
    }
    poured
}

/// Two connected datagram sockets, the first as one of a relayed connection.
fn datagrams() -> (Socket, UdpSocket) {
    let [ours, theirs] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    ours.connect(theirs.local_addr().unwrap()).unwrap();
    theirs.connect(ours.local_addr().unwrap()).unwrap();
    let mut ours = Socket::new(ours.into(), Carrier::Udp);
    ours.read = true;
    (ours, theirs)
}

/// A client that pours empty frames, two bytes each, has a turn of as many as anybody's budget buys, and not of all
/// that a buffer holds. Fails when: a read asks for more than the rest of the turn may hold.
#[test]
fn a_turn_of_empty_frames_is_bounded() {
    let (mut core, _memory) = Core::new(64).unwrap();
    let ((mut from, client), (mut to, _server)) = (stream(), datagrams());
    let (mut lane, mut begun) = (Lane::default(), Frames::new(core.now));
    let poured = pour(&client);
    let mut frames = 0;
    for turn in 0..3 {
        let step =
            carry_frames_up(&mut lane, &mut begun, &mut from, &mut to, &mut core, Key::from_parts(0, 0));
        assert_eq!(step, Step::More, "turn {turn}");
        let taken = usize::try_from(lane.total).unwrap() / len16::HEADER_BYTES - frames;
        assert!(taken > 0 && taken <= TURN_BYTES / FRAME_COST + READ_MIN_BYTES / 2, "{taken} in turn {turn}");
        frames += taken;
    }
    assert!(poured > frames * len16::HEADER_BYTES, "there was more");
}

/// Past what all streams together may keep, a datagram for a stream that is full stays in the kernel, and goes on when
/// there is room. Fails when: each client that does not read keeps a datagram's bytes beyond the limit.
#[test]
fn datagrams_stay_in_the_kernel_when_too_much_is_kept() {
    for framing in [UdpFraming::Raw, UdpFraming::Len16] {
        let (mut core, _memory) = Core::new(64).unwrap();
        let ((mut to, client), (mut from, server)) = (stream(), datagrams());
        let mut lane = Lane::default();
        let poured = pour(&to);
        while core.pipes.may_keep() {
            core.pipes.keep(1);
        }
        server.send(&[1; 1_000]).unwrap();
        let mut last = None;
        let step = carry_down(&mut lane, &mut from, &mut to, &mut core, (framing, &mut last));
        assert_eq!((step, lane.total, lane.is_clear(), to.write), (Step::Waits, 0, true, false));

        let mut rest = poured;
        while rest > 0 {
            rest -= rustix::io::read(&client, &mut vec![0; rest]).unwrap();
        }
        to.write = true;
        let step = carry_down(&mut lane, &mut from, &mut to, &mut core, (framing, &mut last));
        assert_eq!((step, lane.total, lane.is_clear(), to.write), (Step::Waits, 1_000, true, true));
    }
}

/// The budget of a turn, whoever takes the frames: of the shortest, and of long ones.
#[test]
fn a_turn_in_frames_of_every_length() {
    let mut buffer = vec![0; 64 * 1024];
    for payload in [0, 1, 100, 1_500, 65_507] {
        let (mut turn, mut bytes, mut frames) = (FrameTurn::new(), 0, 0);
        let mut reads = 0;
        while !turn.is_over() {
            let count = turn.room(&mut buffer).len();
            assert!(count >= READ_MIN_BYTES);
            let whole = (bytes + count) / (len16::HEADER_BYTES + payload) - frames;
            turn.took(count, whole);
            (bytes, frames, reads) = (bytes + count, frames + whole, reads + 1);
        }
        assert!(frames <= TURN_BYTES / FRAME_COST + READ_MIN_BYTES / 2, "{frames} of {payload} bytes");
        assert!(bytes <= TURN_BYTES + buffer.len(), "{bytes} bytes in frames of {payload}");
        assert!(reads <= 128, "{reads} reads of frames of {payload}");
    }
}
