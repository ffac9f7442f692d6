//! Arguments of the commands of `portway compose` that stay with what runs.

use std::num::NonZeroU32;

use clap::{ArgAction, Args};

use super::lifecycle::{EngineArg, ServiceArgs};

/// What `up` does while it stays.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct AttendArgs {
    /// Stop all when one has ended; the exit code is that of the first
    #[arg(long, conflicts_with = "detach")]
    pub(crate) abort_on_container_exit: bool,
    /// Stop all when one has failed; the exit code is that of the first
    #[arg(long, conflicts_with = "detach")]
    pub(crate) abort_on_container_failure: bool,
    /// Show what this service says, and not what others say
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    pub(crate) attach: Vec<String>,
    /// Show what services say that are depended on, too
    #[arg(long, conflicts_with = "detach")]
    pub(crate) attach_dependencies: bool,
    /// Stop all when one has ended; the exit code is that of this service
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    pub(crate) exit_code_from: Option<String>,
    /// Do not show what this service says
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    pub(crate) no_attach: Vec<String>,
    /// No colours
    #[arg(long)]
    pub(crate) no_color: bool,
    /// No name in front of each line
    #[arg(long)]
    pub(crate) no_log_prefix: bool,
    /// The time in front of each line
    #[arg(long)]
    pub(crate) timestamps: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Signal, by name or number
    #[arg(short, long, default_value = "SIGKILL", value_name = "SIGNAL")]
    pub(crate) signal: String,
    /// Remove instances of services that are no longer in the files
    #[arg(long)]
    pub(crate) remove_orphans: bool,
    #[command(flatten)]
    pub(crate) of: ServiceArgs,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct RunArgs {
    /// Leave it running in the background, and print its name
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// What runs the command, instead of what the files say
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// Variable: `NAME=VALUE`, or `NAME` with the value it has here
    #[arg(short, long = "env", value_name = "VARIABLE")]
    pub(crate) env: Vec<String>,
    /// Whether the program reads standard input
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", value_name = "TRUE OR FALSE")]
    pub(crate) interactive: bool,
    /// Taken for the sake of docker compose: it is so anyhow where this is a terminal
    #[arg(short, long, hide = true)]
    pub(crate) tty: bool,
    /// Build the image first, also when it is there
    #[arg(long)]
    pub(crate) build: bool,
    /// Capability to add, as in `cap_add`
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<String>,
    /// Capability to drop, as in `cap_drop`
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_drop: Vec<String>,
    /// Remove instances of services that are no longer in the files
    #[arg(long)]
    pub(crate) remove_orphans: bool,
    /// Label of the instance: `NAME=VALUE`
    #[arg(short, long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    /// Name of the instance
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// No terminal, also when this is one
    #[arg(short = 'T', long, alias = "no-TTY")]
    pub(crate) no_tty: bool,
    /// Without what the service depends on
    #[arg(long)]
    pub(crate) no_deps: bool,
    /// Publish a port, as in `ports`
    #[arg(short, long, value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// Do not show which images are fetched
    #[arg(long)]
    pub(crate) quiet_pull: bool,
    /// Remove the instance when the program has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Publish the ports of the service
    #[arg(short = 'P', long)]
    pub(crate) service_ports: bool,
    /// User and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Volume, as in `volumes`
    #[arg(short, long = "volume", value_name = "VOLUME")]
    pub(crate) volumes: Vec<String>,
    /// Folder the program begins in
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// What carries published ports; the first `up` decides for good
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub(crate) proxy_engine: Option<EngineArg>,
    /// Grant what the files ask for beyond their own instances
    #[arg(long)]
    pub(crate) allow: bool,
    /// Service
    pub(crate) service: String,
    /// Program and its arguments; those of the service when left out
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct AttachArgs {
    /// Number of the replica, from 1; the first that there is when left out
    #[arg(long, value_name = "NUMBER")]
    pub(crate) index: Option<NonZeroU32>,
    /// Keys that end this command and leave the service: characters or `ctrl-` with one, with commas between them
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub(crate) detach_keys: String,
    /// Leave what the service reads alone
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Whether signals to this command go on to the service; else they only end this command
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", value_name = "TRUE OR FALSE")]
    pub(crate) sig_proxy: bool,
    /// Service
    pub(crate) service: String,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct WatchArgs {
    /// Leave the services as they are at the beginning
    #[arg(long)]
    pub(crate) no_up: bool,
    /// Say nothing of builds
    #[arg(long)]
    pub(crate) quiet: bool,
    /// What builds; the first of these that is here when left out
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub(crate) builder: Option<super::images::BuilderArg>,
    /// Grant what the files ask for beyond their own instances
    #[arg(long)]
    pub(crate) allow: bool,
    /// Services; all that have something to watch when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct EventsArgs {
    /// Print JSON, a line for each
    #[arg(long)]
    pub(crate) json: bool,
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct CpArgs {
    /// To all replicas, and to instances that `run` made
    #[arg(long, conflicts_with = "index")]
    pub(crate) all: bool,
    /// Keep owners, by their numbers
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Copy what a link leads to, when the source is one
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Number of the replica, from 1; the first that there is when left out
    #[arg(long, value_name = "NUMBER")]
    pub(crate) index: Option<NonZeroU32>,
    /// `SERVICE:PATH`, a path here, or `-`: an archive (tar) on standard input
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// `SERVICE:PATH`, a path here, or `-`: an archive (tar) on standard output
    #[arg(value_name = "DESTINATION")]
    pub(crate) destination: String,
}
