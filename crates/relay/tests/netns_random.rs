//! Many connections of every pairing at once, each with its own random course: sizes, pauses, small socket buffers, who
//! ends first. Whatever happens, every byte arrives in order, every end arrives, and nothing is left over.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use portway_relay::wire::field;
use portway_testkit::Stream;
use rig::{PATIENCE, Rig, accept, connect, in_netns, pattern, service};

/// A generator of one's own: the course of a test depends on its seed alone (xorshift64*).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    /// Mostly small, sometimes large.
    fn size(&mut self) -> usize {
        let magnitude = self.below(20);
        1 + self.below(1 << magnitude)
    }
}

/// Sends `bytes` in random pieces, with random pauses, then ends.
fn send(mut stream: &Stream, bytes: &[u8], mut random: Random) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = random.size().min(rest.len());
        stream.write_all(&rest[..piece]).unwrap();
        rest = &rest[piece..];
        if random.below(50) == 0 {
            std::thread::sleep(Duration::from_micros(random.next() % 3000));
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Reads in random pieces with random pauses, to the end, and compares.
fn receive(mut stream: &Stream, wanted: &[u8], mut random: Random) {
    let mut got = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let piece = random.size();
        let count = stream.read(&mut buffer[..piece]).unwrap();
        if count == 0 {
            assert_eq!(got, wanted.len(), "ended early");
            return;
        }
        assert!(wanted[got..].starts_with(&buffer[..count]), "wrong byte after {got}");
        got += count;
        if random.below(50) == 0 {
            std::thread::sleep(Duration::from_micros(random.next() % 3000));
        }
    }
}

fn shrink_buffers(stream: &Stream, random: &mut Random) {
    if random.below(3) == 0 {
        let bytes = 2048 << random.below(5);
        rustix::net::sockopt::set_socket_recv_buffer_size(stream, bytes).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(stream, bytes).unwrap();
    }
}

/// One connection from its beginning to its end.
fn course(client: &Stream, server: &Stream, seed: u64) {
    let mut random = Random::new(seed);
    for stream in [client, server] {
        stream.set_timeout(PATIENCE * 3).unwrap();
        shrink_buffers(stream, &mut random);
    }
    let (up, down) = (pattern(seed, random.size()), pattern(!seed, random.size()));
    let mut part = || Random::new(random.next());
    let (one, two, three, four) = (part(), part(), part(), part());
    // Both at once, or one after the other's end.
    let order = seed % 3;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if order == 1 {
                receive(client, &down, two.clone());
            }
            send(client, &up, one);
        });
        scope.spawn(|| {
            if order == 2 {
                receive(server, &up, four.clone());
            }
            send(server, &down, three);
        });
        if order != 1 {
            receive(client, &down, two.clone());
        }
        if order != 2 {
            receive(server, &up, four.clone());
        }
    });
}

/// A course that fails says which it was, and what the kernel did to connections meanwhile.
fn told_course(client: &Stream, server: &Stream, listen: &str, seed: u64) {
    let course = AssertUnwindSafe(|| course(client, server, seed));
    let failed = catch_unwind(course).is_err();
    assert!(!failed, "course {seed} of {listen}; kernel: {}", kernel_events());
}

/// The counters of this namespace that tell of aborts, drops, timeouts and closed windows.
fn kernel_events() -> String {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines();
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let of_note =
        |name: &str| ["Abort", "Drop", "Timeout", "Window", "Orphan"].iter().any(|part| name.contains(part));
    let pairs = names.split(' ').zip(values.split(' '));
    pairs
        .filter(|(name, value)| of_note(name) && *value != "0")
        .map(|(name, value)| format!("{name} {value}, "))
        .collect()
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn random_courses_of_every_pairing() {
    const ROUNDS: u64 = 6;
    const AT_ONCE: u64 = 8;
    in_netns(|| {
        let mut rig = Rig::start();
        let dir = rig.dir().display().to_string();
        let pairings = [
            ("tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000".to_owned(), &[][..]),
            ("tcp:127.0.0.1:1001", format!("unix:{dir}/one"), &[]),
            ("unix:@two", "tcp:127.0.0.1:2002".to_owned(), &[]),
            ("unix:@three", format!("unix:{dir}/three"), &[]),
            ("unix:@four", format!("unix:{dir}/four"), &[("fds", "off")]),
        ];
        let services: Vec<_> = pairings.iter().map(|(_, target, _)| service(target)).collect();
        for (slot, (listen, target, keys)) in (0..).zip(&pairings) {
            rig.add(slot, listen, target, keys);
        }
        let before = open_fds();
        for round in 0..ROUNDS {
            std::thread::scope(|scope| {
                for (number, ((listen, _, _), service)) in (0..).zip(pairings.iter().zip(&services)) {
                    for at_once in 0..AT_ONCE {
                        let (client, server) = (connect(listen), accept(service));
                        let seed = (round * 10 + number) * 100 + at_once + 1;
                        scope.spawn(move || told_course(&client, &server, listen, seed));
                    }
                }
            });
        }
        for slot in 0..5 {
            rig.until("all are closed", |rig| rig.live(slot) == 0);
            assert_eq!(rig.count(slot, field::OPENED), ROUNDS * AT_ONCE);
            assert_eq!(rig.count(slot, field::RESET), 0, "{}", pairings[slot as usize].0);
        }
        // Idle pipes are kept.
        assert!(open_fds() <= before + 16, "{} descriptors, {before} before", open_fds());
    });
}
