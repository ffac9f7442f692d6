//! Paths on either side of a device, and the service behind it.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use portway_testkit::{Addr, Listener, Rig, Site, Stream, check, wait_for};

/// How long any wait may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Value of the key `bind`: which side listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    Host,
    Instance,
}

pub(crate) const BOTH: [Bind; 2] = [Bind::Host, Bind::Instance];

impl Bind {
    pub(crate) fn key(self) -> &'static str {
        match self {
            Bind::Host => "bind=host",
            Bind::Instance => "bind=instance",
        }
    }

    pub(crate) fn is_host(self) -> bool {
        self == Bind::Host
    }
}

/// A path of one side: as a key has it, and as the test's own process reaches it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) key: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) site: Site,
}

impl Place {
    /// A path in a folder everybody may enter: a temporary one on the host, `/srv` in the container.
    pub(crate) fn new(rig: &Rig, on_host: bool, name: &str) -> Self {
        if on_host {
            let path = rig.path(name);
            return Self { key: path.clone(), path, site: rig.host().clone() };
        }
        let (key, site) = (Path::new("/srv").join(name), rig.inside().unwrap());
        Self { path: site.path(&key), key, site }
    }

    /// The side that listens.
    pub(crate) fn listen(rig: &Rig, bind: Bind, name: &str) -> Self {
        Self::new(rig, bind == Bind::Host, name)
    }

    /// The side that is connected to.
    pub(crate) fn connect(rig: &Rig, bind: Bind, name: &str) -> Self {
        Self::new(rig, bind == Bind::Instance, name)
    }

    /// `KEY=unix:PATH`.
    pub(crate) fn pair(&self, key: &str) -> String {
        format!("{key}=unix:{}", self.key.display())
    }

    pub(crate) fn is_socket(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.file_type().is_socket())
    }

    /// Whether anything is there.
    pub(crate) fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    pub(crate) fn wait_until_gone(&self) {
        wait_for(&format!("{} is gone", self.key.display()), || (!self.exists()).then_some(())).unwrap();
    }

    /// Listens there, for everybody.
    pub(crate) fn serve(&self) -> Listener {
        let listener = self.site.run(|| Addr::unix(&self.path).listen()).unwrap().unwrap();
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o777)).unwrap();
        listener
    }

    pub(crate) fn dial(&self) -> Stream {
        check::dial(&self.site, &Addr::unix(&self.path)).unwrap()
    }

    /// Waits until a client is served from end to end by a service that echoes.
    pub(crate) fn wait_until_served(&self) {
        let try_once = || {
            let stream = self.site.run(|| Addr::unix(&self.path).connect(LIMIT)).ok()?.ok()?;
            stream.set_timeout(LIMIT).ok()?;
            check::echo(&stream, 1_000, 1).ok()
        };
        wait_for(&format!("{} is served", self.key.display()), try_once).unwrap();
    }
}

/// The unix socket of a stream.
pub(crate) fn unix(stream: &Stream) -> &UnixStream {
    match stream {
        Stream::Unix(stream) => stream,
        Stream::Tcp(_) => panic!("a unix stream"),
    }
}

/// Adds a device and waits until it serves.
pub(crate) fn add(rig: &Rig, name: &str, keys: &[&str]) -> Result<()> {
    rig.add(name, keys)?;
    rig.daemon.wait_for_state(name, "active")
}

/// Keys of a device, and some more.
pub(crate) fn with<'a>(keys: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    keys.iter().map(String::as_str).chain(more.iter().copied()).collect()
}
