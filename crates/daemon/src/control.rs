//! The control socket: connections, one request each, within bounds of number, length and time.
//!
//! The head of a request is read and checked here ([`head`]) before hyper sees it, so that what two
//! parsers could read in two ways is read by none. A connection carries one request and ends.

pub(crate) mod head;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use portway_control::api::{Failure, FailureKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use self::head::{HEAD_BYTES, Refused};
use self::stream::{Descriptors, Guarded};
use crate::hub::failure;
use crate::tally::{self, Hit};

/// Connections at once.
const CONNECTIONS_MAX: usize = 256;

/// Longest time a head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time, and most bytes, that what follows a refused head is read and dropped, so that the
/// refusal is not lost by a reset.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 64 << 20;

/// Pause after a failed accept: the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections for ever.
pub(crate) async fn serve(listener: UnixListener, router: Router) {
    let passes = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => Guarded::new(stream),
            Err(problem) => {
                warn!(error = %problem, "control socket does not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match Arc::clone(&passes).try_acquire_owned() {
            Ok(pass) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(pass);
                });
            }
            Err(_) => {
                tally::hit(Hit::ControlConnections);
                turn_away(&stream.into_inner());
            }
        }
    }
}

/// Says that there is no room, without waiting.
fn turn_away(stream: &UnixStream) {
    let refused = Refused { status: 503, text: "too many connections".into() };
    // Who does not read it sees the end.
    let _ = stream.try_write(&response(&refused));
}

async fn connection(mut stream: Guarded, router: Router) {
    let head = match tokio::time::timeout(HEAD_TIMEOUT, read_head(&mut stream)).await {
        Ok(Ok(Some(head))) => head,
        Ok(Ok(None)) => return,
        Ok(Err(refused)) => return refuse(stream, &refused).await,
        Err(_) => {
            let text = format!("the head did not arrive within {} s", HEAD_TIMEOUT.as_secs());
            return refuse(stream, &Refused { status: 408, text }).await;
        }
    };
    let io = TokioIo::new(stream.after(head));
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).half_close(true).max_buf_size(2 * HEAD_BYTES);
    if let Err(problem) = builder.serve_connection(io, TowerToHyperService::new(router)).await {
        debug!(error = %problem, "control connection broken");
    }
}

/// The head of a request and what came with it; `None` when there is none.
async fn read_head(stream: &mut Guarded) -> Result<Option<Vec<u8>>, Refused> {
    let mut bytes = Vec::new();
    loop {
        if head::is_complete(&bytes)? {
            return Ok(Some(bytes));
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) => return Ok(None),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(problem) => return refusal_of(&problem).map_or(Ok(None), Err),
        }
    }
}

fn refusal_of(problem: &io::Error) -> Option<Refused> {
    let descriptors = problem.get_ref().is_some_and(|inner| inner.is::<Descriptors>());
    descriptors.then(|| Refused { status: 400, text: Descriptors.to_string() })
}

fn response(refused: &Refused) -> Vec<u8> {
    let kind = if refused.status == 503 { FailureKind::Unreachable } else { FailureKind::Usage };
    let body: Failure = failure(kind, refused.text.as_str());
    let body = serde_json::to_string(&body).unwrap_or_default();
    let reason = axum::http::StatusCode::from_u16(refused.status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        refused.status,
        body.len()
    )
    .into_bytes()
}

async fn refuse(mut stream: Guarded, refused: &Refused) {
    let answer = async {
        stream.write_all(&response(refused)).await?;
        stream.shutdown().await?;
        let (mut chunk, mut dropped) = ([0; 4096], 0);
        while dropped < LINGER_BYTES {
            match stream.read(&mut chunk).await? {
                0 => break,
                count => dropped += count,
            }
        }
        io::Result::Ok(())
    };
    // Who does not read it sees the end.
    let _ = tokio::time::timeout(LINGER, answer).await;
}
