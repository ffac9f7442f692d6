//! Networks of `[mesh.NAME]`: each a process beside the daemon that outlives it, as workers do.
//!
//! What a network means is not known here: [`NetworkRole`] judges it and says how it is started. One that runs is
//! recorded beside its control socket, so that the next daemon takes it over. It is root's until it has read its files,
//! then it is the user of the workers, without capabilities; what it says is shown and never believed.
//!
//! One task for each network, with the states: to be started → starting → running → ended, to be started again, later
//! each time while it does not last. A changed file is judged first. What cannot be used changes nothing; where only rules
//! differ the running one is told, by one batch; else it is ended and started anew.
//!
//! **Rules.** The file wins over what was done by hand: at each reload what it names is there, and what was taken out of
//! it goes, whoever had added it too. Rules that were added by hand and that it never named stay, over restarts as well.
//! The file is what an operator reads and keeps; a rule that it names and that is not there would be a fault.

mod change;
mod claims;
mod pace;
mod process;
mod record;
mod shown;
mod tend;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portway_config::MeshSettings;
use portway_control::Client;
use portway_control::api::{Failure, NetworkState};
use portway_relay::wire::Ids;
use tokio::sync::watch;

use crate::hub::Hub;
use claims::Claims;
use process::Process;
use record::Record;
use tend::Tending;

/// How networks are judged and started: what the daemon has to know of them.
#[derive(Debug, Clone, Copy)]
pub struct NetworkRole {
    /// First argument of the role.
    pub role: &'static str,
    /// The one behind uid and gid with which nothing is opened: it only says whether it could run.
    pub rehearse: &'static str,
    /// What a network is, or what is wrong with it.
    pub judge: fn(&MeshSettings) -> Result<Judged, Failure>,
}

/// A network that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Arguments of its process behind uid and gid.
    pub flags: Vec<String>,
    /// The same for networks that differ in rules at most.
    pub fingerprint: String,
    /// What it is known by in its network.
    pub key: String,
    /// How long its connections may go on when it is told to end.
    pub drain: Duration,
    /// All its rules: direction and text.
    pub rules: Vec<(String, String)>,
    /// What is most likely not meant.
    pub warnings: Vec<String>,
}

/// What every network needs.
#[derive(Debug, Clone)]
struct Surroundings {
    role: NetworkRole,
    /// Where control sockets and records are.
    run_dir: PathBuf,
    ids: Option<Ids>,
    env: Vec<(String, String)>,
    /// The program that runs.
    build: String,
    claims: Claims,
}

/// What is wanted of a network; `None`: it is not to be, once its connections have ended.
type Wish = Option<MeshSettings>;

impl Surroundings {
    /// For what is asked of a network that runs.
    fn client(&self, name: &str) -> Client {
        Client::with_limits(socket(&self.run_dir, name), shown::LIMITS)
    }
}

/// What is known of one network.
#[derive(Debug)]
struct Seen {
    state: NetworkState,
    pid: Option<i32>,
    since: Instant,
    restarts: u64,
    error: Option<String>,
}

/// A network and whoever tends it.
struct Handle {
    wishes: watch::Sender<Wish>,
    seen: Arc<Mutex<Seen>>,
}

impl Handle {
    fn is_there(&self) -> bool {
        locked(&self.seen).state != NetworkState::Ended
    }
}

/// All networks.
pub(crate) struct Networks {
    hub: Arc<Hub>,
    around: Surroundings,
    handles: Mutex<BTreeMap<String, Handle>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Networks {
    /// Takes over what runs, ends what is not wanted any more, and starts the rest.
    pub(crate) fn start(
        hub: &Arc<Hub>,
        role: NetworkRole,
        run_dir: &Path,
        portway_dir: Option<&Path>,
        wanted: &[MeshSettings],
    ) -> Arc<Networks> {
        let mut env = hub.settings.network_environment.clone();
        if let Some(dir) = portway_dir {
            env.push((portway_config::paths::DIR_VARIABLE.to_owned(), dir.display().to_string()));
        }
        let around = Surroundings {
            role,
            run_dir: run_dir.to_owned(),
            ids: hub.settings.worker_ids,
            env,
            build: hub.settings.build.clone(),
            claims: Claims::default(),
        };
        let networks = Networks { hub: Arc::clone(hub), around, handles: Mutex::default() };
        for name in there(&networks.around) {
            // Before anything is started: what runs has its key.
            if let Some((_, record)) = Process::recorded(&networks.around, &name) {
                let _taken = networks.around.claims.take(&record.key, &name);
            }
            if !wanted.iter().any(|settings| settings.name == name) {
                networks.tend(&name, None);
            }
        }
        networks.follow(wanted);
        Arc::new(networks)
    }

    /// Makes the networks what is wanted. Whoever is busy finds the latest of it.
    pub(crate) fn follow(&self, wanted: &[MeshSettings]) {
        locked(&self.handles).retain(|name, handle| {
            let is_wanted = wanted.iter().any(|settings| settings.name == *name);
            if !is_wanted && handle.wishes.borrow().is_some() {
                // One that takes nothing has ended.
                handle.wishes.send(None).ok();
            }
            is_wanted || handle.is_there()
        });
        for settings in wanted {
            let wish = Some(settings.clone());
            let told =
                locked(&self.handles).get(&settings.name).is_some_and(|it| it.wishes.send(wish).is_ok());
            if !told {
                self.tend(&settings.name, Some(settings.clone()));
            }
        }
    }

    /// Begins to tend a network; `None`: it is only to be ended.
    fn tend(&self, name: &str, wanted: Wish) {
        let (wishes, wished) = watch::channel(wanted.clone());
        let seen = Seen {
            state: NetworkState::Starting,
            pid: None,
            since: Instant::now(),
            restarts: 0,
            error: None,
        };
        let seen = Arc::new(Mutex::new(seen));
        let tending = Tending::new(name, &self.hub, &self.around, wanted, Arc::clone(&seen));
        tokio::spawn(tending.run(wished));
        locked(&self.handles).insert(name.to_owned(), Handle { wishes, seen });
    }
}

/// Networks that a daemon has started and that are there, recorded or not.
fn there(around: &Surroundings) -> BTreeSet<String> {
    let locked = record::locked_names(&around.run_dir).into_iter();
    let locked = locked.filter(|name| Process::unrecorded(around, name).is_some());
    record::names(&around.run_dir).into_iter().chain(locked).collect()
}

/// Ends every network of a daemon in a folder, connections and all.
pub(crate) async fn purge(hub: &Hub, role: NetworkRole, run_dir: &Path) {
    let around = Surroundings {
        role,
        run_dir: run_dir.to_owned(),
        ids: None,
        env: Vec::new(),
        build: hub.settings.build.clone(),
        claims: Claims::default(),
    };
    for name in there(&around) {
        let recorded = Process::recorded(&around, &name).map(|(process, _)| process);
        if let Some(process) = recorded.or_else(|| Process::unrecorded(&around, &name)) {
            process.end().await;
        }
        Record::forget(run_dir, &name);
    }
}

/// Its control socket.
fn socket(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("mesh-{name}.sock"))
}
