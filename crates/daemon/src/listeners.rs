//! Listeners of a device: opened on the right side, taken out of service, given back, closed.
//!
//! Opening runs on a thread of its own: inside an instance a path may lie on a file system that
//! never answers, and a network namespace is a property of a thread.

mod genuine;

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use portway_model::{Address, DeviceSpec, IpHost, PortList, UnixKind, UnixName};
use portway_sys::listen::{self, V6Only};
use portway_sys::netns;
use portway_sys::unix_path::{self, BindError, Owner, Place};
use portway_sys::userns::{Extents, IdMap};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::net::SocketType;
use serde::{Deserialize, Serialize};

use crate::instance::plan::{Kind, RunId, Side, listen_side};
use crate::provider::Run;

/// Why listeners cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Something else listens there.
    #[error("{address} is in use")]
    Busy {
        /// Which address.
        address: String,
    },
    /// The address is not one of this side.
    #[error("{address} is not an address of {}", side_name(*side))]
    NotLocal {
        /// Which address.
        address: String,
        /// Which side.
        side: Side,
    },
    /// The caller may not.
    #[error("not permitted to listen on {address}")]
    Denied {
        /// Which address.
        address: String,
    },
    /// The folder of a socket path is missing.
    #[error("the folder of {path} does not exist {}", place_name(*side))]
    ParentMissing {
        /// Which path.
        path: String,
        /// Which side.
        side: Side,
    },
    /// The path is taken by something that is no dead socket.
    #[error("{path} is taken: {what}")]
    PathTaken {
        /// Which path.
        path: String,
        /// By what.
        what: String,
    },
    /// An id does not exist inside the instance.
    #[error("{key} {id} is outside the id map of the instance")]
    UnmappedId {
        /// `uid` or `gid`.
        key: &'static str,
        /// The id.
        id: u32,
    },
    /// The instance has ended meanwhile.
    #[error("the instance has ended")]
    Gone,
    /// The instance has no namespace that a listener could be opened in.
    #[error("bind=instance needs a container: no socket can be opened in a virtual machine from here")]
    Machine,
    /// Anything else the kernel says.
    #[error("cannot listen on {address}")]
    Io {
        /// Which address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
}

impl OpenError {
    /// Whether it is expected to pass by itself, so that a new device may wait for it.
    pub(crate) fn passes(&self) -> bool {
        match self {
            OpenError::NotLocal { .. } | OpenError::Gone => true,
            OpenError::ParentMissing { side, .. } => *side == Side::Instance,
            OpenError::Busy { .. }
            | OpenError::Denied { .. }
            | OpenError::PathTaken { .. }
            | OpenError::UnmappedId { .. }
            | OpenError::Machine
            | OpenError::Io { .. } => false,
        }
    }
}

fn place_name(side: Side) -> &'static str {
    match side {
        Side::Host => "on this host",
        Side::Instance => "in the instance",
    }
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Host => "this host",
        Side::Instance => "the instance",
    }
}

/// A socket file of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SocketFile {
    dev: u64,
    ino: u64,
}

/// What the daemon has to remember of listeners that others hold for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Canonical listen address.
    pub(crate) listen: String,
    /// Socket file, for a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<SocketFile>,
}

/// Open listeners of a device.
#[derive(Debug)]
pub(crate) struct Listeners {
    descriptors: Vec<OwnedFd>,
    /// Run whose namespaces they are in; `None` on the host.
    pub(crate) run: Option<RunId>,
    /// Clients are refused at present.
    pub(crate) refusing: bool,
    note: Note,
    /// Folder of a socket file inside an instance, to remove it when the instance's init dies.
    /// Closed with the listeners: it must not outlive the instance.
    folder: Option<OwnedFd>,
}

/// Kind of a device's listeners.
pub(crate) fn kind(spec: &DeviceSpec) -> Kind {
    match spec.listen.address() {
        Address::Tcp { .. } => Kind::Stream,
        Address::Udp { .. } => Kind::Datagram,
        // What waits in it is thrown away while the instance is down, as with udp.
        Address::Unix(UnixKind::Datagram, _) => Kind::Datagram,
        Address::Unix(UnixKind::Stream | UnixKind::Packet, _) => Kind::Unix,
    }
}

/// The kernel's word for a kind of unix socket.
pub(crate) fn socket_type(kind: UnixKind) -> SocketType {
    match kind {
        UnixKind::Stream => SocketType::STREAM,
        UnixKind::Packet => SocketType::SEQPACKET,
        UnixKind::Datagram => SocketType::DGRAM,
    }
}

/// How many listeners a device has.
pub(crate) fn count(spec: &DeviceSpec) -> u32 {
    match spec.listen.address() {
        Address::Tcp { ports, .. } | Address::Udp { ports, .. } => ports.count(),
        Address::Unix(..) => 1,
    }
}

/// Whether listeners of `spec` are files of the instance, whose file system may never answer.
pub(crate) fn is_inside(spec: &DeviceSpec) -> bool {
    listen_side(spec.bind) == Side::Instance
        && matches!(spec.listen.address(), Address::Unix(_, UnixName::Path(_)))
}

/// Opens the listeners of `spec`; `run` is needed for the instance's side. Blocks; call it on a
/// thread that may.
///
/// # Errors
/// [`OpenError`]; nothing is left behind.
pub(crate) fn open(spec: &DeviceSpec, run: Option<&Run>) -> Result<Listeners, OpenError> {
    let side = listen_side(spec.bind);
    let run = if side == Side::Instance { Some(run.ok_or(OpenError::Gone)?) } else { None };
    if run.is_some_and(Run::is_machine) {
        return Err(OpenError::Machine);
    }
    match spec.listen.address() {
        Address::Unix(_, UnixName::Path(path)) => open_path(spec, Path::new(path.as_str()), run),
        Address::Unix(_, UnixName::Abstract(_)) | Address::Tcp { .. } | Address::Udp { .. } => {
            open_in_netns(spec, run)
        }
    }
}

fn open_in_netns(spec: &DeviceSpec, run: Option<&Run>) -> Result<Listeners, OpenError> {
    let namespace = match run {
        Some(run) => Some(run.netns().map_err(|_| OpenError::Gone)?),
        None => None,
    };
    let side = listen_side(spec.bind);
    let wanted = spec.clone();
    let opened = netns::run_in(namespace, move || open_here(&wanted, side));
    let descriptors =
        opened.map_err(|source| OpenError::Io { address: spec.listen.to_string(), source })??;
    Ok(Listeners::new(descriptors, spec, run, None, None))
}

/// Opens inet and abstract listeners in the network namespace of the calling thread.
fn open_here(spec: &DeviceSpec, side: Side) -> Result<Vec<OwnedFd>, OpenError> {
    let v6only = if spec.v6only { V6Only::Yes } else { V6Only::No };
    match spec.listen.address() {
        Address::Tcp { host, ports } => {
            open_ports(host, ports, "tcp", side, |address| listen::tcp(address, v6only))
        }
        Address::Udp { host, ports } => {
            open_ports(host, ports, "udp", side, |address| listen::udp(address, v6only))
        }
        Address::Unix(kind, UnixName::Abstract(name)) => {
            listen::unix_abstract(socket_type(*kind), name.as_str().as_bytes())
                .map(|descriptor| vec![descriptor])
                .map_err(|source| inet_error(spec.listen.to_string(), side, source))
        }
        Address::Unix(_, UnixName::Path(_)) => Ok(Vec::new()),
    }
}

fn open_ports(
    host: &IpHost,
    ports: &PortList,
    protocol: &str,
    side: Side,
    open: impl Fn(SocketAddr) -> std::io::Result<OwnedFd>,
) -> Result<Vec<OwnedFd>, OpenError> {
    ports
        .iter()
        .map(|port| {
            let shown = || format!("{protocol}:{host}:{}", port.get());
            let address =
                socket_addr(host, port.get()).map_err(|source| inet_error(shown(), side, source))?;
            open(address).map_err(|source| inet_error(shown(), side, source))
        })
        .collect()
}

/// The kernel's form of a host and port; a zone is looked up in the calling thread's namespace.
pub(crate) fn socket_addr(host: &IpHost, port: u16) -> std::io::Result<SocketAddr> {
    Ok(match host.ip() {
        IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
        IpAddr::V6(ip) => {
            let scope = match host.zone() {
                Some(zone) => nix::net::if_::if_nametoindex(zone.as_str()).map_err(std::io::Error::from)?,
                None => 0,
            };
            SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope))
        }
    })
}

fn inet_error(address: String, side: Side, source: std::io::Error) -> OpenError {
    match source.raw_os_error() {
        Some(libc::EADDRINUSE) => OpenError::Busy { address },
        Some(libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO) => OpenError::NotLocal { address, side },
        Some(libc::EACCES | libc::EPERM) => OpenError::Denied { address },
        _ => OpenError::Io { address, source },
    }
}

fn open_path(spec: &DeviceSpec, path: &Path, run: Option<&Run>) -> Result<Listeners, OpenError> {
    let ids = run.and_then(|run| run.ids.as_ref());
    let root = match run {
        Some(run) => run.root().map_err(|_| OpenError::Gone)?,
        None => unix_path::host_root().map_err(|source| path_io(path, source))?,
    };
    let owner = owner(spec, ids)?;
    let side = listen_side(spec.bind);
    let place = Place { root, path: path.to_path_buf() };
    let folder = match run {
        Some(_) => unix_path::open_parent(place.root.as_fd(), path).ok().map(|(folder, _)| folder),
        None => None,
    };
    let kind = socket_type(spec.listen.address().unix_kind().unwrap_or(UnixKind::Stream));
    let mode = spec.socket.mode.bits().into();
    // A socket of the instance belongs to its network namespace: that is how it is told at adoption, and what the
    // abstract names of its clients mean.
    let namespace = match run {
        Some(run) => Some(run.netns().map_err(|_| OpenError::Gone)?),
        None => None,
    };
    let bound = netns::run_in(namespace, move || unix_path::bind(place, kind, owner, mode))
        .map_err(|source| path_io(path, source))?
        .map_err(|failure| path_error(failure, path, side))?;
    let file = SocketFile { dev: bound.dev, ino: bound.ino };
    Ok(Listeners::new(vec![bound.fd], spec, run, Some(file), folder))
}

fn owner(spec: &DeviceSpec, ids: Option<&IdMap>) -> Result<Owner, OpenError> {
    let map = |key, id: u32, extents: Option<&Extents>| match extents {
        Some(extents) => extents.to_host(id).ok_or(OpenError::UnmappedId { key, id }),
        None => Ok(id),
    };
    let (own_uid, own_gid) = match ids {
        Some(_) => (0, 0),
        None => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    Ok(Owner {
        uid: map("uid", spec.socket.uid.unwrap_or(own_uid), ids.map(|ids| &ids.uids))?,
        gid: map("gid", spec.socket.gid.unwrap_or(own_gid), ids.map(|ids| &ids.gids))?,
    })
}

fn path_error(failure: BindError, path: &Path, side: Side) -> OpenError {
    let path = path.display().to_string();
    match failure {
        BindError::ParentMissing { .. } => OpenError::ParentMissing { path, side },
        BindError::NotASocket { .. } => OpenError::PathTaken { path, what: "it is not a socket".into() },
        BindError::InUse { .. } => {
            OpenError::PathTaken { path, what: "another program listens there".into() }
        }
        BindError::Denied { source, .. } | BindError::Failed { source, .. } => {
            OpenError::Io { address: format!("unix:{path}"), source }
        }
        other @ BindError::NotMapped { .. } => {
            OpenError::Io { address: format!("unix:{path}"), source: std::io::Error::other(other) }
        }
    }
}

fn path_io(path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io { address: format!("unix:{}", path.display()), source }
}

impl Listeners {
    fn new(
        descriptors: Vec<OwnedFd>,
        spec: &DeviceSpec,
        run: Option<&Run>,
        file: Option<SocketFile>,
        folder: Option<OwnedFd>,
    ) -> Listeners {
        let note = Note { listen: spec.listen.to_string(), file };
        Listeners { descriptors, run: run.map(|run| run.id.clone()), refusing: false, note, folder }
    }

    /// Listeners that a keeper or worker held, if they are what `spec` needs: right number, right
    /// address, right network namespace. Whoever held them may lie.
    pub(crate) fn recover(
        descriptors: Vec<OwnedFd>,
        note: &str,
        spec: &DeviceSpec,
        run: Option<&Run>,
    ) -> Option<Listeners> {
        let note: Note = serde_json::from_str(note).ok()?;
        let enough = u32::try_from(descriptors.len()).ok()? == count(spec);
        if !enough || note.listen != spec.listen.to_string() || !genuine::is_genuine(&descriptors, spec, run)
        {
            return None;
        }
        let refusing = kind(spec) == Kind::Stream
            && !descriptors.iter().all(|listener| listen::is_listening(listener.as_fd()).unwrap_or(false));
        let folder = match (run, spec.listen.address()) {
            (Some(run), Address::Unix(_, UnixName::Path(path))) => {
                let root = run.root().ok()?;
                unix_path::open_parent(root.as_fd(), Path::new(path.as_str())).ok().map(|(folder, _)| folder)
            }
            _ => None,
        };
        Some(Listeners { descriptors, run: run.map(|run| run.id.clone()), refusing, note, folder })
    }

    /// Borrowed, by listen index.
    pub(crate) fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.descriptors.iter().map(AsFd::as_fd).collect()
    }

    /// What others keep beside them.
    pub(crate) fn note(&self) -> String {
        serde_json::to_string(&self.note).unwrap_or_default()
    }

    /// Refuses clients, keeps the addresses. Only for streams.
    pub(crate) fn refuse(&mut self) -> std::io::Result<()> {
        self.refusing = true;
        self.descriptors.iter().try_for_each(|listener| listen::refuse(listener.as_fd()))
    }

    /// Takes clients again.
    pub(crate) fn reopen(&mut self) -> std::io::Result<()> {
        self.descriptors.iter().try_for_each(|listener| listen::relisten(listener.as_fd()))?;
        self.refusing = false;
        Ok(())
    }

    /// Throws away what waits in datagram listeners and returns how many.
    pub(crate) fn discard(&self) -> u64 {
        let mut discarded = 0;
        let mut nothing = [0_u8; 1];
        for listener in &self.descriptors {
            while discarded < 100_000
                && nix::sys::socket::recv(
                    std::os::fd::AsRawFd::as_raw_fd(listener),
                    &mut nothing,
                    nix::sys::socket::MsgFlags::MSG_DONTWAIT,
                )
                .is_ok()
            {
                discarded += 1;
            }
        }
        discarded
    }

    /// A check of whether the socket file is still where clients look for it; `None` without one.
    /// It looks at a file system that may never answer: run it on a thread that may block.
    pub(crate) fn visibility(
        &self,
        spec: &DeviceSpec,
        run: Option<&Run>,
    ) -> Option<impl FnOnce() -> bool + Send + use<>> {
        let (Some(file), Address::Unix(_, UnixName::Path(path))) = (self.note.file, spec.listen.address())
        else {
            return None;
        };
        let (path, inside, run) = (path.as_path().to_path_buf(), self.run.is_some(), run.cloned());
        Some(move || match place(&path, inside, run.as_ref()) {
            Some(place) => unix_path::check(&place, file.dev, file.ino),
            None => true,
        })
    }

    /// Closes them; a socket file that is still ours is removed, in the namespace it was made in.
    pub(crate) fn close(self, spec: &DeviceSpec, run: Option<&Run>) {
        let (Some(file), Address::Unix(_, UnixName::Path(path))) = (self.note.file, spec.listen.address())
        else {
            return;
        };
        let path = Path::new(path.as_str());
        let removed = match (&self.folder, path.file_name()) {
            (Some(folder), Some(name)) => remove_in_folder(folder.as_fd(), name, file),
            _ => match place(path, self.run.is_some(), run) {
                Some(place) => unix_path::remove_if_ours(&place, file.dev, file.ino),
                None => Ok(false),
            },
        };
        if let Err(failure) = removed {
            tracing::warn!(path = %path.display(), error = %failure, "socket file not removed");
        }
    }
}

/// Removes `name` from `folder` if it is `file`; true when it was.
fn remove_in_folder(
    folder: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    file: SocketFile,
) -> std::io::Result<bool> {
    let found = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        other => other?,
    };
    if (found.st_dev, found.st_ino) != (file.dev, file.ino) {
        return Ok(false);
    }
    rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
    Ok(true)
}

fn place(path: &Path, inside: bool, run: Option<&Run>) -> Option<Place> {
    let root = if inside { run?.root().ok()? } else { unix_path::host_root().ok()? };
    Some(Place { root, path: PathBuf::from(path) })
}
