//! Arguments.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::net::Target;
use crate::peer::Peer;
use crate::workload::{WORKLOADS, Workload};

/// Compares Portway with what else can stand between a client and a container's service.
#[derive(Debug, Parser)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) role: Role,
}

/// What this program is this time.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Measures Portway beside what else can stand between a client and a container's service.
    #[command(
        name = "run",
        override_usage = "cargo xtask bench [OPTIONS]\n       cargo xtask bench show FILE"
    )]
    Run(RunOptions),
    /// Shows figures that were measured before.
    #[command(name = "show", override_usage = "cargo xtask bench show [--write DIR] FILE")]
    Show(ShowOptions),
    /// Counts what a relay worker does for each operation.
    #[command(name = "counts", hide = true, override_usage = "cargo xtask counts [OPTIONS]")]
    Counts(CountsOptions),
    /// The service.
    #[command(name = "server", hide = true)]
    Server(ServerOptions),
    /// One measurement.
    #[command(name = "client", hide = true)]
    Client(ClientOptions),
}

/// How figures are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The page of the documentation.
    Table,
    /// Every sample, for `show` and for others' programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The program under test
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) portway: PathBuf,
    /// Rounds; nine or more for figures with an interval
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 0.25, value_parser = seconds)]
    seconds: f64,
    /// Only these workloads and peers: names with commas between them
    #[arg(long, value_delimiter = ',', value_name = "NAME,…", value_parser = name)]
    only: Vec<String>,
    /// Everything once and briefly: whether it works, not how fast
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Also where the relay's processor time goes, by perf (package linux-perf)
    #[arg(long)]
    pub(crate) profile: bool,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Write benchmarks.md and benchmarks.svg into this folder as well
    #[arg(long, value_name = "DIR")]
    pub(crate) write: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowOptions {
    /// What `--format json` printed
    pub(crate) file: PathBuf,
    /// Write benchmarks.md and benchmarks.svg into this folder as well
    #[arg(long, value_name = "DIR")]
    pub(crate) write: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CountsOptions {
    /// The program whose worker is counted
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) portway: PathBuf,
    /// The file of ceilings
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) ceilings: PathBuf,
    /// Write the ceilings anew, from what is counted
    #[arg(long)]
    pub(crate) write: bool,
    /// Say by how much the rounds of a workload differ
    #[arg(long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServerOptions {
    #[arg(long, required = true)]
    pub(crate) address: Vec<SocketAddr>,
    /// Standard input is a unix socket that listens
    #[arg(long)]
    pub(crate) unix: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClientOptions {
    pub(crate) workload: String,
    #[arg(long)]
    pub(crate) target: Target,
    #[arg(long)]
    pub(crate) counter: Option<SocketAddr>,
    #[arg(long, default_value_t = 50)]
    pub(crate) warm_ms: u64,
    #[arg(long, default_value_t = 400)]
    pub(crate) span_ms: u64,
    #[arg(long, default_value_t = 100)]
    pub(crate) idle: usize,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "no number".to_owned())?;
    if (0.02..=600.0).contains(&seconds) { Ok(seconds) } else { Err("0.02 to 600 wanted".to_owned()) }
}

fn name(text: &str) -> Result<String, String> {
    let names: Vec<&str> = NAMES.lines().collect();
    if names.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("one of {} wanted", names.join(", ")))
    }
}

/// What `--only` may name, a line each: a file, which `cargo xtask` reads before this program is built.
const NAMES: &str = include_str!("../names.txt");

/// Connections of the idle workload, or as many as the peer can hold.
const IDLE: usize = 10_000;

/// What `--only` calls the part with many devices of the kernel's NAT, and how many there are.
const SCALE: &str = "nat-scale";
const SCALE_DEVICES: [u16; 2] = [1000, 5000];

impl RunOptions {
    /// Those asked for; all, when none is named.
    pub(crate) fn workloads(&self) -> Vec<&'static Workload> {
        let named = |workload: &&Workload| self.only.iter().any(|name| name == workload.name);
        let some: Vec<_> = WORKLOADS.iter().filter(named).collect();
        if some.is_empty() && !self.only.iter().any(|name| name == SCALE) {
            return WORKLOADS.iter().collect();
        }
        some
    }

    /// Whether many devices are measured: when asked for, or when everything of both NATs is.
    pub(crate) fn scales(&self) -> bool {
        let named = self.only.iter().any(|name| name == SCALE);
        let peers = self.peers();
        let both = peers.contains(&Peer::Nat) && peers.contains(&Peer::IncusNat);
        both && (named || !self.quick && self.workloads().len() == WORKLOADS.len())
    }

    /// How many devices that are, one after the other.
    pub(crate) fn scale_devices(&self) -> Vec<u16> {
        if self.quick { vec![3] } else { SCALE_DEVICES.to_vec() }
    }

    /// The same of peers.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let some: Vec<Peer> = self.only.iter().filter_map(|name| Peer::named(name)).collect();
        if some.is_empty() {
            return Peer::ALL.to_vec();
        }
        Peer::ALL.into_iter().filter(|peer| some.contains(peer)).collect()
    }

    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.into() }
    }

    pub(crate) fn span(&self) -> Duration {
        if self.quick { Duration::from_millis(30) } else { Duration::from_secs_f64(self.seconds) }
    }

    /// How often a measurement may fail: in a window of 30 ms nothing at all may happen on a busy machine.
    pub(crate) fn tries(&self) -> u32 {
        if self.quick { 4 } else { 1 }
    }

    pub(crate) fn idle(&self) -> usize {
        if self.quick { 100 } else { IDLE }
    }

    /// The command line that does the same.
    pub(crate) fn command(&self) -> String {
        let mut words = vec!["cargo xtask bench".to_owned()];
        if self.quick {
            words.push("--quick".to_owned());
        } else {
            words.push(format!("--rounds {} --seconds {}", self.rounds, self.seconds));
        }
        if self.profile {
            words.push("--profile".to_owned());
        }
        if !self.only.is_empty() {
            words.push(format!("--only {}", self.only.join(",")));
        }
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<RunOptions, clap::Error> {
        let words = format!("bench run --portway p {words}");
        Options::try_parse_from(words.split_whitespace()).map(|options| match options.role {
            Role::Run(options) => options,
            _ => unreachable!("run was asked for"),
        })
    }

    #[test]
    fn only_takes_workloads_and_peers() {
        let options = parse("--only conn,relay,rtt-64,direct").unwrap();
        let names: Vec<_> = options.workloads().iter().map(|workload| workload.name).collect();
        assert_eq!(names, ["conn", "rtt-64"]);
        assert_eq!(options.peers(), [Peer::Direct, Peer::Relay]);
        assert_eq!(
            options.command(),
            "cargo xtask bench --rounds 9 --seconds 0.25 --only conn,relay,rtt-64,direct"
        );
        assert_eq!(parse("").unwrap().workloads().len(), WORKLOADS.len());
        assert_eq!(parse("--only relay").unwrap().workloads().len(), WORKLOADS.len());
        assert!(parse("--only nat-scale").unwrap().workloads().is_empty());
        for (words, scales) in [
            ("", true),
            ("--only nat-scale", true),
            ("--quick", false),
            ("--only nat", false),
            ("--only conn", false),
        ] {
            assert_eq!(parse(words).unwrap().scales(), scales, "{words}");
        }
    }

    /// Fails when: a workload or a peer is added that `--only` does not take.
    #[test]
    fn the_names_are_those_of_the_workloads_and_of_the_peers() {
        let workloads = WORKLOADS.iter().map(|workload| workload.name);
        let names: Vec<&str> =
            workloads.chain([SCALE]).chain(Peer::ALL.into_iter().map(Peer::name)).collect();
        assert_eq!(NAMES.lines().collect::<Vec<_>>(), names);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for words in ["--only nobody", "--rounds 0", "--seconds 0", "--seconds nan", "--quick --rounds 3"] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
