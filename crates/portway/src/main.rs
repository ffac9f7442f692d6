//! The one binary: arguments to a role, or to a request on the control socket, or to text.

mod apply;
mod cli;
mod completion;
mod compose;
mod demo;
mod device;
mod doctor;
mod events;
mod failure;
mod man;
mod mesh;
mod moves;
mod output;
mod progress;
mod role;
mod service;
mod session;
mod ssh;
mod status;
mod top;

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser as _};

use cli::compose::variables;
use cli::{Cli, Command};
use failure::Outcome;
use output::Out;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|text| text.to_string_lossy().into_owned()).collect();
    if let Some(code) = role::run(&arguments) {
        return code;
    }
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return say(&error),
    };
    match dispatch(&cli.command) {
        Ok(code) => code,
        Err(stop) => stop.report(),
    }
}

fn parse() -> Result<Cli, clap::Error> {
    let words = cli::mesh::flags_behind(std::env::args_os().collect());
    if !variables::are_set() {
        return Cli::try_parse_from(words);
    }
    let mut line = variables::with_variables(Cli::command());
    let mut matches = line.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut line))
}

fn dispatch(command: &Command) -> Outcome<ExitCode> {
    let done = match command {
        Command::Demo(args) => return demo::run(args),
        Command::Proxy(args) => service::proxy(args),
        Command::Daemon(args) => service::daemon(args),
        Command::Device(command) => device::run(command),
        Command::Apply(args) => apply::run(args),
        Command::Ssh(command) => ssh::run(command),
        Command::Compose(args) => compose::run(args),
        Command::Mesh(command) => mesh::run(command),
        Command::Status(args) => status::run(args),
        Command::Top(args) => top::run(args),
        Command::Events(args) => events::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completion(args) => completion::run(args),
        Command::CompleteWords(args) => completion::words(args),
        Command::Man(args) => man::run(args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Prints what clap has to say: help and version on standard output; what is wrong with the arguments as any
/// other failure, on one line with a hint.
fn say(error: &clap::Error) -> ExitCode {
    let text = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let mut out = Out::new();
            let text = if out.look.colour { text.ansi().to_string() } else { text.to_string() };
            match out.line(text.trim_end()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(stop) => stop.report(),
            }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Nothing is left to do when standard error cannot be written.
            let _unheard = writeln!(std::io::stderr(), "{}", text.to_string().trim_end());
            ExitCode::from(2)
        }
        _ => failure::of_arguments(&text.to_string()).report(),
    }
}
