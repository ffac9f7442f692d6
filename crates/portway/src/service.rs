//! `portway daemon` and `portway proxy`: arguments to the daemon's own entries.

use std::io::{self, Write as _};

use portway_config::{Paths, Settings, SettingsError};
use portway_control::api::{Device, DeviceState, FailureKind};
use portway_daemon::{DaemonAction, DaemonOptions, ForegroundOptions, Notice};

use crate::cli::{DaemonArgs, ProxyArgs, keys, target};
use crate::device;
use crate::failure::{Outcome, Stop, chain, printable};
use crate::mesh;
use crate::output::human;
use crate::session::paths;
use crate::ssh;

/// Runs the daemon until it is told to end.
pub(crate) fn daemon(args: &DaemonArgs) -> Outcome {
    let paths = paths()?;
    let settings = settings(&paths)?;
    let action = if args.purge { DaemonAction::Purge } else { DaemonAction::Serve };
    let companion = ssh::companion(&paths, &settings)?;
    portway_daemon::run(DaemonOptions { paths, settings, action, companion, networks: mesh::NETWORKS })
        .map_err(Stop::Failed)
}

/// Runs one device until it is told to end.
pub(crate) fn proxy(args: &ProxyArgs) -> Outcome {
    let (instance, pairs) = match args.arguments.as_slice() {
        [first, rest @ ..] if !first.contains('=') => (Some(first), rest),
        all => (None, all),
    };
    let project = args.project.project.as_deref();
    if let (None, Some(project)) = (instance, project) {
        return Err(Stop::usage(format!("--project {project} needs an instance")));
    }
    let instance = instance.map(|text| target::instance(text, project)).transpose()?;
    let spec = keys::spec(&keys::pairs(pairs)?)?;
    let settings = settings(&paths()?)?;
    let mut ready = false;
    let report = |notice: Notice<'_>| {
        let said = match notice {
            Notice::State(device) => state_line(device, &mut ready),
            Notice::Failures { dials, last } => Said::Trouble(failures_line(dials, last)),
        };
        // Whoever reads along may go; the device stays.
        let _unheard = match said {
            Said::Ready(line) => io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush()),
            Said::Trouble(line) => io::stderr().write_all(line.as_bytes()),
        };
    };
    portway_daemon::foreground(ForegroundOptions { instance, spec, settings }, report).map_err(Stop::Failed)
}

/// What `portway proxy` says of its device, and where.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// On standard output: scripts wait for it.
    Ready(String),
    /// On standard error.
    Trouble(String),
}

/// `ready` when the device serves for the first time, a line for people whenever its state changes after that.
fn state_line(device: &Device, ready: &mut bool) -> Said {
    let word = device::state_word(device.state);
    if device.state == DeviceState::Active && !*ready {
        *ready = true;
        return Said::Ready("ready\n".to_owned());
    }
    let why = device.reason.as_deref().or(device.last_error.as_deref());
    let why = why.filter(|_| device.state != DeviceState::Active);
    let line = why.map_or_else(|| word.to_owned(), |why| format!("{word}: {}", printable(why)));
    Said::Trouble(format!("{line}\n"))
}

/// Clients that found no service.
fn failures_line(dials: u64, last: &str) -> String {
    let last = printable(last);
    match dials {
        0 => format!("{last}\n"),
        dials => format!("{}: {last}\n", human::count(dials, "failed dial")),
    }
}

/// What `portway.toml` says.
pub(crate) fn settings(paths: &Paths) -> Outcome<Settings> {
    Settings::load(&paths.config).map_err(|error| wrong_settings(&error))
}

/// How a command ends that cannot use `portway.toml`.
pub(crate) fn wrong_settings(error: &SettingsError) -> Stop {
    let kind = match error {
        SettingsError::Syntax { .. } | SettingsError::NoUser { .. } | SettingsError::RootUser => {
            FailureKind::Usage
        }
        SettingsError::File(error) if error.is_malformed() => FailureKind::Usage,
        SettingsError::File(_) | SettingsError::UserLookup { .. } => FailureKind::Refused,
    };
    let stop = Stop::of(kind, chain(error));
    match error.hint() {
        Some(hint) => stop.hint(hint),
        None => stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_said_once() {
        let mut device = device::sample();
        let mut ready = false;
        device.state = DeviceState::Waiting;
        device.reason = Some("the instance\nis stopped".to_owned());
        let trouble = |text: &str| Said::Trouble(text.to_owned());
        assert_eq!(state_line(&device, &mut ready), trouble("waiting: the instance is stopped\n"));
        device.state = DeviceState::Active;
        assert_eq!(state_line(&device, &mut ready), Said::Ready("ready\n".to_owned()));
        assert_eq!(state_line(&device, &mut ready), trouble("active\n"));
    }
}
