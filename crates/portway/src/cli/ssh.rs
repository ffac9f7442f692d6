//! Words and arguments of `portway ssh`.

use clap::{Args, Subcommand, ValueEnum};

use super::FormatArg;

/// `portway ssh`.
#[derive(Debug, Subcommand)]
pub(crate) enum SshCommand {
    /// Say how a login name is read
    ///
    /// Nobody is asked: neither the daemon nor a server. Names that do not exist are not noticed; a name that no
    /// server would allow is.
    #[command(after_help = LOGINS)]
    Explain(ExplainArgs),
    /// Run the SSH gateway
    ///
    /// `ssh -p 2222 c1@host` is then a shell in the instance c1, for whoever has one of the keys in root's
    /// ~/.ssh/authorized_keys on this host; no SSH server runs inside. Prints `ready` once it listens. SIGTERM ends
    /// the gateway alone: connections go on.
    Serve(ServeArgs),
    /// List who is connected over SSH
    ///
    /// Also while no gateway runs: connections outlive it.
    Sessions(SessionsArgs),
    /// End a connection and what it runs
    Kill(KillArgs),
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

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen; without an address, on all of them
    #[arg(short, long, value_name = "[ADDRESS]:PORT", default_value = ":2222")]
    pub(crate) listen: String,
}

#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// As listed by `portway ssh sessions`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
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
