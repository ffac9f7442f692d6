//! Words and arguments of organizations: their registrar, its owner, their devices.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::FormatArg;

#[derive(Debug, Args)]
pub(crate) struct RegistrarArgs {
    /// Where devices connect to, over TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:51821")]
    pub(crate) listen: SocketAddr,
    /// Second UDP port, by which devices see whether their NAT is symmetric; any free one if not given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) second_port: Option<u16>,
    #[command(flatten)]
    pub(crate) state: StateArg,
    /// Keep organizations in etcd, with other registrars: etcd://HOST:PORT,HOST:PORT or etcds:// for TLS. Their folders
    /// have the same registrar-keys.json
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Certificate of the authority that etcd's certificates are from
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// Certificate that is shown to etcd
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StateArg {
    /// Folder of the registrar: its keys, its store, its socket
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

/// `portway mesh org`.
#[derive(Debug, Subcommand)]
pub(crate) enum OrgCommand {
    /// Make an organization
    Create(OrgCreateArgs),
    /// List organizations
    List(OrgListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct OrgCreateArgs {
    /// Its name: a-z, 0-9 and hyphens
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Its IPv4 addresses
    #[arg(long, value_name = "BLOCK", default_value = "10.77.0.0/16")]
    pub(crate) network: String,
    /// Addresses of them that no device gets; may stand several times
    #[arg(long = "reserve", value_name = "BLOCK")]
    pub(crate) reserved: Vec<String>,
    /// How long the address of a revoked device is given to nobody else
    #[arg(long, value_name = "DURATION", default_value = "720h")]
    pub(crate) quarantine: String,
    #[command(flatten)]
    pub(crate) state: StateArg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct OrgListArgs {
    #[command(flatten)]
    pub(crate) state: StateArg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct OfOrg {
    /// Organization
    #[arg(long, value_name = "NAME")]
    pub(crate) org: String,
    #[command(flatten)]
    pub(crate) state: StateArg,
}

/// `portway mesh key`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and print its token, which is not shown again
    Create(KeyCreateArgs),
    /// List keys
    List(KeyListArgs),
    /// Let nobody join with a key any more
    Revoke(KeyRevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct KeyCreateArgs {
    #[command(flatten)]
    pub(crate) of: OfOrg,
    /// How many devices may join with it, or "any"
    #[arg(long, value_name = "COUNT", default_value = "1")]
    pub(crate) uses: String,
    /// How long it may be used, or "never" for no end
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(crate) expires: String,
    /// Group of its devices; may stand several times
    #[arg(long = "tag", value_name = "NAME")]
    pub(crate) tags: Vec<String>,
    /// Addresses that lie behind its device; may stand several times
    #[arg(long = "route", value_name = "BLOCK")]
    pub(crate) routes: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KeyListArgs {
    #[command(flatten)]
    pub(crate) of: OfOrg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct KeyRevokeArgs {
    /// Which one, as "key list" has it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) of: OfOrg,
}

/// `portway mesh device`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// List devices
    List(DeviceListArgs),
    /// End a membership, for good
    Revoke(DeviceRevokeArgs),
    /// Have a device pass messages on between members that do not reach each other
    SetHub(DeviceSetHubArgs),
    /// Give this host a new key as a device; its name and its addresses stay
    Rotate(DeviceRotateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DeviceRotateArgs {
    /// Organization
    #[arg(long, value_name = "NAME")]
    pub(crate) org: String,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceSetHubArgs {
    /// Which one
    #[arg(value_name = "DEVICE")]
    pub(crate) name: String,
    /// It does so no more
    #[arg(long)]
    pub(crate) off: bool,
    #[command(flatten)]
    pub(crate) of: OfOrg,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceListArgs {
    #[command(flatten)]
    pub(crate) of: OfOrg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceRevokeArgs {
    /// Which one
    #[arg(value_name = "DEVICE")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) of: OfOrg,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The registrar: https://HOST or https://HOST:PORT
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Token of a key to join with; with "-" it is read from standard input, where nobody sees it in a list of processes
    #[arg(long, value_name = "TOKEN")]
    pub(crate) key: String,
    /// Name of this device; that of this host unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// This address or none
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) request_ip: Option<Ipv4Addr>,
    /// Where other devices reach this one; may stand several times
    #[arg(long = "endpoint", value_name = "HOST:PORT")]
    pub(crate) endpoints: Vec<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Organization
    #[arg(long, value_name = "NAME")]
    pub(crate) org: String,
    /// As a file of wg-quick; the only form there is
    #[arg(long, required = true)]
    pub(crate) wg_quick: bool,
    /// UDP port of this device; that of its endpoint unless said
    #[arg(long, value_name = "PORT")]
    pub(crate) listen_port: Option<std::num::NonZeroU16>,
    /// Write it to a new file that only its owner can read
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}
