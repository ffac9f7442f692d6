//! Arguments of the commands that make, start, stop and remove what a project says.

use clap::{Args, ValueEnum};

use super::images::BuilderArg;
use super::run::AttendArgs;

/// What carries published ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    /// Devices of Portway
    Portway,
    /// Proxy devices of Incus
    Incus,
}

/// When images are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullArg {
    /// Each time
    Always,
    /// When they are not there
    Missing,
    /// Not at all
    Never,
    /// As each service says
    Policy,
}

/// Shared by what changes the project.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ChangeArgs {
    /// Print the steps and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Steps at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) parallel: u16,
}

/// Shared by what makes instances.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct MakeArgs {
    /// Make instances anew that have not changed
    #[arg(long, visible_alias = "recreate", conflicts_with = "no_recreate")]
    pub(crate) force_recreate: bool,
    /// Leave instances that are there as they are
    #[arg(long)]
    pub(crate) no_recreate: bool,
    /// Remove instances of services that are no longer in the files
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS")]
    pub(crate) remove_orphans: bool,
    /// Replicas of a service
    #[arg(long = "scale", value_name = "SERVICE=NUMBER")]
    pub(crate) scale: Vec<String>,
    /// When images are fetched
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) pull: Option<PullArg>,
    /// Build images that are there already too
    #[arg(long, conflicts_with = "no_build")]
    pub(crate) build: bool,
    /// Build no image
    #[arg(long)]
    pub(crate) no_build: bool,
    /// What builds; the first of these that is here when left out
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub(crate) builder: Option<BuilderArg>,
    /// What carries published ports; the first `up` decides for good
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub(crate) proxy_engine: Option<EngineArg>,
    /// Grant what the files ask for beyond their own instances
    #[arg(long)]
    pub(crate) allow: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Services, with what they depend on; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Return when everything is started
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Return when everything runs, or is healthy where its health is told
    #[arg(long)]
    pub(crate) wait: bool,
    /// Longest time to wait
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(crate) wait_timeout: Option<u32>,
    /// Without what the services depend on
    #[arg(long)]
    pub(crate) no_deps: bool,
    /// Start nothing
    #[arg(long, conflicts_with_all = ["wait", "detach"])]
    pub(crate) no_start: bool,
    /// Seconds that instances have to stop before force is used
    #[arg(short, long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// Do not show which images are fetched
    #[arg(long)]
    pub(crate) quiet_pull: bool,
    #[command(flatten)]
    pub(crate) attend: AttendArgs,
    #[command(flatten)]
    pub(crate) make: MakeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) make: MakeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Without what the services depend on
    #[arg(long)]
    pub(crate) no_deps: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Replicas of a service
    #[arg(value_name = "SERVICE=NUMBER", required = true)]
    pub(crate) scale: Vec<String>,
}

/// Which images are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RmiArg {
    /// Those that were built and that the file gives no name
    Local,
    /// Those that were built, and those that were fetched
    All,
}

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Remove images of the services too
    #[arg(long, value_enum, value_name = "WHICH")]
    pub(crate) rmi: Option<RmiArg>,
    /// The same as `--rmi all`
    #[arg(long, hide = true)]
    pub(crate) images: bool,
    /// Leave the networks
    #[arg(long)]
    pub(crate) no_networks: bool,
    /// Remove the server's project with all that is in it, whoever has made it, volumes too
    #[arg(long, conflicts_with_all = ["services", "no_networks"])]
    pub(crate) project: bool,
    /// Remove volumes of the project too
    #[arg(short, long)]
    pub(crate) volumes: bool,
    /// Taken for the sake of docker compose: everything that was made for the project goes anyhow
    #[arg(long, hide = true)]
    pub(crate) remove_orphans: bool,
    /// Seconds that instances have to stop before force is used
    #[arg(short, long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Only the instances of these services
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// What the services depend on too
    #[arg(long)]
    pub(crate) with_deps: bool,
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Seconds that instances have to stop before force is used
    #[arg(short, long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    #[command(flatten)]
    pub(crate) of: ServiceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Stop them first
    #[arg(short, long)]
    pub(crate) stop: bool,
    /// Taken for the sake of docker compose: nothing is asked
    #[arg(short, long, hide = true)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) of: ServiceArgs,
}

/// How `ps` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum PsFormat {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Those that do not run too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// What the services depend on too
    #[arg(long)]
    pub(crate) with_deps: bool,
    /// Names of services only
    #[arg(long, name = "names_of_services", long = "services")]
    pub(crate) only_services: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: PsFormat,
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Services
    #[arg(value_name = "SERVICE", required = true)]
    pub(crate) services: Vec<String>,
}
