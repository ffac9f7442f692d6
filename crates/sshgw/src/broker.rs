//! The privileged side: listens, starts a process for each connection, and answers what that one may ask.
//!
//! It reads no byte of a client. What it is told about one comes from the connection's own process (`wire`)
//! and counts as that client's words. A process that asks for more than the table allows is killed.
//!
//! - `gate`: who may be connected without having logged in (pure);
//! - `child`: one connection's process, from its start to its end;
//! - `judge`, `grant`: who somebody is and what that one may do;
//! - `account`, `open`, `helper`: from a grant to a program inside an instance;
//! - `roll`: what the next broker needs to know of sessions.

mod account;
mod child;
mod gate;
mod grant;
mod helper;
mod judge;
mod open;
mod roll;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portway_config::{LogFilter, UserIds};
use portway_incus::Client;
use portway_sys::pidfd;
use russh::keys::ssh_key::LineEnding;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::audit::Audit;
use crate::hostkey::{self, HostKeyError};
use crate::logging;
use gate::{Entry, Gate};
use roll::Roll;

pub(crate) use grant::Grant;
pub(crate) use open::{is_accepted, kind};

/// How long a client may take to log in.
const GRACE: Duration = Duration::from_secs(30);

/// Pause after the system has run out of descriptors or memory.
const SHORTAGE: Duration = Duration::from_millis(100);

/// What a gateway is told when it starts.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The key that says who this is; made when it is not there.
    pub host_key: PathBuf,
    /// Folder of the records of sessions.
    pub sessions: PathBuf,
    /// Log of who did what.
    pub audit: PathBuf,
    /// The server's socket.
    pub incus: PathBuf,
    /// User that the processes of connections become; `None` leaves them the caller's.
    pub ids: Option<UserIds>,
    /// What is logged on standard error.
    pub log: LogFilter,
}

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No identity.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// No place for records of sessions.
    #[error("cannot keep sessions in {}", path.display())]
    Sessions {
        /// The folder.
        path: PathBuf,
        /// Why; `WouldBlock` when another gateway keeps its own there.
        source: io::Error,
    },
    /// No log.
    #[error("cannot write the audit log {}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// What every process needs is not to be had.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What all connections share.
struct Broker {
    options: ServeOptions,
    client: Client,
    /// In OpenSSH's format.
    host_key: String,
    audit: Audit,
    roll: Roll,
    gate: Mutex<Gate>,
    /// Connections that have not logged in, each with the way to end it.
    waiting: Mutex<BTreeMap<u64, Arc<Notify>>>,
    next: AtomicU64,
}

/// Listens and serves until it is told to end (SIGTERM, SIGINT). Connections that are open live on: their processes
/// need nobody for what runs. `ready` is called once clients can connect.
///
/// # Errors
/// Any [`ServeError`], all of them before `ready`.
pub fn serve(options: ServeOptions, ready: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let system = |what| move |source| ServeError::System { what, source };
    logging::start(options.log.as_str());
    let key = hostkey::load_or_make(&options.host_key)?;
    let host_key =
        key.to_openssh(LineEnding::LF).map_err(io::Error::other).map_err(system("use the host key"))?;
    let failed = |source| ServeError::Audit { path: options.audit.clone(), source };
    let audit = Audit::open(options.audit.clone()).map_err(failed)?;
    let failed = |source| ServeError::Sessions { path: options.sessions.clone(), source };
    let roll = Roll::open(options.sessions.clone()).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(system("start"))?.block_on(async move {
        let address = options.listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ServeError::Listen { address, source })?;
        let mut terminate = signal(SignalKind::terminate()).map_err(system("catch signals"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("catch signals"))?;
        let broker = Arc::new(Broker {
            client: Client::new(options.incus.clone()),
            host_key: host_key.to_string(),
            audit,
            roll,
            gate: Mutex::default(),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
            options,
        });
        broker.take_over();
        ready(listener.local_addr().map_err(system("name the listener"))?);
        tokio::select! {
            () = broker.accept(&listener) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

impl Broker {
    /// Takes over the sessions of a gateway that has ended.
    fn take_over(self: &Arc<Self>) {
        match self.roll.sweep() {
            Ok(records) => {
                for record in records {
                    tokio::spawn(child::take_over(Arc::clone(self), record));
                }
            }
            Err(error) => tracing::warn!(%error, "sessions of another gateway are not found"),
        }
    }

    /// Takes clients, for ever.
    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.enter(stream, peer),
                // One that has gone before it was taken is no fault of ours; anything else is a shortage.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "no client can be taken");
                    tokio::time::sleep(SHORTAGE).await;
                }
            }
        }
    }

    /// Lets a client in, or not.
    fn enter(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // A client of IPv4 on a listener of both families is written as what it is, everywhere.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        match lock(&self.gate).enter(id, peer.ip(), Instant::now()) {
            Entry::Penalised => {
                tracing::debug!(%peer, "turned away for its faults");
                return;
            }
            Entry::Open { instead_of } => {
                let ended = instead_of.and_then(|other| lock(&self.waiting).remove(&other));
                if let Some(ended) = ended {
                    ended.notify_one();
                }
            }
        }
        let end = Arc::new(Notify::new());
        lock(&self.waiting).insert(id, Arc::clone(&end));
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            let fault = child::serve(&broker, id, stream, peer, &end).await;
            broker.leave(id);
            if let Some(fault) = fault {
                lock(&broker.gate).blame(peer.ip(), fault, Instant::now());
            }
        });
    }

    /// A connection has logged in or has gone: another may take its place.
    fn leave(&self, id: u64) {
        lock(&self.gate).leave(id);
        lock(&self.waiting).remove(&id);
    }
}

/// A session that has logged in, as programs get it. Stable: fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionState {
    /// Its name, as in the audit log.
    pub id: String,
    /// User of the host whose key it was.
    pub person: String,
    /// SHA-256 fingerprint of that key.
    pub key: String,
    /// Project of the instance.
    pub project: String,
    /// The instance.
    pub instance: String,
    /// User inside.
    pub instance_user: String,
    /// Address of the client.
    pub peer: SocketAddr,
    /// When it logged in, as RFC 3339 has it.
    pub since: String,
    /// Its process.
    pub pid: i32,
}

/// Sessions with records in `dir`, whether a gateway runs or not; the oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn sessions(dir: &Path) -> io::Result<Vec<SessionState>> {
    let mut sessions: Vec<SessionState> = roll::living(dir)?.into_iter().map(SessionState::from).collect();
    sessions.sort_by(|one, two| (&one.since, &one.id).cmp(&(&two.since, &two.id)));
    Ok(sessions)
}

/// Ends a session: its connection, and what it runs. False: there is none of this name.
///
/// # Errors
/// When the folder cannot be read, or the process is not ours to end.
pub fn end_session(dir: &Path, id: &str) -> io::Result<bool> {
    let Some(record) = roll::living(dir)?.into_iter().find(|record| record.session == id) else {
        return Ok(false);
    };
    let process = pidfd::open(record.pid)?;
    // It may have ended, and another have its pid.
    if !record.lives() {
        return Ok(false);
    }
    pidfd::send_signal(process.as_fd(), nix::libc::SIGTERM)?;
    Ok(true)
}

impl From<roll::Record> for SessionState {
    fn from(record: roll::Record) -> Self {
        let roll::Record { session, pid, since, peer, grant, .. } = record;
        let Grant { person, key, project, instance, instance_user } = grant;
        Self { id: session, person, key, project, instance, instance_user, peer, since, pid }
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
