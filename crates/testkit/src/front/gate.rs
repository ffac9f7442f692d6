//! A gate that counts requests, and stops, cuts or answers one of them: what happens to a client that dies, and to one
//! whose server does, at exactly that moment.
//!
//! One request comes on each connection, as from clients that keep none.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// It is held before the server has it.
    HoldBefore,
    /// It is held when the server has it, and its answer is not read.
    HoldWithin,
    /// Its answer is held when it is there in full.
    HoldAfter,
    /// It is answered with these bytes, and the server does not have it.
    Say(Vec<u8>),
    /// The connection is closed, and the server does not have it.
    CutBefore,
    /// The server has answered, and the connection is closed.
    CutAfter,
    /// The connection is closed after half of the answer.
    Short,
}

/// Which request: by its number, from 1, and its method and target, `GET /1.0`.
type Choice = Box<dyn Fn(usize, &str) -> bool + Send>;

/// What becomes of a request that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    GoOn,
    /// Its connections are closed.
    End,
}

#[derive(Default)]
struct State {
    requests: Vec<String>,
    next: Option<(Choice, Deed)>,
    /// What was done with the one that was chosen.
    done: bool,
    verdict: Option<Verdict>,
}

/// A gate. Everything passes until it is told otherwise.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("requests", &self.locked().requests).finish_non_exhaustive()
    }
}

impl Gate {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from 1 again, and does this to the first request that is chosen.
    pub fn set(&self, choice: impl Fn(usize, &str) -> bool + Send + 'static, deed: Deed) {
        *self.locked() = State { next: Some((Box::new(choice), deed)), ..State::default() };
    }

    /// Counts from 1 again, and lets everything pass.
    pub fn clear(&self) {
        *self.locked() = State::default();
    }

    /// Methods and targets of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.locked().requests.clone()
    }

    /// Whether the request that was chosen has come, and its deed is done.
    pub fn is_done(&self) -> bool {
        self.locked().done
    }

    /// Waits until it has.
    ///
    /// # Errors
    /// When it has not within `limit`.
    pub fn wait(&self, limit: Duration) -> Result<()> {
        let state = self.locked();
        let waited = self.changed.wait_timeout_while(state, limit, |state| !state.done);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.done { Ok(()) } else { bail!("the request has not come: {:#?}", state.requests) }
    }

    /// Says what becomes of the request that is held.
    pub fn judge(&self, verdict: Verdict) {
        self.locked().verdict = Some(verdict);
        self.changed.notify_all();
    }

    /// What is to be done with a request.
    fn enter(&self, line: &str) -> Option<Deed> {
        let mut state = self.locked();
        state.requests.push(line.to_owned());
        let number = state.requests.len();
        let (_, deed) = state.next.take_if(|(choice, _)| choice(number, line))?;
        Some(deed)
    }

    fn note(&self) {
        self.locked().done = true;
        self.changed.notify_all();
    }

    /// Holds what asks; whether it goes on.
    fn hold(&self) -> bool {
        self.note();
        let waited = self.changed.wait_while(self.locked(), |state| state.verdict.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).verdict == Some(Verdict::GoOn)
    }

    /// Serves one connection. `opened` is handed the connection to the server.
    pub(super) fn serve(
        &self,
        client: &UnixStream,
        server: &Path,
        opened: impl FnOnce(&UnixStream),
    ) -> io::Result<()> {
        let request = read_request(client)?;
        let text = String::from_utf8_lossy(&request);
        let mut words = text.split_whitespace();
        let line = format!("{} {}", words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let deed = self.enter(&line);
        match &deed {
            Some(Deed::HoldBefore) if !self.hold() => return client.shutdown(Shutdown::Both),
            Some(Deed::Say(bytes)) => {
                self.note();
                (&mut { client }).write_all(bytes)?;
                return client.shutdown(Shutdown::Both);
            }
            Some(Deed::CutBefore) => {
                self.note();
                return client.shutdown(Shutdown::Both);
            }
            _ => {}
        }
        let upstream = UnixStream::connect(server)?;
        opened(&upstream);
        (&mut { &upstream }).write_all(&request)?;
        match deed {
            Some(Deed::HoldWithin) if !self.hold() => return upstream.shutdown(Shutdown::Both),
            Some(Deed::HoldAfter | Deed::CutAfter | Deed::Short) => {
                let answer = read_answer(&upstream)?;
                let shown = match deed {
                    Some(Deed::HoldAfter) if self.hold() => answer.len(),
                    Some(Deed::Short) => answer.len() / 2,
                    _ => 0,
                };
                (&mut { client }).write_all(answer.get(..shown).unwrap_or_default())?;
                if shown < answer.len() {
                    self.note();
                    return client.shutdown(Shutdown::Both);
                }
            }
            _ => {}
        }
        super::carry(client, &upstream, &[])
    }
}

/// Reads head and body of a request.
fn read_request(client: &UnixStream) -> io::Result<Vec<u8>> {
    let head = read_head(client)?;
    read_body(client, head)
}

/// Reads an answer: as far as its head says, or to the end of the connection.
fn read_answer(upstream: &UnixStream) -> io::Result<Vec<u8>> {
    let head = read_head(upstream)?;
    let is_open = head.starts_with(b"HTTP/1.1 101 ") || length(&head).is_some();
    let mut answer = read_body(upstream, head)?;
    if !is_open {
        (&mut { upstream }).read_to_end(&mut answer)?;
    }
    Ok(answer)
}

fn read_head(mut stream: &UnixStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

fn read_body(mut stream: &UnixStream, mut head: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length(&head).unwrap_or(0)];
    stream.read_exact(&mut body)?;
    head.append(&mut body);
    Ok(head)
}

fn length(head: &[u8]) -> Option<usize> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
}
