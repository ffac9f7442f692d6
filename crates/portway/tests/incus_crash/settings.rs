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

/// The newest generation of the state is damaged: what the workers serve is known all the same, and no
/// listener and no connection is dropped. When all generations are, the same goes on, but nothing is
/// changed and nothing overwritten until somebody has mended the file.
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
    let serves_on = |scene: &mut Scene| {
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
    };
    let halve = |path: &std::path::Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, &text[..text.len() / 2]).unwrap();
    };
    scene.rig.daemon.kill().unwrap();
    halve(&state);
    scene.rig.daemon.launch().unwrap();
    serves_on(&mut scene);
    // It is whole again.
    assert!(scene.rig.daemon.terminate().unwrap().success());
    scene.rig.daemon.launch().unwrap();
    assert_eq!(scene.rig.daemon.api().get("/1.0").unwrap()["warnings"], serde_json::json!([]));
    assert_eq!(scene.rig.daemon.devices().unwrap().len(), 2);
    // So that there is a previous one.
    scene.rig.device_ok("set", &["last", "connect.timeout=9s"]).unwrap();

    scene.rig.daemon.kill().unwrap();
    let good = fs::read(&state).unwrap();
    halve(&state);
    halve(&previous);
    let damaged = [fs::read(&state).unwrap(), fs::read(&previous).unwrap()];
    // At the second start it is the same.
    for _ in 0..2 {
        scene.rig.daemon.launch().unwrap();
        serves_on(&mut scene);
        for (verb, words) in [
            ("set", &["last", "hold=9s"][..]),
            ("remove", &["last"]),
            ("add", &["new", "listen=tcp:127.0.0.1:1", "connect=tcp::7"]),
        ] {
            let output = scene.rig.device(verb, words).unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{error}");
            assert!(error.contains("state.json cannot be read") && error.contains("hint: "), "{error}");
        }
        scene.rig.daemon.kill().unwrap();
        assert_eq!([fs::read(&state).unwrap(), fs::read(&previous).unwrap()], damaged);
    }
    fs::write(&state, good).unwrap();
    scene.rig.daemon.launch().unwrap();
    assert_eq!(scene.rig.daemon.api().get("/1.0").unwrap()["warnings"], serde_json::json!([]));
    scene.rig.device_ok("set", &["last", "hold=9s"]).unwrap();
    web.finish().unwrap();
    last.finish().unwrap();
    let (_rig, report) = scene.end();
    assert_eq!(report.failures(), 0, "{report}");
}
