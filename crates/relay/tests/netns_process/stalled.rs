//! Targets of unix datagrams that do not read: what they are sent waits with its senders.

use std::fs::File;
use std::os::fd::AsFd;

use portway_relay::wire::{Ids, Init, field};
use portway_testkit::{Addr, MessageSocket};

use crate::rig::{Rig, in_netns};
use crate::{NOBODY, confined, open_to_all, packets, resident, start, worker_fds};

/// A device of datagrams whose target's queue is full.
struct Stalled {
    client: MessageSocket,
    target: MessageSocket,
    filled: usize,
}

impl Stalled {
    fn start(rig: &mut Rig, slot: u32) -> Stalled {
        let (client, target) = packets(rig, slot, "unixgram");
        let filler = MessageSocket::unnamed().unwrap();
        filler.connect_to(&Addr::unix(rig.path(&format!("out-{slot}")))).unwrap();
        rustix::io::ioctl_fionbio(&filler, true).unwrap();
        let filled = (0..1000).take_while(|_| filler.send(b"fill").is_ok()).count();
        Stalled { client, target, filled }
    }

    /// The next message behind what fills the queue: its length and descriptors.
    fn take(&self) -> (usize, usize) {
        for _ in 0..self.filled {
            assert_eq!(self.target.receive().unwrap(), b"fill");
        }
        let (bytes, descriptors) = self.target.receive_with().unwrap();
        (bytes.len(), descriptors.len())
    }
}

/// Descriptors for it leave those of others their way. Fails when: they are taken, and nobody else's are then.
pub(crate) fn a_stalled_datagram_target_leaves_others_room() {
    // A user of its own: the kernel counts descriptors on their way by user.
    let ids = Ids { uid: 500_000 + std::process::id() % 100_000, ..NOBODY };
    in_netns(|| {
        let mut rig = Rig::start_role("limited", Init { ids: Some(ids), ..confined() }, &[]);
        open_to_all(&rig);
        let file = File::open("/dev/null").unwrap();
        let stalled = Stalled::start(&mut rig, 0);
        let (client, server) = packets(&mut rig, 1, "unixpacket");
        let open = worker_fds(&rig);
        stalled.client.send_with(b"many", &[file.as_fd(); 100]).unwrap();
        rig.until("it is seen", |rig| rig.count(0, field::OPENED) == 1);
        for _ in 0..3 {
            client.send_with(b"pass", &[file.as_fd(); 100]).unwrap();
            let (bytes, got) = server.receive_with().unwrap();
            assert_eq!((bytes.as_slice(), got.len()), (&b"pass"[..], 100));
        }
        rig.until("none stays", |rig| worker_fds(rig) < open + 10);
        assert_eq!(stalled.take(), (4, 100));
        assert_eq!([0, 1].map(|slot| rig.count(slot, field::DROPPED)), [0, 0]);
    });
}

/// Messages for many of them stay out of the worker, but for a few. Fails when: their bytes are not counted.
pub(crate) fn stalled_datagram_targets_take_little_memory() {
    const LONG: usize = 200_000;
    in_netns(|| {
        let mut rig = start();
        open_to_all(&rig);
        let (client, server) = packets(&mut rig, 40, "unixgram");
        client.send(&[1; LONG]).unwrap();
        assert_eq!(server.receive().unwrap().len(), LONG);
        let before = resident(&rig);
        let mut stalled = Vec::new();
        for slot in 0..32 {
            let device = Stalled::start(&mut rig, slot);
            device.client.send(&[1; LONG]).unwrap();
            rig.until("it is seen", |rig| rig.count(slot, field::OPENED) == 1);
            stalled.push(device);
        }
        // 32 of them would be 6,250 KiB; what may wait here is 1,024, and one message.
        let more = resident(&rig).saturating_sub(before);
        assert!(more < 3 * 1024, "{more} KiB more are resident");
        for device in &stalled {
            assert_eq!(device.take(), (LONG, 0));
        }
        assert_eq!((0..32).map(|slot| rig.count(slot, field::DROPPED)).sum::<u64>(), 0);
    });
}
