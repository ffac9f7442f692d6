//! What requests carry, checked before a handler sees it.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use http_body_util::LengthLimitError;
use portway_control::api::{EventFilter, Failure, FailureKind, RECENT_MAX};
use portway_model::{DeviceKey, InstanceKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::Refusal;
use crate::connections::{LIMIT, LIMIT_MAX};
use crate::hub::failure;

/// Largest request body, bytes: far above any device.
pub(crate) const BODY_BYTES: usize = 1 << 20;

/// Largest list of devices, bytes: some 50,000.
pub(crate) const LIST_BYTES: usize = 16 << 20;

/// Longest time a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body of at most `LIMIT` bytes, whatever its content type says.
pub(crate) struct Body<T, const LIMIT: usize = BODY_BYTES>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for Body<T, LIMIT> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let malformed = |status, text: String| Refusal::malformed(status, text);
        let whole = axum::body::to_bytes(request.into_body(), LIMIT);
        let whole = tokio::time::timeout(BODY_TIMEOUT, whole).await.map_err(|_| {
            let text = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            malformed(StatusCode::REQUEST_TIMEOUT, text)
        })?;
        let whole = whole.map_err(|problem| match std::error::Error::source(&problem) {
            Some(source) if source.is::<LengthLimitError>() => {
                malformed(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {LIMIT} bytes"))
            }
            _ => malformed(StatusCode::BAD_REQUEST, "the body is broken off or not well-formed".into()),
        })?;
        let value = serde_json::from_slice(&whole)
            .map_err(|problem| malformed(StatusCode::BAD_REQUEST, format!("body: {problem}")))?;
        Ok(Body(value))
    }
}

/// `If-Match`: the generation that the devices must have.
pub(crate) struct Condition(pub(crate) Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for Condition {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Condition(None)) };
        let number = value.to_str().ok().and_then(|text| text.trim_matches('"').parse().ok());
        match number {
            Some(generation) => Ok(Condition(Some(generation))),
            None => {
                let text = "If-Match is not a generation, as in \"17\"";
                Err(Refusal::malformed(StatusCode::BAD_REQUEST, text))
            }
        }
    }
}

/// `?instance=KEY`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceQuery {
    instance: Option<InstanceKey>,
}

/// The instance a question is about, if it is about one.
pub(crate) struct About(pub(crate) Option<InstanceKey>);

impl<S: Send + Sync> FromRequestParts<S> for About {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query: Result<Query<InstanceQuery>, QueryRejection> =
            Query::from_request_parts(parts, state).await;
        match query {
            Ok(Query(query)) => Ok(About(query.instance)),
            Err(problem) => Err(Refusal::malformed(StatusCode::BAD_REQUEST, problem.body_text())),
        }
    }
}

/// `?limit=N`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitQuery {
    limit: Option<usize>,
}

/// How many connections are to be listed.
pub(crate) struct Limit(pub(crate) usize);

impl<S: Send + Sync> FromRequestParts<S> for Limit {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query: Result<Query<LimitQuery>, QueryRejection> = Query::from_request_parts(parts, state).await;
        let Query(query) =
            query.map_err(|problem| Refusal::malformed(StatusCode::BAD_REQUEST, problem.body_text()))?;
        match query.limit.unwrap_or(LIMIT) {
            limit @ 1..=LIMIT_MAX => Ok(Limit(limit)),
            _ => {
                let text = format!("limit is not between 1 and {LIMIT_MAX}");
                Err(Refusal::malformed(StatusCode::BAD_REQUEST, text))
            }
        }
    }
}

/// Which events are wanted.
pub(crate) struct Wanted(pub(crate) EventFilter);

impl<S: Send + Sync> FromRequestParts<S> for Wanted {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let malformed = |text: String| Refusal::malformed(StatusCode::BAD_REQUEST, text);
        let query: Result<Query<EventFilter>, QueryRejection> = Query::from_request_parts(parts, state).await;
        let Query(filter) = query.map_err(|problem| malformed(problem.body_text()))?;
        if let Some((unknown, nearest)) = filter.unknown_kind() {
            let nearest = nearest.map_or_else(String::new, |kind| format!(", did you mean {kind:?}?"));
            return Err(malformed(format!("unknown kind of event {unknown:?}{nearest}")));
        }
        if filter.recent.is_some_and(|recent| recent > RECENT_MAX) {
            return Err(malformed(format!("recent is above {RECENT_MAX}")));
        }
        Ok(Wanted(filter))
    }
}

/// The instance in a path.
pub(crate) struct InPath(pub(crate) InstanceKey);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(undecodable)?;
        Ok(InPath(parse("instance", &text)?))
    }
}

/// The device in a path.
pub(crate) struct DeviceInPath(pub(crate) DeviceKey);

impl<S: Send + Sync> FromRequestParts<S> for DeviceInPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path: Result<Path<(String, String)>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        let Path((instance, device)) = path.map_err(undecodable)?;
        let instance = parse("instance", &instance)?;
        Ok(DeviceInPath(DeviceKey { instance, device: parse("device", &device)? }))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn undecodable(problem: PathRejection) -> Refusal {
    Refusal::malformed(StatusCode::BAD_REQUEST, problem.body_text())
}

fn parse<T: FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|problem| failure(FailureKind::Usage, format!("{what} {text:?}: {problem}")))
}
