//! The process of a registrar: its folder, its store, its sockets, until it is told to end.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portway_sys::listen::V6Only;
use portway_sys::process;
use portway_sys::unix_path::{self, Owner, Place};
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::{Registrar, RegistrarError, serve};
use crate::org::disk::{self, DiskError};
use crate::org::store::{Etcd, EtcdAddress, FileStore, Store, StoreError};

/// Name of the store's file, and of the owner's socket.
const STORE_FILE: &str = "registrar.redb";
const SOCKET_FILE: &str = "registrar.sock";

/// Its owner alone.
const SOCKET_MODE: u32 = 0o600;

/// How a registrar runs.
#[derive(Debug)]
pub struct RunOptions {
    /// Where devices connect to.
    pub listen: SocketAddr,
    /// The second UDP port where devices ask where they come from; one above the first if `None`.
    pub second_port: Option<u16>,
    /// Its folder.
    pub dir: PathBuf,
    /// A store that others use too; `None` for a file in the folder.
    pub etcd: Option<EtcdAddress>,
}

/// Why it does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys or folder.
    #[error(transparent)]
    Registrar(#[from] RegistrarError),
    /// Its folder.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its port.
    #[error("cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Its socket.
    #[error(transparent)]
    Socket(#[from] unix_path::BindError),
    /// The process itself.
    #[error("cannot start")]
    Start(#[source] io::Error),
}

/// The owner's socket in the folder of a registrar.
#[must_use]
pub fn socket(dir: &Path) -> PathBuf {
    dir.join(SOCKET_FILE)
}

/// Runs a registrar until SIGTERM or SIGINT. `ready` hears where it listens once both sockets are there.
///
/// # Errors
/// [`RunError`].
pub fn run(options: &RunOptions, ready: impl FnOnce(SocketAddr)) -> Result<(), RunError> {
    let filter = EnvFilter::try_from_env("PORTWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    // To be told of a line that cannot be written, as on a full disk, would end the thread: eprintln! panics.
    let builder = builder.log_internal_errors(false);
    let _second = builder.with_writer(io::stderr).try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(RunError::Start)?;
    let done = runtime.block_on(attend(options, ready));
    // A commit that is under way is finished; a connection is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}

async fn attend(options: &RunOptions, ready: impl FnOnce(SocketAddr)) -> Result<(), RunError> {
    let mut term = signal(SignalKind::terminate()).map_err(RunError::Start)?;
    let mut int = signal(SignalKind::interrupt()).map_err(RunError::Start)?;
    let _limit = process::raise_nofile();
    disk::folder(&options.dir)?;
    let store: Arc<dyn Store> = match &options.etcd {
        Some(address) => Arc::new(Etcd::new(address.clone())),
        None => Arc::new(FileStore::open(&options.dir.join(STORE_FILE))?),
    };
    let registrar = Registrar::open(&options.dir, store)?;
    let failed = |source| RunError::Listen { listen: options.listen, source };
    let devices = TcpListener::bind(options.listen).await.map_err(failed)?;
    let listen = devices.local_addr().map_err(failed)?;
    let datagrams = portway_sys::listen::udp(listen, V6Only::No).map_err(failed)?;
    let datagrams = UdpSocket::from_std(datagrams.into()).map_err(failed)?;
    let second = second_socket(listen, options.second_port);
    let owner = owner_socket(&socket(&options.dir))?;
    info!(%listen, dir = %options.dir.display(), "registrar ready");
    ready(listen);
    tokio::select! {
        done = serve::serve(registrar, serve::Sockets { devices, datagrams, second, owner }) => match done {
            Ok(never) => match never {},
            Err(error) => Err(error.into()),
        },
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    }
}

/// The second port for questions of STUN; one that nobody has, if it is not said which. Without it devices are served as well,
/// and do not see one thing.
fn second_socket(listen: SocketAddr, port: Option<u16>) -> Option<UdpSocket> {
    const WITHOUT: &str = "no second UDP port: devices do not see whether their NAT is symmetric";
    let second = SocketAddr::new(listen.ip(), port.unwrap_or(0));
    let socket = portway_sys::listen::udp(second, V6Only::No);
    let socket = socket.and_then(|socket| UdpSocket::from_std(socket.into()));
    socket.inspect_err(|error| warn!(listen = %second, %error, "{WITHOUT}")).ok()
}

fn owner_socket(path: &Path) -> Result<UnixListener, RunError> {
    let root = unix_path::host_root().map_err(RunError::Start)?;
    let path = std::path::absolute(path).map_err(RunError::Start)?;
    let own = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let bound = unix_path::bind_stream(Place { root, path }, own, SOCKET_MODE)?;
    UnixListener::from_std(bound.fd.into()).map_err(RunError::Start)
}
