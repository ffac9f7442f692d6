//! A daemon, a namespace as the instance, and a service in it that many may use.
//!
//! ```text
//!  load ──> 127.0.0.1:PORT (host's namespace) ──> worker ──> 127.0.0.1:7 (instance's namespace)
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portway_testkit::{
    Addr, Answer, Daemon, DaemonSpec, Hall, Netns, Site, check, process, require, wait_for,
};
use serde_json::{Value, json};

use crate::PORTWAY;

/// Patience of clients, with a machine that others use too.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Stand {
    pub(crate) daemon: Daemon,
    pub(crate) host: Netns,
    pub(crate) site: Site,
    pub(crate) inside: Netns,
    pub(crate) hall: Hall,
}

impl Stand {
    /// `None` where namespaces cannot be made.
    pub(crate) fn start() -> Option<Self> {
        Self::with(DaemonSpec::new(PORTWAY))
    }

    pub(crate) fn with(daemon: DaemonSpec) -> Option<Self> {
        let (host, inside) = (namespace()?, namespace()?);
        // Clients and service are here, and may be many while all is late.
        process::raise_nofile().unwrap();
        Some(Self {
            daemon: daemon.within(&host).start().unwrap(),
            site: Site::netns(&host),
            hall: Hall::start(&Site::netns(&inside), &Addr::tcp("127.0.0.1:7")).unwrap(),
            host,
            inside,
        })
    }

    /// The instance's name.
    pub(crate) fn instance(&self) -> String {
        format!("netns:{}", self.inside.path().display())
    }

    /// A device that leads to the service, and serves.
    pub(crate) fn publish(&self, name: &str, port: u16) -> Addr {
        let addr = local(port);
        self.add(name, &format!("tcp:127.0.0.1:{port}"), "tcp:127.0.0.1:7", &[]);
        wait_for("the service", || check::echo(&check::dial(&self.site, &addr).ok()?, 10, 1).ok()).unwrap();
        addr
    }

    /// A device, which must be taken.
    pub(crate) fn add(&self, name: &str, listen: &str, connect: &str, more: &[(&str, &str)]) {
        let answer = self.try_add(name, listen, connect, more);
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
    }

    pub(crate) fn try_add(&self, name: &str, listen: &str, connect: &str, more: &[(&str, &str)]) -> Answer {
        let mut keys = json!({ "listen": listen, "connect": connect });
        for (key, value) in more {
            keys[*key] = Value::from(*value);
        }
        let body = json!({ "instance": self.instance(), "name": name, "keys": keys });
        self.daemon.api().call("POST", "/1.0/devices", Some(&body), LIMIT).unwrap()
    }

    /// A device as a list of devices has it: one of many.
    pub(crate) fn described(&self, number: u16) -> Value {
        json!({ "instance": self.instance(), "name": format!("m{number}"), "keys": {
            "listen": format!("tcp:127.0.0.1:{}", 20_000 + number), "connect": "tcp:127.0.0.1:7" } })
    }

    /// The same of the one that [`publish`](Self::publish) makes as `web` at 8080.
    pub(crate) fn described_web(&self) -> Value {
        json!({ "instance": self.instance(), "name": "web",
            "keys": { "listen": "tcp:127.0.0.1:8080", "connect": "tcp:127.0.0.1:7" } })
    }

    /// Sets a key of a device.
    pub(crate) fn set(&self, name: &str, key: &str, value: &str) {
        let body = json!({ "set": { key: value } });
        let answer = self.daemon.api().call("PATCH", &self.path(name), Some(&body), LIMIT).unwrap();
        assert_eq!(answer.status, 200, "{name} {key}={value}: {}", answer.body);
    }

    pub(crate) fn remove(&self, name: &str) {
        let answer = self.daemon.api().call("DELETE", &self.path(name), None, LIMIT).unwrap();
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
    }

    fn path(&self, name: &str) -> String {
        let instance = self.instance().replace(':', "%3A").replace('/', "%2F");
        format!("/1.0/devices/{instance}/{name}")
    }

    /// The one worker.
    pub(crate) fn worker(&self) -> i32 {
        let [pid] = self.daemon.workers()[..] else { panic!("not one worker: {:?}", self.daemon.workers()) };
        pid
    }

    /// A number that the API shows of a device.
    pub(crate) fn shown(&self, device: &str, what: &str) -> u64 {
        self.daemon.device(device).unwrap()[what].as_u64().unwrap_or_default()
    }

    /// Waits until nobody is connected any more, anywhere on the way.
    pub(crate) fn wait_until_idle(&self, device: &str) {
        let idle = || (self.hall.open() == 0 && self.shown(device, "connections_now") == 0).then_some(());
        wait_for("the end of all connections", idle).unwrap();
    }
}

/// A namespace in which connections by the million find a port.
pub(crate) fn namespace() -> Option<Netns> {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(problem) => {
            require(&format!("no namespaces: {problem:#}"));
            return None;
        }
    };
    netns.sysctl("ipv4/ip_local_port_range", "10240 65535").unwrap();
    netns.sysctl("ipv4/tcp_max_tw_buckets", "1000").unwrap();
    Some(netns)
}

/// `127.0.0.1` and a port.
pub(crate) fn local(port: u16) -> Addr {
    Addr::tcp(&format!("127.0.0.1:{port}"))
}

/// Tells a thread to end, also when the test fails before.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
