//! Answers: JSON, and for every failure a [`Failure`] with its status.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use portway_control::api::{Failure, FailureKind};

use crate::hub::failure;

/// A failure and its status.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    failure: Failure,
}

impl Refusal {
    /// A request that is malformed, with a status that says how.
    pub(crate) fn malformed(status: StatusCode, text: impl Into<String>) -> Refusal {
        Refusal { status, failure: failure(FailureKind::Usage, text) }
    }

    /// A condition of the request does not hold.
    pub(crate) fn unmet(failure: Failure) -> Refusal {
        Refusal { status: StatusCode::PRECONDITION_FAILED, failure }
    }

    /// Too many of something are being served.
    pub(crate) fn busy(text: &str) -> Refusal {
        Refusal { status: StatusCode::SERVICE_UNAVAILABLE, failure: failure(FailureKind::Unreachable, text) }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal { status: failure.kind.status(), failure }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, axum::Json(self.failure)).into_response()
    }
}

/// What a handler returns.
pub(crate) type Answer<T> = Result<axum::Json<T>, Refusal>;

/// An answer of a result.
pub(crate) fn json<T>(result: Result<T, Failure>) -> Answer<T> {
    result.map(axum::Json).map_err(Refusal::from)
}
