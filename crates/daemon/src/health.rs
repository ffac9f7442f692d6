//! Health of Compose services: what instances say of themselves is asked for, again and again, and kept here.
//!
//! An instance that runs and has the key [`KEY`](portway_proto::service::health::KEY) is watched, whoever has set it. What
//! the key says is run inside that instance by its server and nowhere else. Nothing is written into an instance: what is
//! known is known to this daemon, and to the next one after its first tests.
//!
//! An instance starts, is healthy, is unhealthy ([`Course`]); one that stops is
//! forgotten, one that is paused stays what it was and is not asked.

mod attend;
mod look;
mod wanted;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use portway_control::api::{self, Failure, FailureKind};
use portway_model::{InstanceKey, Provider, rfc3339};
use portway_proto::service::health::Course;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::hub::{Hub, failure};
use crate::provider::Endpoint;
use wanted::Wanted;

pub(crate) use look::follow;

/// Tests at once, of all instances together. Each holds six descriptors and a program inside.
const TESTS_MAX: usize = 32;

/// Tests at once in one project of a server: what hangs there holds up nobody else.
const PROJECT_TESTS_MAX: usize = 8;

/// Instances that are watched. Each takes some tens of kilobytes at most.
const WATCHED_MAX: usize = 4096;

/// Who may wait for an instance to be tested at once.
const ASKING_MAX: usize = 8;

/// Longest wait for who has an instance tested at once; less than a client waits.
const ASK_LIMIT: Duration = Duration::from_secs(50);

/// What is known of the health of instances.
#[derive(Debug)]
pub(crate) struct Health {
    watched: Mutex<BTreeMap<InstanceKey, Watched>>,
    /// One for each test that runs.
    passes: Semaphore,
}

impl Default for Health {
    fn default() -> Health {
        Health { watched: Mutex::default(), passes: Semaphore::new(TESTS_MAX) }
    }
}

/// Tests that a project may have at once.
type Passes = Arc<Semaphore>;

/// An instance that is watched. Dropped, its test is killed.
#[derive(Debug)]
struct Watched {
    wanted: Wanted,
    known: Known,
    passes: Passes,
    /// Whether its processes do not run.
    paused: watch::Sender<bool>,
    orders: mpsc::Sender<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of one.
#[derive(Debug, Clone)]
struct Known {
    state: api::HealthState,
    since: SystemTime,
    failures: u32,
    tests_total: u64,
    failed_total: u64,
    last: Option<api::HealthTest>,
}

impl Known {
    fn starting() -> Known {
        Known {
            state: api::HealthState::Starting,
            since: SystemTime::now(),
            failures: 0,
            tests_total: 0,
            failed_total: 0,
            last: None,
        }
    }

    /// Takes in a test; what has become of the instance where that is something else than before.
    fn take(&mut self, course: &Course, test: api::HealthTest) -> Option<api::HealthState> {
        self.tests_total = self.tests_total.saturating_add(1);
        self.failed_total = self.failed_total.saturating_add(u64::from(test.status != Some(0)));
        self.failures = course.failures();
        self.last = Some(test);
        let state = wanted::state(course.verdict());
        if state == self.state {
            return None;
        }
        (self.state, self.since) = (state, SystemTime::now());
        Some(state)
    }
}

impl Watched {
    fn show(&self, key: &InstanceKey) -> api::Health {
        let known = self.known.clone();
        api::Health {
            instance: key.clone(),
            project: self.wanted.project.clone(),
            service: self.wanted.service.clone(),
            state: known.state,
            since: rfc3339(known.since),
            failures: known.failures,
            tests_total: known.tests_total,
            failed_total: known.failed_total,
            last: known.last,
        }
    }
}

impl Health {
    fn watched(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of all, or of one.
    pub(crate) fn shown(&self, of: Option<&InstanceKey>) -> Vec<api::Health> {
        let watched = self.watched();
        let asked = watched.iter().filter(|(key, _)| of.is_none_or(|of| of == *key));
        asked.map(|(key, one)| one.show(key)).collect()
    }

    /// Takes note of a test of the run that `course` is about; what has become of the instance where that is another.
    fn note(
        &self,
        (key, run): (&InstanceKey, &wanted::Run),
        course: &Course,
        test: api::HealthTest,
    ) -> Option<api::HealthState> {
        let mut watched = self.watched();
        let one = watched.get_mut(key).filter(|one| one.wanted.run == *run)?;
        one.known.take(course, test)
    }
}

/// Watches the instances of a server that are wanted, and no others of it.
fn watch_all(hub: &Arc<Hub>, endpoint: &Arc<Endpoint>, mut wanted: BTreeMap<InstanceKey, Wanted>) {
    hub.health.watched().retain(|key, _| key.provider() != endpoint.provider() || wanted.contains_key(key));
    while let Some((key, one)) = wanted.pop_first() {
        watch_one(hub, endpoint, key, one);
    }
}

/// Watches one: goes on where it is the same run with the same test, else begins anew.
fn watch_one(hub: &Arc<Hub>, endpoint: &Arc<Endpoint>, key: InstanceKey, wanted: Wanted) {
    let mut watched = hub.health.watched();
    let passes = match watched.get(&key) {
        Some(one) => Arc::clone(&one.passes),
        None if watched.len() >= WATCHED_MAX => {
            warn!(instance = %key, most = WATCHED_MAX, "too many instances to be asked for their health");
            return;
        }
        None => passes_of(&watched, &key),
    };
    let entry = watched.entry(key.clone());
    if let Entry::Occupied(mut there) = entry {
        if there.get().wanted.is_same(&wanted) {
            there.get().paused.send_replace(wanted.is_paused);
            there.get_mut().wanted = wanted;
            return;
        }
        there.remove();
    }
    let (orders, asked) = mpsc::channel(ASKING_MAX);
    let (paused, is_paused) = watch::channel(wanted.is_paused);
    let attended = attend::Attended {
        hub: Arc::clone(hub),
        endpoint: Arc::clone(endpoint),
        key: key.clone(),
        wanted: wanted.clone(),
        passes: Arc::clone(&passes),
    };
    let task = tokio::spawn(attended.run(asked, is_paused));
    watched.insert(key, Watched { wanted, known: Known::starting(), passes, paused, orders, task });
}

/// The passes of an instance's project.
fn passes_of(watched: &BTreeMap<InstanceKey, Watched>, key: &InstanceKey) -> Passes {
    let mut others = watched.iter();
    let other = others
        .find(|(other, _)| (other.provider(), other.project()) == (key.provider(), key.project()))
        .map(|(_, one)| Arc::clone(&one.passes));
    other.unwrap_or_else(|| Arc::new(Semaphore::new(PROJECT_TESTS_MAX)))
}

/// Has an instance looked at and tested at once.
///
/// # Errors
/// When it is none that is asked, or its server does not answer.
pub(crate) async fn ask(hub: &Arc<Hub>, key: &InstanceKey) -> Result<api::Health, Failure> {
    let missing = || failure(FailureKind::Missing, format!("{key} is not asked for its health"));
    let endpoint = hub.providers.endpoint(key.provider()).ok_or_else(missing)?;
    look::one(hub, endpoint, key).await?;
    let orders = hub.health.watched().get(key).map(|one| one.orders.clone());
    let orders = orders.ok_or_else(missing)?;
    let (reply, done) = oneshot::channel();
    let asked = async {
        if orders.send(reply).await.is_ok() {
            // It may be forgotten meanwhile.
            let _gone = done.await;
        }
    };
    // Who has waited so long is told what is known.
    let _late = tokio::time::timeout(ASK_LIMIT, asked).await;
    hub.health.shown(Some(key)).pop().ok_or_else(missing)
}

/// Whether a provider is one whose instances can be asked.
const fn is_asked(provider: Provider) -> bool {
    matches!(provider, Provider::Incus | Provider::Lxd)
}
