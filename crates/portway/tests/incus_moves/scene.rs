//! A container with a service, proxy devices of its server, and what that says of them.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use portway_testkit::{Addr, ContainerSpec, DaemonSpec, Rig, Server, Site, check, wait_for};
use serde_json::{Value, json};

use crate::PORTWAY;

/// Where the service echoes inside.
pub(crate) const SERVICE: u16 = 7;

/// A rig whose container echoes.
pub(crate) struct Scene {
    pub(crate) rig: Rig,
}

impl Scene {
    pub(crate) fn start(name: &str, stopped: bool) -> Option<Scene> {
        Scene::on(Server::Incus6, name, stopped)
    }

    /// The same on one of the servers.
    pub(crate) fn on(server: Server, name: &str, stopped: bool) -> Option<Scene> {
        let spec = ContainerSpec { stopped, ..ContainerSpec::booting("serve echo tcp:0.0.0.0:7\n") };
        Rig::on(server, DaemonSpec::new(PORTWAY), name, &spec).unwrap().map(|rig| Scene { rig })
    }

    /// Its container's name.
    pub(crate) fn name(&self) -> &str {
        self.rig.container.name()
    }

    /// `incus WORDS...`, which must succeed.
    pub(crate) fn incus(&self, words: &[&str]) -> String {
        let output = self.rig.bed().client_output(words).unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Adds a proxy device to the container with its server.
    pub(crate) fn incus_device(&self, device: &str, keys: &[&str]) {
        let body = json!({"devices": {device: proxy(keys)}});
        self.rig.container.request("PATCH", "", &body).unwrap();
    }

    /// What the server has of the container: configuration without what is volatile, devices, profiles.
    pub(crate) fn definition(&self) -> Value {
        let all = self.rig.container.read().unwrap();
        let mut config = all["config"].clone();
        config.as_object_mut().unwrap().retain(|key, _| !key.starts_with("volatile."));
        json!({
            "config": config, "devices": all["devices"], "profiles": all["profiles"],
            "description": all["description"], "ephemeral": all["ephemeral"],
        })
    }

    /// `portway device VERB CONTAINER WORDS...`.
    pub(crate) fn device(&self, verb: &str, words: &[&str]) -> Output {
        self.rig.device(verb, words).unwrap()
    }

    /// The same, which must succeed.
    pub(crate) fn done(&self, verb: &str, words: &[&str]) -> String {
        self.rig.device_ok(verb, words).unwrap()
    }

    /// Waits until a port of the host leads to the service. A container's service starts after it.
    pub(crate) fn wait_until_served(&self, port: u16) {
        let asked = || echoes(self.rig.host(), port).then_some(());
        wait_for(&format!("the service at port {port}"), asked).unwrap();
    }

    /// Waits until the service listens inside.
    pub(crate) fn wait_until_ready(&self) {
        let inside = self.rig.inside().unwrap();
        wait_for("the service", || echoes(&inside, SERVICE).then_some(())).unwrap();
    }

    /// Names of our devices.
    pub(crate) fn ours(&self) -> Vec<String> {
        let devices = self.rig.daemon.devices().unwrap();
        let mut names: Vec<String> =
            devices.iter().map(|device| device["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

/// A proxy device of a server.
pub(crate) fn proxy(keys: &[&str]) -> Value {
    let pairs = keys.iter().map(|pair| pair.split_once('=').unwrap());
    let pairs = pairs.chain([("type", "proxy")]).map(|(key, value)| (key.to_owned(), json!(value)));
    Value::Object(pairs.collect())
}

/// Whether a port leads to an echo.
pub(crate) fn echoes(site: &Site, port: u16) -> bool {
    let addr = Addr::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
    let limit = Duration::from_secs(10);
    let Ok(stream) = site.run(|| addr.connect(limit)).unwrap() else { return false };
    stream.set_timeout(limit).is_ok() && check::echo(&stream, 1000, u64::from(port)).is_ok()
}
