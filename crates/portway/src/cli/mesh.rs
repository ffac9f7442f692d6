//! Words and arguments of `portway mesh`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::FormatArg;

/// `portway mesh`.
#[derive(Debug, Subcommand)]
pub(crate) enum MeshCommand {
    /// Say what a network and its rules mean, or what is wrong with them
    ///
    /// Reads a file of ours (NAME.toml), of wg-quick or of wireproxy, and the variables PORTWAY_MESH_*. Opens no
    /// socket and looks up no name.
    #[command(after_help = RULES)]
    Check(CheckArgs),
    /// Make the files of two nodes that find each other
    ///
    /// Writes NAME.toml for both, with new keys, readable by their owner alone. Overwrites nothing.
    Genconf(GenconfArgs),
    /// Print a new private key
    Genkey,
    /// Print the public key of the private key on standard input
    Pubkey,
    /// Print a new preshared key
    Genpsk,
}

/// How rules are written.
const RULES: &str = "\
Rules: protocol:[address:]port:destination:port
  --ingress tcp:443:127.0.0.1:8443     port 443 of this node in the network leads to 127.0.0.1:8443 here
  --egress tcp:5432:10.9.0.2:5432      port 5432 here leads to 10.9.0.2:5432 in the network
Several rules with the same port share its connections.";

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// File of the network
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Lead a port of this node in the network to a host here; may stand several times
    #[arg(long = "ingress", value_name = "RULE")]
    pub(crate) ingress: Vec<String>,
    /// Lead a port here to a host in the network; may stand several times
    #[arg(long = "egress", value_name = "RULE")]
    pub(crate) egress: Vec<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct GenconfArgs {
    /// The two nodes; HOST is where the other one reaches it, which one of them has to have. PORT is 51820 unless said
    #[arg(value_name = "NAME[=HOST[:PORT]]", num_args = 2, required = true)]
    pub(crate) nodes: Vec<String>,
    /// Addresses of the network: the first node has the first one
    #[arg(long, value_name = "BLOCK", default_value = "10.77.0.0/24")]
    pub(crate) network: String,
    /// Publish 127.0.0.1:PORT of the first node, and reach it on 127.0.0.1:PORT of the second
    #[arg(long, value_name = "PROTOCOL:PORT")]
    pub(crate) service: Option<String>,
    /// Folder to write into
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
}
