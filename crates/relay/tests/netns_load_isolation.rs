//! No client delays another: targets that never answer, full backlogs, readers that do not read.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portway_relay::wire::field;
use portway_testkit::{Listener, Stream};
use rig::{Rig, accept, addr, bound_tcp_memory, connect, in_netns, service};

/// Echoes on every connection until dropped by the end of the test process.
fn echo(listener: Listener) {
    std::thread::spawn(move || {
        while let Ok(stream) = listener.accept() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = (&stream).read(&mut buffer) {
                    if (&stream).write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A port that swallows calls: its queue is full, so the kernel drops further SYNs.
fn black_hole(address: &str) -> (Listener, Vec<Stream>) {
    let listener = addr(address).listen_with_backlog(0).unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = addr(address).connect(Duration::from_millis(300)) {
        fillers.push(filler);
        assert!(fillers.len() < 10, "the queue has no end");
    }
    (listener, fillers)
}

/// The time 99 of 100 connections take to get one byte through.
fn p99(listen: &str, count: usize) -> Duration {
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let start = Instant::now();
            let stream = connect(listen);
            (&stream).write_all(b"x").unwrap();
            (&stream).read_exact(&mut [0]).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[count * 99 / 100]
}

fn assert_undisturbed(idle: Duration, busy: Duration) {
    // On a loaded machine a single late wake-up is some milliseconds; a stall is hundreds.
    let limit = (idle * 2).max(Duration::from_millis(40));
    assert!(busy <= limit, "p99 {busy:?} while others hang, {idle:?} when idle");
}

/// Fails when dialling blocks, or waits in line.
#[test]
fn a_black_holed_port_delays_nobody() {
    in_netns(|| {
        let mut rig = Rig::start();
        echo(service("tcp:127.0.0.1:2000"));
        let (_hole, _fillers) = black_hole("tcp:127.0.0.1:2001");
        rig.add(0, "tcp:127.0.0.1:1000-1001", "tcp:127.0.0.1:2000-2001", &[("connect.timeout", "4s")]);
        let idle = p99("tcp:127.0.0.1:1000", 300);
        let start = Instant::now();
        let hanging: Vec<Stream> = (0..50).map(|_| connect("tcp:127.0.0.1:1001")).collect();
        rig.until("all hang", |rig| rig.live(0) >= 50);
        assert_undisturbed(idle, p99("tcp:127.0.0.1:1000", 1000));
        // Each is told when its time is up.
        for stream in &hanging {
            assert_eq!((&*stream).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
        assert_eq!(rig.count(0, field::DIAL_FAILED), 50);
    });
}

/// A unix target whose backlog is full: its clients wait, others do not, and all are served once it accepts.
#[test]
fn a_full_unix_backlog_delays_nobody() {
    in_netns(|| {
        let mut rig = Rig::start();
        let path = format!("unix:{}", rig.path("busy").display());
        let busy = addr(&path).listen_with_backlog(1).unwrap();
        echo(service("tcp:127.0.0.1:2000"));
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        rig.add(1, "tcp:127.0.0.1:1001", &path, &[]);
        let idle = p99("tcp:127.0.0.1:1000", 300);
        let waiting: Vec<Stream> = (0..50).map(|_| connect("tcp:127.0.0.1:1001")).collect();
        rig.until("all wait", |rig| rig.live(1) >= 50);
        assert_undisturbed(idle, p99("tcp:127.0.0.1:1000", 1000));
        let open: Vec<Stream> = (0..50).map(|_| accept(&busy)).collect();
        for stream in &open {
            (&*stream).write_all(b"!").unwrap();
        }
        for stream in &waiting {
            (&*stream).read_exact(&mut [0]).unwrap();
        }
        assert_eq!(rig.count(1, field::DIAL_FAILED), 0);
    });
}

/// The same, with patience running out.
#[test]
fn a_full_unix_backlog_is_told_in_time() {
    in_netns(|| {
        let mut rig = Rig::start();
        let _busy = addr("unix:@busy").listen_with_backlog(0).unwrap();
        rig.add(0, "tcp:127.0.0.1:1000", "unix:@busy", &[("connect.timeout", "500ms")]);
        let start = Instant::now();
        let clients: Vec<Stream> = (0..20).map(|_| connect("tcp:127.0.0.1:1000")).collect();
        rig.until("the last ones are told", |rig| rig.count(0, field::DIAL_FAILED) >= 19);
        assert!(start.elapsed() >= Duration::from_millis(480));
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(clients);
        rig.until("closed", |rig| rig.live(0) <= 1);
    });
}

/// Readers that do not read hold up their own senders only, and little memory.
#[test]
fn stalled_readers_cost_little_and_delay_nobody() {
    in_netns(|| {
        bound_tcp_memory();
        let mut rig = Rig::start();
        echo(service("tcp:127.0.0.1:2000"));
        let source = service("tcp:127.0.0.1:2001");
        rig.add(0, "tcp:127.0.0.1:1000-1001", "tcp:127.0.0.1:2000-2001", &[]);
        let idle = p99("tcp:127.0.0.1:1000", 300);
        static STOP: AtomicBool = AtomicBool::new(false);
        std::thread::spawn(move || {
            let mut open = Vec::new();
            let chunk = vec![1; 100_000];
            while let Ok(stream) = source.accept() {
                set_nonblocking(&stream);
                open.push(stream);
                for stream in &open {
                    while let (false, Ok(_)) = (STOP.load(Ordering::Relaxed), (&*stream).write(&chunk)) {}
                }
            }
        });
        let stalled: Vec<Stream> = (0..100).map(|_| connect("tcp:127.0.0.1:1001")).collect();
        std::thread::sleep(Duration::from_millis(300));
        assert_undisturbed(idle, p99("tcp:127.0.0.1:1000", 1000));
        STOP.store(true, Ordering::Relaxed);
        drop(stalled);
    });
}

fn set_nonblocking(stream: &Stream) {
    rustix::io::ioctl_fionbio(stream, true).unwrap();
}

/// One long conversation of single bytes goes on beside bulk in both directions, and the bulk connections get about as much
/// as each other. Fails when: a stream keeps its turn as long as it has bytes, or is queued before those that wait.
#[test]
fn a_conversation_and_each_bulk_transfer_get_their_share() {
    const BULK: usize = 4;
    static STOP: AtomicBool = AtomicBool::new(false);
    static CAME: [AtomicU64; BULK] = [const { AtomicU64::new(0) }; BULK];
    in_netns(|| {
        let mut rig = Rig::start();
        echo(service("tcp:127.0.0.1:2000"));
        let bulk = service("tcp:127.0.0.1:2001");
        rig.add(0, "tcp:127.0.0.1:1000-1001", "tcp:127.0.0.1:2000-2001", &[]);
        let threads: Vec<_> = CAME
            .iter()
            .enumerate()
            .flat_map(|(number, came)| {
                let ends = (connect("tcp:127.0.0.1:1001"), accept(&bulk));
                // Every other one downwards.
                let (from, to) = if number % 2 == 0 { ends } else { (ends.1, ends.0) };
                let reader = std::thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 18];
                    while let Ok(count @ 1..) = (&to).read(&mut buffer) {
                        came.fetch_add(count as u64, Ordering::Relaxed);
                    }
                });
                let writer = std::thread::spawn(move || {
                    let chunk = vec![1; 1 << 18];
                    while !STOP.load(Ordering::Relaxed) {
                        (&from).write_all(&chunk).unwrap();
                    }
                    from.shutdown(Shutdown::Write).unwrap();
                });
                [reader, writer]
            })
            .collect();
        let talk = connect("tcp:127.0.0.1:1000");
        let mut times = Vec::new();
        // Until each has had many turns, and there is something to compare.
        let total = || CAME.iter().map(|came| came.load(Ordering::Relaxed)).sum::<u64>();
        while total() < 4 << 30 && times.len() < 100_000 || times.len() < 300 {
            let start = Instant::now();
            (&talk).write_all(b"x").unwrap();
            (&talk).read_exact(&mut [0]).unwrap();
            times.push(start.elapsed());
        }
        let shares: Vec<u64> = CAME.iter().map(|came| came.load(Ordering::Relaxed) >> 20).collect();
        STOP.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        times.sort_unstable();
        let (p99, count) = (times[times.len() * 99 / 100], times.len());
        assert!(p99 < Duration::from_millis(300), "p99 {p99:?} of {count} beside bulk");
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        // Threads of this test get uneven shares of two processors, too.
        assert!(*most < 20 * least.max(&1), "{shares:?} MiB");
    });
}

/// A bulk transfer shares the worker: small messages of others still come through quickly.
#[test]
fn bulk_leaves_room_for_small_messages() {
    in_netns(|| {
        let mut rig = Rig::start();
        echo(service("tcp:127.0.0.1:2000"));
        let bulk = service("tcp:127.0.0.1:2001");
        rig.add(0, "tcp:127.0.0.1:1000-1001", "tcp:127.0.0.1:2000-2001", &[]);
        static STOP: AtomicBool = AtomicBool::new(false);
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let (client, server) = (connect("tcp:127.0.0.1:1001"), accept(&bulk));
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 20];
                    while let Ok(1..) = (&server).read(&mut buffer) {}
                });
                std::thread::spawn(move || {
                    let chunk = vec![1; 1 << 20];
                    while !STOP.load(Ordering::Relaxed) {
                        (&client).write_all(&chunk).unwrap();
                    }
                    client.shutdown(Shutdown::Write).unwrap();
                })
            })
            .collect();
        let slow = p99("tcp:127.0.0.1:1000", 300);
        STOP.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.join().unwrap();
        }
        assert!(slow < Duration::from_millis(300), "p99 {slow:?} beside bulk");
    });
}
