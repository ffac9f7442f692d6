//! `portway compose`: Compose files, and what is done with the project they describe.

mod attach;
mod build;
mod builder;
mod config;
mod cp;
mod dropin;
mod events;
mod exec;
mod files;
mod follow;
mod foreground;
mod found;
mod health;
mod inside;
mod lifecycle;
mod lines;
mod lists;
mod logs;
mod measure;
mod one_off;
mod ps;
mod published;
mod pull;
mod registry;
mod remote;
mod rmi;
mod show;
mod stage;
mod store;
mod up;
mod watch;

use std::io::{self, Write as _};

use portway_compose::plan::Hold;
use portway_composefile::{Fault, Kind, Options, Project, load};
use portway_control::api::FailureKind;

use crate::cli::compose::{ComposeArgs, ComposeCommand, FileArgs};
use crate::failure::{Outcome, Stop, printable};
use files::Disk;

/// Runs a subcommand.
pub(crate) fn run(args: &ComposeArgs) -> Outcome {
    let files = &args.files;
    remote::wish(&args.place)?;
    match &args.command {
        ComposeCommand::Exec(exec) => exec::run(&args.files, exec),
        ComposeCommand::Logs(logs) => logs::run(&args.files, logs),
        ComposeCommand::Port(port) => lists::port(&args.files, port),
        ComposeCommand::Top(top) => measure::top(&args.files, top),
        ComposeCommand::Stats(stats) => measure::stats(&args.files, stats),
        ComposeCommand::Images(list) => lists::images(&args.files, list),
        ComposeCommand::Volumes(list) => lists::volumes(&args.files, list),
        ComposeCommand::Ls(list) => lists::projects(list),
        ComposeCommand::Config(config) => config::run(files, config),
        ComposeCommand::Up(args) => up::up(files, args),
        ComposeCommand::Build(args) => build::run(files, args),
        ComposeCommand::Pull(args) => pull::run(files, args),
        ComposeCommand::Push(args) => build::push(files, args),
        ComposeCommand::Create(args) => up::create(files, args),
        ComposeCommand::Scale(args) => up::rescale(files, args),
        ComposeCommand::Down(args) => lifecycle::down(files, args),
        ComposeCommand::Start(args) => lifecycle::start(files, args),
        ComposeCommand::Stop(args) => lifecycle::stop(files, args),
        ComposeCommand::Restart(args) => lifecycle::restart(files, args),
        ComposeCommand::Kill(args) => lifecycle::kill(files, args),
        ComposeCommand::Attach(args) => attach::run(files, args),
        ComposeCommand::Events(args) => events::run(files, args),
        ComposeCommand::Cp(args) => cp::run(files, args),
        ComposeCommand::Run(args) => one_off::run(files, args),
        ComposeCommand::Pause(args) => lifecycle::hold(files, args, Hold::On),
        ComposeCommand::Unpause(args) => lifecycle::hold(files, args, Hold::Off),
        ComposeCommand::Rm(args) => lifecycle::remove(files, args),
        ComposeCommand::Ps(args) => ps::run(files, args),
        ComposeCommand::Wait(args) => lifecycle::wait(files, args),
        ComposeCommand::Watch(args) => watch::run(files, args),
        ComposeCommand::List(args) => dropin::list(files, args),
        ComposeCommand::Incus(args) => dropin::incus(files, args),
        ComposeCommand::Healthd(args) => dropin::healthd(args),
        ComposeCommand::Version(args) => dropin::version(args),
    }
}

/// Whether variables are filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variables {
    Filled,
    AsWritten,
}

/// The project of the files, with `services` only and what they depend on when there are any. What was noticed
/// is said on standard error.
fn project(args: &FileArgs, services: &[String], variables: Variables) -> Outcome<Project> {
    let mut options = files::options(args)?;
    options.services = services.to_vec();
    options.interpolate = variables == Variables::Filled;
    read(&options)
}

/// The whole project of the files, with `services` in it whatever their profiles. What was noticed is said on standard
/// error.
fn enabling(args: &FileArgs, services: &[String]) -> Outcome<Project> {
    let mut options = files::options(args)?;
    options.enabled = services.to_vec();
    read(&options)
}

/// Fails for the first of these services that is not known.
fn all_known<'n>(named: impl IntoIterator<Item = &'n String>, known: impl Fn(&str) -> bool) -> Outcome {
    match named.into_iter().find(|name| !known(name)) {
        Some(unknown) => Err(Stop::of(FailureKind::Missing, format!("there is no service `{unknown}`"))),
        None => Ok(()),
    }
}

pub(super) fn read(options: &Options) -> Outcome<Project> {
    let project = load(options, &Disk).map_err(stop)?;
    for warning in &project.warnings {
        // Nothing is left to do when standard error cannot be written.
        let _unheard = writeln!(io::stderr(), "warning: {}", printable(warning));
    }
    Ok(project)
}

/// Says once that a daemon for health is not needed, where a flag is about one.
fn without_healthd(is_said: bool) {
    if is_said {
        stage::warn("flags about healthd have no effect: `up` asks the services for their health itself");
    }
}

/// Fails for services that are not there.
fn known_services<'n>(project: &Project, names: impl IntoIterator<Item = &'n String>) -> Outcome {
    all_known(names, |name| project.services().any(|(key, _)| key == name))
}

/// The whole project of the files, without a word about what was noticed.
fn quiet(args: &FileArgs) -> Outcome<Project> {
    load(&files::options(args)?, &Disk).map_err(stop)
}

/// A fault of a file as the end of a command.
fn stop(fault: Fault) -> Stop {
    let kind = match fault.kind {
        Kind::Malformed | Kind::Inconsistent | Kind::TooLarge => FailureKind::Usage,
        Kind::Missing => FailureKind::Missing,
        Kind::Unreadable => FailureKind::Refused,
    };
    let stop = Stop::of(kind, fault.to_string());
    match fault.hint {
        Some(hint) => stop.hint(hint),
        None => stop,
    }
}
