//! A host, a namespace as the instance, a daemon, and files.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;

use portway_testkit::{Addr, Behaviour, Daemon, DaemonSpec, Netns, Service, Site, check, require};
use tempfile::TempDir;

use crate::PORTWAY;

/// The service's port in the instance.
pub(crate) const SERVICE: u16 = 7;

/// Everything a test of this folder needs.
pub(crate) struct Place {
    pub(crate) daemon: Daemon,
    pub(crate) host: Site,
    netns: Netns,
    folder: TempDir,
    _service: Service,
}

impl Place {
    /// `None` where namespaces cannot be made.
    pub(crate) fn start() -> Option<Place> {
        let (host, netns) = match (Netns::new(), Netns::new()) {
            (Ok(host), Ok(netns)) => (host, netns),
            (one, other) => {
                require(&format!("no namespaces: {:?} {:?}", one.err(), other.err()));
                return None;
            }
        };
        let service = Addr::Tcp(local(SERVICE));
        Some(Place {
            daemon: DaemonSpec::new(PORTWAY).within(&host).start().unwrap(),
            host: Site::netns(&host),
            _service: Service::start(&Site::netns(&netns), &service, Behaviour::Echo).unwrap(),
            netns,
            folder: tempfile::tempdir().unwrap(),
        })
    }

    /// The instance's name.
    pub(crate) fn instance(&self) -> String {
        format!("netns:{}", self.netns.path().display())
    }

    /// A line of a file for a device on a port.
    pub(crate) fn line(&self, name: &str, port: u16) -> String {
        let instance = self.instance();
        format!(
            "- {{instance: \"{instance}\", name: {name}, listen: \"tcp:127.0.0.1:{port}\", connect: \"tcp:127.0.0.1:{SERVICE}\"}}\n"
        )
    }

    /// A file of these lines.
    pub(crate) fn file(&self, lines: &[String]) -> PathBuf {
        let path = self.folder.path().join("devices.yaml");
        let lines = if lines.is_empty() { " []\n".to_owned() } else { format!("\n{}", lines.concat()) };
        fs::write(&path, format!("devices:{lines}")).unwrap();
        path
    }

    /// `portway apply -f FILE WORDS...`.
    pub(crate) fn apply(&self, lines: &[String], words: &[&str]) -> Output {
        let file = self.file(lines);
        self.daemon.cli(&[&["apply", "-f", file.to_str().unwrap()], words].concat()).unwrap()
    }

    /// The same, which must succeed; what it printed.
    pub(crate) fn applied(&self, lines: &[String], words: &[&str]) -> String {
        let output = self.apply(lines, words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().replace(&self.instance(), "INSTANCE")
    }

    /// Names of the devices, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let devices = self.daemon.devices().unwrap();
        devices.iter().map(|device| device["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether a port leads to the service.
    pub(crate) fn serves(&self, port: u16) -> bool {
        let addr = Addr::Tcp(local(port));
        let Ok(stream) = self.host.run(|| addr.connect(std::time::Duration::from_secs(10))).unwrap() else {
            return false;
        };
        stream.set_timeout(std::time::Duration::from_secs(10)).unwrap();
        check::echo(&stream, 1000, u64::from(port)).is_ok()
    }
}

/// `127.0.0.1` and a port.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
