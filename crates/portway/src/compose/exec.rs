//! `portway compose exec`: a program in a running service.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Read as _};

use bytes::Bytes;
use portway_incus::{Client, Control, Exec, ExecEnd, ExecSpec, FileContent, Input, Output, Size};
use portway_proto::service::{DIR, SPEC, Spec, User};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::found::{self, Replica};
use crate::cli::compose::FileArgs;
use crate::cli::compose::inside::ExecArgs;
use crate::failure::{Outcome, Stop, chain, printable};
use crate::output::Out;
use crate::session::runtime;

/// Longest file of users, or of what a service runs, that is read, bytes.
const FILE_MAX_BYTES: usize = 4 << 20;

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
    let own = told(client, replica).await?.unwrap_or_default();
    let of_service = || String::from_utf8(own.user.clone()).ok().filter(|user| !user.is_empty());
    let user = args.user.clone().or_else(of_service).or_else(|| oci_user(replica)).unwrap_or_default();
    let user = user.as_bytes();
    let other = args.group.as_ref().map(|group| in_group(user, group)).transpose()?;
    let user = other.as_deref().unwrap_or(user);
    let (passwd, group) = if user.is_empty() {
        (None, None)
    } else {
        (text(client, replica, "/etc/passwd").await?, text(client, replica, "/etc/group").await?)
    };
    let who = User::find(&passwd.unwrap_or_default(), &group.unwrap_or_default(), user, &[])
        .map_err(Stop::refused)?;
    let mut environment: BTreeMap<String, String> = BTreeMap::new();
    for entry in &own.env {
        if let Some((name, value)) = str::from_utf8(entry).ok().and_then(|entry| entry.split_once('=')) {
            environment.insert(name.to_owned(), value.to_owned());
        }
    }
    if on_terminal && let Ok(kind) = std::env::var("TERM") {
        environment.insert("TERM".to_owned(), kind);
    }
    for entry in &args.env {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (entry.as_str(), std::env::var(entry).ok()),
        };
        if name.is_empty() {
            return Err(Stop::usage(format!("{entry:?} is no variable: its name is missing")));
        }
        environment.extend(value.map(|value| (name.to_owned(), value)));
    }
    let cwd = args.workdir.clone().or_else(|| String::from_utf8(own.cwd.clone()).ok());
    let cwd = cwd.filter(|cwd| !cwd.is_empty());
    let cwd = cwd.or_else(|| replica.listed.expanded_config.get("oci.cwd").cloned());
    Ok(ExecSpec {
        command: args.command.clone(),
        environment,
        user: who.uid,
        group: who.gid,
        cwd: cwd.filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| "/".to_owned()),
        terminal: on_terminal.then(size),
    })
}

/// A user with another group.
fn in_group(user: &[u8], group: &str) -> Outcome<Vec<u8>> {
    if group.is_empty() || group.contains(':') {
        return Err(Stop::usage(format!("--group: {group:?} is no group")));
    }
    let user = user.split(|byte| *byte == b':').next().filter(|user| !user.is_empty()).unwrap_or(b"0");
    Ok([user, b":", group.as_bytes()].concat())
}

/// User and group that an image of a registry is run as.
fn oci_user(replica: &Replica) -> Option<String> {
    let config = &replica.listed.expanded_config;
    let user = config.get("oci.uid")?;
    Some(format!("{user}:{}", config.get("oci.gid").map_or("0", String::as_str)))
}

/// What an instance's first process was told, when that is ours.
pub(super) async fn told(client: &Client, replica: &Replica) -> Outcome<Option<Spec>> {
    let own = text(client, replica, &format!("{DIR}/{SPEC}")).await?;
    Ok(own.and_then(|bytes| Spec::read(&bytes).ok()))
}

/// A file of the instance's, when it is a plain one.
async fn text(client: &Client, replica: &Replica, path: &str) -> Outcome<Option<Vec<u8>>> {
    let file = client.file(replica.project(), replica.name(), path, FILE_MAX_BYTES).await;
    Ok(file.map_err(found::failed)?.and_then(|file| match file.content {
        FileContent::Plain(bytes) => Some(bytes.to_vec()),
        FileContent::Link(_) | FileContent::Directory => None,
    }))
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
