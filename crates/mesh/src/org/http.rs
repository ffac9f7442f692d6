//! Pieces of HTTP that the registrar and its clients share.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame};
use hyper::{Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Body of an answer.
pub(super) type Answered = Response<BoxBody<Bytes, Infallible>>;

/// What is answered when something is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One word for programs.
    pub code: String,
    /// One line for people.
    pub error: String,
}

/// What is not done, with the status that says so.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) status: u16,
    pub(super) failure: Failure,
}

impl Denied {
    pub(super) fn new(status: u16, code: &str, error: impl ToString) -> Denied {
        Denied { status, failure: Failure { code: code.to_owned(), error: error.to_string() } }
    }

    pub(super) fn malformed(error: impl ToString) -> Denied {
        Denied::new(400, "malformed", error)
    }

    pub(super) fn answer(&self) -> Answered {
        text(self.status, serde_json::to_string(&self.failure).unwrap_or_default())
    }
}

fn text(status: u16, text: String) -> Answered {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// An answer that says something.
pub(super) fn said<T: Serialize>(value: &T) -> Answered {
    text(200, serde_json::to_string(value).unwrap_or_default())
}

/// A snapshot, or any other JSON that is written already.
pub(super) fn said_text(json: String) -> Answered {
    text(200, json)
}

/// An answer of lines that come as time goes by.
pub(super) fn lines(lines: mpsc::Receiver<Bytes>) -> Answered {
    let mut response = Response::new(Lines(lines).boxed());
    let kind = header::HeaderValue::from_static("application/jsonl");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
