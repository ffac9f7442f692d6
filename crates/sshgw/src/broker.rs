//! The privileged side: listens, starts a process for each connection, and answers what that one may ask.
//!
//! It reads no byte of a client. What it is told about one comes from the connection's own process (`wire`)
//! and counts as that client's words. A process that asks for more than the table allows is killed.
//!
//! - `arrivals`: clients as they come; `gate`: who may be connected without having logged in (pure);
//! - `child`: one connection's process, from its start to its end;
//! - `judge`, `login`, `grant`: who somebody is, how that one gets in and what that one may do;
//! - `servers`: ways to servers; `fresh`: files that are read again when they have changed;
//! - `door`: where clients connect, and how one gateway hands over to the next;
//! - `drain`: an end that waits for connections; `count`: metrics;
//! - `account`, `open`, `helper`: from a grant to a program inside an instance;
//! - `starts`, `stored`: an instance that does not run, and its files;
//! - `make`, `marks`, `house`: instances that are made for logins, and go again; `turns`: one at a time at each;
//! - `mux`: another program in an instance that keeps its sessions that stay;
//! - `kept`: sessions that stay in an instance, for who asks from outside;
//! - `roll`: what the next broker needs to know of sessions; `sessions`: what an operator sees of them.

mod account;
mod arrivals;
mod child;
mod count;
mod door;
mod drain;
mod forwards;
mod fresh;
mod gate;
mod grant;
mod helper;
mod history;
mod house;
mod identity;
mod judge;
mod keep;
mod kept;
mod lends;
mod login;
mod make;
mod marks;
mod mux;
mod open;
mod operator;
mod recordings;
mod roll;
mod servers;
mod sessions;
mod starts;
mod stored;
mod turns;
mod way;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portway_config::{LogFilter, UserIds};
use portway_sys::{process, sandbox, sched};
use russh::keys::ssh_key::LineEnding;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::audit::Audit;
use crate::create::CreateConfig;
use crate::hostkey::{self, HostKeyError};
use crate::logging;
use crate::options::Options;
use count::Count;
use door::{Door, Handed};
use drain::Drain;
use gate::Gate;
use history::History;
use house::House;
use judge::{Judge, Places as JudgePlaces};
use make::Makers;
use mux::Muxes;
use roll::Roll;
use servers::{Servers, Setting};
use starts::Starts;

pub use drain::Draining;
pub use kept::{KeptError, KeptIn, KeptSession};
pub use operator::{Done, note_done};
pub use servers::{Places as ServerPlaces, client as server_client};
pub use sessions::{SessionState, end_session, metrics, running, sessions};

pub(crate) use grant::Grant;
pub(crate) use open::{is_accepted, kind};

/// How long a client may take to log in.
const GRACE: Duration = Duration::from_secs(30);

/// Where the host's own SSH server has its keys.
const HOST_KEYS: &str = "/etc/ssh";

/// How long those who are logging in have when another gateway follows.
const DRAIN: Duration = Duration::from_secs(5);

/// How long those have whose programs are just being started when no other gateway is there to follow.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long the gateway before this one may take to leave.
const SUCCESSION: Duration = Duration::from_secs(15);
/// What a gateway is told when it starts.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// What can be set, checked.
    pub options: Arc<Options>,
    /// The key that says who this is; made when it is not there.
    pub host_key: PathBuf,
    /// Text before a login.
    pub banner: PathBuf,
    /// Text after it.
    pub welcome: PathBuf,
    /// Folder of the records of sessions.
    pub sessions: PathBuf,
    /// Log of who did what.
    pub audit: PathBuf,
    /// Where servers are.
    pub servers: ServerPlaces,
    /// Who may do what; need not be there.
    pub policy: PathBuf,
    /// How instances are made; need not be there.
    pub create: PathBuf,
    /// Servers with instances that the gateway has made, for the next one.
    pub made: PathBuf,
    /// Folder of what people have typed into the shell of Incus commands.
    pub history: PathBuf,
    /// What decides who gets in beyond the flags; need not be there. One-time secrets are beside it, in `ssh-totp`.
    pub auth: PathBuf,
    /// User that the processes of connections become; `None` leaves them the caller's.
    pub ids: Option<UserIds>,
    /// What is logged on standard error.
    pub log: LogFilter,
    /// Takes the place of the gateway that runs, if one does.
    pub replace: bool,
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
        /// Why.
        source: io::Error,
    },
    /// Another one has it.
    #[error("a gateway runs already{}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Running {
        /// Its process, where that is known.
        pid: Option<i32>,
    },
    /// No log.
    #[error("cannot write the audit log {}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that decides who gets in, or who may do what.
    #[error("{0}")]
    Rules(String),
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
    servers: Arc<Servers>,
    /// In OpenSSH's format; of two with one algorithm the first counts.
    host_keys: Vec<String>,
    judge: Judge,
    audit: Audit,
    roll: Roll,
    gate: Mutex<Gate>,
    /// Connections that have not logged in, each with the way to end it.
    waiting: Mutex<BTreeMap<u64, Arc<Notify>>>,
    next: AtomicU64,
    count: Count,
    /// Programs that are being started.
    starting: TaskTracker,
    drain: Drain,
    starts: Starts,
    makers: Makers,
    muxes: Muxes,
    house: House,
    history: History,
}

/// Listens and serves until it is told to end (SIGTERM, SIGINT). Connections that are open live on: their processes
/// need nobody for what runs. `ready` is called once clients can connect.
///
/// # Errors
/// Any [`ServeError`], all of them before `ready`.
pub fn serve(options: ServeOptions, ready: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let system = |what| move |source| ServeError::System { what, source };
    let passed = door::passed();
    logging::start(options.log.as_str());
    // What it does not need is given up before there is another thread. The names of users and the programs that
    // are asked for keys run with no more.
    sandbox::gateway_keep_caps().map_err(system("give up capabilities"))?;
    sandbox::guard(sandbox::Denies::Root).map_err(system("give up system calls"))?;
    tracing::debug!(descriptors = process::raise_nofile(), "limit raised");
    let host_keys = host_keys(&options)?;
    let (servers, judge) = rules(&options)?;
    let house = House::open(options.made.clone()).map_err(system("keep the name of this gateway"))?;
    let failed = |source| ServeError::Audit { path: options.audit.clone(), source };
    let audit = Audit::open(options.audit.clone()).map_err(failed)?;
    // Those who knock wait for those who are in. Its threads and the processes of connections begin the same way.
    let _as_before = sched::in_batches();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(system("start"))?;
    // From here on the gateway before this one may have ended: what can fail has been tried.
    let taken = if options.replace { door::taken(&options.sessions) } else { None };
    let patience = if taken.is_some() { SUCCESSION } else { Duration::ZERO };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock => ServeError::Running { pid: running(&options.sessions) },
        _ => ServeError::Sessions { path: options.sessions.clone(), source },
    };
    let roll = Roll::open(options.sessions.clone(), patience).map_err(failed)?;
    runtime.block_on(async move {
        let address = options.options.listen;
        let door = Door::open(address, passed, taken.flatten());
        let door = door.map_err(|source| ServeError::Listen { address, source })?;
        let at = door.listener.local_addr().map_err(system("name the listener"))?;
        // Somebody else may have opened it.
        options.options.auth.check_address(at).map_err(|error| ServeError::Rules(error.to_string()))?;
        let mut ends = Ends::new().map_err(system("catch signals"))?;
        let broker = Arc::new(Broker {
            judge,
            servers,
            host_keys,
            audit,
            roll,
            gate: Mutex::default(),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
            count: Count::default(),
            starting: TaskTracker::new(),
            drain: Drain::default(),
            starts: Starts::default(),
            makers: Makers::default(),
            muxes: Muxes::default(),
            house,
            history: History::new(options.history.clone()),
            options,
        });
        broker.begin();
        broker.open_door(&door, &ends.given).map_err(system("be spoken to"))?;
        ready(at);
        tell_systemd(sd_notify::NotifyState::Ready);
        let is_kept = tokio::select! {
            () = broker.accept(&door.listener) => false,
            given = ends.told() => given || door.is_kept,
            () = broker.drain.begun() => {
                let is_kept = door.is_kept;
                drop(door);
                broker.drain.shut();
                tracing::info!("nobody new is taken");
                tell_systemd(sd_notify::NotifyState::Status("takes nobody new, and ends with the last connection"));
                tokio::select! {
                    () = broker.drain.left() => return Ok(()),
                    given = ends.told() => given || is_kept,
                }
            }
        };
        tell_systemd(sd_notify::NotifyState::Stopping);
        broker.end(is_kept, &mut ends).await;
        Ok(())
    })
}

/// The keys that say who this is.
fn host_keys(options: &ServeOptions) -> Result<Vec<String>, ServeError> {
    let mut keys = if options.options.host_key { hostkey::of_host(Path::new(HOST_KEYS)) } else { Vec::new() };
    keys.push(hostkey::load_or_make(&options.host_key)?);
    let texts = keys.iter().map(|key| key.to_openssh(LineEnding::LF).map(|text| text.to_string()));
    let texts: Result<Vec<_>, _> = texts.collect();
    let failed = |source| ServeError::System { what: "use the host key", source };
    texts.map_err(io::Error::other).map_err(failed)
}

/// Where servers are and who may get to them; what is wrong with either is wrong at the start.
fn rules(options: &ServeOptions) -> Result<(Arc<Servers>, Judge), ServeError> {
    let places = JudgePlaces {
        policy: options.policy.clone(),
        settings: options.auth.clone(),
        totp_dir: options.auth.with_file_name("ssh-totp"),
    };
    let setting =
        Setting { ids: options.ids.map(|ids| (ids.uid, ids.gid)), log: options.log.as_str().to_owned() };
    recordings::check(&options.options.recording.folder(&options.made)).map_err(ServeError::Rules)?;
    let servers = Arc::new(Servers::new(options.servers.clone(), setting));
    servers.default().map_err(|error| ServeError::Rules(error.to_string()))?;
    let judge = Judge::new(Arc::clone(&options.options), places, Arc::clone(&servers));
    judge.check().map_err(ServeError::Rules)?;
    if options.options.allow_create {
        let config = CreateConfig::load(&options.create);
        let config = config.map_err(|error| ServeError::Rules(judge::why(&error)))?;
        for warning in config.warnings {
            tracing::warn!(warning, path = %options.create.display(), "how instances are made");
        }
    }
    Ok((servers, judge))
}

/// What tells a gateway to end.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
    /// Another has taken its place.
    given: Arc<Notify>,
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, given: Arc::default() })
    }

    /// Waits for any of them; whether it is another gateway.
    async fn told(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
            () = self.given.notified() => true,
        }
    }
}

fn tell_systemd(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd not told");
    }
}

impl Broker {
    /// Leaves what is half done whole: `is_kept` is whether clients wait at the listener, so that there is time for those
    /// who are half in.
    async fn end(&self, is_kept: bool, ends: &mut Ends) {
        if is_kept {
            tokio::select! {
                () = self.drained() => {}
                () = tokio::time::sleep(DRAIN) => {}
                _ = ends.terminate.recv() => {}
            }
        } else {
            tokio::select! {
                () = self.begun() => {}
                () = tokio::time::sleep(LAST_WORDS) => {}
                _ = ends.terminate.recv() => {}
            }
        }
    }

    /// Begins what goes on beside clients.
    fn begin(self: &Arc<Self>) {
        self.take_over();
        tokio::spawn(Arc::clone(self).keep_house());
        if let Some(every) = self.options.options.healthcheck {
            tokio::spawn(Arc::clone(self).check_health(every));
        }
    }

    /// Takes over the sessions of a gateway that has ended.
    fn take_over(self: &Arc<Self>) {
        match self.roll.sweep() {
            Ok(records) => {
                for record in records {
                    self.house.enter(&record.grant);
                    self.drain.attend(child::take_over(Arc::clone(self), record));
                }
            }
            Err(error) => tracing::warn!(%error, "sessions of another gateway are not found"),
        }
    }

    /// Answers whoever asks this gateway for its place or its figures.
    fn open_door(self: &Arc<Self>, door: &Door, given: &Arc<Notify>) -> io::Result<()> {
        let (socket, _path) = door::socket(self.roll.dir())?;
        tokio::spawn(door::answer(Arc::clone(self), socket, Handed::of(door)?, Arc::clone(given)));
        Ok(())
    }

    /// Asks the server again and again whether it is there.
    async fn check_health(self: Arc<Self>, every: Duration) {
        let mut was_down = false;
        loop {
            let answer = match self.servers.default() {
                Ok(client) => client.server().await.map(|_| ()).map_err(|error| judge::why(&error)),
                Err(error) => Err(error.to_string()),
            };
            let is_down = answer.is_err();
            match answer {
                Err(error) if !was_down => tracing::error!(error, "the server does not answer"),
                Ok(()) if was_down => tracing::info!("the server answers again"),
                _ => {}
            }
            was_down = is_down;
            self.count.server_down.store(u64::from(is_down), Ordering::Relaxed);
            tokio::time::sleep(every).await;
        }
    }

    /// Waits until nobody is logging in, and no program is half started: nobody else could finish that.
    async fn drained(&self) {
        while !lock(&self.waiting).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.begun().await;
    }

    /// Waits until whoever was let in knows it, and no program is half started.
    async fn begun(&self) {
        self.starting.close();
        self.starting.wait().await;
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
