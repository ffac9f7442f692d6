//! The daemon finds its state file damaged when it starts.

use std::fs;

use portway_testkit::faults::{figure, is_long};
use serde_json::Value;

use crate::scene::Scene;

/// What is found, and what to call it.
type Damage = (String, Vec<u8>);

/// Every damage, or some of each kind.
fn damages(good: &[u8], prev: &[u8]) -> Vec<Damage> {
    let step = if is_long() { 1 } else { good.len() / 4 };
    let mut all: Vec<Damage> = (0..good.len() - 2)
        .step_by(step)
        .map(|length| (format!("the first {length} bytes"), good[..length].to_vec()))
        .collect();
    all.extend((1..good.len()).step_by(step).map(|at| {
        let mut copy = good.to_vec();
        copy[at] ^= 0x04;
        (format!("another byte {at}"), copy)
    }));
    let later = String::from_utf8(good.to_vec()).unwrap().replace("\"version\": 1", "\"version\": 2");
    all.push(("a later layout".into(), later.into_bytes()));
    all.push(("no bytes".into(), Vec::new()));
    all.push(("NUL bytes".into(), vec![0; good.len()]));
    all.push(("the previous generation".into(), prev.to_vec()));
    all
}

/// Whatever is found at the place of the state: the daemon starts, says so, serves what its workers serve, and cuts nobody.
/// With one generation left the devices are those; with none no device can be changed, and all go on.
///
/// Fails when: what is damaged is taken for an empty state.
#[test]
fn a_damaged_state_closes_no_port() {
    let Some(mut scene) = Scene::start() else { return };
    let traffic = scene.traffic();
    assert_eq!(scene.try_add(0).unwrap().status, 200);
    let path = scene.file();
    let prev = path.with_file_name("state.json.prev");
    let wanted = scene.names();
    let good = [fs::read(&path).unwrap(), fs::read(&prev).unwrap()];
    let mut trials = 0_u32;
    for with_prev in [true, false] {
        let all = damages(&good[0], &good[1]);
        let all = if with_prev { all } else { all.into_iter().step_by(3).collect() };
        for (what, content) in all {
            scene.daemon.kill().unwrap();
            fs::write(&path, &content).unwrap();
            // The same damage to both, or to one.
            fs::write(&prev, if with_prev { &good[1] } else { &content }).unwrap();
            scene.daemon.launch().unwrap();
            let status = scene.daemon.api().get("/1.0").unwrap();
            let is_said = !status["warnings"].as_array().is_none_or(Vec::is_empty);
            let is_same = same_content(&content, &good[0]);
            let is_older = same_content(&content, &good[1]);
            assert!(is_said || is_same || is_older, "{what}: {status}");
            let now = scene.names();
            assert!(now.contains("used"), "{what}: {now:?}");
            // An older generation that is sound is what was wanted then; otherwise the workers know.
            assert!(now == wanted || is_older, "{what}: {now:?}");
            trials += 1;
            if trials.is_multiple_of(16) {
                traffic.goes_on();
            }
            scene.daemon.kill().unwrap();
            // As before, so that the next one finds the same.
            fs::write(&path, &good[0]).unwrap();
            fs::write(&prev, &good[1]).unwrap();
            scene.daemon.launch().unwrap();
            if scene.names() != wanted {
                assert_eq!(scene.try_add(0).unwrap().status, 200, "{what}");
            }
        }
    }
    figure("R31", "damaged state files that a daemon started with", trials, "files");
    figure("R31", "starts that failed or closed a port", 0, "starts");
    figure("R31", "connections meanwhile, none lost", traffic.end(), "connections");
}

/// A flip in white space leaves the same document.
fn same_content(one: &[u8], other: &[u8]) -> bool {
    let read = |text| serde_json::from_slice::<Value>(text).ok();
    read(one).is_some_and(|one| Some(one) == read(other))
}
