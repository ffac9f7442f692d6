//! The control socket: what a network is like, and its rules while it runs. HTTP/1.1 and JSON, as the daemon's.
//!
//! `GET /1.0` is the status, `POST /1.0/rules` changes rules, `POST /1.0/ping` asks for one echo, `GET /readyz` is 200
//! when every peer with an endpoint has answered of late, `GET /metrics` is for Prometheus, `GET /1.0/events` tells what
//! happens. A connection carries one request. Only this user can open it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use portway_control::api::{AskPing, ChangeMeshRules, Failure, FailureKind, MeshRuleStatus};
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;

use super::serve::Shared;
use super::{events, ping, status};

/// Connections at once.
const CONNECTIONS: usize = 32;

/// Those of them that follow events.
const FOLLOWERS: usize = 8;

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
    let followers = Arc::new(Semaphore::new(FOLLOWERS));
    loop {
        // Who comes when there is no room waits in the backlog.
        let Ok(pass) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (shared, asks, followers) = (Arc::clone(&shared), asks.clone(), Arc::clone(&followers));
        tokio::spawn(async move {
            let follows = Arc::new(Follows::default());
            let followed = Arc::clone(&follows);
            let service = service_fn(move |request: Request<Incoming>| {
                let (shared, asks) = (Arc::clone(&shared), asks.clone());
                let (followers, follows) = (Arc::clone(&followers), Arc::clone(&followed));
                async move {
                    let is_events = request.uri().path() == "/1.0/events" && request.method() == Method::GET;
                    let answer = match is_events {
                        true => events(&shared, &followers, &follows),
                        false => answer(shared, asks, request).await.map(Body::Whole),
                    };
                    Ok::<_, Infallible>(answer)
                }
            });
            let mut server = http1::Builder::new();
            server.keep_alive(false).half_close(true).timer(TokioTimer::new());
            let talk = server.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(talk);
            // A follower has all the time there is.
            let talked = match timeout(PATIENCE, &mut talk).await {
                Err(_) if follows.0.load(Ordering::Relaxed) => Some(talk.await),
                other => other.ok(),
            };
            if let Some(Err(error)) = talked {
                debug!(%error, "control connection broken");
            }
            drop(pass);
        });
    }
}

type Answer = Response<Full<Bytes>>;

/// Whether a connection follows events.
#[derive(Debug, Default)]
struct Follows(AtomicBool);

/// Of an answer: all of it, or what comes.
enum Body {
    Whole(Full<Bytes>),
    Events { events: mpsc::Receiver<Bytes>, _pass: OwnedSemaphorePermit },
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Body::Whole(whole) => Pin::new(whole).poll_frame(context),
            Body::Events { events, .. } => {
                events.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }
}

fn events(shared: &Arc<Shared>, followers: &Arc<Semaphore>, follows: &Follows) -> Response<Body> {
    let Ok(pass) = Arc::clone(followers).try_acquire_owned() else {
        let many = failure(FailureKind::Unreachable, "as many as may follow events already");
        return json(many.kind.status(), &many).map(Body::Whole);
    };
    follows.0.store(true, Ordering::Relaxed);
    let mut answer = Response::new(Body::Events { events: events::follow(shared), _pass: pass });
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer
}

async fn answer(shared: Arc<Shared>, asks: mpsc::Sender<Ask>, request: Request<Incoming>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let done = match (&method, path.as_str()) {
        (&Method::GET, "/1.0") => status::read(shared).await.map(|status| json(StatusCode::OK, &status)),
        (&Method::GET, "/metrics") => status::read(shared).await.map(|status| {
            let text = status::metrics(&status);
            plain(StatusCode::OK, "text/plain; version=0.0.4", text)
        }),
        (&Method::GET, "/readyz") => status::read(shared).await.map(|status| {
            let (is_ready, text) = status::readiness(&status);
            let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            plain(code, "text/plain", text)
        }),
        (&Method::POST, "/1.0/rules") => {
            change(shared, asks, request).await.map(|rules| json(StatusCode::OK, &rules))
        }
        (&Method::POST, "/1.0/ping") => {
            let asked = body::<AskPing>(request).await;
            let pong = async { ping::ping(&shared, &asked?).await };
            pong.await.map(|pong| json(StatusCode::OK, &pong))
        }
        (_, "/1.0" | "/1.0/events" | "/metrics" | "/readyz" | "/1.0/rules" | "/1.0/ping") => {
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
