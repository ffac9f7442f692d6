//! `portway ssh`: the gateway, who is connected, and what of it is asked without a server.

mod import;
mod kept;
mod policy;
mod recordings;
mod serve;
mod sessions;

pub(crate) use serve::{companion, sessions_dir};

use portway_proto::login::{Dialect, Login};
use portway_sshgw::explain::{self, Created, Explained};
use portway_sshgw::remotes::{self, Remotes};

use crate::cli::ssh::{DialectArg, ExplainArgs, SshCommand};
use crate::failure::{Outcome, Stop, chain};
use crate::output::{Out, csv};

/// Runs a subcommand.
pub(crate) fn run(command: &SshCommand) -> Outcome {
    match command {
        SshCommand::Explain(args) => explained(args),
        SshCommand::Policy(args) => policy::run(args),
        SshCommand::Serve(args) => serve::run(args),
        SshCommand::Sessions(args) => sessions::list(args),
        SshCommand::Kill(args) => sessions::kill(args),
        SshCommand::Recordings(args) => recordings::list(args),
        SshCommand::Replay(args) => recordings::replay(args),
        SshCommand::Import(args) => import::run(args),
    }
}

/// Reads a login as it was typed.
fn parse(login: &str, dialect: DialectArg) -> Outcome<Login> {
    let dialect = match dialect {
        DialectArg::Auto => Dialect::Auto,
        DialectArg::V07 => Dialect::V07,
        DialectArg::V010 => Dialect::V010,
    };
    Login::parse(login, dialect).map_err(|error| {
        let stop = Stop::usage(format!("login {}: {error}", short(login)));
        match error.hint() {
            Some(hint) => stop.hint(hint),
            None => stop,
        }
    })
}

fn explained(args: &ExplainArgs) -> Outcome {
    let login = parse(&args.login, args.dialect)?;
    let mut explained = Explained::new(&login);
    explained.warnings.extend(explained.remote.as_deref().and_then(unknown));
    let text = |_| explain::text(&login, &explained);
    Out::new().show(args.format.format, &explained, text, || csv_text(&explained))
}

/// What is wrong with a login's server, as far as this user's configuration says.
fn unknown(remote: &str) -> Option<String> {
    let folder = remotes::folder(|name| std::env::var(name).ok())?;
    let place = folder.join("config.yml");
    match Remotes::load(&folder) {
        Ok(remotes) => remotes.find(remote).err().map(|error| format!("{error} (in {})", place.display())),
        Err(error) => Some(chain(&error)),
    }
}

/// A login for a message: its beginning, when it is long.
fn short(login: &str) -> String {
    const CHARS_MAX: usize = 64;
    match login.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("`{}…`", login.get(..end).unwrap_or_default()),
        None => format!("`{login}`"),
    }
}

fn csv_text(explained: &Explained) -> String {
    let header = [
        "kind",
        "persistent",
        "ephemeral",
        "remote",
        "instance_user",
        "instance",
        "project",
        "host_user",
        "create",
        "command",
        "warnings",
    ];
    let Explained { remote, instance_user, instance, project, .. } = explained;
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let pairs = explained.create.iter().flat_map(Created::pairs).map(|(key, value)| format!("{key}={value}"));
    let line = [
        explained.kind.as_str().to_owned(),
        explained.persistent.to_string(),
        explained.ephemeral.to_string(),
        given(remote),
        given(instance_user),
        given(instance),
        given(project),
        explained.host_user.clone(),
        pairs.collect::<Vec<_>>().join(" "),
        explained.command.unwrap_or_default().to_owned(),
        explained.warnings.join("; "),
    ];
    csv::line(header) + &csv::line(line)
}
