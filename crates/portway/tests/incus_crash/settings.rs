//! Settings that are read again, and a state file that cannot be read.

use std::fs;

use portway_testkit::{Addr, Talk, wait_for};

use crate::scene::Scene;

/// Fails when SIGHUP ends the daemon or touches what is served, and when settings that cannot be used
/// are used (`serve::reread`).
#[test]
fn settings_are_read_again_and_bad_ones_change_nothing() {
    let Some(scene) = Scene::start("hup") else { return };
    let (worker, talk) = (scene.worker(), scene.talk(1));
    let config = scene.rig.daemon.dir().join("portway.toml");
    let says = |text: &str| wait_for(text, || scene.rig.daemon.log().contains(text).then_some(())).unwrap();
    fs::write(&config, "[daemon]\nlog = \"debug\"\n").unwrap();
    scene.rig.daemon.reload().unwrap();
    says("settings read again");
    scene.go_on();
    fs::write(&config, "[daemon]\nlog = 3\nsurprise = true\n").unwrap();
    scene.rig.daemon.reload().unwrap();
    says("settings not usable, nothing changed");
    scene.go_on();
    assert_eq!(scene.worker(), worker);
    talk.finish().unwrap();
    let (_rig, report) = scene.end();
    assert_eq!(report.failures(), 0, "{report}");
}

/// The newest generation of the state is damaged, or all are: what the workers serve is known all the
/// same, and no listener and no connection is dropped.
///
/// Fails when the previous generation alone decides (`Seed::rebuild`): the device added last goes.
#[test]
fn a_damaged_state_file_costs_nothing() {
    let Some(mut scene) = Scene::start("state") else { return };
    let port = scene.rig.ports.one().unwrap();
    let keys = [&format!("listen=tcp:127.0.0.1:{port}")[..], "connect=tcp:127.0.0.1:7"];
    scene.rig.add("last", &keys).unwrap();
    let worker = scene.worker();
    let last = Talk::start(scene.rig.host(), &Addr::tcp(&format!("127.0.0.1:{port}")), 9).unwrap();
    let web = scene.talk(1);
    let state = scene.rig.daemon.dir().join("state.json");
    let previous = scene.rig.daemon.dir().join("state.json.prev");
    for damaged in [vec![&state], vec![&state, &previous]] {
        scene.rig.daemon.kill().unwrap();
        for path in damaged {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, &text[..text.len() / 2]).unwrap();
        }
        scene.rig.daemon.launch().unwrap();
        let warnings = scene.rig.daemon.api().get("/1.0").unwrap()["warnings"].clone();
        assert!(warnings.to_string().contains("state.json"), "{warnings}");
        for device in ["web", "last"] {
            scene.rig.daemon.wait_for_state(device, "active").unwrap();
        }
        scene.go_on();
        for talk in [&web, &last] {
            talk.wait_for_rounds(5).unwrap();
        }
        assert_eq!(scene.worker(), worker);
        // It is whole again.
        assert!(scene.rig.daemon.terminate().unwrap().success());
        scene.rig.daemon.launch().unwrap();
        assert_eq!(scene.rig.daemon.api().get("/1.0").unwrap()["warnings"], serde_json::json!([]));
        assert_eq!(scene.rig.daemon.devices().unwrap().len(), 2);
        // So that there is a previous one.
        scene.rig.device_ok("set", &["last", "connect.timeout=9s"]).unwrap();
    }
    web.finish().unwrap();
    last.finish().unwrap();
    let (_rig, report) = scene.end();
    assert_eq!(report.failures(), 0, "{report}");
}
