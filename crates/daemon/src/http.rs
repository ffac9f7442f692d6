//! The control server: HTTP/1.1 and JSON on the control socket. Routes are those of
//! [`portway_control::api`]; every failure is a [`Failure`] with the status of its kind.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{Stream, stream};
use portway_control::api::{self, Failure, FailureKind};
use portway_model::{DeviceName, DeviceSpec, InstanceKey};
use serde::Deserialize;
use tokio::sync::{broadcast, oneshot};

use crate::hub::{Hub, failure};
use crate::instance::{Command, Reply};

/// Largest request body, bytes: far above any device.
const MAX_BODY_BYTES: usize = 1 << 20;

type Shared = State<Arc<Hub>>;

/// An answer.
struct Answer(Result<Response, Failure>);

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self.0 {
            Ok(response) => response,
            Err(failed) => {
                let status = match failed.kind {
                    FailureKind::Usage => StatusCode::BAD_REQUEST,
                    FailureKind::Refused => StatusCode::CONFLICT,
                    FailureKind::Missing => StatusCode::NOT_FOUND,
                    FailureKind::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
                    FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
                };
                (status, axum::Json(failed)).into_response()
            }
        }
    }
}

fn json<T: serde::Serialize>(result: Result<T, Failure>) -> Answer {
    Answer(result.map(|value| axum::Json(value).into_response()))
}

/// The routes.
pub(crate) fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/1.0", get(server))
        .route("/1.0/devices", get(list).post(add))
        .route("/1.0/devices/{instance}/{device}", get(show).patch(change).delete(remove))
        .route("/1.0/devices/{instance}/{device}/rename", post(rename))
        .route("/1.0/instances/{instance}/adopt", post(adopt))
        .route("/1.0/events", get(events))
        .route("/metrics", get(metrics))
        .fallback(|| async { json::<()>(Err(failure(FailureKind::Missing, "no such resource"))) })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(hub)
}

async fn server(State(hub): Shared) -> Answer {
    json(Ok(hub.server().await))
}

#[derive(Deserialize)]
struct ListQuery {
    instance: Option<InstanceKey>,
}

async fn list(
    State(hub): Shared,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let query = match query {
        Ok(Query(query)) => query,
        Err(problem) => return json::<()>(Err(failure(FailureKind::Usage, problem.body_text()))),
    };
    json(Ok(hub.devices(query.instance.as_ref()).await))
}

fn body<T>(body: Result<axum::Json<T>, JsonRejection>) -> Result<T, Failure> {
    body.map(|axum::Json(value)| value).map_err(|problem| failure(FailureKind::Usage, problem.body_text()))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|problem| failure(FailureKind::Usage, format!("{what} {text:?}: {problem}")))
}

/// Asks an instance's actor and waits for its answer.
async fn ask<T>(
    hub: &Arc<Hub>,
    key: &InstanceKey,
    question: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Failure> {
    let (reply, answer) = oneshot::channel();
    let ended = || failure(FailureKind::Unreachable, "the daemon is ending");
    hub.handle(key).send(question(reply)).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())?
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

async fn add(State(hub): Shared, request: Result<axum::Json<api::AddDevice>, JsonRejection>) -> Answer {
    let result = async {
        let request = body(request)?;
        let spec = DeviceSpec::from_keys(request.keys)
            .map_err(|problem| failure(FailureKind::Usage, problem.to_string()))?;
        ask(&hub, &request.instance, |reply| Command::Add(request.name, Box::new(spec), reply)).await
    };
    json(result.await)
}

async fn show(State(hub): Shared, Path((instance, device)): Path<(String, String)>) -> Answer {
    let result = async {
        let (key, name): (InstanceKey, DeviceName) =
            (parse("instance", &instance)?, parse("device", &device)?);
        let found = hub.devices(Some(&key)).await.into_iter().find(|device| device.name == name);
        found.ok_or_else(|| failure(FailureKind::Missing, format!("{key} has no device {name}")))
    };
    json(result.await)
}

async fn change(
    State(hub): Shared,
    Path((instance, device)): Path<(String, String)>,
    request: Result<axum::Json<api::ChangeDevice>, JsonRejection>,
) -> Answer {
    let result = async {
        let (key, name): (InstanceKey, DeviceName) =
            (parse("instance", &instance)?, parse("device", &device)?);
        let request = body(request)?;
        ask_known(&hub, &key, |reply| Command::Change(name, request, reply)).await
    };
    json(result.await)
}

async fn remove(State(hub): Shared, Path((instance, device)): Path<(String, String)>) -> Answer {
    let result = async {
        let (key, name): (InstanceKey, DeviceName) =
            (parse("instance", &instance)?, parse("device", &device)?);
        ask_known(&hub, &key, |reply| Command::Remove(name, reply)).await?;
        Ok(serde_json::json!({}))
    };
    json(result.await)
}

async fn rename(
    State(hub): Shared,
    Path((instance, device)): Path<(String, String)>,
    request: Result<axum::Json<api::RenameDevice>, JsonRejection>,
) -> Answer {
    let result = async {
        let (key, name): (InstanceKey, DeviceName) =
            (parse("instance", &instance)?, parse("device", &device)?);
        let request = body(request)?;
        ask_known(&hub, &key, |reply| Command::Rename(name, request.name, reply)).await
    };
    json(result.await)
}

async fn adopt(State(hub): Shared, Path(instance): Path<String>) -> Answer {
    let result = async {
        let key: InstanceKey = parse("instance", &instance)?;
        ask_known(&hub, &key, Command::Adopt).await
    };
    json(result.await)
}

async fn events(State(hub): Shared) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let receiver = hub.subscribe();
    let events = stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(event) => {
                    let text = serde_json::to_string(&event).unwrap_or_default();
                    return Some((Ok(sse::Event::default().data(text)), receiver));
                }
                // A reader that is slow misses events and goes on with the next.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn metrics(State(hub): Shared) -> Response {
    let text = crate::metrics::render(&hub.counted_devices().await);
    ([(axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
