//! A stored device whose keys this build refuses.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use portway_testkit::Rig;
use serde_json::Value;

use crate::PORTWAY;
use crate::expect::{REFUSED, heard, local, say, says, wait_until_heard};

/// Writes a state file as the daemon does, with its devices changed by `edit`.
fn rewrite(path: &Path, edit: impl FnOnce(&mut Vec<Value>)) {
    let mut state: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(state["devices"].as_array_mut().unwrap());
    let devices: Vec<String> = state["devices"].as_array().unwrap().iter().map(compact).collect();
    let generation = state["generation"].as_u64().unwrap();
    let content = [&generation.to_be_bytes()[..], format!("[{}]", devices.join(",")).as_bytes()].concat();
    state["sha256"] = sha256(&content).into();
    fs::write(path, serde_json::to_vec_pretty(&state).unwrap()).unwrap();
}

/// A device in the order of the file's fields, which the checksum is over.
fn compact(device: &Value) -> String {
    let fields = ["instance", "uuid", "name", "keys", "origin"];
    let present = fields.into_iter().filter(|field| !device[*field].is_null());
    let texts: Vec<String> = present.map(|field| format!("\"{field}\":{}", device[field])).collect();
    format!("{{{}}}", texts.join(","))
}

fn sha256(content: &[u8]) -> String {
    let mut command = Command::new("sha256sum");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// Two devices of one instance; the keys of one become such that this build refuses them. The daemon starts,
/// the other device serves, this one has failed and says why; it cannot be changed, is not lost with other
/// changes, can be removed and added again. The instance stops and starts as ever.
///
/// Fails when: the state is read as a whole or not at all (`StoredText::read`), or what is refused is left out
/// of the next write.
#[test]
fn keys_that_are_refused_cost_one_device() {
    let Some(mut rig) = Rig::start(PORTWAY, "stored").unwrap() else { return };
    let ports = [rig.ports.one().unwrap(), rig.ports.one().unwrap()];
    let _service = say(&rig, 80, "here");
    let connect = "connect=tcp:127.0.0.1:80";
    for (name, port) in ["web", "odd"].iter().zip(ports) {
        rig.add(name, &[&format!("listen=tcp:127.0.0.1:{port}"), connect]).unwrap();
        wait_until_heard(&rig, port, "here");
    }
    rig.daemon.kill().unwrap();
    let state = rig.daemon.dir().join("state.json");
    rewrite(&state, |devices| {
        let odd = devices.iter_mut().find(|device| device["name"] == "odd").unwrap();
        odd["keys"]["warp"] = "9".into();
    });
    rig.daemon.launch().unwrap();

    rig.daemon.wait_for_state("web", "active").unwrap();
    wait_until_heard(&rig, ports[0], "here");
    let odd = rig.daemon.device("odd").unwrap();
    assert_eq!((&odd["state"], &odd["keys"]["warp"]), (&"failed".into(), &"9".into()));
    let reason = odd["reason"].as_str().unwrap();
    assert!(reason.starts_with("its stored keys are refused: unknown key `warp`"), "{reason}");
    assert_eq!(heard(rig.host(), ports[1]), None, "nobody knows what was wanted");
    let warnings = rig.daemon.api().get("/1.0").unwrap()["warnings"].to_string();
    assert!(warnings.contains("/odd: its stored keys are refused"), "{warnings}");
    assert!(rig.device_ok("show", &["odd"]).unwrap().contains("warp"));

    let listen = format!("listen=tcp:127.0.0.1:{}", ports[1]);
    for (verb, words) in [
        ("set", &["odd", "hold=9s"][..]),
        ("rename", &["odd", "even"]),
        ("rename", &["web", "odd"]),
        ("add", &["odd", &listen, connect]),
    ] {
        says(&rig.device(verb, words).unwrap(), REFUSED, &["its stored keys are refused", "hint: remove it"]);
    }
    rig.device_ok("set", &["web", "connect.timeout=9s"]).unwrap();
    rig.container.restart().unwrap();
    let _service = say(&rig, 80, "again");
    wait_until_heard(&rig, ports[0], "again");
    rig.daemon.kill().unwrap();
    rig.daemon.launch().unwrap();
    assert_eq!(rig.daemon.device("odd").unwrap()["keys"]["warp"], "9", "lost with another's change");

    rig.device_ok("remove", &["odd"]).unwrap();
    assert_eq!(rig.daemon.devices().unwrap().len(), 1);
    rig.add("odd", &[&listen, connect]).unwrap();
    assert_eq!(heard(rig.host(), ports[1]).as_deref(), Some("again"));
    assert!(rig.host().run(|| std::net::TcpListener::bind(local(ports[1]))).unwrap().is_err());
}

/// A container with nothing but such a device gets another name, once while the daemon runs and once while it does not,
/// and beside a device that can be used: the device is shown with the new name, keeps its keys, and is found there.
///
/// Fails when: only devices that can be used are looked for under another name.
#[test]
fn keys_that_are_refused_follow_their_container() {
    let Some(mut rig) = Rig::start(PORTWAY, "storedname").unwrap() else { return };
    let port = rig.ports.one().unwrap();
    let keys = [&*format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:80"];
    rig.add("odd", &keys).unwrap();
    let uuid = rig.daemon.device("odd").unwrap()["instance_uuid"].clone();
    rig.daemon.kill().unwrap();
    rewrite(&rig.daemon.dir().join("state.json"), |devices| devices[0]["keys"]["warp"] = "9".into());
    rig.container.kill().unwrap();
    let first = rig.container.name().to_owned();
    for (number, is_running) in [(1, false), (2, true), (3, true)] {
        if is_running {
            assert_eq!(rig.daemon.device("odd").unwrap()["state"], "failed");
        }
        if number == 3 {
            rig.add("web", &keys).unwrap();
        }
        let name = format!("{first}-{number}");
        rig.container.rename(&name).unwrap();
        if !is_running {
            rig.daemon.launch().unwrap();
        }
        let there = |device: &Value| {
            let is_there = device["instance"].as_str()?.ends_with(&format!("/{name}"));
            is_there.then_some(())
        };
        portway_testkit::wait_for("the new name", || there(&rig.daemon.device("odd").ok()?)).unwrap();
        let odd = rig.daemon.device("odd").unwrap();
        assert_eq!((&odd["keys"]["warp"], &odd["instance_uuid"]), (&"9".into(), &uuid));
        assert!(rig.device_ok("show", &["odd"]).unwrap().contains("its stored keys are refused"));
    }
    portway_testkit::wait_for("all go along", || {
        let name = rig.daemon.device("web").ok()?["instance"].clone();
        (name == rig.daemon.device("odd").ok()?["instance"]).then_some(())
    })
    .unwrap();
    rig.daemon.kill().unwrap();
    rig.daemon.launch().unwrap();
    rig.device_ok("remove", &["odd"]).unwrap();
    assert_eq!(rig.daemon.devices().unwrap().len(), 1);
}
