//! Words and arguments of `portway compose`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

pub(crate) mod config;
pub(crate) mod dropin;
pub(crate) mod images;
pub(crate) mod inside;
pub(crate) mod lifecycle;
pub(crate) mod run;
#[cfg(test)]
mod table;
pub(crate) mod variables;

/// `portway compose`.
#[derive(Debug, Args)]
pub(crate) struct ComposeArgs {
    #[command(flatten)]
    pub(crate) files: FileArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: ComposeCommand,
}

/// Which server, and how it is told what happens there: the same for every command.
#[derive(Debug, Default, Clone, Args)]
#[group(skip)]
pub(crate) struct PlaceArgs {
    /// Server of the configuration of Incus' client; the one on this host when left out
    #[arg(long, env = "INCUS_REMOTE", hide_env = true, value_name = "NAME")]
    pub(crate) remote: Option<String>,
    /// Storage pool of instances and volumes that name none
    #[arg(long, value_name = "POOL")]
    pub(crate) storage_pool: Option<String>,
    /// Steps at a time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: Option<u16>,
    /// When colours and pictures that change are shown
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) ansi: Option<AnsiArg>,
    /// How progress is shown
    #[arg(long, value_enum, value_name = "HOW", env = "COMPOSE_PROGRESS", hide_env = true)]
    pub(crate) progress: Option<ProgressArg>,
    /// The same as `--workers`
    #[arg(long, value_name = "NUMBER", conflicts_with = "workers", allow_negative_numbers = true)]
    pub(crate) parallel: Option<i16>,
    /// A line for each step that begins, too
    #[arg(long)]
    pub(crate) debug: bool,
    /// The same as `--debug`
    #[arg(long, hide = true)]
    pub(crate) trace: bool,
    /// Taken for the sake of docker compose: names are those of one version
    #[arg(long, hide = true)]
    pub(crate) compatibility: bool,
    /// Taken for the sake of incus-compose: variables of the shell are always used
    #[arg(short = 'E', long, hide = true)]
    pub(crate) os_env: bool,
    /// Taken for the sake of incus-compose: projects share the server's images
    #[arg(long, hide = true, value_name = "PROJECT")]
    pub(crate) image_cache: Option<String>,
}

/// When colours and pictures that change are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum AnsiArg {
    /// Not at all
    Never,
    /// Colours anywhere, pictures on a terminal
    Always,
    /// On a terminal
    #[default]
    Auto,
}

/// Which files, and what they are read with: the same for every command.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct FileArgs {
    /// Compose file; given again, the later is laid over the earlier; `-` is standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Name of the project
    #[arg(short, long, value_name = "NAME")]
    pub(crate) project_name: Option<String>,
    /// Folder that relative paths and `.env` begin in; that of the first file when left out
    #[arg(short = 'P', long, value_name = "DIR")]
    pub(crate) project_directory: Option<PathBuf>,
    /// File of variables, instead of `.env`
    #[arg(long = "env-file", value_name = "FILE")]
    pub(crate) env_files: Vec<PathBuf>,
    /// Profile to enable; `*` is all
    #[arg(long = "profile", value_name = "NAME")]
    pub(crate) profiles: Vec<String>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProgressArg {
    /// A picture on a terminal, lines elsewhere
    #[default]
    Auto,
    /// A picture, where standard error is a terminal
    Tty,
    /// Lines
    Plain,
    /// Only what fails
    Quiet,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum ComposeCommand {
    /// Print the project in canonical form
    ///
    /// Files merged, variables filled in, short forms written long, paths absolute: the form of `docker compose
    /// config`. Nothing is asked of a server. Names of services keep those, and what they depend on.
    Config(config::ConfigArgs),
    /// Run a program in a running service
    ///
    /// With its input and output, on a terminal when this is one, and with its exit status. It has the user, the folder
    /// and the variables of the service where they are known.
    Exec(inside::ExecArgs),
    /// Print what services have said
    ///
    /// Of a service whose first process is Portway's: standard output and error, with times. Of any other the
    /// console of its instance, which the server says only once while it runs.
    Logs(inside::LogsArgs),
    /// Print where a port of a service is published
    Port(inside::PortArgs),
    /// Print the processes of services
    Top(inside::TopArgs),
    /// Print what services use of processors, memory and network
    Stats(inside::StatsArgs),
    /// Print the images of a project's instances
    Images(inside::ListArgs),
    /// Print a project's volumes
    Volumes(inside::ListArgs),
    /// Print the projects of the server
    Ls(inside::ProjectsArgs),
    /// Make and start what the files say, and no more than is missing
    ///
    /// What is there and has changed is changed while it runs, restarted, or made anew, whichever is enough. Nothing
    /// else is touched. After a failure or a signal the next one goes on from there.
    Up(lifecycle::UpArgs),
    /// Build the images of services
    ///
    /// With buildah, podman or docker, whichever is here, on this machine. The server gets the result as an image of
    /// its own, which is not rebuilt by `up` unless asked for.
    Build(images::BuildArgs),
    /// Have the server fetch the images of services
    Pull(images::PullArgs),
    /// Send images that were built here to their registries
    Push(images::PushArgs),
    /// Make what the files say, and start nothing
    Create(lifecycle::CreateArgs),
    /// Set the number of replicas of services
    Scale(lifecycle::ScaleArgs),
    /// Stop and remove the instances and networks of the project
    ///
    /// Volumes stay unless asked for. What others use stays too, and is named.
    Down(lifecycle::DownArgs),
    /// Start what is stopped
    Start(lifecycle::StartArgs),
    /// Stop instances: who depends on others first
    Stop(lifecycle::StopArgs),
    /// Stop instances and start them again
    Restart(lifecycle::RestartArgs),
    /// Stop instances at once, or send what they run a signal
    Kill(run::KillArgs),
    /// Run a program in an instance of its own, made as a service says
    ///
    /// With its input and output, on a terminal when this is one, and with its exit status. What the service depends on
    /// is started first. The instance publishes no ports unless asked to, is no replica of the service, and stays, stopped,
    /// without `--rm`.
    Run(run::RunArgs),
    /// Show what a running service says, tell it what it reads, and send it signals
    ///
    /// Ends with the service, and with its exit code. A service with `stdin_open` reads what is typed here; with `tty`, too,
    /// as from its own terminal, until the keys to go are typed.
    Attach(run::AttachArgs),
    /// Copy files between a service and here
    ///
    /// As docker compose does: into a folder that is there, or in place of what is not. The service need not run.
    Cp(run::CpArgs),
    /// Print what happens to the instances of the project, as the server tells it
    Events(run::EventsArgs),
    /// Hold the processes of instances
    Pause(lifecycle::ServiceArgs),
    /// Let held processes go on
    Unpause(lifecycle::ServiceArgs),
    /// Remove stopped instances
    Rm(lifecycle::RmArgs),
    /// List instances
    Ps(lifecycle::PsArgs),
    /// Wait until the instances of services stop; prints their exit codes
    Wait(lifecycle::WaitArgs),
    /// Bring what changes in folders here into the instances
    ///
    /// As `develop.watch` of the services says: files are copied, services restarted, images built and instances made anew.
    /// What the services are is brought about first, and built. Ends with a signal.
    Watch(run::WatchArgs),
    /// List everything that was made for the project
    List(dropin::ResourcesArgs),
    /// Run the client of Incus in the server's project
    #[command(disable_help_flag = true)]
    Incus(dropin::IncusArgs),
    /// Taken for the sake of incus-compose: no daemon for health is needed
    #[command(hide = true, disable_help_flag = true)]
    Healthd(dropin::HealthdArgs),
    /// Print the version
    Version(dropin::VersionArgs),
}
