//! An instance that restarts in the middle of transfers, beside one that does not.
//!
//! ```text
//!  bulk, load ──> 127.0.0.1:ONE ──> the container that restarts
//!  load ────────> 127.0.0.1:TWO ──> another one
//! ```

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use portway_testkit::faults::{figure, scale};
use portway_testkit::{
    Addr, ContainerSpec, DaemonSpec, Load, Outcome, Pace, Rig, Stream, Watch, check, wait_for,
};

use crate::PORTWAY;

/// Transfers under way at each restart.
const TRANSFERS: usize = 4;

/// Patience with an end.
const LIMIT: Duration = Duration::from_secs(60);

/// Sends and receives all the time, and says when that ended.
fn transfer(stream: &Stream) -> Instant {
    stream.set_timeout(LIMIT).unwrap();
    std::thread::scope(|scope| {
        let (mut there, mut back) = (stream, stream);
        scope.spawn(move || {
            let bytes = vec![7; 65_536];
            while there.write_all(&bytes).is_ok() {}
        });
        let mut buffer = vec![0; 65_536];
        loop {
            match back.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing, and no end"),
                Err(_) => break,
            }
        }
        let ended = Instant::now();
        let _ = stream.shutdown(std::net::Shutdown::Both);
        ended
    })
}

/// Each restart ends the transfers with that instance, and their clients are told; new clients wait and are served;
/// clients of the other instance do not notice.
///
/// Fails when: clients of a dead instance are left waiting.
#[test]
fn transfers_end_with_their_instance_and_no_others_do() {
    let spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:7");
    let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), "transfer", &spec).unwrap() else { return };
    let other = rig.bed().launch("beside", &spec).unwrap();
    let [addr, beside] =
        [(rig.container.name(), "web"), (other.name(), "beside")].map(|(instance, device)| {
            let addr = format!("127.0.0.1:{}", rig.ports.one().unwrap());
            let keys = [&format!("listen=tcp:{addr}")[..], "connect=tcp:127.0.0.1:7"];
            rig.daemon.add(instance, device, &keys).unwrap();
            let addr = Addr::tcp(&addr);
            let serves = || check::echo(&check::dial(rig.host(), &addr).ok()?, 10, 1).ok();
            wait_for("the service", serves).unwrap();
            addr
        });
    let load = |addr| Load::new(addr, Pace::PerSecond(100)).limit(LIMIT).start(rig.host()).unwrap();
    let [own, others] = [load(&addr), load(&beside)];
    let (mut cuts, mut longest) = (Vec::new(), Duration::ZERO);
    let rounds = scale(4, 50);
    for round in 0..rounds {
        let streams: Vec<Stream> = (0..TRANSFERS).map(|_| check::dial(rig.host(), &addr).unwrap()).collect();
        let watch = Watch::pid(rig.container.pid().unwrap()).unwrap();
        let asked = Instant::now();
        let (died, ends) = std::thread::scope(|scope| {
            let death = scope.spawn(|| watch.wait(LIMIT).unwrap());
            let transfers: Vec<_> = streams.iter().map(|stream| scope.spawn(|| transfer(stream))).collect();
            std::thread::sleep(Duration::from_millis(100));
            if round % 2 == 0 { rig.container.restart() } else { rig.container.restart_by_force() }.unwrap();
            let ends: Vec<Instant> = transfers.into_iter().map(|one| one.join().unwrap()).collect();
            (death.join().unwrap(), ends)
        });
        let last = ends.into_iter().max().unwrap();
        longest = longest.max(last.saturating_duration_since(died));
        cuts.push((own.at(asked), own.at(died)));
        own.wait_for_ok(50).unwrap();
        others.wait_for_ok(20).unwrap();
    }
    let (own, others) = (own.stop().unwrap(), others.stop().unwrap());
    assert_eq!(own.count(Outcome::Refused), 0, "{own}");
    let wrong = own.unexplained(&cuts);
    assert!(wrong.records.is_empty(), "{:?} with cuts {cuts:?} in {own}", wrong.records);
    assert_eq!(others.failures(), 0, "{others}");
    rig.daemon.wait_until_tidy(2).unwrap();
    figure("R9", "restarts of an instance with 4 transfers under way", rounds, "restarts");
    figure("R9", "transfers whose client was told", rounds * TRANSFERS, "transfers");
    figure("R9", "longest time from init's death to its clients' end", longest.as_millis(), "ms");
    figure("R9", "connections to it, none refused", own.records.len(), "connections");
    figure("R9", "connections to the other instance, none lost", others.records.len(), "connections");
}
