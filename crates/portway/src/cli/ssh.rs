//! Words and arguments of `portway ssh`.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand, ValueEnum};
use portway_model::parse_duration;
use portway_sshgw::options::{FLAGS, Flag, Shape, Values};

use super::FormatArg;

/// `portway ssh`.
#[derive(Debug, Subcommand)]
pub(crate) enum SshCommand {
    /// Say how a login name is read
    ///
    /// Nobody is asked: neither the daemon nor a server. Names that do not exist are not noticed; a name that no
    /// server would allow is, and a server that is not among those of `incus remote list`.
    #[command(after_help = LOGINS)]
    Explain(ExplainArgs),
    /// Show who may do what, and where
    ///
    /// The policy in force: ssh-policy.toml, or the default one where there is no such file.
    Policy(PolicyArgs),
    /// Run the SSH gateway
    ///
    /// `ssh -p 2222 c1@host` is then a shell in the instance c1, for whoever has one of the keys in root's
    /// ~/.ssh/authorized_keys on this host; no SSH server runs inside. Prints `ready` once it listens. SIGTERM ends
    /// the gateway alone: connections go on. Every flag may stand in portway.toml too, in `[ssh]`, by its long name;
    /// what stands here counts.
    Serve(ServeArgs),
    /// List who is connected over SSH, or what stays in an instance
    ///
    /// Also while no gateway runs: connections outlive it. With --instance, the sessions that stay there (`ssh -p 2222
    /// %c1@host`), of all its users, whether anybody is connected or not: the instance itself is asked, by its server.
    Sessions(SessionsArgs),
    /// End a connection and what it runs
    Kill(KillArgs),
    /// List what was recorded
    ///
    /// Recorded is what a rule of the policy with `record` lets in. The audit log names the recording of each session.
    Recordings(RecordingsArgs),
    /// Show a recording as it was
    ///
    /// Of a recording a terminal is told what it shows: colours, places, the other screen. Texts for the terminal itself,
    /// its title and clipboard among them, and questions that it would answer are left out. Any recording of asciinema's
    /// format, version 2, can be shown. Where it is printed into something else than a terminal there are no pauses.
    Replay(ReplayArgs),
    /// Take over the settings of ssh2incus
    ///
    /// Reads its arguments, config.yaml, banner and welcome text, writes them as `[ssh]` into portway.toml and beside
    /// it, and says what is otherwise here. ssh2incus itself is left as it is. Nothing that is there is overwritten.
    Import(ImportArgs),
}

/// `portway ssh policy`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PolicyArgs {
    /// Print the policy of a gateway without a file
    #[arg(long)]
    pub(crate) default: bool,
    /// What to do with it.
    #[command(subcommand)]
    pub(crate) command: Option<PolicyCommand>,
}

/// `portway ssh policy check`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say what somebody may do at a login, and which rule decides
    ///
    /// No server is asked, and nobody proves anything: this is what follows once USER has logged in. Exits with 1 when
    /// nothing is allowed.
    Check(PolicyCheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyCheckArgs {
    /// What stands before the last @ in `ssh LOGIN@HOST`
    #[arg(value_name = "LOGIN", allow_hyphen_values = true)]
    pub(crate) login: String,
    /// User of this host who logs in
    #[arg(long = "as", value_name = "USER", required = true)]
    pub(crate) user: String,
    /// Group to ask for, instead of those that the host knows USER in; may stand several times
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
    /// Fingerprint of the key, SHA256:...
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) key: Option<String>,
    /// Principal of the certificate; may stand several times
    #[arg(long = "principal", value_name = "NAME")]
    pub(crate) principals: Vec<String>,
    /// Policy to ask, instead of the one in force
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Dialect to read the login in
    #[arg(short, long, value_enum, default_value_t, value_name = "DIALECT")]
    pub(crate) dialect: DialectArg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

/// Dialects of login names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum DialectArg {
    /// What both others document.
    #[default]
    Auto,
    /// That of ssh2incus 0.7.
    #[value(name = "0.7")]
    V07,
    /// That of ssh2incus 0.10.
    #[value(name = "0.10")]
    V010,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// What stands before the last @ in `ssh LOGIN@HOST`
    #[arg(value_name = "LOGIN", allow_hyphen_values = true)]
    pub(crate) login: String,
    /// Dialect to read it in
    #[arg(short, long, value_enum, default_value_t, value_name = "DIALECT")]
    pub(crate) dialect: DialectArg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

/// Flags of the gateway, as its own list has them.
#[derive(Debug)]
pub(crate) struct ServeArgs {
    /// What was given.
    pub(crate) values: Values,
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().filter(|flag| flag.long != "help").fold(command, |command, flag| command.arg(arg(flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = FLAGS.iter().filter(|flag| flag.long != "help").filter_map(|flag| {
            let value = matches.get_one::<String>(flag.long)?;
            Some((flag.long.to_owned(), value.clone()))
        });
        let values = Values::from_pairs(given);
        let values = values.map_err(|error| clap::Error::raw(ErrorKind::UnknownArgument, error))?;
        Ok(Self { values })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A flag as clap takes it: the last one counts, a switch may say `=false`.
fn arg(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.long).long(flag.long).action(ArgAction::Set).overrides_with(flag.long);
    let arg = match flag.short {
        Some(letter) => arg.short(letter),
        None => arg,
    };
    let arg = match flag.shape {
        // Neither twice nor with a word behind it, which would be the next flag's.
        Shape::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL")
            .hide_possible_values(true),
        Shape::Value => arg.value_name(place(flag.long)).allow_hyphen_values(true),
    };
    let default = if flag.shape == Shape::Value && !flag.default.is_empty() {
        format!("{} [default: {}]", flag.help, flag.default)
    } else {
        flag.help.to_owned()
    };
    arg.help(default).hide(flag.help.is_empty())
}

/// What stands for a flag's value in its help.
fn place(long: &str) -> &'static str {
    match long {
        "listen" => "[ADDRESS]:PORT",
        "socket" | "client-cert" | "client-key" | "server-cert" => "FILE",
        "recordings" => "FOLDER",
        "recording-max" => "MIB",
        "url" => "URL",
        "remote" => "REMOTE",
        "groups" | "auth-methods" => "LIST",
        "idle-timeout" | "healthcheck" | "drain-timeout" => "TIME",
        "dialect" => "DIALECT",
        _ => "WORD",
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SessionsArgs {
    /// Instance whose sessions that stay are listed, instead of who is connected
    #[arg(long, value_name = "[REMOTE:]NAME[.PROJECT]")]
    pub(crate) instance: Option<String>,
    /// Only those of this user inside
    #[arg(long, value_name = "USER", requires = "instance")]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
    /// What to do with one.
    #[command(subcommand)]
    pub(crate) command: Option<SessionsCommand>,
}

/// `portway ssh sessions kill`.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// End a session that stays, and what runs in it
    ///
    /// Whoever looks at it is told. Its shell gets SIGHUP, after three seconds SIGTERM, after eight SIGKILL.
    Kill(SessionsKillArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SessionsKillArgs {
    /// As listed by `portway ssh sessions --instance`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) inside: InsideArgs,
}

/// Where a session stays.
#[derive(Debug, Args)]
pub(crate) struct InsideArgs {
    /// The instance
    #[arg(long, value_name = "[REMOTE:]NAME[.PROJECT]", required = true)]
    pub(crate) instance: String,
    /// Its user, where several have a session of this name
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// As listed by `portway ssh sessions`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct RecordingsArgs {
    /// Their folder, instead of the gateway's
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// As listed by `portway ssh recordings`, or a file
    #[arg(value_name = "RECORDING")]
    pub(crate) recording: String,
    /// How many times as fast, 0.1 to 100
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed)]
    pub(crate) speed: f64,
    /// Longest pause, such as 2s
    #[arg(long, value_name = "TIME", value_parser = pause)]
    pub(crate) max_pause: Option<Duration>,
    /// Tell the terminal everything that the program has told its own
    #[arg(long)]
    pub(crate) raw: bool,
    /// Folder of recordings, instead of the gateway's
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok().filter(|speed| (0.1..=100.0).contains(speed));
    speed.ok_or_else(|| "not a number from 0.1 to 100".to_owned())
}

fn pause(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(3600);
    parse_duration(text, Duration::ZERO, longest).map_err(|error| error.to_string())
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Its folder
    #[arg(long, value_name = "DIR", default_value = "/etc/ssh2incus")]
    pub(crate) from: PathBuf,
    /// The file with its arguments
    #[arg(long, value_name = "FILE", default_value = "/etc/default/ssh2incus")]
    pub(crate) defaults: PathBuf,
    /// Show what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Replace what is there
    #[arg(long)]
    pub(crate) force: bool,
}

/// Below the help of `ssh explain`.
const LOGINS: &str = "\
Logins:
  c1, bob@c1.dev       a session in c1; as bob, in the project dev
  r:c1~adm             on the remote r, with the keys of the host user adm
  %c1, keep=c1         a session that outlives its connection; keep=NAME,c1 has a name
  +t1+debian/12+m2+c2  makes t1 if it is not there: image, GiB of memory, processors
  ~t1, tmp=t1          one that goes when it stops
  /shell, /rm/c1       commands of the gateway; cmd=shell, cmd=rm,c1

Any byte may be written as % and two hexadecimal digits, but not the first of a login.";
