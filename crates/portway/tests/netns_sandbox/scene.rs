//! A daemon with a device of each kind, a gateway with a client that says nothing, and a network.
//!
//! ```text
//!   host      10.9.1.1, the daemon: tcp 8001, udp 8002, a unix socket, 220 ports more, tcp 2222 (SSH)
//!   instance  10.9.1.2: tcp 80; tcp 81 leads to a unix socket of the host
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use portway_testkit::{
    Addr, Behaviour, Daemon, DaemonSpec, Netns, Service, Site, Stream, check, is_root, run, wait_for,
};
use tempfile::TempDir;

use crate::PORTWAY;

pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) host: Netns,
    pub(crate) instance: Netns,
    pub(crate) dir: TempDir,
    _services: Vec<Service>,
    _client: Stream,
}

/// Descriptors that the first daemon and its workers may have. Half of them may be listeners of one worker.
const FEW: u32 = 400;
/// Those of the next one, to which keeper and workers give what they have.
const MANY: u32 = 4000;

/// Devices and the keys of each. Those with many ports are too many for one worker: the last one has a sibling.
const DEVICES: [(&str, &[&str]); 4] = [
    ("tcp", &["listen=tcp:0.0.0.0:8001", "connect=tcp:127.0.0.1:80"]),
    ("udp", &["listen=udp:0.0.0.0:8002", "connect=udp:127.0.0.1:80"]),
    ("many", &["listen=tcp:0.0.0.0:9000-9109", "connect=tcp:127.0.0.1:80"]),
    ("more", &["listen=tcp:0.0.0.0:9200-9309", "connect=tcp:127.0.0.1:80"]),
];

impl Scene {
    /// `None` for who is not root: a daemon of anybody else has less to give up.
    pub(crate) fn start() -> Option<Scene> {
        if !is_root() {
            return None;
        }
        let (host, instance) = (Netns::new().unwrap(), Netns::new().unwrap());
        host.veth("cable", &["10.9.1.1/24"], &instance, "cable", &["10.9.1.2/24"]).unwrap();
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let network = network(dir.path());
        let config = format!("[ssh]\ndaemon = true\nlisten = \"127.0.0.1:2222\"\n{network}");
        let program = with_few_descriptors(dir.path());
        let daemon = DaemonSpec::new(program).within(&host).config(&config).start().unwrap();
        let echo = |netns: &Netns, address: &Addr| {
            Service::start(&Site::netns(netns), address, Behaviour::Echo).unwrap()
        };
        let target = dir.path().join("target");
        let services = vec![echo(&instance, &Addr::tcp("127.0.0.1:80")), echo(&host, &Addr::unix(&target))];
        fs::set_permissions(&target, fs::Permissions::from_mode(0o777)).unwrap();
        let client =
            wait_for("the gateway", || check::dial(&Site::netns(&host), &Addr::tcp("127.0.0.1:2222")).ok());
        let scene = Scene { daemon, host, instance, dir, _services: services, _client: client.unwrap() };
        scene.add_devices();
        Some(scene)
    }

    fn add_devices(&self) {
        let name = self.name();
        for (device, keys) in DEVICES {
            self.daemon.add(&name, device, keys).unwrap();
        }
        let path = |file: &str| self.dir.path().join(file).display().to_string();
        let listen = format!("listen=unix:{}", path("listen"));
        self.daemon.add(&name, "unix", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
        let connect = format!("connect=unix:{}", path("target"));
        let keys = ["listen=tcp:127.0.0.1:81", &connect, "bind=instance"];
        self.daemon.add(&name, "back", &keys).unwrap();
    }

    /// The instance, as Portway is told.
    pub(crate) fn name(&self) -> String {
        format!("netns:{}", self.instance.path().display())
    }

    /// Bytes through every device, so that each worker has had a connection and has what that needs.
    pub(crate) fn use_devices(&self) {
        let (host, inside) = (Site::netns(&self.host), Site::netns(&self.instance));
        let listen = Addr::unix(self.dir.path().join("listen"));
        for (site, address) in [
            (&host, Addr::tcp("127.0.0.1:8001")),
            (&host, Addr::tcp("127.0.0.1:9300")),
            (&host, listen),
            (&inside, Addr::tcp("127.0.0.1:81")),
        ] {
            let stream = check::dial(site, &address).unwrap();
            check::echo(&stream, 100_000, 1).unwrap();
        }
    }

    /// Kills the daemon and starts another.
    pub(crate) fn follow(&mut self) {
        self.daemon.kill().unwrap();
        fs::write(self.dir.path().join("limit"), MANY.to_string()).unwrap();
        self.daemon.launch().unwrap();
    }

    /// The folder that the worker of the unix target dials in.
    pub(crate) fn target_dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

/// A network of one node that has nobody to talk to.
fn network(dir: &Path) -> String {
    let mut command = Command::new(PORTWAY);
    run(command.args(["mesh", "genconf", "a=10.9.1.1", "b=10.9.1.9", "--dir"]).arg(dir)).unwrap();
    let rules = "ingress = [\"tcp:80:127.0.0.1:8080\"]";
    format!("[mesh.home]\nconfig = \"{}\"\n{rules}\n", dir.join("a.toml").display())
}

/// The program, started with few descriptors: a worker for all that there is would have to have more.
fn with_few_descriptors(dir: &Path) -> PathBuf {
    let program = dir.join("portway");
    fs::write(dir.join("limit"), FEW.to_string()).unwrap();
    let text = format!("#!/bin/sh\nulimit -n $(cat {}/limit)\nexec {PORTWAY} \"$@\"\n", dir.display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}
