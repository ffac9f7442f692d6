//! A daemon with a network, and the other node as a process of its own.
//!
//! ```text
//!   a  192.0.2.1, 10.77.0.1: the daemon; 127.0.0.1:8080 sends back what comes, port 80 in the network leads there
//!   b  192.0.2.2, 10.77.0.2: `portway mesh proxy`; 127.0.0.1:8000 leads to 10.77.0.1:80
//! ```

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use portway_testkit::{Addr, Behaviour, Daemon, DaemonSpec, Netns, Service, Site, Stream, check, wait_for};
use serde_json::Value;
use tempfile::TempDir;

use crate::PORTWAY;

pub(crate) struct Bed {
    pub(crate) dir: TempDir,
    pub(crate) a: Netns,
    pub(crate) b: Netns,
    _echo: Service,
}

/// A process that ends with this.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Bed {
    pub(crate) fn new() -> Bed {
        let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
        a.veth("cable", &["192.0.2.1/24"], &b, "cable", &["192.0.2.2/24"]).unwrap();
        let echo = Service::start(&Site::netns(&a), &local(8080), Behaviour::Echo).unwrap();
        let bed = Bed { dir: TempDir::new().unwrap(), a, b, _echo: echo };
        bed.genconf();
        bed
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// New keys for both nodes.
    pub(crate) fn genconf(&self) {
        for name in ["a.toml", "b.toml"] {
            // The first time there is none.
            fs::remove_file(self.dir.path().join(name)).ok();
        }
        let mut command = Command::new(PORTWAY);
        let nodes = ["mesh", "genconf", "a=192.0.2.1", "b=192.0.2.2", "--dir"];
        let output = command.args(nodes).arg(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// `[mesh.home]` of the first node, with more in it.
    pub(crate) fn home(&self, more: &str) -> String {
        format!("[mesh.home]\nconfig = \"{}\"\n{more}\n", self.path("a.toml"))
    }

    /// A daemon with this configuration.
    pub(crate) fn daemon(&self, config: &str) -> Daemon {
        DaemonSpec::new(PORTWAY).within(&self.a).config(config).start().unwrap()
    }

    /// The other node, once its ports are open.
    pub(crate) fn other(&self) -> Running {
        let config = self.path("b.toml");
        let rules =
            ["--egress", "tcp:127.0.0.1:8000:10.77.0.1:80", "--egress", "tcp:127.0.0.1:8001:10.77.0.1:81"];
        self.run(&self.b, "there", &[&["mesh", "proxy", "--config", &config], &rules[..]].concat())
    }

    /// A command that says when it is ready and goes on.
    pub(crate) fn run(&self, netns: &Netns, folder: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(PORTWAY);
        command.args(arguments).env_clear().env("PORTWAY_DIR", folder_of(self.dir.path(), folder));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = netns.spawn(&mut command).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let running = Running(child);
        assert!(line.starts_with("ready"), "{line}");
        running
    }

    /// A connection of the other node to port 80 of the first one, once it works.
    pub(crate) fn call(&self, port: u16) -> Stream {
        let site = Site::netns(&self.b);
        let called = wait_for("an answer through the network", || {
            let mut stream = check::dial(&site, &local(port)).ok()?;
            answers(&mut stream).then_some(stream)
        });
        called.unwrap()
    }
}

fn folder_of(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path.to_str().unwrap().to_owned()
}

pub(crate) fn local(port: u16) -> Addr {
    Addr::tcp(&format!("127.0.0.1:{port}"))
}

/// Whether what is sent comes back.
pub(crate) fn answers(stream: &mut Stream) -> bool {
    let mut bytes = [0; 5];
    let mut stream = &*stream;
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut bytes)).is_ok() && bytes == *b"hello"
}

/// What the daemon says of a network.
pub(crate) fn network(daemon: &Daemon, name: &str) -> Option<Value> {
    let server = daemon.api().get("/1.0").ok()?;
    server["networks"].as_array()?.iter().find(|network| network["name"] == name).cloned()
}

/// The network, once it is as it should.
pub(crate) fn network_when(daemon: &Daemon, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let found = wait_for(what, || network(daemon, "home").filter(|network| is(network)));
    found.unwrap_or_else(|error| panic!("{error}: {:?}\n{}", network(daemon, "home"), daemon.log()))
}

pub(crate) fn running(daemon: &Daemon) -> Value {
    network_when(daemon, "the network runs", |network| network["state"] == "running")
}

pub(crate) fn pid(network: &Value) -> i32 {
    i32::try_from(network["pid"].as_i64().unwrap()).unwrap()
}

/// Writes `portway.toml` and has the daemon read it.
pub(crate) fn reload(daemon: &Daemon, config: &str) {
    fs::write(daemon.dir().join("portway.toml"), config).unwrap();
    daemon.reload().unwrap();
}

/// What a command of this daemon prints when all is well.
pub(crate) fn says(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.cli(arguments).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
