//! A daemon whose device is used all the time, and who uses it.
//!
//! ```text
//!  load, talk ──> 127.0.0.1:8000 ──> worker ──> 127.0.0.1:7 in the instance, a namespace
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portway_testkit::{
    Addr, Answer, Behaviour, Daemon, DaemonSpec, Load, Netns, Pace, RunningLoad, Service, Site, Talk,
    require, wait_for,
};
use serde_json::{Value, json};

use crate::PORTWAY;

/// Port of the device that is used.
const USED: u16 = 8000;

/// Ports of devices that come and go.
const MORE: u16 = 8001;

/// See the module.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) host: Site,
    pub(crate) inside: Site,
    netns: Netns,
    _service: Service,
}

/// Traffic through the device.
pub(crate) struct Traffic {
    load: RunningLoad,
    talk: Talk,
}

impl Scene {
    /// `None` where namespaces cannot be made.
    pub(crate) fn start() -> Option<Scene> {
        Self::with(Path::new(PORTWAY))
    }

    /// The same with another program as the daemon.
    pub(crate) fn with(program: &Path) -> Option<Scene> {
        let (host, netns) = match (Netns::new(), Netns::new()) {
            (Ok(host), Ok(netns)) => (host, netns),
            (one, other) => {
                require(&format!("no namespaces: {:?} {:?}", one.err(), other.err()));
                return None;
            }
        };
        let inside = Site::netns(&netns);
        let scene = Scene {
            daemon: DaemonSpec::new(program).within(&host).start().unwrap(),
            host: Site::netns(&host),
            _service: Service::start(&inside, &Addr::tcp("127.0.0.1:7"), Behaviour::Echo).unwrap(),
            inside,
            netns,
        };
        scene
            .daemon
            .add(&scene.instance(), "used", &["listen=tcp:127.0.0.1:8000", "connect=tcp:127.0.0.1:7"])
            .unwrap();
        Some(scene)
    }

    /// The instance's name.
    pub(crate) fn instance(&self) -> String {
        format!("netns:{}", self.netns.path().display())
    }

    /// Begins to use the device.
    pub(crate) fn traffic(&self) -> Traffic {
        let addr = Addr::tcp(&format!("127.0.0.1:{USED}"));
        let talk = Talk::start(&self.host, &addr, 1).unwrap();
        let load = Load::new(&addr, Pace::PerSecond(200)).start(&self.host).unwrap();
        let traffic = Traffic { load, talk };
        traffic.goes_on();
        traffic
    }

    /// Asks for device `number`; whatever becomes of the connection is the caller's to look at.
    pub(crate) fn try_add(&self, number: u16) -> anyhow::Result<Answer> {
        let listen = format!("tcp:127.0.0.1:{}", MORE + number);
        let keys = json!({"listen": listen, "connect": "tcp:127.0.0.1:7"});
        let body = json!({"instance": self.instance(), "name": format!("d{number}"), "keys": keys});
        self.daemon.api().call("POST", "/1.0/devices", Some(&body), Duration::from_secs(60))
    }

    /// The same for a removal.
    pub(crate) fn try_remove(&self, number: u16) -> anyhow::Result<Answer> {
        let encoded = self.instance().replace(':', "%3A").replace('/', "%2F");
        let path = format!("/1.0/devices/{encoded}/d{number}");
        self.daemon.api().call("DELETE", &path, None, Duration::from_secs(60))
    }

    /// Names of the devices as the daemon has them.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        names_in(&self.daemon.devices().unwrap())
    }

    /// The state file.
    pub(crate) fn file(&self) -> PathBuf {
        self.daemon.dir().join("state.json")
    }

    /// Names of the devices as the state file has them.
    pub(crate) fn stored(&self) -> BTreeSet<String> {
        let text = std::fs::read(self.file()).unwrap();
        let state: Value = serde_json::from_slice(&text).unwrap();
        names_in(state["devices"].as_array().unwrap())
    }

    /// Whether somebody listens at the port of device `number`.
    pub(crate) fn listens(&self, number: u16) -> bool {
        let addr = Addr::tcp(&format!("127.0.0.1:{}", MORE + number));
        self.host.run(|| addr.connect(Duration::from_secs(10)).is_ok()).unwrap()
    }
}

fn names_in(devices: &[Value]) -> BTreeSet<String> {
    devices.iter().map(|device| device["name"].as_str().unwrap().to_owned()).collect()
}

impl Traffic {
    /// New connections are served, and the old one is.
    pub(crate) fn goes_on(&self) {
        self.load.wait_for_ok(20).unwrap();
        self.talk.wait_for_rounds(5).unwrap();
    }

    /// Ends it: nobody was refused or cut. Returns how many connections there were.
    pub(crate) fn end(self) -> usize {
        self.talk.finish().unwrap();
        let report = self.load.stop().unwrap();
        assert_eq!(report.failures(), 0, "{report}");
        report.records.len()
    }
}

/// Waits until the daemon has the devices, and the state file has.
pub(crate) fn wait_for_names(scene: &Scene, names: &BTreeSet<String>) {
    let same = || (scene.names() == *names && scene.stored() == *names).then_some(());
    wait_for("the devices", same).unwrap();
}
