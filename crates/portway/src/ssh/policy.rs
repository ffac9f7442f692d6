//! `portway ssh policy`: the rules in force, the default ones, and what they say of somebody.

use std::path::{Path, PathBuf};

use portway_control::api::FailureKind;
use portway_proto::login::{Command, Place, Wish};
use portway_sshgw::auth::nss;
use portway_sshgw::policy::{self, Action, DEFAULT, Decision, Person, Policy, PolicyError, Target};
use serde::Serialize;

use crate::cli::ssh::{PolicyArgs, PolicyCheckArgs, PolicyCommand};
use crate::failure::{Outcome, Stop, chain};
use crate::output::table::{self, Text, Tone};
use crate::output::{Format, Out, csv};
use crate::session::{self, runtime};

/// Runs it.
pub(super) fn run(args: &PolicyArgs) -> Outcome {
    match &args.command {
        Some(PolicyCommand::Check(check_args)) => check(check_args),
        None if args.default => Out::new().text(DEFAULT),
        None => show(),
    }
}

/// The file in force as it stands, or the default one where there is none.
fn show() -> Outcome {
    let path = policy_path()?;
    load(&path)?;
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => DEFAULT.to_owned(),
        Err(error) => return Err(Stop::refused(format!("cannot read {}: {error}", path.display()))),
    };
    Out::new().text(&text)
}

/// What is said of one action.
#[derive(Serialize)]
struct Row {
    action: &'static str,
    allowed: bool,
    reason: String,
}

fn check(args: &PolicyCheckArgs) -> Outcome {
    let login = super::parse(&args.login, args.dialect)?;
    let path = match &args.policy {
        Some(path) => path.clone(),
        None => policy_path()?,
    };
    let policy = load(&path)?;
    let usual = super::serve::usual_remote()?;
    let (place, actions) = asked(&login.wish);
    let place = place.map(|place| Target {
        remote: place.remote.as_ref().map_or_else(|| usual.clone(), ToString::to_string),
        project: place.project.to_string(),
        instance: place.instance.to_string(),
        instance_user: place.instance_user.to_string(),
    });
    let person = person(args)?;
    let rows = actions.iter().map(|action| {
        let Decision { allowed, reason } = match place.as_ref() {
            // The shell is somewhere; its commands say where.
            None if *action == Action::IncusShell => policy.has_shell(&person),
            place => policy.decide(&person, *action, place),
        };
        Row { action: action.as_str(), allowed, reason: reason.to_string() }
    });
    let rows: Vec<Row> = rows.collect();
    print(args.format.format, &rows)?;
    if rows.iter().any(|row| row.allowed) { Ok(()) } else { Err(Stop::Found) }
}

fn print(format: Format, rows: &[Row]) -> Outcome {
    let table = |look| {
        let lines = rows.iter().map(|row| {
            let allowed =
                if row.allowed { Text::new("yes").tone(Tone::Good) } else { Text::new("no").tone(Tone::Bad) };
            [Text::new(row.action), allowed, Text::new(&row.reason)]
        });
        table::render(["ACTION", "ALLOWED", "DECIDED BY"], lines.collect(), look)
    };
    Out::new().show(format, rows, table, || {
        let lines = rows.iter().map(|row| csv::line([row.action, yes(row.allowed), &row.reason]));
        csv::line(["action", "allowed", "reason"]) + &lines.collect::<String>()
    })
}

fn yes(allowed: bool) -> &'static str {
    if allowed { "true" } else { "false" }
}

/// Where a login leads, and what could be done there.
fn asked(wish: &Wish) -> (Option<&Place>, Vec<Action>) {
    let session = || [&Action::SESSION[..], &[Action::X11]].concat();
    match wish {
        Wish::Session(_) => (wish.place(), [session(), vec![Action::Start]].concat()),
        Wish::Create(_) => (wish.place(), [vec![Action::Create], session()].concat()),
        Wish::Command(Command::Shell { .. }) => (None, vec![Action::IncusShell]),
        Wish::Command(Command::Remove { .. }) => (wish.place(), vec![Action::Remove]),
        Wish::Command(Command::Explain(wish)) => asked(wish),
    }
}

/// Who is asked about: as the arguments say, the groups as the host's name service does.
fn person(args: &PolicyCheckArgs) -> Outcome<Person> {
    let groups = if args.groups.is_empty() { host_groups(&args.user)? } else { args.groups.clone() };
    Ok(Person::Host {
        user: args.user.clone(),
        groups,
        key: args.key.clone(),
        principals: args.principals.clone(),
    })
}

fn host_groups(name: &str) -> Outcome<Vec<String>> {
    let found = runtime()?.block_on(async {
        match nss::find_user(name).await? {
            Some(user) => nss::groups_of(&user).await.map(Some),
            None => Ok(None),
        }
    });
    match found {
        Ok(Some(groups)) => Ok(groups),
        Ok(None) => Err(Stop::of(FailureKind::Missing, format!("no user {name} on this host"))
            .hint("name the groups with --group to ask about somebody else")),
        Err(error) => Err(Stop::refused(format!("cannot look up the user {name}: {}", chain(&error)))),
    }
}

fn policy_path() -> Outcome<PathBuf> {
    Ok(policy::path(&session::paths()?))
}

fn load(path: &Path) -> Outcome<Policy> {
    Policy::load(path).map_err(|error| match &error {
        PolicyError::Syntax { .. } => Stop::usage(chain(&error)),
        PolicyError::File(file) => {
            let stop =
                if file.is_malformed() { Stop::usage(chain(&error)) } else { Stop::refused(chain(&error)) };
            match file.hint() {
                Some(hint) => stop.hint(hint),
                None => stop,
            }
        }
    })
}
