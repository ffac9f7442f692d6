//! Places of devices in a worker, used again and again.

mod rig;

use std::io::Read;
use std::os::fd::AsFd;

use portway_relay::wire::{FromWorker, Known, Slot, ToWorker, field};
use portway_sys::shm::FIELD_COUNT;
use rig::{Rig, accept, connect, in_netns, service, try_connect};

/// Devices that come and go, and the places they share.
const ROUNDS: u64 = 5000;
const PLACES: u64 = 8;

/// Each device has a place that many others have had. Its client fails, it is taken out, and the next one comes in
/// before anybody has heard of the failure: what was said of the former device says so. The line of counters is the
/// new one's alone.
///
/// Fails when: a report is not of the generation its device had, or a line is not cleared for the next device.
#[test]
fn five_thousand_devices_in_eight_places_are_told_apart() {
    in_netns(|| {
        let mut rig = Rig::start();
        let listen = "tcp:127.0.0.1:1000";
        for round in 0..ROUNDS {
            let index = u32::try_from(round % PLACES).unwrap();
            let (slot, target) = (Slot::new(index, round / PLACES), format!("127.0.0.1:{}", 2000 + round));
            rig.add(index, listen, &format!("tcp:{target}"), &[]);
            assert_eq!((0..FIELD_COUNT).map(|field| rig.count(index, field)).sum::<u64>(), 0, "{slot:?}");
            let refused = try_connect(listen).map_or(true, |client| (&client).read(&mut [0]).is_err());
            assert!(refused, "nobody is at {target}");
            rig.remove(index, false);
            // For the last time before the next one comes.
            for field in [field::OPENED, field::CLOSED, field::DIAL_FAILED] {
                assert_eq!(rig.count(index, field), 1, "{slot:?}");
            }
            // Its former tenant's failure is heard of only here.
            if round >= PLACES {
                let (told, text) = rig.wait_for(failure).0;
                assert_eq!(told, Slot::new(index, slot.generation - 1));
                let its = 2000 + round - PLACES;
                assert_eq!(text, format!("cannot connect to tcp:127.0.0.1:{its}: connection refused"));
            }
        }
    });
}

fn failure(message: &FromWorker) -> Option<(Slot, String)> {
    match message {
        FromWorker::Failure { slot, text, .. } => Some((*slot, text.clone())),
        _ => None,
    }
}

/// What is meant for a former tenant of a place does nothing to the present one, and an adopting daemon learns which
/// tenant that is.
///
/// Fails when: the worker looks at the index of a slot alone.
#[test]
fn orders_for_a_former_tenant_are_for_nobody() {
    in_netns(|| {
        let mut rig = Rig::start();
        let (listen, target) = ("tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000");
        let target_service = service(target);
        rig.add(0, listen, target, &[]);
        let former = rig.slot(0);
        rig.remove(0, false);
        rig.add(0, listen, target, &[]);
        let present = rig.slot(0);
        assert_ne!(former, present);

        rig.say(&ToWorker::Remove { seq: 100, slot: former, drain: false }, &[]);
        assert_eq!(rig.done(100).unwrap(), "no device in slot 0");
        let put = ToWorker::Put {
            seq: 101,
            slot: former,
            device: Box::new(rig::device("tcp:127.0.0.1:1001", target, &[])),
            listen_count: 1,
            keep_listeners: false,
            hold: None,
        };
        rig.say(&put, &[]);
        assert_eq!(rig.done(101).unwrap(), "slot 0 is taken");
        let door = service("tcp:127.0.0.1:3000");
        rig.say(&ToWorker::Listeners { slot: former, first: 0 }, &[door.as_fd()]);
        let late = connect("tcp:127.0.0.1:3000");
        rig.say(
            &ToWorker::Client { slot: former, index: 0, known: Known::default() },
            &[accept(&door).as_fd()],
        );
        assert_eq!((&late).read(&mut [0]).unwrap_or(0), 0, "it was let go");

        let client = connect(listen);
        accept(&target_service);
        rig.until("one client", |rig| rig.count(0, field::OPENED) == 1);
        drop(client);
        rig.lose_channel();
        rig.adopt();
        let entry = |message: &FromWorker| match message {
            FromWorker::Entry { slot, .. } => Some(*slot),
            _ => None,
        };
        assert_eq!(rig.wait_for(entry).0, present);
    });
}
