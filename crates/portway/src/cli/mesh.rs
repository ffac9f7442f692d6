//! Words and arguments of `portway mesh`.

pub(crate) mod orgs;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use portway_mesh::spec::Request;

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
    /// Run a network: its tunnel, and the rules that lead into it and out of it
    ///
    /// The network is that of a file (--config), or an organization (--org) that this host has joined or joins now.
    /// Needs no privilege: what it needs is made in a user namespace of its own. Prints a line that begins with `ready`
    /// when every port is open. SIGTERM lets connections finish, a second one ends them.
    #[command(after_help = RULES)]
    Proxy(Box<ProxyArgs>),
    /// Show how a network that runs is: its peers and its rules
    Status(StatusArgs),
    /// Ask a host of a network for echoes, through the network that runs
    ///
    /// Exit code 0 when an answer came, 1 when none did.
    Ping(PingArgs),
    /// Follow what happens to a network that runs: handshakes, rules, destinations that fail
    Events(MeshEventsArgs),
    /// Show and change the rules of a network while it runs
    #[command(subcommand)]
    Rule(RuleCommand),
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
    /// Let devices into organizations: give them addresses, sign who is a member, tell everybody
    ///
    /// Runs in the foreground until it is told to end; prints "ready" and its address when it serves. Organizations and
    /// keys to join with are made by its owner: portway mesh org, key and device, on this host.
    Registrar(orgs::RegistrarArgs),
    /// Organizations of the registrar on this host
    #[command(subcommand)]
    Org(orgs::OrgCommand),
    /// Keys to join an organization with
    #[command(subcommand)]
    Key(orgs::KeyCommand),
    /// Devices of an organization
    #[command(subcommand)]
    Device(orgs::DeviceCommand),
    /// Make this host a device of an organization
    ///
    /// Makes a key pair, proves to the registrar that it has it, and keeps what the registrar has signed. Doing it again
    /// changes nothing.
    Join(orgs::JoinArgs),
    /// Print an organization that this host has joined as a file of wg-quick
    ///
    /// The private key of this device is in it.
    Export(orgs::ExportArgs),
}

/// How rules are written.
const RULES: &str = "\
Rules: protocol:[address:]port:destination:port
  --ingress tcp:443:127.0.0.1:8443     port 443 of this node in the network leads to 127.0.0.1:8443 here
  --egress tcp:5432:10.9.0.2:5432      port 5432 here leads to 10.9.0.2:5432 in the network
Several rules with the same port share its connections. With +proxy_protocol=v2 behind a rule its
destination is sent a PROXY header that names the client.";

/// A network and rules beside those of its file.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// File of the network
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Lead a port of this node in the network to a host here; may stand several times
    #[arg(long = "ingress", value_name = "RULE")]
    pub(crate) ingress: Vec<String>,
    /// Lead a port here to a host in the network; may stand several times
    #[arg(long = "egress", value_name = "RULE")]
    pub(crate) egress: Vec<String>,
    /// Serve SOCKS5 here: its clients say where in the network they want to go; on 127.0.0.1 unless said
    #[arg(long = "socks5", value_name = "[ADDRESS:]PORT")]
    pub(crate) socks5: Vec<String>,
    /// Serve HTTP CONNECT here: its clients say where in the network they want to go; on 127.0.0.1 unless said
    #[arg(long = "http-connect", value_name = "[ADDRESS:]PORT")]
    pub(crate) http_connect: Vec<String>,
}

impl NetworkArgs {
    /// What they say.
    pub(crate) fn request(&self) -> Request<'_> {
        Request {
            config: self.config.as_deref(),
            ingress: &self.ingress,
            egress: &self.egress,
            socks5: &self.socks5,
            http_connect: &self.http_connect,
            is_configured: false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) organization: OrganizationArgs,
    /// What it is called; as its file or organization unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where its TCP and UDP live
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t = EngineArg::Auto)]
    pub(crate) engine: EngineArg,
    /// How several rules of one port share its connections
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = BalanceArg::RoundRobin)]
    pub(crate) balance: BalanceArg,
    /// How long connections may go on after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain: u32,
    /// Write what happens to the tunnel into FILE, a line of JSON each: keys agreed on, ways, what is dropped. No key is
    /// written
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// What is logged, on standard error: `LEVEL` or `TARGET=LEVEL`, with commas between; warn unless said here or in
    /// PORTWAY_LOG
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// The organization that a network is.
#[derive(Debug, Args)]
pub(crate) struct OrganizationArgs {
    /// Organization whose members are the peers
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(crate) org: Option<String>,
    /// Registrar to join at first, https://HOST:PORT; who has joined already starts without it, too
    #[arg(long, value_name = "URL", requires = "key", conflicts_with = "config")]
    pub(crate) join: Option<String>,
    /// Token to join with; "-" reads it from standard input
    #[arg(long, value_name = "TOKEN", requires = "join", allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
    /// Address to have in the organization, or to be refused
    #[arg(long, value_name = "ADDRESS", requires = "join")]
    pub(crate) request_ip: Option<Ipv4Addr>,
    /// Name to have in the organization; that of the host unless said
    #[arg(long, value_name = "NAME", requires = "join")]
    pub(crate) device: Option<String>,
    /// Where this device is reached, HOST:PORT; may stand several times
    #[arg(long = "endpoint", value_name = "HOST:PORT", requires = "join")]
    pub(crate) endpoints: Vec<String>,
    /// UDP port that peers send to; that of the endpoint unless said
    #[arg(long, value_name = "PORT", conflicts_with = "config")]
    pub(crate) listen_port: Option<NonZeroU16>,
}

/// The words of a command line as they are to be read: nexd takes flags before its subcommand, too, so `mesh --org NAME
/// proxy` is `mesh proxy --org NAME`.
pub(crate) fn flags_behind(mut line: Vec<OsString>) -> Vec<OsString> {
    let is = |word: Option<&OsString>, text: &str| word.is_some_and(|word| word == text);
    if !is(line.get(1), "mesh") {
        return line;
    }
    let mut at = 2;
    while let Some(word) =
        line.get(at).map(|word| word.as_encoded_bytes()).filter(|word| word.starts_with(b"-"))
    {
        // Each has a value, in it or behind it.
        let has_own = word.contains(&b'=') || (word.len() > 2 && !word.starts_with(b"--"));
        at += if has_own { 1 } else { 2 };
    }
    if at > 2 && is(line.get(at), "proxy") {
        let word = line.remove(at);
        line.insert(2, word);
    }
    line
}

/// `portway mesh rule`.
#[derive(Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// Add rules: all of them, or none when one is wrong. They are there again after a restart
    #[command(after_help = RULES)]
    Add(RuleChangeArgs),
    /// Remove rules by their ids. Nobody new is taken in; live connections have the time of `--drain`
    Remove(RuleRemoveArgs),
    /// List rules with their ids and what they carry
    List(RuleListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Which network; the only one that runs unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// Which network; the only one that runs unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// How often to ask; 0: until it is interrupted
    #[arg(short, long, value_name = "NUMBER", default_value_t = 4)]
    pub(crate) count: u32,
    /// Seconds from one question to the next, at least 0.01
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(crate) interval: f64,
    /// Seconds that an answer may take, 20 at most
    #[arg(short = 'W', long, value_name = "SECONDS", default_value_t = 2.0)]
    pub(crate) timeout: f64,
    #[command(flatten)]
    pub(crate) format: FormatArg,
    /// Address, or a name that the network's own servers are asked for
    #[arg(value_name = "HOST")]
    pub(crate) host: String,
}

#[derive(Debug, Args)]
pub(crate) struct MeshEventsArgs {
    /// Which network; the only one that runs unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct RuleChangeArgs {
    /// Which network; the only one that runs unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Lead a port of this node in the network to a host here; may stand several times
    #[arg(long = "ingress", value_name = "RULE")]
    pub(crate) ingress: Vec<String>,
    /// Lead a port here to a host in the network; may stand several times
    #[arg(long = "egress", value_name = "RULE")]
    pub(crate) egress: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RuleRemoveArgs {
    /// Which network; the only one that runs unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Ids, as `portway mesh rule list` has them
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RuleListArgs {
    /// Which network; the only one that runs unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

/// Engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    /// The best that can be had
    Auto,
    /// The kernel's TCP, in a namespace of its own
    Kernel,
    /// smoltcp's, in a process of our own, for where a user namespace is refused
    Smoltcp,
}

/// Orders in which rules take connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BalanceArg {
    /// One after the other
    RoundRobin,
    /// The one with the fewest connections
    LeastConnections,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_before_or_after() {
        let read = |text: &str| {
            let line = flags_behind(text.split(' ').map(OsString::from).collect());
            line.join(std::ffi::OsStr::new(" ")).into_string().unwrap()
        };
        for (said, expected) in [
            ("p mesh --org a proxy --egress x", "p mesh proxy --org a --egress x"),
            ("p mesh --name proxy -c f --drain=3 proxy", "p mesh proxy --name proxy -c f --drain=3"),
            ("p mesh -cf proxy", "p mesh proxy -cf"),
            ("p mesh proxy --org a", "p mesh proxy --org a"),
            ("p mesh --org proxy", "p mesh --org proxy"),
            ("p mesh --help", "p mesh --help"),
            ("p proxy --x y proxy", "p proxy --x y proxy"),
            ("p mesh", "p mesh"),
        ] {
            assert_eq!(read(said), expected);
        }
    }
}
