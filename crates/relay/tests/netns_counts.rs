//! What a device counts of its dials: how long they took, and why they failed.

mod rig;

use std::io::{Read, Write};

use portway_relay::wire::{DIAL_BOUNDS_MICROS, FailureKind, field};
use rig::{Rig, accept, connect, in_netns, service, try_connect};

/// Dials that were answered, by bucket.
fn answered(rig: &Rig, slot: u32) -> Vec<u64> {
    (0..=DIAL_BOUNDS_MICROS.len()).map(|at| rig.count(slot, field::DIAL_TIMES + at)).collect()
}

fn failed(rig: &Rig, slot: u32) -> Vec<(FailureKind, u64)> {
    let counts = FailureKind::ALL.map(|kind| (kind, rig.count(slot, kind.field())));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Fails when: a dial that was answered is not in exactly one bucket, or one that failed is in any; or a failure is
/// counted under another kind.
#[test]
fn each_dial_is_counted_once_by_its_time_or_its_failure() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000-1001", "tcp:127.0.0.1:2000-2001", &[]);
        for number in 1..=3 {
            let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
            (&client).write_all(b"x").unwrap();
            (&server).read_exact(&mut [0]).unwrap();
            assert_eq!(answered(&rig, 0).iter().sum::<u64>(), number);
        }
        assert_eq!(failed(&rig, 0), []);
        for number in 1..=2 {
            let _ = try_connect("tcp:127.0.0.1:1001").map(|refused| (&refused).read(&mut [0]));
            rig.until("refused", |rig| rig.count(0, field::DIAL_FAILED) == number);
        }
        assert_eq!(failed(&rig, 0), [(FailureKind::Refused, 2)]);
        assert_eq!(answered(&rig, 0).iter().sum::<u64>(), 3, "a failed dial has no time");
        let above = answered(&rig, 0)[DIAL_BOUNDS_MICROS.len()];
        let least = if above > 0 { DIAL_BOUNDS_MICROS[7] } else { 0 };
        assert!(rig.count(0, field::DIAL_MICROS) >= least);
        // A net that there is no way to.
        rig.add(1, "tcp:127.0.0.1:1100", "tcp:192.0.2.1:80", &[]);
        let _ = try_connect("tcp:127.0.0.1:1100").map(|lost| (&lost).read(&mut [0]));
        rig.until("no way", |rig| rig.count(1, field::DIAL_FAILED) == 1);
        assert_eq!(failed(&rig, 1), [(FailureKind::Unreachable, 1)]);
        assert_eq!(failed(&rig, 0), [(FailureKind::Refused, 2)], "each device has its own");
    });
}
