//! Keys that change while bytes flow between wireguard-go and a node, on both engines (row 17).

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::engines::{Rig, both};
use crate::pressure::there_and_back;

/// The node makes new keys with wireguard-go again and again, while bytes flow both ways. When wireguard-go itself makes new
/// ones cannot be told it: that is [`by_themselves`].
///
/// Fails when: packets of old keys are dropped that are still under way, new ones are used too soon, or a stream ends.
pub(crate) fn with_wireguard_go(rig: &mut Rig) {
    assert_eq!(rig.node.ask("serve 10.9.0.1:80 echo"), "ok");
    let there = rig.there().clone();
    let (mut changes, mut last) = (0, u64::MAX);
    std::thread::scope(|scope| {
        let carried = scope.spawn(|| (0..2).for_each(|_| there_and_back(&there, "10.9.0.1:80")));
        while !carried.is_finished() || changes < 3 {
            rig.node.ask("rekey");
            std::thread::sleep(Duration::from_millis(300));
            let since: u64 = rig.node.ask("peer").rsplit(' ').next().unwrap().parse().unwrap();
            changes += u32::from(since < last);
            last = since;
        }
    });
    let dropped = rig.node.ask("dropped");
    println!("{}: keys changed {changes} times; dropped: {dropped}", rig.node.way);
    // On a busy machine a packet may be under way for longer than two keys last, which is no fault of keys.
    for why in ["Forged", "Expired", "Unsent", "Undelivered"] {
        assert_eq!(rig.node.ask(&format!("dropped {why}")), "0", "{why}");
    }
}

/// How long three changes of keys by the clock take, at 120 s each (WireGuard, 6.1), and a little more.
const THREE_CHANGES: Duration = Duration::from_secs(375);

/// Nobody asks for new keys: whoever began makes them when they are two minutes old, on both engines at once. Who began is as
/// it comes. A stream goes both ways all the time.
pub(crate) fn by_themselves() {
    std::thread::scope(|scope| {
        for way in ["auto", "pair"] {
            scope.spawn(move || three_changes(&mut Rig::new(way)));
        }
    });
}

fn three_changes(rig: &mut Rig) {
    assert_eq!(rig.node.ask("serve 10.9.0.1:80 mirror"), "ok");
    let stream = rig.connect("10.9.0.1:80");
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (begin, mut longest, mut changes, mut last) = (Instant::now(), Duration::ZERO, 0, rig.peer.shown(4));
    let (piece, mut back) = (vec![7; 32 << 10], vec![0; 32 << 10]);
    let mut bytes = 0;
    while begin.elapsed() < THREE_CHANGES {
        for _ in 0..100 {
            let asked = Instant::now();
            (&stream).write_all(&piece).unwrap();
            (&stream).read_exact(&mut back).unwrap();
            longest = longest.max(asked.elapsed());
            bytes += back.len();
            std::thread::sleep(Duration::from_millis(2));
        }
        let shown = rig.peer.shown(4);
        changes += u32::from(shown != last);
        last = shown;
    }
    let dropped = rig.node.ask("dropped");
    println!(
        "{}: {changes} changes, {bytes} bytes each way, longest question {longest:?}; dropped: {dropped}",
        rig.node.way,
    );
    assert!(changes >= 3, "{changes}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    for why in ["Forged", "NoSession", "Expired"] {
        assert_eq!(rig.node.ask(&format!("dropped {why}")), "0", "{why}");
    }
}

pub(crate) fn under_load() {
    both(with_wireguard_go);
}
