//! Where a bed is: its names, folders and numbers.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run;

/// Version of what `up` makes; raise it with every change to image, network, profile or start.
const MAKE: &str = "incus6 bed 2\n";

/// The names, folders and numbers of one bed. No other bed shares any of them.
#[derive(Debug, Clone)]
pub struct Place {
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
    /// Incus 6.0.
    #[must_use]
    pub fn incus6() -> Self {
        let root = PathBuf::from("/var/lib/portway-testbed");
        Self {
            name: "incus6",
            netns: "portway-incus6",
            dir: root.join("incus6"),
            own_dir: root.join("incus6.own"),
            bridge_v4: "10.191.6.1/24",
            bridge_v6: "fd42:191:6::1/64",
            ids: (1_100_000_000, 100_000_000),
        }
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
        self.own_dir.join("incusd.log")
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
        fs::write(self.stamp_path(), MAKE).context("cannot write the stamp")
    }

    /// Whether the bed was completed by this version.
    pub(super) fn is_stamped(&self) -> bool {
        fs::read_to_string(self.stamp_path()).is_ok_and(|text| text == MAKE)
    }

    /// Whether the bed was completed by another version.
    pub(super) fn is_of_another_make(&self) -> bool {
        fs::read_to_string(self.stamp_path()).is_ok_and(|text| text != MAKE)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "INCUS_DIR={} NETNS={}", self.dir.display(), self.netns)
    }
}
