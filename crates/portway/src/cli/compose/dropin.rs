//! Arguments of the commands that incus-compose has and docker compose has not, and of `version`.

use clap::{Args, ValueEnum};

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ResourceFormat {
    /// For people
    #[default]
    Table,
    /// YAML
    Yaml,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ResourcesArgs {
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true)]
    pub(crate) no_healthd: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: ResourceFormat,
    /// Services; all, with networks and volumes, when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct IncusArgs {
    /// Arguments of `incus`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub(crate) words: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct HealthdArgs {
    /// Anything
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub(crate) words: Vec<std::ffi::OsString>,
}

/// How the version is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum VersionFormat {
    /// For people
    #[default]
    Pretty,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct VersionArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: VersionFormat,
    /// The number only
    #[arg(long)]
    pub(crate) short: bool,
}
