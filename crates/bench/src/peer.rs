//! Who is compared, and how each is set up: one thread each, listening on the host, the service behind.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::arena::{Arena, SERVICE_PATH, service_port};
use crate::net::Target;
use crate::process::{Program, all_pids};
use crate::workload::Path;

const NGINX: &str = include_str!("../peers/nginx.conf");
const HAPROXY: &str = include_str!("../peers/haproxy.cfg");

/// User of a copy's worker, less its number.
const FIRST_USER: u32 = 60_000;

/// How long a peer may take to listen.
const START: Duration = Duration::from_secs(20);

/// Somebody who stands between client and service, or nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// The client reaches the service by a route.
    Direct,
    Forkproxy,
    Nginx,
    Haproxy,
    Socat,
    Relay,
    IncusNat,
    Nat,
}

impl Peer {
    /// All of them, in the order of the tables.
    pub(crate) const ALL: [Self; 8] = [
        Self::Direct,
        Self::Forkproxy,
        Self::Nginx,
        Self::Haproxy,
        Self::Socat,
        Self::Relay,
        Self::IncusNat,
        Self::Nat,
    ];

    /// What `--only` and the figures call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Forkproxy => "forkproxy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Socat => "socat",
            Self::Relay => "relay",
            Self::IncusNat => "incus-nat",
            Self::Nat => "nat",
        }
    }

    /// What the documentation calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Forkproxy => "Incus proxy",
            Self::Nginx => "nginx stream",
            Self::Haproxy => "HAProxy",
            Self::Socat => "socat",
            Self::Relay => "**Portway relay**",
            Self::IncusNat => "Incus NAT",
            Self::Nat => "**Portway NAT**",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|peer| peer.name() == name)
    }

    /// Whether it can: HAProxy has no UDP, socat a process for each client of it, the kernel's NAT no unix
    /// sockets.
    pub(crate) fn serves(self, path: Path) -> bool {
        match path {
            Path::Tcp => true,
            Path::Udp => !matches!(self, Self::Haproxy | Self::Socat),
            Path::UnixToTcp | Path::UnixToUnix => !matches!(self, Self::IncusNat | Self::Nat),
        }
    }

    /// Whether processes of its own carry the bytes.
    pub(crate) fn is_relay(self) -> bool {
        !matches!(self, Self::Direct | Self::IncusNat | Self::Nat)
    }

    /// Descriptors that one of its processes has for each connection: one on each side; the Incus proxy has two pipes
    /// beside them. Zero where there is no process, or one for each connection.
    pub(crate) fn descriptors_each(self) -> usize {
        match self {
            Self::Forkproxy => 6,
            Self::Haproxy | Self::Nginx | Self::Relay => 2,
            Self::Direct | Self::Socat | Self::IncusNat | Self::Nat => 0,
        }
    }

    /// A port of its own on the host, for each of its copies.
    fn port(self, copy: u16) -> u16 {
        21_000
            + 10 * copy
            + Self::ALL.iter().zip(0..).find(|(peer, _)| **peer == self).map_or(0, |(_, index)| index)
    }
}

/// A peer that listens.
pub(crate) struct Running {
    pub(crate) peer: Peer,
    /// Zero for the one that is measured; others are there for connections that one process cannot hold.
    copy: u16,
    pub(crate) targets: BTreeMap<Path, Target>,
    programs: Vec<Program>,
}

impl Running {
    /// Sets it up and waits until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(peer: Peer, arena: &Arena) -> Result<Self> {
        Self::start_copy(peer, arena, 0)
    }

    /// The same once more, with processes of its own: one that holds connections, with a device for tcp.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start_copy(peer: Peer, arena: &Arena, copy: u16) -> Result<Self> {
        let mut targets = targets(peer, arena, copy)?;
        if copy > 0 && matches!(peer, Peer::Forkproxy | Peer::Relay) {
            targets.retain(|path, _| *path == Path::Tcp);
        }
        let mut running = Self { peer, copy, targets, programs: Vec::new() };
        let started = match peer {
            Peer::Direct => Ok(()),
            Peer::Forkproxy | Peer::IncusNat => running.add_to_incus(arena),
            Peer::Relay | Peer::Nat => running.add_to_portway(arena),
            Peer::Nginx => running.start_nginx(arena),
            Peer::Haproxy => running.start_haproxy(arena),
            Peer::Socat => running.start_socat(arena),
        };
        started
            .and_then(|()| running.wait(arena))
            .with_context(|| format!("cannot set up {}", peer.name()))?;
        Ok(running)
    }

    /// Pids of what carries its bytes.
    pub(crate) fn pids(&self, arena: &Arena) -> Vec<i32> {
        match self.peer {
            Peer::Forkproxy => self.forkproxies(),
            // The daemon and the keeper too: they are part of what it costs.
            Peer::Relay => arena.daemon.processes(),
            Peer::Direct | Peer::IncusNat | Peer::Nat => Vec::new(),
            Peer::Nginx | Peer::Haproxy | Peer::Socat => {
                self.programs.iter().flat_map(Program::pids).collect()
            }
        }
    }

    /// Takes the devices of a copy out of Portway; those of Incus go with the container.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub(crate) fn end(self, arena: &Arena) -> Result<()> {
        if self.peer == Peer::Relay {
            for path in self.targets.keys() {
                let words = ["device", "remove", arena.container.name(), &self.device(*path)];
                let output = arena.daemon.cli(&words)?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        Ok(())
    }

    /// Name of a device.
    fn device(&self, path: Path) -> String {
        format!("{}-{}", label(self.peer, self.copy), suffix(path))
    }

    /// Incus has a process for each device; its arguments name where it listens.
    fn forkproxies(&self) -> Vec<i32> {
        let listens: Vec<String> = self.targets.values().map(ToString::to_string).collect();
        let is_ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            words.iter().any(|word| word == "forkproxy")
                && words.iter().any(|word| listens.iter().any(|listen| listen == word))
        };
        all_pids().into_iter().filter(is_ours).collect()
    }

    fn listen(&self, path: Path) -> String {
        self.targets.get(&path).map(ToString::to_string).unwrap_or_default()
    }

    fn add_to_incus(&self, arena: &Arena) -> Result<()> {
        let nat = self.peer == Peer::IncusNat;
        let devices = self.targets.keys().map(|path| {
            let mut device = json!({
                "type": "proxy", "listen": self.listen(*path), "connect": connect(self.peer, *path, arena),
            });
            match path {
                Path::Tcp | Path::Udp if nat => device["nat"] = json!("true"),
                Path::Tcp | Path::Udp => {}
                Path::UnixToTcp | Path::UnixToUnix => device["mode"] = json!("0666"),
            }
            (self.device(*path), device)
        });
        let devices: serde_json::Map<String, serde_json::Value> = devices.collect();
        arena.container.request("PATCH", "", &json!({"devices": devices}))
    }

    fn add_to_portway(&self, arena: &Arena) -> Result<()> {
        let nat = self.peer == Peer::Nat;
        for path in self.targets.keys() {
            let name = self.device(*path);
            let mut keys = vec![format!("listen={}", self.listen(*path))];
            keys.push(format!("connect={}", connect(self.peer, *path, arena)));
            if nat {
                keys.push("nat=true".to_owned());
            }
            if matches!(path, Path::UnixToTcp | Path::UnixToUnix) {
                keys.push("mode=0666".to_owned());
            }
            if self.copy > 0 {
                // Another user: another process.
                keys.push(format!("security.uid={}", FIRST_USER + u32::from(self.copy)));
            }
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            arena.daemon.add(arena.container.name(), &name, &keys)?;
            arena.daemon.wait_for_state(&name, "active")?;
        }
        Ok(())
    }

    /// The text of a configuration with this benchmark's addresses in it, as a file.
    fn configuration(&self, arena: &Arena, name: &str, template: &str) -> Result<PathBuf> {
        let bare = |path| match self.targets.get(&path) {
            Some(Target::Tcp(address) | Target::Udp(address)) => address.to_string(),
            Some(Target::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let text = template
            .replace("{dir}", &arena.folder.path().display().to_string())
            .replace("{copy}", &self.copy.to_string())
            .replace("{tcp}", &bare(Path::Tcp))
            .replace("{udp}", &bare(Path::Udp))
            .replace("{unix_tcp}", &bare(Path::UnixToTcp))
            .replace("{unix_unix}", &bare(Path::UnixToUnix))
            .replace("{service}", &self.service(arena).to_string())
            .replace("{service_unix}", &arena.service_path()?.display().to_string());
        let path = arena.folder.path().join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The service as the host reaches it.
    fn service(&self, arena: &Arena) -> SocketAddr {
        (arena.address, service_port(self.peer)).into()
    }

    fn spawn(&mut self, arena: &Arena, command: &mut Command) -> Result<()> {
        let log = fs::File::create(arena.folder.path().join(format!("{}.log", label(self.peer, self.copy))))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.programs.push(Program::start(arena.bed.netns(), command)?);
        Ok(())
    }

    fn start_nginx(&mut self, arena: &Arena) -> Result<()> {
        let path = self.configuration(arena, &format!("nginx-{}.conf", self.copy), NGINX)?;
        self.spawn(arena, Command::new("nginx").arg("-p").arg(arena.folder.path()).arg("-c").arg(path))
    }

    fn start_haproxy(&mut self, arena: &Arena) -> Result<()> {
        let path = self.configuration(arena, &format!("haproxy-{}.cfg", self.copy), HAPROXY)?;
        self.spawn(arena, Command::new("haproxy").args(["-db", "-q", "-f"]).arg(path))
    }

    /// A process for each connection: its way.
    fn start_socat(&mut self, arena: &Arena) -> Result<()> {
        for (path, target) in self.targets.clone() {
            let listen = match target {
                Target::Tcp(address) | Target::Udp(address) => format!(
                    "TCP-LISTEN:{},bind={},reuseaddr,nodelay,backlog=8192,fork",
                    address.port(),
                    address.ip()
                ),
                Target::Unix(path) => format!("UNIX-LISTEN:{},mode=666,backlog=8192,fork", path.display()),
            };
            let connect = match path {
                Path::UnixToUnix => format!("UNIX-CONNECT:{}", arena.service_path()?.display()),
                _ => format!("TCP:{},nodelay", self.service(arena)),
            };
            self.spawn(arena, Command::new("socat").args(["-b", "65536", &listen, &connect]))?;
        }
        Ok(())
    }

    /// Waits until every address takes a connection.
    fn wait(&self, arena: &Arena) -> Result<()> {
        let begin = Instant::now();
        for target in self.targets.values().filter(|target| !matches!(target, Target::Udp(_))) {
            while arena.client.enter(|| target.connect())?.is_err() {
                if begin.elapsed() > START {
                    let log = arena.folder.path().join(format!("{}.log", label(self.peer, self.copy)));
                    bail!("it does not listen at {target}: {}", fs::read_to_string(log).unwrap_or_default());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

/// Where the client goes.
fn targets(peer: Peer, arena: &Arena, copy: u16) -> Result<BTreeMap<Path, Target>> {
    let service = arena.service_address();
    let port = (arena.host, peer.port(copy)).into();
    let file =
        |path| Target::Unix(arena.folder.path().join(format!("{}-{}.sock", label(peer, copy), suffix(path))));
    let of = |path| -> Result<Target> {
        Ok(match (path, peer) {
            // Without a peer a client of a unix socket takes the network.
            (Path::Tcp | Path::UnixToTcp, Peer::Direct) => Target::Tcp(service),
            (Path::Udp, Peer::Direct) => Target::Udp(service),
            (Path::UnixToUnix, Peer::Direct) => Target::Unix(arena.service_path()?),
            (Path::Tcp, _) => Target::Tcp(port),
            (Path::Udp, _) => Target::Udp(port),
            (Path::UnixToTcp | Path::UnixToUnix, _) => file(path),
        })
    };
    Path::ALL.into_iter().filter(|path| peer.serves(*path)).map(|path| Ok((path, of(path)?))).collect()
}

/// `connect` of a device. A proxy calls from inside; the kernel's NAT of Incus wants the address.
pub(crate) fn connect(peer: Peer, path: Path, arena: &Arena) -> String {
    let address = if peer.is_relay() { "127.0.0.1".to_owned() } else { arena.address.to_string() };
    let port = service_port(peer);
    match path {
        Path::Tcp | Path::UnixToTcp => format!("tcp:{address}:{port}"),
        Path::Udp => format!("udp:{address}:{port}"),
        Path::UnixToUnix => format!("unix:{SERVICE_PATH}"),
    }
}

/// What a peer and its copies are called in names of devices and files.
fn label(peer: Peer, copy: u16) -> String {
    if copy == 0 { peer.name().to_owned() } else { format!("{}-copy{copy}", peer.name()) }
}

fn suffix(path: Path) -> &'static str {
    match path {
        Path::Tcp => "tcp",
        Path::Udp => "udp",
        Path::UnixToTcp => "unix-tcp",
        Path::UnixToUnix => "unix-unix",
    }
}
