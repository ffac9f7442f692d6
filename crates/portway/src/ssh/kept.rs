//! `portway ssh sessions --instance` and `portway ssh sessions kill`: sessions that stay, inside an instance.

use portway_control::api::FailureKind;
use portway_incus::IncusError;
use portway_proto::guest::is_held_name;
use portway_proto::login::{Dialect, Keep, Login, Place, Session, Wish};
use portway_sshgw::broker::{Done, KeptError, KeptIn, KeptSession};

use super::serve::server;
use super::sessions::noted;
use crate::cli::ssh::{InsideArgs, SessionsKillArgs};
use crate::failure::{Outcome, Stop, chain, printable};
use crate::output::table::Text;
use crate::output::{Format, Look, Out, csv, table};
use crate::session::runtime;

/// Prints the sessions that stay in an instance.
pub(super) fn list(instance: &str, user: Option<&str>, format: Format) -> Outcome {
    let kept = place(&named(instance)?)?;
    let sessions = runtime()?.block_on(kept.list(user)).map_err(|error| failed(&error))?;
    Out::new().show(format, &sessions, |look| table_text(&sessions, look), || csv_text(&sessions))
}

/// Ends one.
pub(super) fn kill(args: &SessionsKillArgs) -> Outcome {
    let SessionsKillArgs { name, inside: InsideArgs { instance, user } } = args;
    if !is_held_name(name.as_bytes()) {
        let text = format!("no session is called {}", printable(name));
        return Err(Stop::usage(text).hint("names are up to 64 letters, digits, - and _"));
    }
    let at = named(instance)?;
    let kept = place(&at)?;
    let whose = runtime()?.block_on(kept.end(user.as_deref(), name)).map_err(|error| failed(&error))?;
    noted(Done::KeptEnded {
        remote: at.remote.as_ref().map_or("", |remote| remote.as_str()),
        project: &at.project.to_string(),
        instance: &at.instance.to_string(),
        instance_user: &whose,
        keep: name,
    });
    Out::new().line(&format!("session {name} of {} in {} has ended", printable(&whose), printable(instance)))
}

/// The instance of `[REMOTE:]NAME[.PROJECT]`.
fn place(at: &Place) -> Outcome<KeptIn> {
    let Place { remote, instance, project, .. } = at;
    let server = server(remote.as_ref().map(|remote| remote.as_str()))?;
    Ok(KeptIn::new(server, project.to_string(), instance.to_string()))
}

/// It is a login that says nothing else.
fn named(text: &str) -> Outcome<Place> {
    let wrong = || {
        let stop = Stop::usage(format!("--instance: {} is no instance", printable(text)));
        stop.hint("[REMOTE:]NAME[.PROJECT]; --user names a user inside")
    };
    let Login { wish, warnings } = Login::parse(text, Dialect::V010).map_err(|_| wrong())?;
    // One that no server could have is a warning there.
    let is_plain = warnings.is_empty() && !text.contains(['@', '~', '+', '%']);
    match wish {
        Wish::Session(Session { place, keep: Keep::No, .. }) if is_plain => Ok(place),
        _ => Err(wrong()),
    }
}

fn failed(error: &KeptError) -> Stop {
    let stop = Stop::of(kind(error), chain(error));
    match error {
        KeptError::NoSession(..) => stop.hint("`portway ssh sessions --instance` lists them"),
        KeptError::Several { .. } => stop.hint("--user says whose"),
        KeptError::Server(_, IncusError::Denied { .. }) => stop.hint("run as root"),
        _ => stop,
    }
}

fn kind(error: &KeptError) -> FailureKind {
    match error {
        KeptError::NoInstance(_) | KeptError::NoUser(..) | KeptError::NoSession(..) => FailureKind::Missing,
        KeptError::Server(_, IncusError::Unreachable { .. } | IncusError::TimedOut { .. }) => {
            FailureKind::Unreachable
        }
        _ => FailureKind::Refused,
    }
}

/// What a session that says nothing of itself is told with.
fn state(session: &KeptSession) -> &str {
    match session.state {
        "silent" => "(does not answer)",
        "other-version" => "(of another version of the gateway)",
        _ => session.command.as_deref().unwrap_or_default(),
    }
}

fn size(session: &KeptSession) -> String {
    let size = session.columns.zip(session.rows);
    size.map_or_else(String::new, |(columns, rows)| format!("{columns}x{rows}"))
}

fn viewers(session: &KeptSession) -> String {
    session.viewers.map_or_else(String::new, |viewers| viewers.to_string())
}

fn table_text(sessions: &[KeptSession], look: Look) -> String {
    let rows = sessions.iter().map(|session| {
        let since = session.since.as_deref().unwrap_or_default();
        [&session.name, &session.user, since, &viewers(session), &size(session), state(session)]
            .map(Text::new)
    });
    table::render(["NAME", "USER", "SINCE", "VIEWERS", "SIZE", "COMMAND"], rows.collect(), look)
}

fn csv_text(sessions: &[KeptSession]) -> String {
    let header =
        ["name", "user", "uid", "state", "since", "viewers", "columns", "rows", "pid", "command", "title"];
    let lines = sessions.iter().map(|session| {
        let KeptSession { name, user, uid, state, since, viewers, columns, rows, pid, command, title } =
            session;
        let number = |number: Option<u32>| number.map_or_else(String::new, |number| number.to_string());
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        csv::line([
            name.clone(),
            user.clone(),
            uid.to_string(),
            (*state).to_owned(),
            text(since),
            number(viewers.map(u32::from)),
            number(columns.map(u32::from)),
            number(rows.map(u32::from)),
            number(*pid),
            text(command),
            text(title),
        ])
    });
    csv::line(header) + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> KeptSession {
        let text = |text: &str| text.to_owned();
        KeptSession {
            name: text("work"),
            user: text("bob"),
            uid: 1000,
            state: "kept",
            since: Some(text("2026-01-02T03:04:05.678Z")),
            viewers: Some(2),
            columns: Some(80),
            rows: Some(24),
            pid: Some(7),
            command: Some(text("vi notes")),
            title: Some(text("")),
        }
    }

    #[test]
    fn a_session_is_a_line() {
        let silent =
            KeptSession { state: "silent", command: None, viewers: None, columns: None, ..session() };
        let csv = csv_text(&[session(), silent.clone()]);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[1], "work,bob,1000,kept,2026-01-02T03:04:05.678Z,2,80,24,7,vi notes,");
        assert_eq!(lines[2], "work,bob,1000,silent,2026-01-02T03:04:05.678Z,,,24,7,,");
        let table = table_text(&[session(), silent], Look { width: None, colour: false });
        assert!(table.contains("80x24") && table.contains("vi notes") && table.contains("(does not answer)"));
        assert_eq!(table.lines().count(), 3);
    }

    /// Fails when a user, a command or what makes an instance is taken for an instance.
    #[test]
    fn an_instance_is_nothing_else() {
        let place = named("r1:c1.dev").expect("an instance");
        assert_eq!(
            (place.remote.expect("one").as_str(), place.project.to_string()),
            ("r1", "dev".to_owned())
        );
        assert!(named("c1").is_ok());
        for text in
            ["", "bob@c1", "%c1", "+c1", "~c1", "/shell", "c1~adm", "c1+adm", "a/b", "c1.", "keep=x,c1"]
        {
            assert!(named(text).is_err(), "{text}");
        }
    }
}
