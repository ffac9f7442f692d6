//! `portway ssh`: the gateway, who is connected, and what of it is asked without a server.

mod import;
mod policy;
mod recordings;
mod serve;
mod sessions;

use std::fmt::Write as _;

pub(crate) use serve::{companion, sessions_dir};

use portway_proto::login::{Command, Dialect, Keep, Login, Wish};
use portway_sshgw::explain::{Created, Explained, Kind};
use portway_sshgw::remotes::{self, Remotes};

use crate::cli::ssh::{DialectArg, ExplainArgs, SshCommand};
use crate::failure::{Outcome, Stop, chain, printable};
use crate::output::{Format, Out, csv};

/// Runs a subcommand.
pub(crate) fn run(command: &SshCommand) -> Outcome {
    match command {
        SshCommand::Explain(args) => explain(args),
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

fn explain(args: &ExplainArgs) -> Outcome {
    let login = parse(&args.login, args.dialect)?;
    let mut explained = Explained::new(&login);
    explained.warnings.extend(explained.remote.as_deref().and_then(unknown));
    let mut out = Out::new();
    match args.format.format {
        Format::Table => out.text(&text(&login, &explained)),
        Format::Json => out.json(&explained),
        Format::Yaml => out.yaml(&explained),
        Format::Csv => out.text(&csv_text(&explained)),
    }
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

/// One `key: value` line for each field that is said, and the spelling that other programs leave alone.
fn text(login: &Login, explained: &Explained) -> String {
    let mut text = String::new();
    let mut put = |key: &str, value: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{key}: {}", printable(value));
    };
    put("kind", kind_word(explained.kind));
    if let Some(command) = explained.command {
        put("command", command);
    }
    if explained.persistent {
        put("persistent", &session_name(&login.wish).unwrap_or_else(|| "yes".to_owned()));
    }
    if explained.ephemeral {
        put("ephemeral", "yes");
    }
    let parts = [
        ("remote", &explained.remote),
        ("instance_user", &explained.instance_user),
        ("instance", &explained.instance),
        ("project", &explained.project),
    ];
    for (key, value) in parts {
        if let Some(value) = value {
            put(key, value);
        }
    }
    put("host_user", &explained.host_user);
    for (key, value) in explained.create.iter().flat_map(created) {
        put(key, &value);
    }
    put("spelling", &login.to_string());
    for warning in &explained.warnings {
        let _infallible = writeln!(text, "warning: {}", printable(warning));
    }
    text
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Session => "session",
        Kind::Create => "create",
        Kind::Command => "command",
    }
}

fn session_name(wish: &Wish) -> Option<String> {
    match wish {
        Wish::Session(session) => match &session.keep {
            Keep::Named(name) => Some(format!("yes, as {name}")),
            Keep::No | Keep::Shared => None,
        },
        Wish::Command(Command::Explain(wish)) => session_name(wish),
        Wish::Create(_) | Wish::Command(_) => None,
    }
}

/// What is said of a new instance.
fn created(create: &Created) -> Vec<(&'static str, String)> {
    let Created { image, memory, cpu, disk, nesting, privileged, vm, profiles } = create;
    let amount = |number: &Option<u32>, unit: &str| match number {
        Some(0) => Some("no limit".to_owned()),
        Some(number) => Some(format!("{number}{unit}")),
        None => None,
    };
    let flag = |given: bool| given.then(|| "yes".to_owned());
    let listed = (!profiles.is_empty()).then(|| profiles.join(", "));
    let all = [
        ("image", image.clone()),
        ("memory", amount(memory, " GiB")),
        ("cpu", amount(cpu, "")),
        ("disk", amount(disk, " GiB")),
        ("nesting", flag(*nesting)),
        ("privileged", flag(*privileged)),
        ("vm", flag(*vm)),
        ("profiles", listed),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
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
    let pairs = explained.create.iter().flat_map(created).map(|(key, value)| format!("{key}={value}"));
    let line = [
        kind_word(explained.kind).to_owned(),
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
