//! A bad network: datagrams pass from one address to another by way of this, and some are lost, late, doubled or too long.
//!
//! What becomes of a datagram follows from the seed, the direction and its number alone, so that the same seed does the
//! same again; [`Shim::record`] is what was done, and [`Fates::Replayed`] does that.

use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portway_testkit::Netns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What is done to datagrams. Shares are in thousandths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profile {
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    /// So many are passed by others, by at least and at most so many.
    pub(crate) passed_by: u32,
    pub(crate) by: (u32, u32),
    /// Each way.
    pub(crate) delay: Duration,
    /// Bits in a second, of the datagrams' own; 0: as fast as it goes.
    pub(crate) rate: u64,
    /// Longer ones vanish.
    pub(crate) longest: usize,
    /// The numbers of those that are lost together, as far as they come within [`BURST`] of the first: else what is sent
    /// again one by one would be lost until all are.
    pub(crate) burst: (u64, u64),
}

/// How long a burst of losses lasts.
const BURST: Duration = Duration::from_millis(20);

impl Profile {
    pub(crate) const CLEAN: Profile = Profile {
        lost: 0,
        doubled: 0,
        passed_by: 0,
        by: (3, 30),
        delay: Duration::ZERO,
        rate: 0,
        longest: usize::MAX,
        burst: (0, 0),
    };
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Passed,
    Lost,
    Doubled,
    /// Behind so many others.
    Late(u32),
}

/// Where fates come from.
#[derive(Debug, Clone)]
pub(crate) enum Fates {
    Seed(u64),
    Replayed([Vec<Fate>; 2]),
}

/// See the module. It ends when dropped.
pub(crate) struct Shim {
    stop: Arc<AtomicBool>,
    records: [Arc<Mutex<Vec<Fate>>>; 2],
    threads: Vec<JoinHandle<()>>,
}

/// splitmix64 of the number: a generator that can begin anywhere.
fn chance(seed: u64, number: u64) -> u64 {
    let mut it = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    it ^ (it >> 31)
}

impl Profile {
    fn fate(&self, seed: u64, number: u64) -> Fate {
        let it = chance(seed, number);
        let thousandth = u32::try_from(it % 1000).unwrap();
        let (first, last) = self.burst;
        if (first..last).contains(&number) || thousandth < self.lost {
            Fate::Lost
        } else if thousandth < self.lost + self.doubled {
            Fate::Doubled
        } else if thousandth < self.lost + self.doubled + self.passed_by {
            let (least, most) = self.by;
            Fate::Late(least + u32::try_from((it >> 32) % u64::from(most - least + 1)).unwrap())
        } else {
            Fate::Passed
        }
    }
}

impl Shim {
    /// From whoever sends to `address` of `netns` to `to`, and back.
    pub(crate) fn start(netns: &Netns, address: &str, to: &str, profile: Profile, fates: &Fates) -> Shim {
        let (address, to): (SocketAddr, SocketAddr) = (address.parse().unwrap(), to.parse().unwrap());
        let bind = |address: SocketAddr| {
            let socket = netns.enter(move || UdpSocket::bind(address)).unwrap().unwrap();
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).ok();
            socket.set_nonblocking(true).unwrap();
            Arc::new(socket)
        };
        let (near, far) = (bind(address), bind(SocketAddr::new(to.ip(), 0)));
        let caller = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let records = [Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new()))];
        let mut threads = Vec::new();
        for direction in 0..2 {
            let (from, out) =
                if direction == 0 { (near.clone(), far.clone()) } else { (far.clone(), near.clone()) };
            let (stop, caller, record) = (stop.clone(), caller.clone(), records[direction].clone());
            let fates = match fates {
                Fates::Seed(seed) => Ok(chance(*seed, direction as u64)),
                Fates::Replayed(both) => Err(both[direction].clone()),
            };
            let fate = move |number: u64| match &fates {
                Ok(seed) => profile.fate(*seed, number),
                Err(all) => all.get(usize::try_from(number).unwrap()).copied().unwrap_or(Fate::Passed),
            };
            let lane = Lane { from, out, to, caller, outward: direction == 0, profile, record };
            threads.push(std::thread::spawn(move || lane.run(&stop, fate)));
        }
        Shim { stop, records, threads }
    }

    /// What became of the datagrams of each direction, in order.
    pub(crate) fn record(&self) -> [Vec<Fate>; 2] {
        self.records.each_ref().map(|record| record.lock().unwrap().clone())
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// One direction.
struct Lane {
    from: Arc<UdpSocket>,
    out: Arc<UdpSocket>,
    to: SocketAddr,
    /// Who sends to us: learned on the way out.
    caller: Arc<Mutex<Option<SocketAddr>>>,
    outward: bool,
    profile: Profile,
    record: Arc<Mutex<Vec<Fate>>>,
}

/// A datagram on its way, the one that is due first greatest.
#[derive(PartialEq, Eq)]
struct Waiting {
    due: Instant,
    order: u64,
    bytes: Vec<u8>,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Lane {
    fn run(self, stop: &AtomicBool, fate: impl Fn(u64) -> Fate) {
        let mut room = vec![0; 70_000];
        let mut waiting = BinaryHeap::new();
        // Those that others go by, with the number at which they go on.
        let mut late: Vec<(u64, Vec<u8>)> = Vec::new();
        let (mut number, mut free) = (0, Instant::now());
        let (mut burst, in_burst) = (None, self.profile.burst.0..self.profile.burst.1);
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while waiting.peek().is_some_and(|first: &Waiting| first.due <= now) {
                let first = waiting.pop().unwrap();
                let to = if self.outward { Some(self.to) } else { *self.caller.lock().unwrap() };
                // A full socket is a loss as well.
                to.map(|to| self.out.send_to(&first.bytes, to).ok());
            }
            let next = waiting.peek().map_or(Duration::from_millis(20), |first| first.due - now);
            let time = Timespec::try_from(next).unwrap();
            poll(&mut [PollFd::new(&self.from.as_fd(), PollFlags::IN)], Some(&time)).ok();
            for _ in 0..64 {
                let Ok((length, from)) = self.from.recv_from(&mut room) else { break };
                if self.outward {
                    *self.caller.lock().unwrap() = Some(from);
                }
                let fate = if length > self.profile.longest { Fate::Lost } else { fate(number) };
                let over =
                    in_burst.contains(&number) && burst.get_or_insert_with(Instant::now).elapsed() > BURST;
                let fate = if over { Fate::Passed } else { fate };
                self.record.lock().unwrap().push(fate);
                number += 1;
                let mut go = |bytes: Vec<u8>| {
                    let begin = free.max(Instant::now());
                    let nanos = (bytes.len() as u64 * 8_000_000_000).checked_div(self.profile.rate);
                    free = nanos.map_or(free, |nanos| begin + Duration::from_nanos(nanos));
                    waiting.push(Waiting { due: begin + self.profile.delay, order: number, bytes });
                };
                match fate {
                    Fate::Lost => {}
                    Fate::Passed => go(room[..length].to_vec()),
                    Fate::Doubled => (0..2).for_each(|_| go(room[..length].to_vec())),
                    Fate::Late(by) => late.push((number + u64::from(by), room[..length].to_vec())),
                }
                let (ready, rest) = late.drain(..).partition(|(at, _)| *at <= number);
                late = rest;
                let ready: Vec<(u64, Vec<u8>)> = ready;
                ready.into_iter().for_each(|(_, bytes)| go(bytes));
            }
        }
    }
}
