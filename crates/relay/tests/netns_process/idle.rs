//! What waits costs no processor time.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use portway_relay::wire::{Ids, Init, field};
use portway_testkit::{Addr, MessageSocket, Stream, fds, process};

use crate::rig::{PATIENCE, Rig, accept, connect, device, in_netns, service, until};
use crate::{NOBODY, confined, open_socket, open_to_all, packets, start};

/// How long a worker that has nothing to do is watched.
pub(crate) const IDLE: Duration = Duration::from_millis(1500);

/// Processor time of the worker so far.
pub(crate) fn cpu_time(rig: &Rig) -> Duration {
    // A tick is a hundredth of a second on every architecture (`USER_HZ`).
    Duration::from_millis(process::cpu_ticks(rig.pid).unwrap() * 10)
}

/// For the time of [`IDLE`] since it had `spent` so much, the worker has hardly run.
pub(crate) fn assert_idle(rig: &Rig, spent: Duration) {
    let more = cpu_time(rig).saturating_sub(spent);
    assert!(more < IDLE / 5, "{more:?} of processor time in {IDLE:?}");
}

/// Targets that cannot be called, over udp and tcp, with clients who go on and clients who wait. Fails when: a
/// datagram is left in the queue that began no flow, or what waits is tried for in every turn.
pub(crate) fn failures_cost_no_cpu() {
    in_netns(|| {
        let mut rig = start();
        open_to_all(&rig);
        rig.add(0, "udp:127.0.0.1:1000", "udp:192.0.2.1:2000", &[]);
        rig.add_held(1, "tcp:127.0.0.1:1001", "tcp:127.0.0.1:2001", &[], PATIENCE);
        let full = rig.path("full");
        let _full = Addr::unix(&full).listen_with_backlog(0).unwrap();
        open_socket(&full);
        rig.add(2, "tcp:127.0.0.1:1002", &format!("unix:{}", full.display()), &[]);
        let lost = UdpSocket::bind("127.0.0.1:0").unwrap();
        let waiting: Vec<Stream> =
            (0..20).map(|number| connect(&format!("tcp:127.0.0.1:{}", 1001 + number % 2))).collect();
        rig.until("all are in", |rig| rig.count(1, field::OPENED) + rig.count(2, field::OPENED) == 20);
        let spent = cpu_time(&rig);
        for _ in 0..10 {
            lost.send_to(b"lost", "127.0.0.1:1000").unwrap();
            std::thread::sleep(IDLE / 10);
        }
        assert_idle(&rig, spent);
        rig.until("the datagrams are counted", |rig| rig.count(0, field::DROPPED) == 10);
        drop(waiting);
    });
}

/// A listener that waits for room at its target is left alone when its device changes, and when it comes again. Fails
/// when: whatever starts a listener has it watched.
pub(crate) fn waiting_listeners_cost_no_cpu() {
    in_netns(|| {
        let mut rig = start();
        let (client, server) = packets(&mut rig, 0, "unixgram");
        rustix::io::ioctl_fionbio(&client, true).unwrap();
        let mut sent = 0_u64;
        // A queue holds 11 (net.unix.max_dgram_qlen is 10): the target's, the listener's, and one waits in the worker.
        while sent < 11 + 1 + 11 {
            until("there is room", || client.send(b"fill").is_ok());
            sent += 1;
        }
        let [listen, target] = ["in-0", "out-0"].map(|name| format!("unixgram:{}", rig.path(name).display()));
        rig.change(0, &listen, &target, &[("udp.idle", "3m")]);
        let spent = cpu_time(&rig);
        std::thread::sleep(IDLE);
        assert_idle(&rig, spent);
        let listeners = std::mem::take(&mut rig.kept.last_mut().unwrap().1);
        rig.put(0, &device(&listen, &target, &[]), &listeners, None).unwrap();
        let spent = cpu_time(&rig);
        std::thread::sleep(IDLE);
        assert_idle(&rig, spent);
        for _ in 0..sent {
            assert_eq!(server.receive().unwrap(), b"fill");
        }
        assert_eq!(rig.count(0, field::DROPPED), 0);
    });
}

/// A client and its service over a device that passes descriptors.
enum Pair {
    Stream(Stream, Stream),
    Records(MessageSocket, MessageSocket),
}

impl Pair {
    fn start(rig: &mut Rig, slot: u32, protocol: &str) -> Pair {
        if protocol == "unixpacket" {
            let (client, server) = packets(rig, slot, protocol);
            return Pair::Records(client, server);
        }
        let path = rig.path(&format!("target-{slot}"));
        let (listen, target) = (format!("unix:@listen-{slot}"), format!("unix:{}", path.display()));
        let service = service(&target);
        open_socket(&path);
        rig.add(slot, &listen, &target, &[]);
        Pair::Stream(connect(&listen), accept(&service))
    }

    /// Sends as many descriptors as the kernel lets a user have on their way, and more.
    fn flood(&self) {
        let file = std::fs::File::open("/dev/null").unwrap();
        for _ in 0..FLOOD_COUNT {
            let sent = match self {
                Pair::Stream(Stream::Unix(client), _) => fds::send(client, b"many", &[file.as_fd(); 50]),
                Pair::Stream(..) => unreachable!("a unix device"),
                Pair::Records(client, _) => client.send_with(b"many", &[file.as_fd(); 50]),
            };
            assert_eq!(sent.unwrap(), 4);
        }
    }

    /// Takes a message; how many descriptors came with it, on a stream with the first byte of it.
    fn take(&self) -> usize {
        match self {
            Pair::Stream(_, Stream::Unix(server)) => {
                let (first, with_first) = fds::recv(server, 1).unwrap();
                assert_eq!(first, b"m");
                // The worker sends the rest of a message that had to wait behind it, whenever it comes to it.
                let mut rest = Vec::new();
                while rest.len() < 3 {
                    let (more, with_more) = fds::recv(server, 3 - rest.len()).unwrap();
                    assert!(
                        !more.is_empty() && with_more.is_empty(),
                        "{rest:?} and {more:?} with {with_more:?}"
                    );
                    rest.extend(more);
                }
                assert_eq!(rest, b"any");
                with_first.len()
            }
            Pair::Stream(..) => unreachable!("a unix device"),
            Pair::Records(_, server) => server.receive_with().unwrap().1.len(),
        }
    }
}

/// Messages of 50 descriptors: more than [`crate::FEW_FDS`].
const FLOOD_COUNT: usize = 12;

/// Descriptors that the kernel lets nobody send, because too many of the worker's user are on their way already: the worker
/// waits, and passes all of them on when there is room. Fails when: the event that a refused send raises has it sent again
/// at once.
pub(crate) fn descriptors_without_quota_cost_no_cpu() {
    in_netns(|| {
        for protocol in ["unix", "unixpacket"] {
            // A user of its own: the kernel counts by user.
            let ids = Ids { uid: 300_000 + std::process::id() % 100_000, ..NOBODY };
            let mut rig = Rig::start_role("limited", Init { ids: Some(ids), ..confined() }, &[]);
            open_to_all(&rig);
            let pair = Pair::start(&mut rig, 0, protocol);
            pair.flood();
            // The bytes of those that are through, and of the one that waits.
            rig.until("the quota is used up", |rig| rig.count(0, field::BYTES_IN) >= 4 * 8);
            let spent = cpu_time(&rig);
            std::thread::sleep(IDLE);
            assert_idle(&rig, spent);
            assert!(rig.count(0, field::BYTES_IN) < 4 * FLOOD_COUNT as u64, "{protocol}: none waits");
            for number in 0..FLOOD_COUNT {
                assert_eq!(pair.take(), 50, "{protocol}: message {number}");
            }
            assert_eq!((rig.count(0, field::DROPPED), rig.live(0)), (0, 1), "{protocol}");
        }
    });
}
