//! The control server's resources. Routes are those of [`portway_control::api`]; every failure is a
//! [`Failure`] with its status.

mod answer;
mod input;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{Stream, stream};
use portway_control::api::{self, Failure, FailureKind};
use portway_model::{DeviceKey, DeviceSpec, InstanceKey};
use serde_json::{Value, json};
use tokio::sync::{
    RwLockReadGuard, RwLockWriteGuard, Semaphore, SemaphorePermit, TryAcquireError, broadcast, oneshot,
};

pub(crate) use self::answer::Refusal;
use self::answer::{Answer, json};
pub(crate) use self::input::LIST_BYTES;
use self::input::{About, Body, Condition, DeviceInPath, InPath, Limit, Wanted};
use crate::companion::Companion;
use crate::hub::{Hub, failure};
use crate::instance::{Command, Reply, edit};
use crate::metrics::{Watched, labels};
use crate::nat::Leader;
use crate::networks::Networks;
use crate::tally::{self, Hit};
use crate::{apply, connections, health, moves, rivals};

/// Readers of events at once.
const READERS_MAX: usize = 64;

/// Passes for readers of events.
static READERS: Semaphore = Semaphore::const_new(READERS_MAX);

type Shared = State<Arc<Hub>>;

/// The routes.
pub(crate) fn router(hub: Arc<Hub>, companion: Companion, networks: Arc<Networks>) -> Router {
    let counted = Arc::clone(&networks);
    Router::new()
        .route("/1.0", get(move |hub: Shared| server(hub, networks)))
        .route("/1.0/devices", get(list).post(add))
        .route("/1.0/devices/{instance}/{device}", get(show).patch(change).delete(remove))
        .route("/1.0/devices/{instance}/{device}/rename", post(rename))
        .route("/1.0/devices/{instance}/{device}/connections", get(live))
        .route("/1.0/instances", get(instances))
        .route("/1.0/instances/{instance}/adopt", post(adopt))
        .route("/1.0/instances/{instance}/health", post(ask_health))
        .route("/1.0/health", get(healths))
        .route("/1.0/apply", post(apply_list))
        .route("/1.0/import", get(importable).post(import))
        .route("/1.0/export", get(exportable).post(export))
        .route("/1.0/events", get(events))
        .route("/metrics", get(move |hub: Shared| metrics(hub, companion.clone(), counted)))
        .fallback(|| async { Refusal::from(failure(FailureKind::Missing, "no such resource")) })
        .method_not_allowed_fallback(|| async {
            Refusal::malformed(StatusCode::METHOD_NOT_ALLOWED, "this resource has no such method")
        })
        .with_state(hub)
}

async fn server(State(hub): Shared, networks: Arc<Networks>) -> Answer<api::Server> {
    let (server, networks) = tokio::join!(hub.server(), networks.shown());
    json(Ok(api::Server { networks, ..server }))
}

async fn list(State(hub): Shared, About(instance): About) -> Answer<Vec<api::Device>> {
    let devices = hub.devices(instance.as_ref()).await;
    match instance {
        Some(key) if devices.is_empty() => json(hub.check_exists(&key).await.map(|()| devices)),
        _ => json(Ok(devices)),
    }
}

async fn instances(State(hub): Shared) -> Answer<Vec<api::KnownInstance>> {
    json(Ok(hub.instances().await))
}

/// Leave to edit devices.
#[expect(dead_code, reason = "the locks end with it")]
enum Editing<'a> {
    Shared(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

/// Waits for whoever edits several devices at once. With a condition nobody else edits meanwhile.
async fn editing(hub: &Hub, Condition(expected): Condition) -> Result<Editing<'_>, Refusal> {
    hub.check_changeable()?;
    if expected.is_none() {
        return Ok(Editing::Shared(hub.edits.read().await));
    }
    let alone = hub.edits.write().await;
    hub.check_generation(expected).map_err(Refusal::unmet)?;
    Ok(Editing::Alone(alone))
}

/// Asks an instance's actor and waits for its answer.
pub(crate) async fn ask<T>(
    hub: &Arc<Hub>,
    key: &InstanceKey,
    question: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Failure> {
    let (reply, answer) = oneshot::channel();
    let ended = || failure(FailureKind::Unreachable, "the daemon is ending");
    hub.handle(key).send(question(reply)).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())?
}

/// Has an instance looked at, before anything is locked: a server that never answers holds up nobody but
/// who asks about its instances.
pub(crate) async fn look(hub: &Arc<Hub>, key: &InstanceKey) -> Result<(), Failure> {
    ask(hub, key, Command::Look).await
}

/// As [`ask`], for an instance that must have devices already.
async fn ask_known<T>(
    hub: &Arc<Hub>,
    key: &InstanceKey,
    question: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Failure> {
    if hub.known(key).is_none() {
        return Err(failure(FailureKind::Missing, format!("{key} has no devices")));
    }
    ask(hub, key, question).await
}

/// As [`look`], for an instance that must have devices already.
async fn look_known(hub: &Arc<Hub>, key: &InstanceKey) -> Result<(), Failure> {
    match hub.known(key) {
        Some(_) => look(hub, key).await,
        None => Ok(()),
    }
}

async fn add(
    State(hub): Shared,
    condition: Condition,
    Body(request): Body<api::AddDevice>,
) -> Answer<api::Device> {
    let spec = DeviceSpec::from_keys(request.keys)
        .map_err(|problem| failure(FailureKind::Usage, problem.to_string()))?;
    hub.check_changeable()?;
    look(&hub, &request.instance).await?;
    let key = DeviceKey { instance: request.instance.clone(), device: request.name.clone() };
    rivals::check(&hub, &[(&key, &spec)]).await?;
    let _editing = editing(&hub, condition).await?;
    json(ask(&hub, &request.instance, |reply| Command::Add(request.name, Box::new(spec), reply)).await)
}

async fn show(State(hub): Shared, DeviceInPath(key): DeviceInPath) -> Answer<api::Device> {
    let DeviceKey { instance, device: name } = key;
    let found = hub.devices(Some(&instance)).await.into_iter().find(|device| device.name == name);
    json(found.ok_or_else(|| failure(FailureKind::Missing, format!("{instance} has no device {name}"))))
}

async fn live(
    State(hub): Shared,
    DeviceInPath(key): DeviceInPath,
    Limit(limit): Limit,
) -> Answer<api::Connections> {
    json(connections::list(&hub, &key, limit).await)
}

async fn change(
    State(hub): Shared,
    DeviceInPath(key): DeviceInPath,
    condition: Condition,
    Body(request): Body<api::ChangeDevice>,
) -> Answer<api::Changed> {
    look_known(&hub, &key.instance).await?;
    if let Some(before) = hub.stored_keys(&key)
        && let Ok(after) = edit::changed_spec(&before, &request)
        && (after.listen != before.listen || after.bind != before.bind)
    {
        rivals::check(&hub, &[(&key, &after)]).await?;
    }
    let _editing = editing(&hub, condition).await?;
    hub.check_usable(&key)?;
    json(ask_known(&hub, &key.instance, |reply| Command::Change(key.device, request, reply)).await)
}

async fn remove(State(hub): Shared, DeviceInPath(key): DeviceInPath, condition: Condition) -> Answer<Value> {
    let _editing = editing(&hub, condition).await?;
    if hub.check_usable(&key).is_err() {
        return json(hub.remove_refused(&key).await.map(|()| json!({})));
    }
    json(ask_known(&hub, &key.instance, |reply| Command::Remove(key.device, reply)).await.map(|()| json!({})))
}

async fn rename(
    State(hub): Shared,
    DeviceInPath(key): DeviceInPath,
    condition: Condition,
    Body(request): Body<api::RenameDevice>,
) -> Answer<api::Device> {
    let _editing = editing(&hub, condition).await?;
    hub.check_usable(&key)?;
    json(ask_known(&hub, &key.instance, |reply| Command::Rename(key.device, request.name, reply)).await)
}

async fn adopt(State(hub): Shared, InPath(key): InPath, condition: Condition) -> Answer<Vec<api::Device>> {
    look_known(&hub, &key).await?;
    let _editing = editing(&hub, condition).await?;
    json(ask_known(&hub, &key, Command::Adopt).await)
}

async fn healths(State(hub): Shared, About(instance): About) -> Answer<Vec<api::Health>> {
    json(Ok(hub.health.shown(instance.as_ref())))
}

async fn ask_health(State(hub): Shared, InPath(key): InPath) -> Answer<api::Health> {
    json(health::ask(&hub, &key).await)
}

async fn apply_list(State(hub): Shared, Body(request): Body<api::Apply, LIST_BYTES>) -> Answer<api::Applied> {
    // In a task of its own: whoever asked may go away, half of a list may not stay.
    let done = tokio::spawn(async move { apply::apply(&hub, request).await });
    json(done.await.unwrap_or_else(|_| Err(failure(FailureKind::Internal, "applying has failed"))))
}

async fn importable(State(hub): Shared, About(instance): About) -> Answer<Vec<api::Move>> {
    json(moves::importable(&hub, instance.as_ref()).await)
}

async fn import(State(hub): Shared, Body(request): Body<api::MoveDevice>) -> Answer<api::Move> {
    hub.check_changeable()?;
    let done = tokio::spawn(async move { moves::import(&hub, &request).await });
    json(done.await.unwrap_or_else(|_| Err(failure(FailureKind::Internal, "importing has failed"))))
}

async fn exportable(State(hub): Shared, About(instance): About) -> Answer<Vec<api::Move>> {
    json(moves::exportable(&hub, instance.as_ref()).await)
}

async fn export(State(hub): Shared, Body(request): Body<api::MoveDevice>) -> Answer<api::Move> {
    hub.check_changeable()?;
    let done = tokio::spawn(async move { moves::export(&hub, &request).await });
    json(done.await.unwrap_or_else(|_| Err(failure(FailureKind::Internal, "exporting has failed"))))
}

/// Events as they happen, with the pass of their reader.
struct Reading {
    filter: api::EventFilter,
    /// Those of before.
    recent: VecDeque<api::Event>,
    receiver: broadcast::Receiver<api::Event>,
    _pass: SemaphorePermit<'static>,
}

impl Reading {
    /// The next that is asked for; `None` at the end.
    async fn next(&mut self) -> Option<api::Event> {
        if let Some(event) = self.recent.pop_front() {
            return Some(event);
        }
        while self.filter.follow != Some(false) {
            match self.receiver.recv().await {
                Ok(event) if self.filter.takes(&event) => return Some(event),
                // A reader that is slow misses events and goes on with the next.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
        None
    }
}

async fn events(
    State(hub): Shared,
    Wanted(filter): Wanted,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refusal> {
    let pass = READERS.try_acquire().map_err(|_: TryAcquireError| {
        tally::hit(Hit::EventReaders);
        Refusal::busy("too many read events")
    })?;
    let (recent, receiver) = hub.subscribe(&filter);
    let reading = Reading { filter, recent, receiver, _pass: pass };
    let events = stream::unfold(reading, |mut reading| async move {
        let text = serde_json::to_string(&reading.next().await?).unwrap_or_default();
        Some((Ok(sse::Event::default().data(text)), reading))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// Of the devices, of which networks run, and of the SSH gateway when one runs.
async fn metrics(State(hub): Shared, companion: Companion, networks: Arc<Networks>) -> Response {
    let devices = hub.counted_devices().await;
    let repairs = hub.nat.as_ref().map_or(0, Leader::repairs);
    let mut text = crate::metrics::own(repairs, &hub.servers(), &devices);
    text.push_str(&crate::metrics::render(&devices));
    let mut processes = hub.processes().await;
    processes.extend(networks.processes());
    let gateway = (companion.running)(&companion.dir).and_then(|pid| u32::try_from(pid).ok());
    processes.extend(gateway.map(|pid| Watched { labels: labels([("process", "ssh")]), pid }));
    let processes = tokio::task::spawn_blocking(move || crate::metrics::processes(&processes));
    text.push_str(&processes.await.unwrap_or_default());
    text.push_str(&crate::metrics::health(&hub.health.shown(None)));
    text.push_str(&networks.metrics());
    let theirs = tokio::task::spawn_blocking(move || (companion.metrics)(&companion.dir));
    if let Ok(Ok(theirs)) = theirs.await {
        text.push_str(&theirs);
    }
    ([(axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

#[cfg(test)]
mod tests;
