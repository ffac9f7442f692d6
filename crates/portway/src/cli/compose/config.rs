//! Arguments of `portway compose config`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How the project is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProjectFormat {
    /// YAML.
    #[default]
    Yaml,
    /// JSON.
    Json,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ConfigArgs {
    /// Only these services, and those they depend on
    #[arg(value_name = "SERVICE")]
    pub(crate) only: Vec<String>,
    /// How to print the project
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: ProjectFormat,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    /// Leave variables as they are written
    #[arg(long)]
    pub(crate) no_interpolate: bool,
    /// Print images with their digests, as their registries tell them now
    #[arg(long)]
    pub(crate) resolve_image_digests: bool,
    /// Print nothing; only check
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write into this file, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// What to print in place of the project.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct ListArgs {
    /// Print the names of the services, each after those it depends on
    #[arg(long)]
    pub(crate) services: bool,
    /// Print the names of the volumes
    #[arg(long)]
    pub(crate) volumes: bool,
    /// Print the names of the networks
    #[arg(long)]
    pub(crate) networks: bool,
    /// Print the images
    #[arg(long)]
    pub(crate) images: bool,
    /// Print the profiles that services name
    #[arg(long)]
    pub(crate) profiles: bool,
    /// Print the variables that the files name
    #[arg(long)]
    pub(crate) variables: bool,
    /// Print the variables that are filled in
    #[arg(long)]
    pub(crate) environment: bool,
    /// Print a hash of each of these services: names with commas between them, or `*`
    #[arg(long, value_name = "SERVICES")]
    pub(crate) hash: Option<String>,
}
