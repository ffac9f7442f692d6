//! The owner's side of a registrar: requests on its unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::client::ClientError;
use super::http::Failure;

/// How long an answer may take: longer than the registrar waits for its store.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest answer: a list of all devices.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// The socket of a registrar.
#[derive(Debug, Clone)]
pub struct Owner {
    socket: PathBuf,
}

impl Owner {
    /// The registrar with this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Owner {
        Owner { socket: socket.to_owned() }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, target, Vec::new()).await
    }

    /// Makes something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.strange(error))?;
        self.ask(Method::POST, target, body).await
    }

    /// Changes something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.strange(error))?;
        self.ask(Method::PUT, target, body).await
    }

    /// Ends something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, target: &str) -> Result<(), ClientError> {
        self.ask::<serde_json::Value>(Method::DELETE, target, Vec::new()).await.map(|_| ())
    }

    fn strange(&self, why: impl ToString) -> ClientError {
        ClientError::Strange { url: self.socket.display().to_string(), why: why.to_string() }
    }

    fn unreachable(&self, why: impl ToString) -> ClientError {
        ClientError::Unreachable { url: format!("at {}", self.socket.display()), why: why.to_string() }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let done = tokio::time::timeout(PATIENCE, self.exchange(method, target, body)).await;
        let (status, body) = done.map_err(|_| self.unreachable("it is silent"))??;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&body).map_err(|error| self.strange(error));
        }
        match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => Err(ClientError::Refused { status, failure }),
            Err(_) => Err(self.strange(format!("status {status}"))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|error| self.unreachable(error))?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(target).header(header::HOST, "registrar");
        let request =
            request.header(header::CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| self.strange(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        Ok((status, body.map_err(|error| self.strange(error))?.to_bytes()))
    }
}
