//! The helper of this connection: one program inside the instance, started at the first need and kept for all channels.
//!
//! The broker puts it there and says by its arguments what it may do; this process only speaks to it. It ends with its
//! streams, and hangs up what it runs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portway_incus::{Control, Exec, ExecSockets, Outcome, Output};
use portway_proto::guest::{Place, Step, Way, Why};
use tokio::net::UnixListener;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use super::link::{Link, Lost};
use crate::guest::{ConnectError, Connection, Guest, Listener, Process, StartError, Wanted, greet, lead};
use crate::wire::{HELPER_PLACES, Reply, Request};

/// How long a helper may take to say hello. It starts in some milliseconds.
const GREETING: Duration = Duration::from_secs(10);

/// How long there is none where there was none.
const ABSENCE: Duration = Duration::from_secs(60);

/// How long it may take to connect: longer than the helper tries.
const CONNECT: Duration = Duration::from_secs(40);

/// How long it may take to start a program.
const START: Duration = Duration::from_secs(10);

/// Why there is no process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unable {
    /// There is no helper, so it might do without one.
    Helper(String),
    /// The program cannot be run: exit status and text.
    Program(u8, String),
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Unconnected {
    /// There is no helper.
    Helper(String),
    /// It has none.
    Refused { why: Why, source: io::Error },
}

/// What is known of the helper.
#[derive(Debug, Default)]
enum Kept {
    #[default]
    Nothing,
    Runs(Guest),
    /// It could not be started, why, and when.
    Absent(String, Instant),
}

/// The way to the helper.
#[derive(Debug)]
pub(super) struct Helper {
    link: Arc<Link>,
    /// The one for everything, and the one that sees the home alone.
    guests: [Mutex<Kept>; 2],
    keepers: TaskTracker,
    /// Whether a program was asked for.
    asked: AtomicBool,
}

impl Helper {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, guests: Default::default(), keepers: TaskTracker::new(), asked: AtomicBool::new(false) }
    }

    /// Whether no program was asked for before; once.
    pub(super) fn is_first(&self) -> bool {
        !self.asked.swap(true, Ordering::Relaxed)
    }

    /// Starts a process inside; with `jail` by the helper that sees the home alone.
    pub(super) async fn start(&self, wanted: Wanted, jail: bool) -> Result<Process, Unable> {
        let shell = match &wanted.program {
            portway_proto::guest::Program::Exec { path, .. } => String::from_utf8_lossy(path).into_owned(),
            portway_proto::guest::Program::Sftp => "the server of files".to_owned(),
            portway_proto::guest::Program::Keep { .. } => "a session that stays".to_owned(),
        };
        // The instance may have been started anew since the last one.
        let mut started = self.try_start(wanted.clone(), jail).await?;
        if matches!(started, Err(StartError::Gone)) {
            started = self.try_start(wanted, jail).await?;
        }
        started.map_err(|error| match error {
            StartError::Gone => Unable::Helper(error.to_string()),
            StartError::TooLong => Unable::Program(126, error.to_string()),
            StartError::Refused { step: Step::Exec, source } => {
                let status = if source.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
                Unable::Program(status, format!("cannot run {shell}: {source}"))
            }
            StartError::Refused { step: Step::Terminal, source } => {
                Unable::Program(255, format!("there is no terminal: {source}"))
            }
            StartError::Refused { source, .. } => {
                Unable::Program(255, format!("cannot start {shell}: {source}"))
            }
        })
    }

    /// Connects to somewhere inside.
    pub(super) async fn connect(&self, to: Place) -> Result<Connection, Unconnected> {
        let mut gone = ConnectError::Gone.to_string();
        // The instance may have been started anew since the last one.
        for _ in 0..2 {
            let guest = self.guest(false).await.map_err(|unable| match unable {
                Unable::Helper(text) | Unable::Program(_, text) => Unconnected::Helper(text),
            })?;
            match tokio::time::timeout(CONNECT, guest.connect(to.clone())).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(ConnectError::Refused { why, source })) => {
                    return Err(Unconnected::Refused { why, source });
                }
                Ok(Err(ConnectError::Gone)) => {}
                Err(_) => {
                    gone = "the helper in the instance does not answer".to_owned();
                    break;
                }
            }
        }
        Err(Unconnected::Helper(gone))
    }

    /// Listens somewhere inside.
    pub(super) async fn listen(&self, at: Place) -> Result<Listener, Unconnected> {
        let guest = self.guest(false).await.map_err(|unable| match unable {
            Unable::Helper(text) | Unable::Program(_, text) => Unconnected::Helper(text),
        })?;
        guest.listen(at).await.map_err(|error| match error {
            ConnectError::Refused { why, source } => Unconnected::Refused { why, source },
            ConnectError::Gone => Unconnected::Helper(error.to_string()),
        })
    }

    async fn try_start(&self, wanted: Wanted, jail: bool) -> Result<Result<Process, StartError>, Unable> {
        let guest = self.guest(jail).await?;
        if let Ok(started) = tokio::time::timeout(START, guest.start(wanted)).await {
            return Ok(started);
        }
        // It goes with its last program, and takes with it what it may start late.
        let why = "the helper in the instance does not answer".to_owned();
        *self.kept(jail).lock().await = Kept::Absent(why.clone(), Instant::now());
        Err(Unable::Helper(why))
    }

    /// Lets the helper end once its processes have; returns when it has ended.
    pub(super) async fn close(&self) {
        for guest in &self.guests {
            *guest.lock().await = Kept::Nothing;
        }
        self.keepers.close();
        self.keepers.wait().await;
    }

    fn kept(&self, jail: bool) -> &Mutex<Kept> {
        let [general, jailed] = &self.guests;
        if jail { jailed } else { general }
    }

    /// The helper that runs, or a new one.
    async fn guest(&self, jail: bool) -> Result<Guest, Unable> {
        let mut kept = self.kept(jail).lock().await;
        match &*kept {
            Kept::Runs(guest) if !guest.is_gone() => return Ok(guest.clone()),
            Kept::Absent(why, since) if since.elapsed() < ABSENCE => return Err(Unable::Helper(why.clone())),
            Kept::Nothing | Kept::Runs(_) | Kept::Absent(..) => {}
        }
        let mut why = String::new();
        for place in 0..HELPER_PLACES {
            match self.try_place(place, jail).await {
                Ok(guest) => {
                    *kept = Kept::Runs(guest.clone());
                    return Ok(guest);
                }
                Err(reason) => why = reason,
            }
        }
        tracing::warn!(reason = why, "there is no helper in the instance");
        *kept = Kept::Absent(why.clone(), Instant::now());
        Err(Unable::Helper(why))
    }

    async fn try_place(&self, place: usize, jail: bool) -> Result<Guest, String> {
        let (build, way, mut fds) =
            match self.link.ask(Request::Helper { place, beside: true, jail }, &[]).await {
                Ok((Reply::Helped { build, way }, fds)) => (build, way, fds),
                Ok((Reply::Refused { message, .. }, _)) => return Err(message),
                Ok(_) => return Err("the gateway does not know of helpers".to_owned()),
                Err(lost @ Lost) => return Err(lost.to_string()),
            };
        let strange = || "the helper's streams are none".to_owned();
        let way = match way {
            Some((name, token, answer)) => {
                let listener = fds.pop().and_then(|fd| listener(fd).ok()).ok_or_else(strange)?;
                Some((listener, Way { name, token, answer }))
            }
            None => None,
        };
        let sockets = ExecSockets::from_fds(fds).ok_or_else(strange)?;
        let exec = Exec::new(sockets).await.map_err(|_| strange())?;
        let (mut pipe, control, errors, outcome) = exec.into_pipe();
        let met = async {
            greet(&mut pipe, &build).await?;
            match &way {
                Some((listener, way)) => lead(&mut pipe, listener, way).await,
                None => Ok(None),
            }
        };
        let stream = match tokio::time::timeout(GREETING, met).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("the helper does not start: {error}")),
            Err(_) => return Err("the helper does not start: it says nothing".to_owned()),
        };
        self.keepers.spawn(keep(control, errors, outcome));
        tracing::debug!(beside = stream.is_some(), "the helper serves");
        Ok(match stream {
            Some(stream) => Guest::adopt(stream),
            None => Guest::adopt(pipe),
        })
    }
}

/// A listener that was handed over.
fn listener(fd: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Holds the helper until it has ended: without this it would be killed.
async fn keep(mut control: Control, errors: Option<Output>, outcome: Outcome) {
    let said = async {
        if let Some(mut errors) = errors {
            while let Some(bytes) = errors.next().await {
                let text = crate::audit::bounded(&String::from_utf8_lossy(&bytes));
                tracing::debug!(said = ?text, "the helper complains");
            }
        }
        std::future::pending::<()>().await;
    };
    let pinged = async {
        control.closed().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = outcome.wait() => tracing::debug!(?ended, "the helper has ended"),
        () = said => {}
        () = pinged => {}
    }
}
