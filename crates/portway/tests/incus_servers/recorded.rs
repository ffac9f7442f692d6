//! Answers of a server that cannot run on a test machine. They have the form of what Incus 6.0.4 sends;
//! what a test changes in them it says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use portway_testkit::{Daemon, DaemonSpec, Front, Manner, Netns, Script, Site};
use serde_json::{Value, json};

use crate::PORTWAY;

const INSTANCE: &str = include_str!("answers/machine.json");
const STATE: &str = include_str!("answers/machine-state.json");
const NETWORK: &str = include_str!("answers/network.json");
const LEASES: &str = include_str!("answers/leases.json");
const SERVER: &str = include_str!("answers/server-clustered.json");

/// Answers by their target, without the query. What is not among them is not found.
type Answers = Arc<Mutex<BTreeMap<String, Value>>>;

/// A daemon in a namespace of its own, and the server it follows.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    pub(crate) host: Site,
    answers: Answers,
    _front: Front,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// The recorded answers, and a daemon that asks for them.
    pub(crate) fn start() -> Self {
        let answers = Answers::default();
        for (target, text) in [
            ("/1.0/instances/v1", INSTANCE),
            ("/1.0/instances/v1/state", STATE),
            ("/1.0/networks/br0", NETWORK),
            ("/1.0/networks/br0/leases", LEASES),
            ("/1.0", SERVER),
        ] {
            let answer = serde_json::from_str(text).unwrap();
            answers.lock().unwrap().insert(target.to_owned(), answer);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let front = Front::start(&path, Path::new("/nonexistent"), script(&answers)).unwrap();
        let netns = Netns::new().unwrap();
        let spec = DaemonSpec::new(PORTWAY).within(&netns).env("INCUS_SOCKET", &path.to_string_lossy());
        let daemon = spec.start().unwrap();
        Self { daemon, host: Site::netns(&netns), answers, _front: front, _folder: folder }
    }

    /// Changes the metadata of an answer.
    pub(crate) fn change(&self, target: &str, change: impl FnOnce(&mut Value)) {
        let mut answers = self.answers.lock().unwrap();
        change(&mut answers.get_mut(target).unwrap()["metadata"]);
    }

    /// Says which process the instance's first one is, 0 for none, and whether it runs.
    pub(crate) fn set_pid(&self, pid: i32) {
        let (status, code) = if pid > 0 { ("Running", 103) } else { ("Stopped", 102) };
        for target in ["/1.0/instances/v1", "/1.0/instances/v1/state"] {
            self.change(target, |answer| {
                answer["status"] = status.into();
                answer["status_code"] = code.into();
            });
        }
        self.change("/1.0/instances/v1/state", |state| state["pid"] = pid.into());
    }

    /// The leases of the machine's own interface, beside those of others.
    pub(crate) fn lease(&self, addresses: &[&str]) {
        let lease = |address: &&str| {
            json!({"hostname": "v1", "hwaddr": "10:66:6a:00:00:05", "address": address, "type": "dynamic",
                   "location": "none"})
        };
        self.change("/1.0/networks/br0/leases", |leases| {
            let all = leases.as_array_mut().unwrap();
            all.retain(|lease| lease["hostname"] != "v1");
            all.extend(addresses.iter().map(lease));
        });
    }
}

fn script(answers: &Answers) -> Manner {
    let answers = Arc::clone(answers);
    let script: Script = Arc::new(move |target| {
        let path = target.split('?').next().unwrap_or_default();
        match answers.lock().unwrap().get(path) {
            Some(answer) => (200, answer.to_string()),
            None => (404, json!({"type": "error", "error": "Not Found", "error_code": 404}).to_string()),
        }
    });
    Manner::Script(script)
}
