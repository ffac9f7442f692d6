//! The command line: words, arguments, help. What they mean is decided in the commands' own files.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use portway_control::api::EVENT_KINDS;

use crate::output::Format;

pub(crate) mod compose;
pub(crate) mod keys;
pub(crate) mod mesh;
pub(crate) mod notes;
pub(crate) mod ssh;
pub(crate) mod target;

/// Every way in and out of a Linux instance
///
/// Portway publishes ports and sockets of Incus containers, or of any network namespace, on the host, and those of
/// the host inside an instance: tcp, udp and unix, in every pairing.
#[derive(Debug, Parser)]
#[command(
    name = "portway",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_required = true,
    infer_long_args = false,
    after_long_help = notes::after_help()
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show it working in two throw-away namespaces
    ///
    /// Makes two network namespaces that vanish again, runs a daemon in the first one, publishes a tcp, a udp and
    /// a unix service of the second one, and shows the traffic. Needs no root and touches nothing on this host.
    Demo(DemoArgs),
    /// Run one device in the foreground, without a daemon
    ///
    /// Prints `ready` once it listens. SIGTERM closes the port and lets open connections finish.
    #[command(override_usage = "portway proxy [OPTIONS] [INSTANCE] key=value ...", after_help = KEYS_SEE)]
    Proxy(ProxyArgs),
    /// Run the daemon
    ///
    /// SIGHUP reads the settings again. SIGTERM ends the daemon and leaves every port open: relay workers keep
    /// the connections, and the next daemon takes them over.
    Daemon(DaemonArgs),
    /// Add, change and list devices
    #[command(subcommand, arg_required_else_help = true)]
    Device(DeviceCommand),
    /// Make a file of devices the state
    ///
    /// The file is a list of devices in YAML, JSON or TOML; `device list --format yaml` writes one. All of it is
    /// carried out, or nothing. Devices that the file does not name stay, unless `--prune` is given.
    #[command(after_help = notes::APPLY)]
    Apply(ApplyArgs),
    /// Let people and tools into instances over SSH
    #[command(subcommand, arg_required_else_help = true)]
    Ssh(ssh::SshCommand),
    /// Read Compose files
    ///
    /// Options stand before the command. Without `--file` it is the first of compose.yaml, compose.yml,
    /// docker-compose.yaml and docker-compose.yml here or in the nearest folder above, with its override file laid
    /// over it.
    #[command(arg_required_else_help = true)]
    Compose(Box<compose::ComposeArgs>),
    /// Services in a WireGuard network, without any privilege
    #[command(subcommand, arg_required_else_help = true)]
    Mesh(mesh::MeshCommand),
    /// Show the daemon, the servers it follows and its workers
    Status(StatusArgs),
    /// Show devices by their traffic, again and again
    ///
    /// On a terminal it is a page that is kept up: the busiest come first, `Enter` shows one device and its
    /// connections, `/` filters, `s` sorts, `?` lists all keys. Without one, or with `--count`, it is text: one round, or
    /// as many as asked for.
    #[command(after_help = notes::TOP)]
    Top(TopArgs),
    /// Follow what changes
    ///
    /// What is given narrows it: an event is printed when it is all of that. Ends with 3 when the daemon ends, unless
    /// `--reconnect` is given.
    Events(EventsArgs),
    /// Check this host and say how to mend what is missing
    ///
    /// Exits with 1 when a check fails; warnings do not count.
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    ///
    /// For bash: `portway completion bash > /usr/share/bash-completion/completions/portway`
    Completion(CompletionArgs),
    /// What could stand at the end of a command line, for completion scripts
    #[command(hide = true)]
    CompleteWords(CompleteWordsArgs),
    /// Write the manual pages into a folder
    Man(ManArgs),
}

/// `portway device`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Add a device to an instance
    ///
    /// Arguments stand in the order of `incus config device add`; the word `proxy` may be left out. Returns once
    /// the device works, or fails and leaves nothing behind. For an instance that is stopped or does not exist
    /// yet it succeeds, and the device waits.
    #[command(
        override_usage = "portway device add [OPTIONS] INSTANCE DEVICE [proxy] key=value ...",
        after_help = keys::help()
    )]
    Add(AddArgs),
    /// Change keys of a device
    ///
    /// Changing only the target keeps the listener and the live connections.
    #[command(override_usage = "portway device set [OPTIONS] INSTANCE DEVICE key=value ...", after_help = KEYS_SEE)]
    Set(SetArgs),
    /// Put keys of a device back to their defaults
    Unset(UnsetArgs),
    /// Remove devices from an instance
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
    /// Give a device another name; its connections live on
    #[command(visible_alias = "mv")]
    Rename(RenameArgs),
    /// Show one device, or all of an instance, in full
    Show(ShowArgs),
    /// List devices with their state
    ///
    /// Columns: connections as now/total, bytes as payload from the client (IN) and to the client (OUT). JSON
    /// and CSV give plain numbers; YAML gives the keys alone.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// List who is connected through a device
    ///
    /// One line for each live connection, or for each client of datagrams: where it comes from and leads to, how far it
    /// has come (`announcing`, `dialling`, `held`, `open`, `client-ended`, `target-ended`, `flow`), how old it is, for
    /// how long nothing has passed, and its payload. What the kernel carries it counts and does not list.
    #[command(visible_alias = "conns")]
    Connections(ConnectionsArgs),
    /// Give a re-created instance the devices of its namesake
    ///
    /// A device belongs to the instance it was added to. After that one was deleted, a new instance of the same
    /// name does not get its devices unless told so here (or by `follow=name`).
    Adopt(AdoptArgs),
    /// Take over the proxy devices of Incus or LXD
    ///
    /// For each device, one after the other: the server takes it out of the instance (one of a profile gets a
    /// `none` device on the instance, the profile stays), and it is added here. When it does not come up here, the
    /// server gets back exactly what it had, and the next one follows. Open connections of the device end. What
    /// cannot be taken over is listed with the reason and stays.
    Import(MoveArgs),
    /// Give devices back to Incus or LXD
    ///
    /// The reverse of `import`: a device that was imported and not changed since becomes exactly what it was. One
    /// that its server cannot express is listed with the reason and stays.
    Export(MoveArgs),
}

const KEYS_SEE: &str = "The keys are listed by `portway device add --help`.";

/// Which instance.
#[derive(Debug, Args)]
pub(crate) struct InstanceArg {
    /// As typed.
    #[arg(value_name = "INSTANCE", help = "[PROVIDER:][PROJECT/]NAME")]
    pub(crate) instance: String,
    #[command(flatten)]
    pub(crate) project: ProjectArg,
}

/// `--project`.
#[derive(Debug, Args)]
pub(crate) struct ProjectArg {
    /// Project of the instance, when it does not stand before the name
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
}

/// `--format`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct FormatArg {
    /// How to print
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Run it through once, check what came back, and exit
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// As typed.
    #[arg(
        value_name = "ARGUMENT",
        required = true,
        help = "[INSTANCE] key=value ...; without INSTANCE both sides are this host"
    )]
    pub(crate) arguments: Vec<String>,
    #[command(flatten)]
    pub(crate) project: ProjectArg,
}

#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// End every worker and rule that a daemon left behind, and exit
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    /// Name of the new device
    #[arg(value_name = "DEVICE")]
    pub(crate) device: String,
    /// As typed.
    #[arg(value_name = "key=value", required = true, help = "[proxy] key=value ...")]
    pub(crate) pairs: Vec<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    /// Name of the device
    #[arg(value_name = "DEVICE")]
    pub(crate) device: String,
    /// key=value ...; one key may also be written `key value`
    #[arg(value_name = "key=value", required = true)]
    pub(crate) pairs: Vec<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    /// Name of the device
    #[arg(value_name = "DEVICE")]
    pub(crate) device: String,
    /// Keys
    #[arg(value_name = "KEY", required = true)]
    pub(crate) keys: Vec<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    /// Names of the devices
    #[arg(value_name = "DEVICE", required = true)]
    pub(crate) devices: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    /// Name of the device
    #[arg(value_name = "DEVICE")]
    pub(crate) device: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    pub(crate) new: String,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    /// Name of the device; all of the instance when left out
    #[arg(value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// As typed.
    #[arg(value_name = "INSTANCE", help = "Only the devices of this instance: [PROVIDER:][PROJECT/]NAME")]
    pub(crate) instance: Option<String>,
    /// Project of the instance; alone, all instances of that project
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectionsArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    /// Name of the device
    #[arg(value_name = "DEVICE")]
    pub(crate) device: String,
    /// List at most so many, the rest as a number [default: 1000]
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// As typed.
    #[arg(value_name = "INSTANCE", help = "Devices of these instances: [PROVIDER:][PROJECT/]NAME")]
    pub(crate) instances: Vec<String>,
    /// Project of the instances; alone, all instances of that project
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// Devices of all instances of all projects
    #[arg(long, conflicts_with_all = ["instances", "project"])]
    pub(crate) all: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The file; `-` is standard input, in YAML or JSON
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    pub(crate) file: PathBuf,
    /// Project of the instances that say none
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// Remove devices that the file does not name, in the projects of its instances (and in PROJECT); of namespaces
    /// and processes, those of the very ones that it names
    #[arg(long)]
    pub(crate) prune: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// As typed.
    #[arg(value_name = "INSTANCE", help = "Only the devices of this instance: [PROVIDER:][PROJECT/]NAME")]
    pub(crate) instance: Option<String>,
    #[command(flatten)]
    pub(crate) project: ProjectArg,
    /// Seconds between two rounds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) interval: u32,
    /// Rounds, then end
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// As typed.
    #[arg(value_name = "INSTANCE", help = "Only what concerns this instance: [PROVIDER:][PROJECT/]NAME")]
    pub(crate) instance: Option<String>,
    /// The same as INSTANCE
    #[arg(long = "instance", id = "of", value_name = "INSTANCE", conflicts_with = "instance")]
    pub(crate) of: Option<String>,
    /// Project of the instance, when it does not stand before the name; alone, all instances of that project
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// Only events of this kind; several with commas between them, or given again
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = PossibleValuesParser::new(EVENT_KINDS))]
    pub(crate) kind: Vec<String>,
    /// Only what concerns devices of this name
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Only what concerns this mesh network of the daemon
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: Option<String>,
    /// First so many of the last events that the daemon has kept, at most 1000
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) recent: Option<u32>,
    /// End after so many events
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Only what `--recent` gives, without waiting for more
    #[arg(long, requires = "recent", conflicts_with = "reconnect")]
    pub(crate) no_follow: bool,
    /// Wait for a daemon that is away, and go on with the next one from its first event
    #[arg(long)]
    pub(crate) reconnect: bool,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

/// Shells we write completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shell {
    /// GNU bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Which shell
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct CompleteWordsArgs {
    /// The words after the program's name, the last one unfinished
    #[arg(value_name = "WORD", last = true)]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where to; made when it is not there
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// The whole command line, for completions and manual pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}
