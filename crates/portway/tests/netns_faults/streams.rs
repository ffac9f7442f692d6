//! Every way a stream may end, and every byte of it, by the thousand.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portway_testkit::{Addr, Behaviour, Hall, Pattern, Service, Site, Stream, check, faults};

use crate::stand::{Stand, Stop, local};

/// Bytes of a stream whose end is looked at: more than a message, less than a queue.
const BYTES: u64 = 20_000;

/// R19: who ends first, by an end or by a reset, with bytes and without: each is carried through, and not a byte of what
/// was sent before is lost.
#[test]
fn every_way_to_end_is_carried_through() {
    let Some(stand) = Stand::start() else { return };
    let inside = Site::netns(&stand.inside);
    let pattern = Pattern::new(9);
    let serve = |port, behaviour| Service::start(&inside, &local(port), behaviour).unwrap();
    let _at_end = serve(11, Behaviour::AnswerAtEnd);
    let source = serve(12, Behaviour::Source { pattern, length: BYTES });
    let _reset = serve(13, Behaviour::Reset);
    stand.add("ends", "tcp:127.0.0.1:8011-8013", "tcp:127.0.0.1:11-13", &[]);
    let web = stand.publish("web", 8080);
    let dial = |port| check::dial(&stand.site, &local(port)).unwrap();
    let each = faults::scale(100, 10_000);
    for seed in 0..each {
        check::half_close(&dial(8011), BYTES, seed).unwrap();
        check::half_close(&dial(8011), 0, seed).unwrap();
        let stream = dial(8012);
        check::half_close_by_service(&stream, pattern, BYTES, &seed.to_le_bytes()).unwrap();
        check::read_all(&stream).unwrap();
        let stream = dial(8013);
        (&stream).write_all(b"x").unwrap();
        check::expect_reset(&stream).unwrap();
        // By the client, in the middle of an exchange: the service's side must end, too.
        let stream = check::dial(&stand.site, &web).unwrap();
        check::exchange(&stream).unwrap();
        stream.reset();
    }
    faults::figure("R19", "of each of 5 endings", each, "");
    portway_testkit::wait_for("the last record", || (source.records().len() as u64 >= each).then_some(()))
        .unwrap();
    let mut records = source.records();
    records.sort();
    let mut wanted: Vec<Vec<u8>> = (0..each).map(|seed| seed.to_le_bytes().to_vec()).collect();
    wanted.sort();
    assert!(records == wanted, "what was sent after the service's end is not what came");
    stand.wait_until_idle("web");
    stand.wait_until_idle("ends");
}

/// Writes of any size, from one byte to a megabyte.
fn send(mut stream: &Stream, length: u64, pattern: Pattern) -> std::io::Result<()> {
    let (mut done, mut turn) = (0, 0_u32);
    let mut buffer = vec![0; 1 << 20];
    while done < length {
        let size = usize::try_from((1_u64 << (turn * 7 % 21)).min(length - done)).unwrap();
        pattern.fill(done, &mut buffer[..size]);
        stream.write_all(&buffer[..size])?;
        done += size as u64;
        turn += 1;
    }
    stream.shutdown(Shutdown::Write)
}

fn both_ways(stream: &Stream, length: u64, seed: u64) -> anyhow::Result<()> {
    let pattern = Pattern::new(seed);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, length, pattern));
        let received = pattern.check_to_end(length, stream);
        if received.is_err() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let sent = sender.join().unwrap();
        received.and(sent.map_err(Into::into))
    })
}

/// Streams that break off with bytes on their way, one after the other.
fn break_off(stand: &Stand, addr: &Addr, stopping: &AtomicBool) -> u64 {
    let mut broken = 0;
    let filler = vec![0xff; 1 << 20];
    while !stopping.load(Ordering::SeqCst) {
        let stream = check::dial(&stand.site, addr).unwrap();
        stream.set_timeout(std::time::Duration::from_millis(50)).unwrap();
        // Nobody reads what comes back: all is full when it breaks off.
        let _ = (&stream).write_all(&filler);
        let _ = (&stream).read(&mut [0; 100]);
        stream.reset();
        broken += 1;
    }
    broken
}

/// R21: bytes arrive as they were sent, both ways, over tcp and unix and from one to the other, in writes of any size, while
/// other streams break off in the middle: no byte of theirs is ever seen.
#[test]
fn bytes_arrive_as_they_were_sent() {
    let Some(stand) = Stand::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sock");
    let _hall = Hall::start(&Site::netns(&stand.inside), &Addr::Abstract("service".into())).unwrap();
    let web = stand.publish("web", 8080);
    let unix = format!("unix:{}", path.display());
    stand.add("unix", &unix, "unix:@service", &[]);
    stand.add("mixed", "tcp:127.0.0.1:8081", "unix:@service", &[]);
    let ways =
        [("tcp to tcp", web.clone()), ("unix to unix", Addr::unix(&path)), ("tcp to unix", local(8081))];
    let length = faults::scale(48 << 20, 4 << 30);
    let (stopping, broken) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let stop = Stop(&stopping);
        let breaking = scope.spawn(|| broken.store(break_off(&stand, &web, &stopping), Ordering::SeqCst));
        for (seed, (name, addr)) in ways.iter().enumerate() {
            // Two at a time, so that a pipe that one gives back is soon another's.
            let two: Vec<_> = (0..2)
                .map(|which| {
                    let stream = check::dial(&stand.site, addr).unwrap();
                    let seed = 10 * which + seed as u64;
                    scope.spawn(move || both_ways(&stream, length / 2, seed))
                })
                .collect();
            for one in two {
                one.join().unwrap().unwrap_or_else(|error| panic!("{name}: {error:#}"));
            }
            faults::figure("R21", &format!("{name}, each way, compared"), length >> 20, "MiB");
        }
        drop(stop);
        breaking.join().unwrap();
    });
    faults::figure("R21", "streams broken off meanwhile", broken.load(Ordering::SeqCst), "");
}
