//! Addresses for a device's two ends: as its keys have them, and as the test reaches them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use portway_testkit::{Addr, Listener, Rig, Site, Stream};

/// How long any wait may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Kind of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Path,
    Abstract,
    Udp,
}

/// Kinds that carry streams.
pub(crate) const STREAMS: [Kind; 3] = [Kind::Tcp, Kind::Path, Kind::Abstract];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Path => "unix path",
            Kind::Abstract => "unix abstract",
            Kind::Udp => "udp",
        }
    }
}

/// Value of the key `bind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    Host,
    Instance,
}

pub(crate) const BOTH: [Bind; 2] = [Bind::Host, Bind::Instance];

impl Bind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Bind::Host => "host",
            Bind::Instance => "instance",
        }
    }
}

/// One end of a device.
#[derive(Debug)]
pub(crate) struct End {
    /// The key's value.
    pub(crate) key: String,
    /// Where the test listens or connects; for udp the address of it.
    pub(crate) addr: Addr,
    /// Where that is.
    pub(crate) site: Site,
}

/// A device that listens at one kind of address and connects to another, with both its ends.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) listen: End,
    pub(crate) connect: End,
    pub(crate) bind: Bind,
}

impl Pair {
    /// Free addresses; `number` tells pairs of one rig apart.
    pub(crate) fn new(rig: &Rig, bind: Bind, listen: Kind, connect: Kind, number: u16) -> Result<Self> {
        let (outside, inside) = match bind {
            Bind::Host => (listen, connect),
            Bind::Instance => (connect, listen),
        };
        let (host, instance) = (on_host(rig, outside, number)?, in_instance(rig, inside, number)?);
        let (listen, connect) = match bind {
            Bind::Host => (host, instance),
            Bind::Instance => (instance, host),
        };
        Ok(Self { listen, connect, bind })
    }

    /// Listens where the device connects to, for everybody: its relay is an unprivileged user.
    pub(crate) fn target(&self) -> Target {
        let listener = self.connect.site.run(|| self.connect.addr.listen()).unwrap().unwrap();
        Target { listener, _file: SocketFile::open_to_all(&self.connect.addr) }
    }

    /// Adds the device, with more keys.
    pub(crate) fn add(&self, rig: &Rig, device: &str, more: &[&str]) -> Result<()> {
        let keys = [
            format!("listen={}", self.listen.key),
            format!("connect={}", self.connect.key),
            format!("bind={}", self.bind.name()),
        ];
        let keys: Vec<&str> = keys.iter().map(String::as_str).chain(more.iter().copied()).collect();
        rig.add(device, &keys)?;
        rig.daemon.wait_for_state(device, "active")
    }
}

/// The far end of a device, accepted from by hand.
#[derive(Debug)]
pub(crate) struct Target {
    listener: Listener,
    _file: SocketFile,
}

impl Target {
    /// The next connection of the relay.
    pub(crate) fn accept(&self) -> Result<Stream> {
        self.listener.accept_within(LIMIT).context("the device does not connect")
    }
}

/// A service's socket file, removed on drop; nothing for other addresses.
#[derive(Debug)]
pub(crate) struct SocketFile(Option<PathBuf>);

impl SocketFile {
    /// Lets everybody connect.
    pub(crate) fn open_to_all(addr: &Addr) -> Self {
        let Addr::Unix(path) = addr else { return Self(None) };
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(Some(path.clone()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn on_host(rig: &Rig, kind: Kind, number: u16) -> Result<End> {
    let site = rig.host().clone();
    Ok(match kind {
        Kind::Tcp | Kind::Udp => inet(kind, rig.ports.one()?, site),
        Kind::Abstract => unix_abstract(rig, number, site),
        Kind::Path => {
            let path = rig.path(&format!("s{number}"));
            End { key: format!("unix:{}", path.display()), addr: Addr::Unix(path), site }
        }
    })
}

fn in_instance(rig: &Rig, kind: Kind, number: u16) -> Result<End> {
    let site = rig.inside()?;
    Ok(match kind {
        Kind::Tcp | Kind::Udp => inet(kind, 7000 + number, site),
        Kind::Abstract => unix_abstract(rig, number, site),
        Kind::Path => {
            let path = format!("/srv/s{number}");
            End { key: format!("unix:{path}"), addr: Addr::Unix(site.path(Path::new(&path))), site }
        }
    })
}

fn inet(kind: Kind, port: u16, site: Site) -> End {
    let address = format!("127.0.0.1:{port}");
    End { key: format!("{}:{address}", kind.name()), addr: Addr::tcp(&address), site }
}

fn unix_abstract(rig: &Rig, number: u16, site: Site) -> End {
    let name = format!("{}-{number}", rig.container.name());
    End { key: format!("unix:@{name}"), addr: Addr::Abstract(name), site }
}
