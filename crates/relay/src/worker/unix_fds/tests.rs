//! Real sockets: `sender -> from | carry | to -> receiver`.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portway_testkit::fds::{MAX_FDS, recv as receive_fds, send as send_fds};
use rustix::event::epoll::EventFlags;
use rustix::fs::{CWD, Mode, OFlags};

use super::super::socket::Carrier;
use super::*;

struct Bench {
    sender: UnixStream,
    from: Socket,
    to: Socket,
    receiver: UnixStream,
    lane: Lane,
    pipes: Pipes,
    refused: u64,
}

impl Bench {
    fn new() -> Bench {
        let (sender, from) = UnixStream::pair().unwrap();
        let (to, receiver) = UnixStream::pair().unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // As the worker's are: splice(2) goes by that alone.
        let socket = |stream: UnixStream| {
            stream.set_nonblocking(true).unwrap();
            Socket::new(OwnedFd::from(stream), Carrier::Unix)
        };
        Bench {
            sender,
            from: socket(from),
            to: socket(to),
            receiver,
            lane: Lane::default(),
            pipes: Pipes::new(4096),
            refused: 0,
        }
    }

    fn carry(&mut self) -> Step {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.from.read = true;
            self.to.write = true;
            let step = self.turn(&mut buffer);
            if step != Step::More {
                return step;
            }
        }
    }

    /// Carries until `length` bytes have come: those bytes, and how many descriptors came with them.
    fn carry_and_receive(&mut self, length: usize) -> (Vec<u8>, usize) {
        let (mut got, mut fd_count) = (Vec::new(), 0);
        while got.len() < length {
            assert_eq!(self.carry(), Step::Waits);
            let (bytes, fds) = receive_fds(&self.receiver, length - got.len()).unwrap();
            fd_count += fds.len();
            got.extend(bytes);
        }
        (got, fd_count)
    }

    fn turn(&mut self, buffer: &mut [u8]) -> Step {
        carry(&mut self.lane, &mut self.from, &mut self.to, buffer, &mut self.pipes, &mut self.refused)
    }

    fn send(&self, bytes: &[u8], fds: &[&OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        assert_eq!(send_fds(&self.sender, bytes, &fds).unwrap(), bytes.len());
    }
}

fn file() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A reader that asks for exactly the bytes of each message gets descriptors with the right one. Fails when the
/// engine reads first and asks later where they belonged.
#[test]
fn descriptors_stay_with_their_first_byte() {
    let fd = file();
    for (before, with, after) in
        [(0, 1, 0), (3, 1, 0), (1, 1, 1), (1000, 7, 5), (40_000, 3, 100), (2, 60_000, 2)]
    {
        let mut bench = Bench::new();
        if before > 0 {
            bench.send(&vec![1; before], &[]);
        }
        bench.send(&vec![2; with], &[&fd]);
        if after > 0 {
            bench.send(&vec![3; after], &[]);
        }
        assert_eq!(bench.carry(), Step::Waits);
        if before > 0 {
            let mut got = Vec::new();
            while got.len() < before {
                let (part, fds) = receive_fds(&bench.receiver, before - got.len()).unwrap();
                assert!(fds.is_empty(), "{before}/{with}/{after}: too early");
                got.extend(part);
            }
            assert_eq!(got, vec![1; before]);
        }
        let (first, fds) = receive_fds(&bench.receiver, with).unwrap();
        assert_eq!((first.first(), fds.len()), (Some(&2), 1), "{before}/{with}/{after}");
    }
}

/// Large amounts go through a pipe, and what comes with descriptors behind them does not. Fails when: descriptors are
/// spliced, or the pipe is kept.
#[test]
fn what_is_large_is_spliced_and_descriptors_are_not() {
    let fd = file();
    for large in [SPLICED_BYTES, 65_536, 80_000] {
        let mut bench = Bench::new();
        bench.send(&vec![1; large], &[]);
        assert_eq!(bench.carry_and_receive(large), (vec![1; large], 0));
        // Made, and given back.
        let pipe = bench.pipes.take().unwrap();
        assert_eq!(bench.pipes.count(), 1, "{large}");
        bench.pipes.give_back(pipe, 0);
        bench.send(&vec![2; large], &[&fd]);
        bench.send(&vec![3; large], &[]);
        assert_eq!(bench.carry_and_receive(large), (vec![2; large], 1));
        assert_eq!(bench.carry_and_receive(large), (vec![3; large], 0));
        assert_eq!((bench.pipes.count(), bench.refused), (1, 0), "{large}");
    }
}

/// A stream that carries much is not read for descriptors, and those that it brings are found all the same: nearby, past
/// what a look reads, and behind everything. Fails when: it is read all the same, or spliced without a look.
#[test]
fn what_is_heavy_keeps_its_descriptors() {
    let fd = file();
    assert!(looks_reach(), "not by this kernel");
    for reach in [true, false] {
        let mut bench = Bench::new();
        bench.pipes.looks_reach = reach;
        (0..8).for_each(|_| assert!(bench.lane.weigh(u64::MAX)));
        let mut buffer = vec![0xaa; 64 * 1024];
        bench.send(&vec![1; 80_000], &[]);
        (bench.from.read, bench.to.write) = (true, true);
        assert_eq!(bench.turn(&mut buffer), Step::Waits);
        assert_eq!(buffer.iter().all(|byte| *byte == 0xaa), reach, "it was read");
        assert_eq!(bench.carry_and_receive(80_000), (vec![1; 80_000], 0));
        for (before, behind) in [(0, 80_000), (20_000, 20_000), (70_000, 10), (90_000, 0)] {
            bench.send(&vec![1; before], &[]);
            bench.send(b"f", &[&fd]);
            bench.send(&vec![2; behind], &[]);
            assert_eq!(bench.carry_and_receive(before), (vec![1; before], 0), "{before}");
            assert_eq!(bench.carry_and_receive(1), (b"f".to_vec(), 1), "{before}");
            assert_eq!(bench.carry_and_receive(behind), (vec![2; behind], 0), "{before}");
        }
        assert_eq!(bench.refused, 0);
    }
}

/// A look that shows all there is spares the next one, which would find nothing; one that ends at descriptors does not.
/// Fails when: a look that is short of the buffer is taken for the last one whatever it has met.
#[test]
fn the_last_look_is_known() {
    let mut bench = Bench::new();
    let mut buffer = vec![0; 64 * 1024];
    bench.send(b"all", &[]);
    bench.from.read = true;
    assert_eq!(bench.turn(&mut buffer), Step::Waits);
    assert!(!bench.from.read);
    bench.send(b"one", &[&file()]);
    bench.send(b"two", &[]);
    bench.from.read = true;
    assert_eq!(bench.turn(&mut buffer), Step::Waits);
    let mut got = [0; 9];
    (&bench.receiver).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"allonetwo");
    // The end comes once: it is looked for behind the last bytes.
    bench.send(b"end", &[]);
    bench.sender.shutdown(std::net::Shutdown::Write).unwrap();
    bench.from.note(EventFlags::IN | EventFlags::RDHUP);
    assert_eq!(bench.turn(&mut buffer), Step::Ended);
}

#[test]
fn several_messages_keep_their_own() {
    let fds: Vec<OwnedFd> = (0..6).map(|_| file()).collect();
    let mut bench = Bench::new();
    bench.send(b"a", &[&fds[0]]);
    bench.send(b"b", &[&fds[1], &fds[2]]);
    bench.send(b"c", &[]);
    bench.send(b"d", &[&fds[3], &fds[4], &fds[5]]);
    assert_eq!(bench.carry(), Step::Waits);
    for (byte, count) in [(b'a', 1), (b'b', 2), (b'c', 0), (b'd', 3)] {
        let (got, fds) = receive_fds(&bench.receiver, 1).unwrap();
        assert_eq!((got, fds.len()), (vec![byte], count));
    }
}

#[test]
fn the_most_a_message_holds() {
    let fds: Vec<OwnedFd> = (0..MAX_FDS).map(|_| file()).collect();
    let mut bench = Bench::new();
    bench.send(b"all", &fds.iter().collect::<Vec<_>>());
    assert_eq!(bench.carry(), Step::Waits);
    let (got, received) = receive_fds(&bench.receiver, 16).unwrap();
    assert_eq!((got.as_slice(), received.len()), (&b"all"[..], MAX_FDS));
}

/// A directory, or an `O_PATH` of anything, would be a way around the receiver's root.
#[test]
fn directories_and_places_are_held_back() {
    let path = |path: &str, flags| rustix::fs::openat(CWD, path, flags, Mode::empty()).unwrap();
    let directory = path("/proc", OFlags::RDONLY | OFlags::DIRECTORY);
    let place = path("/dev/null", OFlags::PATH);
    let directory_place = path("/", OFlags::PATH | OFlags::DIRECTORY);
    let good = file();
    let mut bench = Bench::new();
    bench.send(b"mixed", &[&directory, &good, &place, &directory_place]);
    bench.send(b"none", &[&directory]);
    assert_eq!(bench.carry(), Step::Waits);
    assert_eq!(bench.refused, 4);
    let (got, fds) = receive_fds(&bench.receiver, 5).unwrap();
    assert_eq!((got.as_slice(), fds.len()), (&b"mixed"[..], 1));
    let (got, fds) = receive_fds(&bench.receiver, 16).unwrap();
    assert_eq!((got.as_slice(), fds.len()), (&b"none"[..], 0));
}

/// What the receiver does not take stays in the sender's queue: nothing is kept here, nothing is lost, and no
/// descriptor is leaked or passed twice.
#[test]
fn a_full_receiver_leaves_everything_with_the_kernel() {
    let fd = file();
    let mut bench = Bench::new();
    let open = open_fds();
    bench.sender.set_nonblocking(true).unwrap();
    let mut sent = 0_usize;
    let mut passed = 0;
    let chunk = vec![9; 30_000];
    let (mut got_bytes, mut got_fds) = (0, 0);
    for round in 0..400 {
        let fds = [fd.as_fd()];
        if send_fds(&bench.sender, &chunk, if round % 3 == 0 { &fds } else { &[] }).is_ok_and(|count| {
            sent += count;
            true
        }) && round % 3 == 0
        {
            passed += 1;
        }
        bench.carry();
        if round % 50 == 49 {
            bench.receiver.set_nonblocking(true).unwrap();
            while let Ok((bytes, fds)) = receive_fds(&bench.receiver, 100_000) {
                got_bytes += bytes.len();
                got_fds += fds.len();
            }
        }
    }
    bench.receiver.set_nonblocking(true).unwrap();
    for _ in 0..400 {
        bench.carry();
        while let Ok((bytes, fds)) = receive_fds(&bench.receiver, 100_000) {
            got_bytes += bytes.len();
            got_fds += fds.len();
        }
    }
    assert_eq!((got_bytes, got_fds), (sent, passed));
    assert!(sent > 1_000_000 && passed > 10);
    assert!(open_fds() <= open + 2, "descriptors leaked");
}

#[test]
fn the_end_comes_after_everything() {
    let mut bench = Bench::new();
    bench.send(b"last", &[&file()]);
    bench.sender.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(bench.carry(), Step::Ended);
    let (got, fds) = receive_fds(&bench.receiver, 16).unwrap();
    assert_eq!((got.as_slice(), fds.len()), (&b"last"[..], 1));
}

#[test]
fn a_gone_receiver_is_a_failed_sink() {
    let mut bench = Bench::new();
    bench.send(b"x", &[]);
    let (_, stranger) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut bench.receiver, stranger));
    assert_eq!(bench.carry(), Step::SinkFailed(Errno::PIPE));
}
