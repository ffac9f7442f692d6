//! `attach`: what a running service says, what it reads, and signals to it.
//!
//! What is typed goes to a pipe inside ([`portway_proto::service::INPUT`]), which stays when this command goes: several may
//! attach, and none ends the service's input. One that reads nothing is told nothing.

use std::io::{self, IsTerminal as _, Write as _};

use portway_proto::service::{DIR, PROGRAM, Source, Spec};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exec::{self, Raw};
use super::follow::{Followed, Following, Told, Until, follow};
use super::found::{self, Replica};
use super::inside;
use super::lines::{Line, now};
use super::show::say;
use crate::cli::compose::FileArgs;
use crate::cli::compose::run::AttachArgs;
use crate::failure::{Outcome, Stop, chain};
use crate::session::runtime;

mod keys;

use keys::Keys;

/// Signals that go on to the service, by their numbers in Linux.
const HANGUP: i32 = 1;
const INTERRUPT: i32 = 2;
const TERMINATE: i32 = 15;

/// Runs it, and ends with the service's exit code.
pub(super) fn run(files: &FileArgs, args: &AttachArgs) -> Outcome {
    let keys = Keys::read(&args.detach_keys)?;
    let name = found::name(files)?;
    let client = found::client()?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let replica = found::replica(&client, &name, &args.service, args.index).await?;
        if !replica.runs() {
            return Err(Stop::refused(format!("the service {} does not run", args.service)));
        }
        let told = portway_compose::inside::told(&client, replica.place())
            .await
            .map_err(found::failed)?
            .unwrap_or_default();
        let mut signals = Signals::take()?;
        let last = now();
        let followed = Followed { of: 0, replica: replica.clone(), last, console: Vec::new() };
        let following = follow(client.clone(), vec![followed], Until::Ended);
        let attached = Attached { client: &client, replica: &replica, proxy: args.sig_proxy };
        if args.no_stdin || !told.input {
            say(&format!("attached to {}", replica.name()));
            return attached.listen(following, &mut signals, None).await;
        }
        attached.converse(following, &mut signals, (&told, keys)).await
    });
    // A thread may still wait for standard input: nobody waits for it.
    runtime.shutdown_background();
    ended
}

/// Signals to this process.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
    /// The terminal has another size.
    size: Signal,
}

impl Signals {
    fn take() -> Outcome<Self> {
        let of = |kind| {
            let failed = |error: io::Error| Stop::refused(format!("cannot take signals: {}", chain(&error)));
            signal(kind).map_err(failed)
        };
        Ok(Self {
            hangup: of(SignalKind::hangup())?,
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            size: of(SignalKind::window_change())?,
        })
    }

    /// The number of the next one; `None` for another size.
    async fn next(&mut self) -> Option<i32> {
        tokio::select! {
            _ = self.hangup.recv() => Some(HANGUP),
            _ = self.interrupt.recv() => Some(INTERRUPT),
            _ = self.terminate.recv() => Some(TERMINATE),
            _ = self.size.recv() => None,
        }
    }
}

struct Attached<'a> {
    client: &'a portway_incus::Client,
    replica: &'a Replica,
    /// Whether signals go on to the service.
    proxy: bool,
}

impl Attached<'_> {
    /// With our standard input as the service's, until either ends.
    async fn converse(
        &self,
        following: Following,
        signals: &mut Signals,
        (told, keys): (&Spec, Keys),
    ) -> Outcome {
        let is_typed = told.terminal && io::stdin().is_terminal() && io::stdout().is_terminal();
        let keys = keys.for_terminal(is_typed);
        say(&format!("attached to {}{}", self.replica.name(), keys.told()));
        let broken = |error: io::Error| Stop::refused(format!("cannot use the terminal: {}", chain(&error)));
        let raw = if is_typed { Some(Raw::enter().map_err(broken)?) } else { None };
        if is_typed {
            self.resize().await?;
        }
        let ended = tokio::select! {
            ended = self.listen(following, signals, raw.as_ref()) => ended,
            fed = self.feed(keys) => fed,
        };
        drop(raw);
        ended
    }

    /// Shows what the service says, and passes signals on, until it ends.
    async fn listen(&self, mut following: Following, signals: &mut Signals, raw: Option<&Raw>) -> Outcome {
        loop {
            tokio::select! {
                told = following.next() => match told? {
                    Some(Told::Line(line)) => print(&line, if raw.is_some() { b"\r\n" } else { b"\n" })?,
                    Some(Told::Ended { code: Some(0), .. }) | None => return Ok(()),
                    Some(Told::Ended { code: Some(code), .. }) => {
                        return Err(Stop::Status(u8::try_from(code).unwrap_or(1)));
                    }
                    Some(Told::Ended { code: None, .. }) => {
                        return Err(Stop::refused("the service has ended, and nothing tells its exit code"));
                    }
                },
                number = signals.next() => match number {
                    None if raw.is_some() => self.resize().await?,
                    None => {}
                    Some(number) if self.proxy => inside::signal(self.client, self.replica, number).await?,
                    Some(_) => return Ok(()),
                },
            }
        }
    }

    /// Passes standard input on; ends when the keys to go are typed, and else never.
    async fn feed(&self, mut keys: Keys) -> Outcome {
        let command = vec![format!("{DIR}/{PROGRAM}"), "feed".to_owned(), DIR.to_owned()];
        let mut fed = inside::start(self.client, self.replica, command).await?;
        let mut pieces = exec::typed();
        while let Some(piece) = pieces.recv().await {
            let (bytes, goes) = keys.pass(&piece);
            let is_gone = !bytes.is_empty() && fed.input.send(bytes).await.is_err();
            if goes {
                // What was typed before it has been taken.
                let _ended = fed.input.finish().await;
                return Ok(());
            }
            if is_gone {
                break;
            }
        }
        // The end of ours is not the end of the service's.
        let _ended = fed.input.finish().await;
        let (end, said) = inside::end(fed, self.replica).await?;
        if end != portway_incus::ExecEnd::Status(0) {
            say(&format!("{} is told no more: {}", self.replica.name(), said.trim_end()));
        }
        std::future::pending().await
    }

    /// Gives the service's terminal the size of ours.
    async fn resize(&self) -> Outcome {
        let size = exec::size();
        let words = ["size".to_owned(), DIR.to_owned(), size.width.to_string(), size.height.to_string()];
        let command = [format!("{DIR}/{PROGRAM}")].into_iter().chain(words).collect();
        // One that cannot be had stays as it is.
        inside::run(self.client, self.replica, command).await.map(drop)
    }
}

/// As the service has said it: a part of a line is shown without an end.
fn print(line: &Line, end: &[u8]) -> Outcome {
    let mut bytes = line.text.clone();
    if !line.goes_on {
        bytes.extend_from_slice(end);
    }
    let written = if line.source == Source::Error {
        let mut err = io::stderr().lock();
        err.write_all(&bytes).and_then(|()| err.flush())
    } else {
        let mut out = io::stdout().lock();
        out.write_all(&bytes).and_then(|()| out.flush())
    };
    written.map_err(|error| Stop::output(&error))
}
