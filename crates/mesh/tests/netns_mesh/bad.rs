//! Both engines through bad networks (row 21 and the profiles): everything arrives, and how long it stands still is told.

use std::io::Read as _;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use portway_testkit::Pattern;

use crate::engines::Rig;
use crate::shim::{Fate, Fates, Profile, Shim};

const SEED: u64 = 20;

/// How one stream went.
pub(crate) struct Run {
    took: Duration,
    /// Longest time without a byte.
    pub(crate) stall: Duration,
}

/// Carries bytes from the node to the peer, through `profile`, and looks at when they come.
pub(crate) fn out(rig: &mut Rig, to: &str, length: u64) -> Run {
    let listener = rig.listen(to);
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (begin, mut last, mut stall) = (Instant::now(), Instant::now(), Duration::ZERO);
        let (mut room, mut all) = (vec![0; 64 << 10], 0);
        while let Ok(count @ 1..) = stream.read(&mut room) {
            assert!(room[..count].iter().all(|byte| *byte == 7));
            all += count as u64;
            stall = stall.max(last.elapsed());
            last = Instant::now();
        }
        (all, Run { took: begin.elapsed(), stall })
    });
    rig.node.ask(&format!("bulk {to} 1 {length}"));
    let (all, run) = reader.join().unwrap();
    assert_eq!(all, length);
    run
}

/// There and back, every byte compared.
pub(crate) fn back(rig: &mut Rig, length: u64) -> Duration {
    let stream = rig.connect("10.9.0.1:3001");
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            Pattern::new(5).write(length, &stream).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        Pattern::new(5).check_to_end(length, &stream).unwrap();
    });
    begin.elapsed()
}

fn through(name: &str, profile: Profile, length: u64, patience: Duration) {
    for way in ["auto", "pair"] {
        let mut rig = Rig::new(way);
        assert_eq!(rig.node.ask("serve 10.9.0.1:3001 echo"), "ok");
        let shim =
            Shim::start(rig.there(), "192.0.2.2:40000", "192.0.2.2:51820", profile, &Fates::Seed(SEED));
        assert_eq!(rig.node.ask("endpoint 192.0.2.2:40000"), "true");
        let Run { took, stall } = out(&mut rig, "10.9.0.2:3000", length);
        let returned = back(&mut rig, length / 4);
        let [there, here] = shim
            .record()
            .map(|record| (record.len(), record.into_iter().filter(|fate| *fate != Fate::Passed).count()));
        println!(
            "{name}, {}: {length} bytes in {took:?}, longest stall {stall:?}; a quarter there and back in \
             {returned:?}; datagrams, and those that something happened to: {there:?} {here:?}",
            rig.node.way
        );
        assert!(there.1 > 0 || profile.longest < 2000, "something happened");
        assert!(took < patience && returned < patience, "{took:?} {returned:?}");
    }
}

/// One in a hundred lost, one doubled and one late, at 20 ms.
pub(crate) fn a_bad_day() {
    let profile =
        Profile { lost: 10, doubled: 10, passed_by: 10, delay: Duration::from_millis(10), ..Profile::CLEAN };
    through("1 % of each at 20 ms", profile, 1 << 20, Duration::from_secs(60));
}

/// Row 21: a window that is lost as a whole, and one in a hundred at 50 ms.
pub(crate) fn a_lost_window() {
    let delay = Duration::from_millis(10);
    let burst = Profile { burst: (300, 400), delay, ..Profile::CLEAN };
    through("a hundred lost together, 20 ms", burst, 4 << 20, Duration::from_secs(40));
    let loss = Profile { lost: 10, delay: Duration::from_millis(25), ..Profile::CLEAN };
    through("1 % lost at 50 ms", loss, 1 << 20, Duration::from_secs(60));
}

/// The same seed does the same, and so does the record.
pub(crate) fn what_was_done_is_done_again() {
    let profile = Profile { lost: 50, doubled: 50, passed_by: 50, ..Profile::CLEAN };
    let netns = portway_testkit::Netns::new().unwrap();
    let send = |fates: &Fates| {
        let shim = Shim::start(&netns, "127.0.0.1:40000", "127.0.0.1:40001", profile, fates);
        let bind =
            |address: &'static str| netns.enter(move || std::net::UdpSocket::bind(address)).unwrap().unwrap();
        let (here, there) = (bind("127.0.0.1:0"), bind("127.0.0.1:40001"));
        there.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut came = Vec::new();
        for number in 0..200_u32 {
            here.send_to(&number.to_le_bytes(), "127.0.0.1:40000").unwrap();
            std::thread::sleep(Duration::from_micros(50));
        }
        let mut room = [0; 4];
        while there.recv(&mut room).is_ok() {
            came.push(u32::from_le_bytes(room));
        }
        (shim.record(), came)
    };
    let (record, came) = send(&Fates::Seed(7));
    assert!(came.len() > 170, "{}", came.len());
    assert_ne!(came, (0..200).collect::<Vec<_>>());
    assert_eq!(send(&Fates::Seed(7)), (record.clone(), came.clone()));
    assert_eq!(send(&Fates::Replayed(record.clone())), (record, came));
}
