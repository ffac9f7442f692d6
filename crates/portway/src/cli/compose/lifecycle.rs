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

/// Steps at a time, where nobody says how many.
const WORKERS: u16 = 8;

/// Shared by what changes the project.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct ChangeArgs {
    /// Print the steps and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Steps at a time
    #[arg(long, value_name = "NUMBER", default_value_t = WORKERS, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) parallel: u16,
}

impl Default for ChangeArgs {
    fn default() -> Self {
        Self { dry_run: false, parallel: WORKERS }
    }
}

/// Shared by what makes instances.
#[derive(Debug, Default, Clone, Args)]
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
    /// Say nothing of builds
    #[arg(skip)]
    pub(crate) quiet_build: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Services, with what they depend on; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

impl MakeArgs {
    /// What these services need and is not there.
    pub(crate) fn plain(services: Vec<String>, change: ChangeArgs) -> Self {
        Self { services, change, ..Self::default() }
    }
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
    /// Make what the services depend on anew too
    #[arg(long, conflicts_with = "no_recreate")]
    pub(crate) always_recreate_deps: bool,
    /// Longest time that one service is waited for by another; 0 is any
    #[arg(long, value_name = "SECONDS")]
    pub(crate) dependency_timeout: Option<u32>,
    /// Bring what changes in folders here into the instances, as `watch` does
    #[arg(short, long, conflicts_with_all = ["wait", "detach", "no_start", "dry_run", "abort_on_container_exit",
        "abort_on_container_failure", "exit_code_from"])]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) healthd: HealthdArgs,
    #[command(flatten)]
    pub(crate) attend: AttendArgs,
    #[command(flatten)]
    pub(crate) make: MakeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Do not show which images are fetched
    #[arg(long)]
    pub(crate) quiet_pull: bool,
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
    /// Taken for the sake of incus-compose: only what is named goes anyhow
    #[arg(long, hide = true)]
    pub(crate) no_deps: bool,
    /// Taken for the sake of incus-compose: all replicas go anyhow
    #[arg(long, hide = true, value_name = "SERVICE=NUMBER")]
    pub(crate) scale: Vec<String>,
    #[command(flatten)]
    pub(crate) healthd: NoHealthdArgs,
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
pub(crate) struct StartArgs {
    /// Longest time that it may take
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    #[command(flatten)]
    pub(crate) of: ServiceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// Taken for the sake of docker compose: only what is named is restarted anyhow
    #[arg(long, hide = true)]
    pub(crate) no_deps: bool,
    #[command(flatten)]
    pub(crate) stop: StopArgs,
}

/// Taken for the sake of incus-compose, without effect: no daemon for health is needed.
#[derive(Debug, Default, Args)]
#[group(skip)]
pub(crate) struct NoHealthdArgs {
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true)]
    pub(crate) no_healthd: bool,
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true)]
    pub(crate) external_healthd: bool,
}

/// The same, with what that daemon is.
#[derive(Debug, Default, Args)]
#[group(skip)]
pub(crate) struct HealthdArgs {
    #[command(flatten)]
    pub(crate) no: NoHealthdArgs,
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true, value_name = "IMAGE")]
    pub(crate) healthd_image: Option<String>,
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) healthd_binary: Option<String>,
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) healthd_incus: Option<String>,
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true, value_name = "NETWORK")]
    pub(crate) healthd_network: Option<String>,
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true, value_name = "SCOPE")]
    pub(crate) healthd_scope: Option<String>,
}

impl NoHealthdArgs {
    /// Whether any of them was said.
    pub(crate) fn is_said(&self) -> bool {
        self.no_healthd || self.external_healthd
    }
}

impl HealthdArgs {
    /// Whether any of them was said.
    pub(crate) fn is_said(&self) -> bool {
        let words = [
            &self.healthd_image,
            &self.healthd_binary,
            &self.healthd_incus,
            &self.healthd_network,
            &self.healthd_scope,
        ];
        self.no.is_said() || words.into_iter().any(Option::is_some)
    }
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
    /// Remove their volumes too that the files give no name
    #[arg(short, long)]
    pub(crate) volumes: bool,
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

/// What an instance does, as docker compose calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusArg {
    /// It was made, and has not run
    Created,
    /// It does not run and cannot
    Dead,
    /// It has run
    Exited,
    /// It is held
    Paused,
    /// It is on its way out
    Removing,
    /// It is started again
    Restarting,
    /// It runs
    Running,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Those that do not run too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only those of which this is true: `status=` and one of the words of `--status`
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// Only those that do this, whether they run or not
    #[arg(long, value_enum, value_name = "STATUS")]
    pub(crate) status: Vec<StatusArg>,
    /// Whether those of services that are no longer in the files are listed
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", value_name = "TRUE OR FALSE")]
    pub(crate) orphans: bool,
    /// Taken for the sake of docker compose: nothing is shortened anyhow
    #[arg(long, hide = true)]
    pub(crate) no_trunc: bool,
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
    /// Take the project down then
    #[arg(long)]
    pub(crate) down_project: bool,
    /// Services
    #[arg(value_name = "SERVICE", required = true)]
    pub(crate) services: Vec<String>,
}
