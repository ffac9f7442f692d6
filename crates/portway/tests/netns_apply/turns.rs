//! Devices that come and go by the thousand, on one instance.

use std::io::Read;
use std::time::Duration;

use portway_testkit::{Addr, Talk};

use crate::place::{Place, SERVICE, local};

/// Devices of one file, and how many files follow each other.
const TURN_COUNT: u16 = 500;
const TURNS: u16 = 10;

/// The first devices of a file lead to a port where nobody is.
const ASTRAY_COUNT: u16 = 20;

/// One worker serves 5,000 devices, 500 at a time: a place in it is used again. Clients of those that go have just
/// failed, and what the worker reports of it hits none of those that come. One device stays; its client's connection
/// lives on, its counters go on from where they were, also when the daemon is killed and the next one adopts the
/// worker.
///
/// Fails when: a place is given once only, so that a second worker starts, or a report is taken for the present
/// device of a place whose former one it is about.
#[test]
fn five_thousand_devices_come_and_go_in_one_worker() {
    let Some(mut place) = Place::start() else { return };
    let stays = place.line("stays", 8000);
    place.applied(std::slice::from_ref(&stays), &[]);
    let talk = Talk::start(&place.host, &Addr::Tcp(local(8000)), 1).unwrap();
    let workers = place.daemon.workers();
    assert_eq!(workers.len(), 1);
    let mut carried = 0;
    for turn in 0..TURNS {
        let first = if turn % 2 == 0 { 8001 } else { 8001 + TURN_COUNT };
        let lines = (0..TURN_COUNT).map(|number| {
            let line = place.line(&format!("d{turn}-{number:03}"), first + number);
            let nowhere = format!("connect: \"tcp:127.0.0.1:{}\"", SERVICE + 1);
            let somewhere = format!("connect: \"tcp:127.0.0.1:{SERVICE}\"");
            if number < ASTRAY_COUNT { line.replace(&somewhere, &nowhere) } else { line }
        });
        let lines: Vec<String> = std::iter::once(stays.clone()).chain(lines).collect();
        place.applied(&lines, &["--prune"]);
        let devices = place.daemon.devices().unwrap();
        assert_eq!(devices.len(), usize::from(TURN_COUNT) + 1);
        for device in &devices {
            if device["name"] == "stays" {
                let bytes = device["bytes_in"].as_u64().unwrap();
                assert!(bytes >= carried, "{bytes} after {carried}");
                carried = bytes;
            } else {
                let fresh = device["last_error"].is_null() && device["connections_total"] == 0;
                assert!(fresh, "it has had no client: {device}");
            }
        }
        assert!(place.serves(first + ASTRAY_COUNT) && place.serves(first + TURN_COUNT - 1));
        (0..ASTRAY_COUNT).for_each(|number| fail(&place, first + number));
        if turn == TURNS / 2 {
            place.daemon.kill().unwrap();
            place.daemon.launch().unwrap();
        }
        assert_eq!(place.daemon.workers(), workers);
        talk.wait_for_rounds(5).unwrap();
    }
    talk.finish().unwrap();
}

/// A client of a port is told that its target refuses.
fn fail(place: &Place, port: u16) {
    let addr = Addr::Tcp(local(port));
    // Perhaps before it knows that it is connected.
    if let Ok(stream) = place.host.run(|| addr.connect(Duration::from_secs(10))).unwrap() {
        stream.set_timeout(Duration::from_secs(10)).unwrap();
        assert!((&stream).read(&mut [0]).is_err());
    }
}
