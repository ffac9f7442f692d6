//! `portway compose exec`: a program in a running service.

use std::io::{self, IsTerminal as _, Read as _};

use bytes::Bytes;
use portway_compose::inside::{self, InsideError, Program};
use portway_incus::{Client, Control, Exec, ExecEnd, ExecSpec, Input, Output, Size};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::found::{self, Replica};
use crate::cli::compose::FileArgs;
use crate::cli::compose::inside::ExecArgs;
use crate::failure::{Outcome, Stop, chain, printable};
use crate::output::Out;
use crate::session::runtime;

/// Most bytes of standard input in one message.
const PIECE_BYTES: usize = 32 << 10;

/// Signals that go on to the program when it has no terminal to be told by: SIGHUP, SIGINT, SIGTERM.
const FORWARDED: [(SignalKind, i32); 3] =
    [(SignalKind::hangup(), 1), (SignalKind::interrupt(), 2), (SignalKind::terminate(), 15)];

/// Runs it, and ends with its status.
pub(super) fn run(files: &FileArgs, args: &ExecArgs) -> Outcome {
    let name = found::name(files)?;
    let client = found::client()?;
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let replica = found::replica(&client, &name, &args.service, args.index).await?;
        if !replica.runs() {
            return Err(Stop::refused(format!("the service {} does not run", args.service)));
        }
        if args.dry_run {
            let spec = spec(&client, &replica, args, false).await?;
            return told_of(&replica, &spec).map(|()| None);
        }
        if args.detach {
            let spec = spec(&client, &replica, args, false).await?;
            let started = client.exec_detached(replica.project(), replica.name(), &spec).await;
            return started.map_err(found::failed)?.map(|()| None).ok_or_else(|| gone(&replica));
        }
        attend(&client, &replica, args).await.map(Some)
    })?;
    // A thread may still wait for standard input: nobody waits for it.
    runtime.shutdown_background();
    match end {
        None | Some(ExecEnd::Status(0)) => Ok(()),
        Some(ExecEnd::Status(status)) => Err(Stop::Status(status)),
        Some(ExecEnd::Failed(why)) => Err(Stop::refused(format!("the program could not be run: {why}"))),
    }
}

/// Runs the program to its end with our standard streams as its own, on a terminal when they are one.
pub(super) async fn attend(client: &Client, replica: &Replica, args: &ExecArgs) -> Outcome<ExecEnd> {
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let on_terminal = !args.no_tty && !args.no_input && is_terminal;
    let spec = spec(client, replica, args, on_terminal).await?;
    converse(client, replica, &spec, !args.no_input).await
}

/// Prints what would be run.
fn told_of(replica: &Replica, spec: &ExecSpec) -> Outcome {
    let words: Vec<String> = spec.command.iter().map(|word| format!("{word:?}")).collect();
    let (name, user, group) = (replica.name(), spec.user, spec.group);
    let line = format!("run {} in {name} as {user}:{group} from {}", words.join(" "), spec.cwd);
    Out::new().line(&printable(&line))
}

fn gone(replica: &Replica) -> Stop {
    Stop::refused(format!("the instance {} is gone", replica.name()))
}

/// What is run: in the surroundings of the service, as far as they are known.
async fn spec(client: &Client, replica: &Replica, args: &ExecArgs, on_terminal: bool) -> Outcome<ExecSpec> {
    let mut program = Program { command: args.command.clone(), ..Program::default() };
    program.user.clone_from(&args.user);
    program.cwd.clone_from(&args.workdir);
    if let Some(group) = &args.group {
        let user = match &args.user {
            Some(user) => Some(user.clone()),
            None => inside::user(client, replica.place(), &replica.listed.expanded_config)
                .await
                .map_err(found::failed)?,
        };
        program.user = Some(in_group(user.as_deref().unwrap_or_default(), group)?);
    }
    if on_terminal && let Ok(kind) = std::env::var("TERM") {
        program.environment.insert("TERM".to_owned(), kind);
    }
    for entry in &args.env {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (entry.as_str(), std::env::var(entry).ok()),
        };
        if name.is_empty() {
            return Err(Stop::usage(format!("{entry:?} is no variable: its name is missing")));
        }
        program.environment.extend(value.map(|value| (name.to_owned(), value)));
    }
    let spec = inside::spec(client, replica.place(), &replica.listed.expanded_config, &program).await;
    let spec = spec.map_err(|error| match error {
        InsideError::Server(error) => found::failed(error),
        other => Stop::refused(other.to_string()),
    })?;
    Ok(ExecSpec { terminal: on_terminal.then(size), ..spec })
}

/// A user with another group.
fn in_group(user: &str, group: &str) -> Outcome<String> {
    if group.is_empty() || group.contains(':') {
        return Err(Stop::usage(format!("--group: {group:?} is no group")));
    }
    let user = user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
    Ok(format!("{user}:{group}"))
}

/// Size of this terminal.
pub(super) fn size() -> Size {
    let known = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let (width, height) = known.map_or((80, 24), |size| (size.ws_col, size.ws_row));
    Size { width: width.max(1), height: height.max(1) }
}

/// This terminal without line editing and echo; as it was on drop.
pub(super) struct Raw(Termios);

impl Raw {
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing is left to do about a terminal that is gone.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Runs the program with our standard streams as its own, to its end.
async fn converse(client: &Client, replica: &Replica, spec: &ExecSpec, reads: bool) -> Outcome<ExecEnd> {
    let broken = |error: io::Error| Stop::refused(format!("cannot talk to the program: {}", chain(&error)));
    let sockets = client.exec(replica.project(), replica.name(), spec).await.map_err(found::failed)?;
    let exec = Exec::new(sockets.ok_or_else(|| gone(replica))?).await.map_err(broken)?;
    let raw = if spec.terminal.is_some() { Some(Raw::enter().map_err(broken)?) } else { None };
    let Exec { mut control, mut input, mut output, mut errors, outcome } = exec;
    let reading = async {
        let said = copy(&mut output, io::stdout());
        match errors.as_mut() {
            Some(errors) => tokio::try_join!(said, copy(errors, io::stderr())).map(drop),
            None => said.await,
        }
    };
    let done = tokio::select! {
        done = reading => done,
        never = feed(&mut input, reads) => match never {},
        never = steer(&mut control, spec.terminal.is_some()) => match never {},
    };
    drop(raw);
    done?;
    drop(input);
    let end = outcome.wait().await.map_err(broken)?;
    drop(control);
    Ok(end)
}

async fn copy(from: &mut Output, mut to: impl io::Write) -> Outcome {
    while let Some(bytes) = from.next().await {
        to.write_all(&bytes).and_then(|()| to.flush()).map_err(|error| Stop::output(&error))?;
    }
    Ok(())
}

/// What comes from standard input, until its end.
pub(super) fn typed() -> mpsc::Receiver<Bytes> {
    let (send, pieces) = mpsc::channel::<Bytes>(4);
    // Reading blocks, and nothing ends it but this process's end.
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count) = io::stdin().read(&mut piece) {
            if count == 0 || send.blocking_send(Bytes::copy_from_slice(&piece[..count])).is_err() {
                return;
            }
        }
    });
    pieces
}

/// Passes standard input on, and its end; where it is not to be read only the end.
async fn feed(input: &mut Input, reads: bool) -> std::convert::Infallible {
    let mut pieces = if reads { typed() } else { mpsc::channel(1).1 };
    while let Some(bytes) = pieces.recv().await {
        if input.send(bytes).await.is_err() {
            break;
        }
    }
    // It may have ended.
    let _ended = input.finish().await;
    input.closed().await;
    std::future::pending().await
}

/// Tells the program of signals and of the terminal's size.
async fn steer(control: &mut Control, on_terminal: bool) -> std::convert::Infallible {
    let (send, mut told) = mpsc::channel::<i32>(4);
    let kinds = FORWARDED.into_iter().filter(|_| !on_terminal).chain([(SignalKind::window_change(), 0)]);
    let mut waiting = tokio::task::JoinSet::new();
    for (kind, number) in kinds {
        let Ok(mut signals) = signal(kind) else { continue };
        let send = send.clone();
        waiting
            .spawn(async move { while signals.recv().await.is_some() && send.send(number).await.is_ok() {} });
    }
    loop {
        tokio::select! {
            () = control.closed() => return std::future::pending().await,
            number = told.recv() => match number {
                Some(0) if on_terminal => drop(control.resize(size()).await),
                Some(number) if number > 0 => drop(control.signal(number).await),
                _ => {}
            },
        }
    }
}
