//! Ways to servers: the gateway's own, and those that the configuration of Incus' client names.
//!
//! A server on this host is its socket. One elsewhere has a process of its own that speaks TLS with it ([`crate::tunnel`]);
//! connections are made here, where names can be looked up and sockets opened, and handed over unread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as UnixStd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portway_config::files::{self, Trust};
use portway_incus::{Client, Dial};
use portway_sys::seqpacket::Channel;
use portway_sys::{process, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::fresh::{Fresh, Stamp, stamp};
use super::lock;
use crate::remotes::{
    At, Https, ImageServer, LOCAL, Named, PEM_BYTES, Proof, RemoteError, Remotes, authorities,
};
use crate::tunnel::{Init, InitProof, ROLE};
use crate::watched::{send, watched, watched_channel};
use crate::wire::{self, PROTOCOL_VERSION};

/// How long a server may take to be connected to.
const CONNECT: Duration = Duration::from_secs(5);
const CONNECT_ADDRESS: Duration = Duration::from_secs(2);

/// When a server that says nothing is asked whether it is there, how often, and when it is given up.
const IDLE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(15);
const PROBES: u32 = 3;

/// How often the log says that there is no way to a server.
const SAID: Duration = Duration::from_secs(10);

/// Where servers are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// The gateway's own server; `None`: there is none.
    pub own: Option<At>,
    /// The folder of the client's configuration.
    pub folder: Option<PathBuf>,
    /// The server of a login that names none.
    pub default: String,
}

/// What a process for TLS is told besides.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) ids: Option<(u32, u32)>,
    pub(super) log: String,
}

/// Gives clients of servers.
#[derive(Debug)]
pub(super) struct Servers {
    places: Places,
    named: Fresh<Remotes>,
    tunnels: Mutex<BTreeMap<String, Arc<Tunnel>>>,
    setting: Setting,
    said: Said,
}

/// When the log had a line that clients can cause.
#[derive(Debug, Default)]
struct Said(Mutex<Option<Instant>>);

impl Said {
    /// Whether it may have another.
    fn again(&self) -> bool {
        let mut last = lock(&self.0);
        let may = last.is_none_or(|at| at.elapsed() >= SAID);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

impl Servers {
    pub(super) fn new(places: Places, setting: Setting) -> Self {
        Self { places, named: Fresh::default(), tunnels: Mutex::default(), setting, said: Said::default() }
    }

    /// What a login's server is called, by rules too: the gateway's own has one name, whatever else it is called.
    pub(super) fn name(&self, named: Option<&str>) -> String {
        let name = named.unwrap_or(&self.places.default);
        if self.is_own(name) { LOCAL.to_owned() } else { name.to_owned() }
    }

    fn is_own(&self, name: &str) -> bool {
        match (self.find(name), &self.places.own) {
            (Ok(Named::Own), _) => true,
            (Ok(Named::At(At::Socket(path))), Some(At::Socket(own))) => path == *own,
            (Ok(Named::At(At::Https(https))), Some(At::Https(own))) => {
                (&https.host, https.port) == (&own.host, own.port)
            }
            _ => false,
        }
    }

    /// A client of the server of logins that name none.
    pub(super) fn default(&self) -> Result<Client, RemoteError> {
        self.client(&self.places.default)
    }

    /// A client of a server. Nothing is connected yet.
    pub(super) fn client(&self, name: &str) -> Result<Client, RemoteError> {
        let own = || {
            let own = self.places.own.clone();
            own.ok_or_else(|| RemoteError::Unusable(name.to_owned(), "there is none on this host".to_owned()))
        };
        let at = match self.find(name)? {
            Named::Own => own()?,
            Named::At(at) => at,
        };
        Ok(match at {
            At::Socket(path) => Client::new(path),
            At::Https(https) => {
                let url = https.url.clone();
                Client::through(url, self.tunnel(name, https))
            }
        })
    }

    /// Whether it is spoken to over a network.
    pub(super) fn is_far(&self, name: &str) -> bool {
        let own = || matches!(self.places.own, Some(At::Https(_)));
        match self.find(name) {
            Ok(Named::Own) => own(),
            Ok(Named::At(at)) => matches!(at, At::Https(_)),
            Err(_) => false,
        }
    }

    /// A server of images, by its name.
    pub(super) fn images(&self, name: &str) -> Option<ImageServer> {
        self.remotes().ok()?.images(name).cloned()
    }

    fn find(&self, name: &str) -> Result<Named, RemoteError> {
        if name == LOCAL {
            return Ok(Named::Own);
        }
        let unknown = || RemoteError::Unknown(name.to_owned());
        self.remotes().map_err(|()| unknown())?.find(name)
    }

    /// The servers of the client's configuration as it is; what is wrong with it is logged.
    fn remotes(&self) -> Result<Arc<Remotes>, ()> {
        let folder = self.places.folder.as_ref().ok_or(())?;
        let load = |path: &Path| {
            let dir = path.parent().unwrap_or(path);
            Remotes::load(dir).map_err(|error| super::judge::why(&error))
        };
        self.named.get(&folder.join("config.yml"), load).map_err(|error| {
            if self.said.again() {
                tracing::warn!(error, "servers elsewhere are not known");
            }
        })
    }

    /// The tunnel to a server: the one there is, or a new one where it has moved.
    fn tunnel(&self, name: &str, https: Https) -> Arc<Tunnel> {
        let mut tunnels = lock(&self.tunnels);
        if let Some(tunnel) = tunnels.get(name)
            && tunnel.https == https
        {
            return Arc::clone(tunnel);
        }
        let tunnel = Arc::new(Tunnel {
            name: name.to_owned(),
            https,
            setting: self.setting.clone(),
            running: tokio::sync::Mutex::default(),
            said: Said::default(),
        });
        tunnels.insert(name.to_owned(), Arc::clone(&tunnel));
        tunnel
    }
}

/// A client of a server for a command that ends, and whether it is spoken to over a network. Nothing is connected yet.
///
/// # Errors
/// [`RemoteError`].
pub fn client(name: &str, places: Places) -> Result<(Client, bool), RemoteError> {
    let setting = Setting { ids: None, log: "error".to_owned() };
    let servers = Servers::new(places, setting);
    Ok((servers.client(name)?, servers.is_far(name)))
}

/// The way to a server elsewhere.
#[derive(Debug)]
struct Tunnel {
    name: String,
    https: Https,
    setting: Setting,
    running: tokio::sync::Mutex<Option<Running>>,
    said: Said,
}

/// Its process. It ends after this, and its connections.
#[derive(Debug)]
struct Running {
    channel: AsyncFd<Channel>,
    /// Of the files it was given.
    stamps: Vec<Stamp>,
}

impl Dial for Tunnel {
    fn dial(&self) -> Pin<Box<dyn Future<Output = io::Result<UnixStream>> + Send + '_>> {
        Box::pin(async move {
            let dialled = self.connect().await;
            if let Err(error) = &dialled
                && self.said.again()
            {
                tracing::warn!(%error, server = self.name, url = self.https.url, "no way to a server");
            }
            dialled
        })
    }
}

/// To the first of its addresses that takes it: one that nobody answers at has only a part of the time.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failed = io::ErrorKind::NotFound.into();
    for address in tokio::net::lookup_host((host, port)).await? {
        match tokio::time::timeout(CONNECT_ADDRESS, TcpStream::connect(address)).await {
            Ok(Ok(far)) => return Ok(far),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

impl Tunnel {
    async fn connect(&self) -> io::Result<UnixStream> {
        let Https { host, port, .. } = &self.https;
        let far = tokio::time::timeout(CONNECT, connect(host, *port));
        let far = far.await.map_err(|_| io::ErrorKind::TimedOut)??;
        far.set_nodelay(true)?;
        let far = OwnedFd::from(far.into_std()?);
        // No TCP_USER_TIMEOUT: it ends a connection whose other side takes nothing for that long, though it is there
        // (tcp(7)); what a program reads may stay unread for hours.
        sockopt::keepalive(std::os::fd::AsFd::as_fd(&far), IDLE, PROBE, PROBES)?;
        let (ours, theirs) = UnixStd::pair()?;
        ours.set_nonblocking(true)?;
        self.hand_over(&[far, theirs.into()]).await?;
        UnixStream::from_std(ours)
    }

    /// To the process there is, if it was given the files as they are; else to a new one.
    async fn hand_over(&self, fds: &[OwnedFd; 2]) -> io::Result<()> {
        let stamps = self.stamps()?;
        let mut running = self.running.lock().await;
        if let Some(process) = running.as_ref().filter(|process| process.stamps == stamps)
            && send(&process.channel, b"\n", fds).await.is_ok()
        {
            return Ok(());
        }
        let process = self.start(stamps)?;
        send(&process.channel, b"\n", fds).await?;
        *running = Some(process);
        Ok(())
    }

    fn stamps(&self) -> io::Result<Vec<Stamp>> {
        let Https { cert, key, proof, .. } = &self.https;
        let needed = |path: &PathBuf| {
            stamp(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let mut stamps = vec![needed(cert)?, needed(key)?];
        match proof {
            Proof::Pinned(path) => stamps.push(needed(path)?),
            Proof::PinnedOrKnown(path) => stamps.extend(stamp(path).ok()),
            Proof::Known => {}
        }
        Ok(stamps)
    }

    fn start(&self, stamps: Vec<Stamp>) -> io::Result<Running> {
        let read = |path: &Path| {
            let bytes = files::read(path, PEM_BYTES, Trust::Own).and_then(|bytes| files::text(path, bytes));
            bytes.map_err(|error| io::Error::other(super::judge::why(&error)))
        };
        let Https { cert, key, proof, host, .. } = &self.https;
        let known = || {
            let none = || io::Error::other("this host has no file of authorities that it trusts");
            authorities().ok_or_else(none).map(InitProof::Known)
        };
        let init = Init {
            version: PROTOCOL_VERSION,
            host: host.clone(),
            cert: read(cert)?,
            key: read(key)?,
            proof: match proof {
                Proof::Pinned(path) => InitProof::Pinned(read(path)?),
                Proof::PinnedOrKnown(path) if path.exists() => InitProof::Pinned(read(path)?),
                Proof::PinnedOrKnown(_) | Proof::Known => known()?,
            },
            ids: self.setting.ids,
            log: self.setting.log.clone(),
        };
        let (ours, theirs) = Channel::pair()?;
        ours.send(&wire::encode(&init, &[])?, &[])?;
        let channel = watched_channel(ours)?;
        let process = process::spawn_role(&ROLE, vec![theirs.into()], Vec::new())?;
        tokio::spawn(async move {
            if let Ok(ended) = watched(process.pidfd) {
                let _ended = ended.readable().await;
            }
            let _reaped = process::reap(process.pid);
        });
        Ok(Running { channel, stamps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when rules for the gateway's own server are passed by with another name of it.
    #[test]
    fn the_own_server_has_one_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "remotes:\n  here: {addr: 'unix://'}\n  there: {addr: 'unix:///other'}\n  same: {addr: 'unix:///own'}\n";
        std::fs::write(folder.path().join("config.yml"), text).expect("written");
        let own = Some(At::Socket("/own".into()));
        let default = "same".to_owned();
        let places = Places { own, folder: Some(folder.path().to_owned()), default };
        let servers = Servers::new(places, Setting { ids: None, log: String::new() });
        let names = [None, Some("here"), Some("same"), Some("local"), Some("there"), Some("none")];
        assert_eq!(
            names.map(|name| servers.name(name)),
            ["local", "local", "local", "local", "there", "none"]
        );
    }
}
