//! `attach`: what a running service says, and signals to it. It reads nothing from here.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use portway_proto::service::Stamp;
use tokio::signal::unix::{SignalKind, signal};

use super::follow::{Followed, Told, follow};
use super::found;
use super::inside;
use super::lines::{Names, Show, Style};
use super::show::say;
use crate::cli::compose::FileArgs;
use crate::cli::compose::run::AttachArgs;
use crate::failure::{Outcome, Stop, chain};
use crate::session::runtime;

/// Signals that go on to the service, by their numbers in Linux.
const HANGUP: i32 = 1;
const INTERRUPT: i32 = 2;
const TERMINATE: i32 = 15;

/// Runs it, and ends with the service's exit code.
pub(super) fn run(files: &FileArgs, args: &AttachArgs) -> Outcome {
    let name = found::name(files)?;
    let client = found::client()?;
    runtime()?.block_on(async {
        let replica = found::replica(&client, &name, &args.service, args.index).await?;
        if !replica.runs() {
            return Err(Stop::refused(format!("the service {} does not run", args.service)));
        }
        let style = Style { names: Names::None, timestamps: false };
        let show = Show::new(std::slice::from_ref(&replica), style);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = Stamp { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() };
        let mut following = follow(
            client.clone(),
            vec![Followed { of: 0, replica: replica.clone(), last, console: Vec::new() }],
        );
        let failed = |error: io::Error| Stop::refused(format!("cannot take signals: {}", chain(&error)));
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        say(&format!("attached to {}", replica.name()));
        loop {
            let number = tokio::select! {
                told = following.next() => match told? {
                    Some(Told::Line(line)) => {
                        show.print(&line)?;
                        continue;
                    }
                    Some(Told::Ended { code: Some(0), .. }) | None => return Ok(()),
                    Some(Told::Ended { code: Some(code), .. }) => {
                        return Err(Stop::Status(u8::try_from(code).unwrap_or(1)));
                    }
                    Some(Told::Ended { code: None, .. }) => {
                        return Err(Stop::refused("the service has ended, and nothing tells its exit code"));
                    }
                },
                _ = hangup.recv() => HANGUP,
                _ = interrupt.recv() => INTERRUPT,
                _ = terminate.recv() => TERMINATE,
            };
            if !args.sig_proxy {
                return Ok(());
            }
            inside::signal(&client, &replica, number).await?;
        }
    })
}
