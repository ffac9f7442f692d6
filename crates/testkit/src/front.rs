//! A socket in front of a server, or in place of one: what a client of the server sees when the server
//! restarts, hangs, talks nonsense, or says what was recorded elsewhere.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

mod gate;

pub use gate::{Deed, Gate, Verdict};

/// Status and JSON to the target of a `GET`.
pub type Script = Arc<dyn Fn(&str) -> (u16, String) + Send + Sync>;

/// What the socket does with a connection.
#[derive(Clone)]
pub enum Manner {
    /// It leads to the server.
    Pass,
    /// The same, and these bytes follow the head of an answer that opens a stream of events.
    Inject(Vec<u8>),
    /// Requests are read, and nothing is answered.
    Hang,
    /// Every request is answered with these bytes and the end.
    Say(Vec<u8>),
    /// Every request is answered by its target.
    Script(Script),
    /// It leads to the server, but for what the gate is told.
    Gate(Arc<Gate>),
}

impl fmt::Debug for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "Pass",
            Self::Inject(_) => "Inject",
            Self::Hang => "Hang",
            Self::Say(_) => "Say",
            Self::Script(_) => "Script",
            Self::Gate(_) => "Gate",
        })
    }
}

#[derive(Debug)]
struct State {
    manner: Manner,
    /// Both ends of every connection, to be cut.
    open: Vec<UnixStream>,
}

/// A socket at a path of its own. Drop closes it, and all that came in.
#[derive(Debug)]
pub struct Front {
    path: PathBuf,
    server: PathBuf,
    state: Arc<Mutex<State>>,
    listener: Option<UnixListener>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Front {
    /// Opens the socket at `path`, in front of the server at `server`.
    ///
    /// # Errors
    /// When there is something at the path.
    pub fn start(path: &Path, server: &Path, manner: Manner) -> Result<Self> {
        let state = Arc::new(Mutex::new(State { manner, open: Vec::new() }));
        let mut front = Self { path: path.to_owned(), server: server.to_owned(), state, listener: None };
        front.come_back()?;
        Ok(front)
    }

    /// Cuts every connection; later ones are treated so.
    pub fn turn(&self, manner: Manner) {
        let mut state = locked(&self.state);
        state.manner = manner;
        cut(&mut state);
    }

    /// The socket is gone, as when a server ends.
    pub fn go_away(&mut self) {
        if let Some(listener) = self.listener.take() {
            // Wakes the thread that accepts, which ends.
            let _ = nix::sys::socket::shutdown(
                std::os::fd::AsRawFd::as_raw_fd(&listener),
                nix::sys::socket::Shutdown::Both,
            );
        }
        let _ = std::fs::remove_file(&self.path);
        cut(&mut locked(&self.state));
    }

    /// It is there again.
    ///
    /// # Errors
    /// As [`Front::start`].
    pub fn come_back(&mut self) -> Result<()> {
        let listener = UnixListener::bind(&self.path)
            .with_context(|| format!("cannot listen on {}", self.path.display()))?;
        let accepting = listener.try_clone().context("cannot duplicate a listener")?;
        let (state, server) = (Arc::clone(&self.state), self.server.clone());
        std::thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                let manner = {
                    let mut state = locked(&state);
                    state.open.extend(client.try_clone());
                    state.manner.clone()
                };
                let (state, server) = (Arc::clone(&state), server.clone());
                // A client that goes away is no failure of the server's.
                std::thread::spawn(move || serve(&client, &server, manner, &state));
            }
        });
        self.listener = Some(listener);
        Ok(())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.go_away();
    }
}

fn cut(state: &mut State) {
    for stream in state.open.drain(..) {
        // It may be closed already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn serve(client: &UnixStream, server: &Path, manner: Manner, state: &Mutex<State>) -> io::Result<()> {
    match manner {
        Manner::Pass => pass(client, server, &[], state),
        Manner::Inject(bytes) => pass(client, server, &bytes, state),
        Manner::Hang => {
            request(client)?;
            // Until it is cut, or the client gives up.
            io::copy(&mut { client }, &mut io::sink()).map(drop)
        }
        Manner::Say(bytes) => {
            request(client)?;
            (&mut { client }).write_all(&bytes)?;
            client.shutdown(Shutdown::Both)
        }
        Manner::Script(script) => {
            let (status, body) = script(&request(client)?);
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            );
            (&mut { client }).write_all((head + &body).as_bytes())?;
            client.shutdown(Shutdown::Both)
        }
        Manner::Gate(gate) => {
            client.set_write_timeout(Some(Duration::from_secs(10)))?;
            gate.serve(client, server, |upstream| locked(state).open.extend(upstream.try_clone()))
        }
    }
}

/// Reads the head of a request and returns its target.
fn request(mut client: &UnixStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    Ok(head.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

fn pass(client: &UnixStream, server: &Path, inject: &[u8], state: &Mutex<State>) -> io::Result<()> {
    let upstream = UnixStream::connect(server)?;
    locked(state).open.extend(upstream.try_clone());
    client.set_write_timeout(Some(Duration::from_secs(10)))?;
    carry(client, &upstream, inject)
}

/// Carries bytes both ways. `inject` follows the first ones of the server's when they are the answer to a
/// request for a stream.
fn carry(client: &UnixStream, upstream: &UnixStream, inject: &[u8]) -> io::Result<()> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut { client }, &mut { upstream });
            let _ = upstream.shutdown(Shutdown::Write);
        });
        let mut first = [0; 4096];
        let length = (&mut { upstream }).read(&mut first)?;
        (&mut { client }).write_all(&first[..length])?;
        // 101: switching protocols (RFC 9110, section 15.2.2).
        if first.starts_with(b"HTTP/1.1 101 ") {
            (&mut { client }).write_all(inject)?;
        }
        let copied = io::copy(&mut { upstream }, &mut { client });
        let _ = client.shutdown(Shutdown::Both);
        let _ = upstream.shutdown(Shutdown::Both);
        copied.map(drop)
    })
}
