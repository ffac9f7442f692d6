//! Arguments of the commands that build, fetch and send images.

use clap::{Args, ValueEnum};

/// What builds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BuilderArg {
    /// buildah
    Buildah,
    /// podman
    Podman,
    /// Docker, with its daemon
    Docker,
}

/// How a builder tells what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BuildProgress {
    /// As it sees fit
    Auto,
    /// For a terminal
    Tty,
    /// Lines
    Plain,
    /// Not at all
    Quiet,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct BuildArgs {
    /// Grant what the files ask for beyond their own instances
    #[arg(long)]
    pub(crate) allow: bool,
    /// Variable of the instructions: `NAME=VALUE`, or `NAME` with the value it has here
    #[arg(long = "build-arg", value_name = "VARIABLE")]
    pub(crate) build_args: Vec<String>,
    /// What builds; the first of these that is here when left out
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub(crate) builder: Option<BuilderArg>,
    /// Most memory of a build
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,
    /// Agent or keys of SSH that builds may use: `default`, or NAME=PATH
    #[arg(long, value_name = "AGENT")]
    pub(crate) ssh: Vec<String>,
    /// Take nothing of what was built before
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// How the builder tells what it does
    #[arg(long, value_enum, default_value = "auto", value_name = "MANNER")]
    pub(crate) progress: BuildProgress,
    /// Fetch newer versions of what images begin with
    #[arg(long)]
    pub(crate) pull: bool,
    /// Send the images to their registries too
    #[arg(long)]
    pub(crate) push: bool,
    /// Say nothing
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// What the services depend on too
    #[arg(long, visible_alias = "with-deps")]
    pub(crate) with_dependencies: bool,
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

/// Which images are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// All
    Always,
    /// Those that are not there
    Missing,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct PullArgs {
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true)]
    pub(crate) no_healthd: bool,
    /// Taken for the sake of incus-compose: there is no daemon for health
    #[arg(long, hide = true, value_name = "IMAGE")]
    pub(crate) healthd_image: Option<String>,
    /// Say nothing of images that are built here
    #[arg(long)]
    pub(crate) ignore_buildable: bool,
    /// Go on with the others when one cannot be fetched
    #[arg(long)]
    pub(crate) ignore_pull_failures: bool,
    /// What the services depend on too
    #[arg(long, visible_alias = "with-deps")]
    pub(crate) include_deps: bool,
    /// Which images are fetched
    #[arg(long, value_enum, default_value = "always", value_name = "WHICH")]
    pub(crate) policy: PullPolicy,
    /// Say nothing
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct PushArgs {
    /// What has built them; the first that is here when left out
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub(crate) builder: Option<BuilderArg>,
    /// Go on with the others when one cannot be sent
    #[arg(long)]
    pub(crate) ignore_push_failures: bool,
    /// What the services depend on too
    #[arg(long, visible_alias = "with-deps")]
    pub(crate) include_deps: bool,
    /// Say nothing
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Services; all when left out
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}
