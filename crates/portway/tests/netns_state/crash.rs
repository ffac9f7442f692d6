//! The daemon is killed at every system call of a write of its state.

use portway_testkit::faults::{figure, scale};

use crate::scene::Scene;
use crate::traced::Traced;

/// Every call of a write of the state, in no order, and one that is not made: it kills nobody.
const CALLS: [(&str, u32); 13] = [
    ("unlink,unlinkat", 1),
    ("unlink,unlinkat", 2),
    ("openat", 1),
    ("openat", 2),
    ("write", 1),
    ("fdatasync", 1),
    ("statx,stat,newfstatat", 1),
    ("link,linkat", 1),
    ("rename,renameat,renameat2", 1),
    ("fsync", 1),
    ("close", 1),
    ("close", 2),
    ("mkdir", 1),
];

/// Whatever call of a write of the state is the daemon's last: the next one has the devices from before the change or
/// from after it, and if the change was answered, those from after it. All that is stored is served, nothing else is, and
/// who is connected does not notice.
///
/// Fails when: the file is written in place.
#[test]
fn killed_at_any_call_the_state_is_old_or_new() {
    let Some(mut scene) = Scene::start() else { return };
    let traffic = scene.traffic();
    let (mut kills, mut old, mut new, mut survived) = (0_u32, 0_u32, 0_u32, 0_u32);
    for change in 0..scale(2, 50_u16) {
        for (calls, number_of) in CALLS {
            let call = format!("{calls}, {number_of}");
            let before = scene.names();
            // What is there is taken away, what is not comes: an instance of one device and one of several.
            let number = change / 2;
            let name = format!("d{number}");
            let is_there = before.contains(&name);
            let mut after = before.clone();
            if is_there {
                after.remove(&name)
            } else {
                after.insert(name.clone())
            };
            let traced = Traced::killed_at(&scene.daemon, calls, number_of);
            let answer = if is_there { scene.try_remove(number) } else { scene.try_add(number) };
            let is_answered = answer.is_ok_and(|answer| answer.status < 300);
            drop(traced);
            if scene.daemon.api().get("/1.0").is_err() {
                kills += 1;
                scene.daemon.kill().unwrap();
                scene.daemon.launch().unwrap();
            } else {
                survived += 1;
            }
            let now = scene.names();
            assert!(
                now == after || (now == before && !is_answered),
                "call {call}: {now:?}, answered: {is_answered}"
            );
            assert_eq!(
                scene.daemon.api().get("/1.0").unwrap()["warnings"],
                serde_json::json!([]),
                "call {call}"
            );
            if now == after {
                new += 1
            } else {
                old += 1
            }
            assert_eq!(scene.listens(number), now.contains(&name), "call {call}");
        }
        traffic.goes_on();
    }
    assert!(kills > 0 && survived > 0 && old > 0 && new > 0, "{kills} {survived} {old} {new}");
    figure("R32", "kills of the daemon at a system call of a write of its state", kills, "kills");
    figure("R32", "states that were the old one", old, "");
    figure("R32", "states that were the new one", new, "");
    figure("R32", "states that were another one", 0, "");
    figure("R32", "connections meanwhile, none lost", traffic.end(), "connections");
}
