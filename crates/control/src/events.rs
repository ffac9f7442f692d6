//! The stream of events.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};

use serde::de::DeserializeOwned;

use crate::api::Event;
use crate::client::Link;
use crate::error::{ClientError, broken};
use crate::sse;

/// A stream of events. Dropping it closes the connection.
#[derive(Debug)]
pub struct Events<T = Event> {
    socket: PathBuf,
    body: Incoming,
    /// `None` once the connection has ended.
    link: Option<Link>,
    reader: sse::Reader,
    ready: VecDeque<T>,
}

impl<T: DeserializeOwned> Events<T> {
    /// The events that come in `body` over `link`, each of at most `limit_bytes`.
    pub(crate) fn new(socket: PathBuf, body: Incoming, link: Link, limit_bytes: usize) -> Events<T> {
        let reader = sse::Reader::new(limit_bytes);
        Events { socket, body, link: Some(link), reader, ready: VecDeque::new() }
    }

    /// The next event; waits for ever. `None` when the daemon ended the stream. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the stream broke, [`ClientError::Protocol`] when what came is no event;
    /// the stream cannot be read on after either.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        const REQUEST: &str = "GET /1.0/events";
        let wrong = |reason: String| ClientError::Protocol { request: REQUEST.to_owned(), reason };
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| broken(&self.socket, REQUEST, &error))?;
            let Ok(bytes) = frame.into_data() else { continue };
            for data in self.reader.push(&bytes).map_err(|error| wrong(error.to_string()))? {
                let event = serde_json::from_slice(&data).map_err(|error| wrong(error.to_string()))?;
                self.ready.push_back(event);
            }
        }
    }

    async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        let mut frame = pin!(self.body.frame());
        let Some(link) = &mut self.link else { return frame.await };
        tokio::select! {
            biased;
            frame = &mut frame => return frame,
            _ended = link => {}
        }
        self.link = None;
        frame.await
    }
}
