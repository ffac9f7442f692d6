//! Streams that carry much beside small messages: they move to the worker's second thread and back, and nobody can tell
//! but by the clock.
//!
//! ```text
//! large client ----\                    /---- large service
//! small client ---- listeners (worker) ------ echo                all in one network namespace, over loopback
//! ```

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use portway_relay::wire::field;
use portway_testkit::{Pattern, Stream, process};
use rig::{PATIENCE, Rig, accept, connect, in_netns, service, until};

const LARGE: &str = "tcp:127.0.0.1:1000";
const SMALL: &str = "tcp:127.0.0.1:1001";
const ECHO: &str = "tcp:127.0.0.1:2001";

/// How often the second thread has been on a processor: the third figure of its schedstat.
fn runs() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let is_ours = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "portway-haul")
    };
    let stat = tasks.filter(is_ours).filter_map(|task| std::fs::read_to_string(task.join("schedstat")).ok());
    stat.map(|stat| stat.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap()).sum()
}

/// Whether it has done anything since it stood at `before` but look around.
fn has_worked(before: u64) -> bool {
    runs() > before + 20
}

fn fd_count() -> usize {
    process::fd_count(std::process::id().cast_signed()).unwrap()
}

/// A message there and back.
fn exchange(mut stream: &Stream) {
    stream.write_all(b"small message").unwrap();
    let mut answer = [0; 13];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"small message");
}

/// What is known of a stream that is on the second thread.
struct Lent {
    /// Bytes of pattern 1 that have gone up. All of them have arrived.
    length: u64,
    /// Most descriptors that this process has had, the stream's duplicates included.
    fd_count: usize,
}

/// A large stream (client, service) that is on the second thread, beside small messages that go on until the end of
/// `test`.
fn with_large(keys: &[(&str, &str)], test: impl FnOnce(&mut Rig, Stream, Stream, Lent) + Send) {
    in_netns(|| {
        let mut rig = Rig::start();
        let (door, echo) = (service("tcp:127.0.0.1:2000"), service(ECHO));
        rig.add(0, LARGE, "tcp:127.0.0.1:2000", keys);
        rig.add(1, SMALL, ECHO, keys);
        let (client, small) = (connect(LARGE), connect(SMALL));
        let (server, echoing) = (accept(&door), accept(&echo));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = (&echoing).read(&mut buffer) {
                    (&echoing).write_all(&buffer[..count]).unwrap();
                }
            });
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    exchange(&small);
                }
                small.shutdown(Shutdown::Write).unwrap();
            });
            let _over = Over(&over);
            let most = AtomicUsize::new(0);
            let length = fill_until(&client, &server, || {
                most.fetch_max(fd_count(), Ordering::Relaxed);
                has_worked(0)
            });
            test(&mut rig, client, server, Lent { length, fd_count: most.into_inner() });
        });
    });
}

/// Says that it is over, also where a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends pattern 1 from `from` to `to`, a megabyte after another, until `enough`. Returns how many bytes those were.
fn fill_until(mut from: &Stream, mut to: &Stream, enough: impl Fn() -> bool) -> u64 {
    const STEP: usize = 1 << 20;
    let (mut out, mut wanted, mut got) = (vec![0; STEP], vec![0; STEP], vec![0; STEP]);
    let (begin, mut length) = (Instant::now(), 0);
    while !enough() {
        assert!(begin.elapsed() < PATIENCE, "the stream stays on the first thread");
        Pattern::new(1).fill(length, &mut out);
        wanted.copy_from_slice(&out);
        std::thread::scope(|scope| {
            scope.spawn(|| from.write_all(&out).unwrap());
            to.read_exact(&mut got).unwrap();
        });
        assert!(got == wanted, "bytes after {length} differ");
        length += STEP as u64;
    }
    length
}

/// Fails when: what is on its way is lost or comes twice when a stream moves, an end of it is not passed on by the
/// second thread, or its bytes are not counted.
#[test]
fn a_stream_that_moves_is_whole_and_half_closes() {
    with_large(&[], |rig, client, server, Lent { length, .. }| {
        const MORE: u64 = 32 << 20;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                Pattern::new(2).write(MORE, &client).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            Pattern::new(2).check_to_end(MORE, &server).unwrap();
            // Nothing comes after that; the other way is still open.
            scope.spawn(|| {
                Pattern::new(3).write(MORE, &server).unwrap();
                server.shutdown(Shutdown::Write).unwrap();
            });
            Pattern::new(3).check_to_end(MORE, &client).unwrap();
        });
        rig.until("the large stream is closed", |rig| rig.live(0) == 0);
        assert_eq!(rig.count(0, field::BYTES_IN), length + MORE);
        assert_eq!(rig.count(0, field::BYTES_OUT), MORE);
        assert_eq!(rig.count(0, field::RESET), 0);
        assert_eq!(rig.live(1), 1);
    });
}

/// Fails when: a reset that the second thread sees ends as FIN, or is not counted, or nothing comes of it.
#[test]
fn a_reset_goes_through_the_second_thread() {
    with_large(&[], |rig, client, server, _| {
        server.reset();
        let end = loop {
            if let Err(error) = (&client).write(&[0; 4096]) {
                break error;
            }
        };
        assert!(matches!(end.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
        rig.until("the large stream is closed", |rig| rig.live(0) == 0);
        assert_eq!((rig.count(0, field::RESET), rig.live(1)), (1, 1));
    });
}

/// Fails when: a device that is removed leaves its lent streams open, or they count in the line of its successor.
#[test]
fn a_removed_device_takes_its_lent_streams_along() {
    with_large(&[], |rig, client, server, _| {
        rig.remove(0, false);
        for stream in [&client, &server] {
            let end = (&*stream).read(&mut [0]).unwrap_err();
            assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        }
        let _door = service("tcp:127.0.0.1:2002");
        rig.add(0, LARGE, "tcp:127.0.0.1:2002", &[]);
        assert_eq!((rig.count(0, field::BYTES_IN), rig.count(0, field::CLOSED), rig.live(1)), (0, 0, 1));
    });
}

/// Fails when: a line that is given to another device still gets what a draining one carries on the second thread.
#[test]
fn a_draining_stream_does_not_count_for_the_next_device() {
    with_large(&[], |rig, client, server, Lent { length, .. }| {
        rig.remove(0, true);
        let _door = service("tcp:127.0.0.1:2002");
        rig.add(0, "tcp:127.0.0.1:1002", "tcp:127.0.0.1:2002", &[]);
        Pattern::new(2).write(100_000, &client).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        Pattern::new(2).check_to_end(100_000, &server).unwrap();
        assert!(length > 0);
        assert_eq!(rig.count(0, field::BYTES_IN), 0);
    });
}

/// Fails when: a stream that has become small stays where the next large one will be.
#[test]
fn a_stream_that_carries_little_comes_back() {
    with_large(&[], |_, client, server, _| {
        let small = |count: usize| {
            for _ in 0..count {
                (&client).write_all(b"x").unwrap();
                (&server).read_exact(&mut [0]).unwrap();
            }
        };
        // Several bytes may come as one.
        until("the stream to be back", || {
            let before = runs();
            small(100);
            !has_worked(before)
        });
    });
}

/// Fails when: what is lent and carries nothing keeps its place for ever. It is looked for when connections are.
#[test]
fn an_idle_stream_comes_back() {
    with_large(&[("tcp.keepalive", "1s")], |_, client, server, lent| {
        // Its two duplicates; the pipes that are not needed any more are closed, too.
        until("the duplicates are closed", || fd_count() <= lent.fd_count - 2);
        let (mut client, mut server) = (&client, &server);
        client.write_all(b"still open").unwrap();
        let mut text = [0; 10];
        server.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"still open");
    });
}
