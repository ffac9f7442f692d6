//! The control socket: what a network is like, and its rules while it runs. HTTP/1.1 and JSON, as the daemon's.
//!
//! `GET /1.0` is the status, `POST /1.0/rules` changes rules, `POST /1.0/ping` asks for one
//! echo, `GET /readyz` is 200 when every peer with an endpoint has
//! answered of late, `GET /metrics` is for Prometheus. A connection carries one request. Only this user can open it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use portway_control::api::{AskPing, ChangeMeshRules, Failure, FailureKind, MeshRuleStatus};
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;

use super::serve::Shared;
use super::{ping, status};

/// Connections at once.
const CONNECTIONS: usize = 32;

/// How long one may take, with its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest body of a request, bytes.
const BODY_BYTES: usize = 1 << 20;

/// A change of rules, and who waits for its answer.
pub(super) struct Ask {
    pub(super) change: ChangeMeshRules,
    pub(super) reply: oneshot::Sender<Result<(), Failure>>,
}

/// A failure of a kind.
pub(super) fn failure(kind: FailureKind, error: impl Into<String>) -> Failure {
    Failure { kind, error: error.into(), hint: None }
}

/// Serves for ever.
pub(super) async fn serve(listener: UnixListener, shared: Arc<Shared>, asks: mpsc::Sender<Ask>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Who comes when there is no room waits in the backlog.
        let Ok(pass) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (shared, asks) = (Arc::clone(&shared), asks.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (shared, asks) = (Arc::clone(&shared), asks.clone());
                async move { Ok::<_, Infallible>(answer(shared, asks, request).await) }
            });
            let mut server = http1::Builder::new();
            server.keep_alive(false).half_close(true).timer(TokioTimer::new());
            let talk = server.serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(PATIENCE, talk).await {
                debug!(%error, "control connection broken");
            }
            drop(pass);
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(shared: Arc<Shared>, asks: mpsc::Sender<Ask>, request: Request<Incoming>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let done = match (&method, path.as_str()) {
        (&Method::GET, "/1.0") => status::read(shared).await.map(|status| json(StatusCode::OK, &status)),
        (&Method::GET, "/metrics") => status::read(shared).await.map(|status| {
            let text = status::metrics(&status);
            plain(StatusCode::OK, "text/plain; version=0.0.4", text)
        }),
        (&Method::GET, "/readyz") => status::read(shared).await.map(|status| {
            let silent = status::silent(&status);
            match silent.is_empty() {
                true => plain(StatusCode::OK, "text/plain", "ready\n".to_owned()),
                false => {
                    let text = format!("no answer from {}\n", silent.join(", "));
                    plain(StatusCode::SERVICE_UNAVAILABLE, "text/plain", text)
                }
            }
        }),
        (&Method::POST, "/1.0/rules") => {
            change(shared, asks, request).await.map(|rules| json(StatusCode::OK, &rules))
        }
        (&Method::POST, "/1.0/ping") => {
            let asked = body::<AskPing>(request).await;
            let pong = async { ping::ping(&shared, &asked?).await };
            pong.await.map(|pong| json(StatusCode::OK, &pong))
        }
        (_, "/1.0" | "/metrics" | "/readyz" | "/1.0/rules" | "/1.0/ping") => {
            let wrong = failure(FailureKind::Usage, "this resource has no such method");
            return json(StatusCode::METHOD_NOT_ALLOWED, &wrong);
        }
        _ => Err(failure(FailureKind::Missing, "no such resource")),
    };
    done.unwrap_or_else(|failure| json(failure.kind.status(), &failure))
}

async fn change(
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
    request: Request<Incoming>,
) -> Result<Vec<MeshRuleStatus>, Failure> {
    let change = body::<ChangeMeshRules>(request).await?;
    let ending = || failure(FailureKind::Unreachable, "the network is ending");
    let (reply, told) = oneshot::channel();
    asks.send(Ask { change, reply }).await.map_err(|_| ending())?;
    told.await.map_err(|_| ending())??;
    Ok(status::read(shared).await?.rules)
}

/// What a request carries.
async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Failure> {
    let body = Limited::new(request.into_body(), BODY_BYTES).collect().await;
    let body = body.map_err(|error| failure(FailureKind::Usage, format!("body: {error}")))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| failure(FailureKind::Usage, format!("body: {error}")))
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    plain(status, "application/json", serde_json::to_string(value).unwrap_or_default())
}

fn plain(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
