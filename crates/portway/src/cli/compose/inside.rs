//! Arguments of the commands of `portway compose` that look at services, or run something in them.

use std::num::NonZeroU32;

use clap::{Args, ValueEnum};

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ListFormat {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ExecArgs {
    /// Leave the program running in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Variable of the program: `NAME=VALUE`, or `NAME` with the value it has here
    #[arg(short, long = "env", value_name = "VARIABLE")]
    pub(crate) env: Vec<String>,
    /// Number of the replica, from 1; the first that there is when left out
    #[arg(long, value_name = "NUMBER")]
    pub(crate) index: Option<NonZeroU32>,
    /// Print what would be run, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Group, a name or a number
    #[arg(short, long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Taken for the sake of docker compose: it is so anyhow
    #[arg(short, long, hide = true)]
    pub(crate) interactive: bool,
    /// Taken for the sake of docker compose: it is so anyhow where this is a terminal
    #[arg(short, long, hide = true)]
    pub(crate) tty: bool,
    /// Standard input is not passed on
    #[arg(skip)]
    pub(crate) no_input: bool,
    /// No terminal, also when this is one
    #[arg(short = 'T', long, alias = "no-TTY")]
    pub(crate) no_tty: bool,
    /// User and group, names or numbers; those of the service when left out
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Folder the program begins in
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Service
    pub(crate) service: String,
    /// Program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct LogsArgs {
    /// Go on until the services have ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of the replica; all when left out
    #[arg(long, value_name = "NUMBER")]
    pub(crate) index: Option<NonZeroU32>,
    /// No colours
    #[arg(long)]
    pub(crate) no_color: bool,
    /// No name in front of each line
    #[arg(long)]
    pub(crate) no_log_prefix: bool,
    /// Only lines from then on: a time (`2026-01-31T08:05:00Z`), or how long ago (`10m`)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only lines until then
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Only so many of the last lines of each replica, or `all`
    #[arg(short = 'n', long, default_value = "all", value_name = "NUMBER")]
    pub(crate) tail: String,
    /// The time in front of each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct PortArgs {
    /// Number of the replica, from 1; the first that there is when left out
    #[arg(long, value_name = "NUMBER")]
    pub(crate) index: Option<NonZeroU32>,
    /// Protocol of the port
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "udp"])]
    pub(crate) protocol: String,
    /// Service
    pub(crate) service: String,
    /// Port of the service inside
    pub(crate) private_port: u16,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ListArgs {
    /// How to print the list
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    /// Print names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ProjectsArgs {
    /// Projects of which nothing runs too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only those whose name has this in it: `name=TEXT`
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// How to print the list
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    /// Print names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct StatsArgs {
    /// Those that do not run too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Taken for the sake of docker compose: nothing is shortened anyhow
    #[arg(long, hide = true)]
    pub(crate) no_trunc: bool,
    /// How to print the list
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    /// Once, and not again and again
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct TopArgs {
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}
