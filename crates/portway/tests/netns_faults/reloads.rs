//! Reloads and changes under load: whoever is connected stays, and nobody is refused.

use std::thread::JoinHandle;

use portway_testkit::{Load, Pace, Stream, Talk, check, faults};

use crate::stand::{LIMIT, Stand, local};

/// Devices that nobody changes.
const QUIET: u16 = 8081;

/// Ports that the changed device has in turn.
const TURNS: [u16; 2] = [8090, 8091];

/// R3: reloads (SIGHUP) and changes of listeners, with connections that are held, bulk that is checked byte by byte, and
/// new connections all the time.
#[test]
fn reloads_and_changes_lose_nobody() {
    let Some(stand) = Stand::start() else { return };
    let addr = stand.publish("web", 8080);
    let quiet = stand.publish("quiet", QUIET);
    stand.add("moves", &format!("tcp:127.0.0.1:{}", TURNS[0]), "tcp:127.0.0.1:7", &[]);
    // Of a device that changes its address: this client has come by the first one, and stays.
    let moved = Talk::start(&stand.site, &local(TURNS[0]), 8).unwrap();
    let held: Vec<Stream> =
        (0..faults::scale(200, 2000)).map(|_| check::dial(&stand.site, &quiet).unwrap()).collect();
    held.iter().for_each(|stream| check::exchange(stream).unwrap());
    let talk = Talk::start(&stand.site, &addr, 7).unwrap();
    let (bulk_bytes, streams) = (faults::scale(64 << 20, 2 << 30), faults::scale(4, 20));
    let bulk: Vec<JoinHandle<anyhow::Result<()>>> = (0..streams)
        .map(|seed| {
            let stream = check::dial(&stand.site, &addr).unwrap();
            std::thread::spawn(move || check::echo(&stream, bulk_bytes / streams, seed))
        })
        .collect();
    let load = Load::new(&addr, Pace::PerSecond(500)).limit(LIMIT).start(&stand.site).unwrap();
    let worker = stand.worker();
    let reloads = faults::scale(20, 1000);
    for number in 0..reloads {
        if number % 2 == 0 {
            stand.daemon.reload().unwrap();
        } else {
            let port = TURNS[usize::from(number % 4 == 1)];
            stand.set("moves", "listen", &format!("tcp:127.0.0.1:{port}"));
            check::echo(&check::dial(&stand.site, &local(port)).unwrap(), 100, 1).unwrap();
        }
        load.wait_for_ok(10).unwrap();
    }
    for one in bulk {
        one.join().unwrap().unwrap();
    }
    talk.finish().unwrap();
    moved.finish().unwrap();
    let report = load.stop().unwrap();
    let lost = held.iter().filter(|stream| check::exchange(stream).is_err()).count();
    faults::figure("R3", "reloads and changes", reloads, "");
    faults::figure("R3", "connections meanwhile", report.records.len(), "");
    faults::figure("R3", "held", held.len(), "");
    faults::figure("R3", "bulk both ways, compared", bulk_bytes >> 20, "MiB");
    faults::figure("R3", "lost", report.failures() + lost, "");
    assert_eq!((report.failures(), lost), (0, 0), "{report}");
    assert_eq!(stand.worker(), worker, "the same worker goes on");
}
