//! Small programs that are run in an instance to do something there: signals, and what they say.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use nix::sys::signal::Signal;
use portway_incus::{Client, Exec, ExecEnd, ExecSpec, FileContent};
use portway_proto::service::{DIR, PROGRAM, SPEC};

use super::found::{self, Replica};
use crate::failure::{Outcome, Stop, chain};

/// Longest description of a service that is read, bytes.
const SPEC_BYTES: usize = 4 << 20;

/// Whether the instance's first process is Portway's.
pub(super) async fn is_ours(client: &Client, replica: &Replica) -> Outcome<bool> {
    let path = format!("{DIR}/{SPEC}");
    let file = client.file(replica.project(), replica.name(), &path, SPEC_BYTES).await;
    Ok(file.map_err(found::failed)?.is_some_and(|file| matches!(file.content, FileContent::Plain(_))))
}

/// The number of a signal, by its name with or without `SIG`, or its number.
pub(super) fn signal_number(text: &str) -> Outcome<i32> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper.clone() } else { format!("SIG{upper}") };
    let named = Signal::from_str(&name).map(|signal| signal as i32).ok();
    let number = named.or_else(|| upper.parse().ok().filter(|number| (1..=64).contains(number)));
    number
        .ok_or_else(|| Stop::usage(format!("{text:?} is no signal: say a name such as SIGHUP, or a number")))
}

/// Sends a signal to what a service runs.
pub(super) async fn signal(client: &Client, replica: &Replica, number: i32) -> Outcome {
    let command = if is_ours(client, replica).await? {
        vec![format!("{DIR}/{PROGRAM}"), "kill".to_owned(), number.to_string()]
    } else {
        ["kill", &format!("-{number}"), "1"].map(str::to_owned).to_vec()
    };
    let name = replica.name();
    match run(client, replica, command).await? {
        (ExecEnd::Status(0), _) => Ok(()),
        (ExecEnd::Status(127), _) => Err(Stop::refused(format!("{name} has no program `kill`"))),
        (ExecEnd::Status(_), said) => {
            Err(Stop::refused(format!("{name} cannot be sent signal {number}: {}", said.trim_end())))
        }
        (ExecEnd::Failed(why), _) => Err(Stop::refused(format!("{name} cannot be sent a signal: {why}"))),
    }
}

/// Runs a program as root, without input; its end, and what it has said of errors.
pub(super) async fn run(
    client: &Client,
    replica: &Replica,
    command: Vec<String>,
) -> Outcome<(ExecEnd, String)> {
    let mut started = start(client, replica, command).await?;
    // It may have ended.
    let _gone = started.input.finish().await;
    end(started, replica).await
}

/// Starts a program as root.
pub(super) async fn start(client: &Client, replica: &Replica, command: Vec<String>) -> Outcome<Exec> {
    let spec = ExecSpec {
        command,
        environment: BTreeMap::new(),
        user: 0,
        group: 0,
        cwd: "/".to_owned(),
        terminal: None,
    };
    let started = client.exec(replica.project(), replica.name(), &spec).await.map_err(found::failed)?;
    let sockets = started.ok_or_else(|| Stop::refused(format!("{} is gone", replica.name())))?;
    Exec::new(sockets).await.map_err(|error| broken(replica, &error))
}

fn broken(replica: &Replica, error: &std::io::Error) -> Stop {
    Stop::refused(format!("cannot ask {}: {}", replica.name(), chain(error)))
}

/// The end of a program, and the beginning of what it has said.
pub(super) async fn end(started: Exec, replica: &Replica) -> Outcome<(ExecEnd, String)> {
    portway_compose::inside::end(started).await.map_err(|error| broken(replica, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for (text, number) in [("SIGHUP", 1), ("usr1", 10), ("15", 15), ("SigTerm", 15), ("64", 64)] {
            assert_eq!(signal_number(text).ok(), Some(number), "{text}");
        }
        for none in ["", "SIG", "0", "65", "-9", "X; reboot"] {
            assert!(signal_number(none).is_err(), "{none}");
        }
    }
}
