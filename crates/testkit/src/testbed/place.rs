//! Where a bed is: its names, folders and numbers.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run;

/// Version of what `up` makes; raise it with every change to image, network, profile or start.
const MAKE: u32 = 2;

/// The servers there are beds of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Incus 6.0, in this machine's own root.
    Incus6,
    /// Incus 7.0, in a root of Debian 13.
    Incus7,
    /// LXD 5.0, in the same root, which keeps its packages away from this machine.
    Lxd,
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Incus6, Self::Incus7, Self::Lxd];

    /// What `cargo xtask testbed` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Incus6 => "incus6",
            Self::Incus7 => "incus7",
            Self::Lxd => "lxd",
        }
    }

    /// The daemon's program, by its file name.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Incus6 | Self::Incus7 => "incusd",
            Self::Lxd => "lxd",
        }
    }

    /// Variable that names the state folder.
    #[must_use]
    pub fn dir_variable(self) -> &'static str {
        match self {
            Self::Incus6 | Self::Incus7 => "INCUS_DIR",
            Self::Lxd => "LXD_DIR",
        }
    }

    /// Variable that names the socket.
    #[must_use]
    pub fn socket_variable(self) -> &'static str {
        match self {
            Self::Incus6 | Self::Incus7 => "INCUS_SOCKET",
            Self::Lxd => "LXD_SOCKET",
        }
    }
}

/// The names, folders and numbers of one bed. No other bed shares any of them.
#[derive(Debug, Clone)]
pub struct Place {
    /// What serves there.
    pub server: Server,
    /// `incus6`.
    pub name: &'static str,
    /// Network namespace, as `ip netns` names it.
    pub netns: &'static str,
    /// The server's state folder, its `INCUS_DIR`. Below a path every uid may traverse, and short:
    /// socket names of the server start with it.
    pub dir: PathBuf,
    /// Our own files beside it.
    pub own_dir: PathBuf,
    /// IPv4 address of the bridge, with prefix length.
    pub bridge_v4: &'static str,
    /// IPv6 address of the bridge, with prefix length.
    pub bridge_v6: &'static str,
    /// First host id and number of ids for containers.
    pub ids: (u32, u32),
}

impl Place {
    /// The place of a server.
    #[must_use]
    pub fn of(server: Server) -> Self {
        let root = PathBuf::from("/var/lib/portway-testbed");
        let (netns, bridge_v4, bridge_v6, first_id) = match server {
            Server::Incus6 => ("portway-incus6", "10.191.6.1/24", "fd42:191:6::1/64", 1_100_000_000),
            Server::Incus7 => ("portway-incus7", "10.191.7.1/24", "fd42:191:7::1/64", 1_200_000_000),
            Server::Lxd => ("portway-lxd", "10.191.5.1/24", "fd42:191:5::1/64", 1_300_000_000),
        };
        let name = server.name();
        Self {
            server,
            name,
            netns,
            dir: root.join(name),
            own_dir: root.join(format!("{name}.own")),
            bridge_v4,
            bridge_v6,
            ids: (first_id, 100_000_000),
        }
    }

    /// Incus 6.0.
    #[must_use]
    pub fn incus6() -> Self {
        Self::of(Server::Incus6)
    }

    fn make(&self) -> String {
        format!("{} bed {MAKE}\n", self.name)
    }

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("unix.socket")
    }

    /// The namespace as a file.
    #[must_use]
    pub fn netns_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.netns)
    }

    /// What the server logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.own_dir.join(format!("{}.log", self.server.program()))
    }

    /// Makes the folders.
    pub(super) fn prepare(&self) -> Result<()> {
        for dir in [&self.dir, &self.own_dir] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
        }
        Ok(())
    }

    /// Makes the network namespace, or finds it.
    pub(super) fn make_netns(&self) -> Result<()> {
        // A name without a namespace behind it is what a killed `ip netns add` leaves.
        let path = self.netns_path();
        let lives = run(Command::new("nsenter").arg(format!("--net={}", path.display())).arg("true")).is_ok();
        if !lives {
            if path.exists() {
                run(Command::new("ip").args(["netns", "del", self.netns]))?;
            }
            run(Command::new("ip").args(["netns", "add", self.netns]))?;
        }
        run(Command::new("ip").args(["-n", self.netns, "link", "set", "lo", "up"]))?;
        // What macvlan NICs stand on; its peer only keeps it up.
        if run(Command::new("ip").args(["-n", self.netns, "link", "show", "lan0"])).is_err() {
            let link = ["link", "add", "lan0", "type", "veth", "peer", "name", "lan0-peer"];
            run(Command::new("ip").args(["-n", self.netns]).args(link))?;
            for end in ["lan0", "lan0-peer"] {
                run(Command::new("ip").args(["-n", self.netns, "link", "set", end, "up"]))?;
            }
        }
        Ok(())
    }

    fn stamp_path(&self) -> PathBuf {
        self.own_dir.join("stamp")
    }

    /// Says that the bed is complete.
    pub(super) fn stamp(&self) -> Result<()> {
        fs::write(self.stamp_path(), self.make()).context("cannot write the stamp")
    }

    /// Whether the bed was completed by this version.
    pub(super) fn is_stamped(&self) -> bool {
        fs::read_to_string(self.stamp_path()).is_ok_and(|text| text == self.make())
    }

    /// Whether the bed was completed by another version.
    pub(super) fn is_of_another_make(&self) -> bool {
        fs::read_to_string(self.stamp_path()).is_ok_and(|text| text != self.make())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} NETNS={}", self.server.dir_variable(), self.dir.display(), self.netns)
    }
}
