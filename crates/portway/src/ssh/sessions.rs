//! `portway ssh sessions` and `portway ssh kill`.

use std::io::{self, Write as _};

use portway_control::api::FailureKind;
use portway_sshgw::broker::{self, Done, SessionState};
use portway_sshgw::remotes::LOCAL;

use super::kept;
use super::serve::sessions_dir;
use crate::cli::ssh::{KillArgs, SessionsArgs, SessionsCommand};
use crate::failure::{Outcome, Stop, chain, printable};
use crate::output::table::Text;
use crate::output::{Look, Out, csv, table};
use crate::session::paths;

/// Prints who is connected, or what stays in an instance.
pub(super) fn list(args: &SessionsArgs) -> Outcome {
    if let Some(SessionsCommand::Kill(args)) = &args.command {
        return kept::kill(args);
    }
    if let Some(instance) = &args.instance {
        return kept::list(instance, args.user.as_deref(), args.format.format);
    }
    let sessions = broker::sessions(&sessions_dir(&paths()?)).map_err(|error| unreadable(&error))?;
    let table = |look| table_text(&sessions, look);
    Out::new().show(args.format.format, &sessions, table, || csv_text(&sessions))
}

/// Ends one.
pub(super) fn kill(args: &KillArgs) -> Outcome {
    match broker::end_session(&sessions_dir(&paths()?), &args.id).map_err(|error| unreadable(&error))? {
        true => {
            noted(Done::Killed { session: &args.id });
            Ok(())
        }
        false => {
            let stop = Stop::of(FailureKind::Missing, format!("there is no session {}", printable(&args.id)));
            Err(stop.hint("`portway ssh sessions` lists them"))
        }
    }
}

/// Has the audit log say it. What was done is done, also where that cannot be.
pub(super) fn noted(done: Done<'_>) {
    let Ok(paths) = paths() else { return };
    if let Err(error) = broker::note_done(&paths.ssh_audit, done) {
        let path = paths.ssh_audit.display();
        // Whoever reads along may go.
        let _unheard = writeln!(io::stderr(), "warning: {path} does not say so: {}", chain(&error));
    }
}

fn unreadable(error: &io::Error) -> Stop {
    let stop = Stop::refused(format!("cannot look at the sessions: {}", chain(error)));
    if error.kind() == io::ErrorKind::PermissionDenied { stop.hint("run as root") } else { stop }
}

/// `user@c1`, `user@c1.project`, `server:user@c1`; `/shell` where there is no instance.
fn place(session: &SessionState) -> String {
    let SessionState { instance_user, instance, project, remote, .. } = session;
    // Of before there were others, nothing is said of the server.
    let remote = if remote.is_empty() || remote == LOCAL { String::new() } else { format!("{remote}:") };
    if instance.is_empty() {
        return format!("{remote}/shell");
    }
    let project = if project == "default" { String::new() } else { format!(".{project}") };
    format!("{remote}{instance_user}@{instance}{project}")
}

fn table_text(sessions: &[SessionState], look: Look) -> String {
    let rows = sessions.iter().map(|session| {
        [&session.id, &session.person, &place(session), &session.peer, &session.since].map(Text::new)
    });
    table::render(["ID", "PERSON", "WHERE", "FROM", "SINCE"], rows.collect(), look)
}

fn csv_text(sessions: &[SessionState]) -> String {
    let header =
        ["id", "person", "key", "project", "instance", "instance_user", "peer", "since", "pid", "remote"];
    let lines = sessions.iter().map(|session| {
        let SessionState { id, person, key, remote, project, instance, instance_user, peer, since, pid } =
            session;
        csv::line([id, person, key, project, instance, instance_user, peer, since, &pid.to_string(), remote])
    });
    csv::line(header) + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_a_line() {
        let text = |text: &str| text.to_owned();
        let one = SessionState {
            id: text("0badcafe"),
            person: text("root"),
            key: text("SHA256:x"),
            remote: text("local"),
            project: text("default"),
            instance: text("c1"),
            instance_user: text("bob"),
            peer: text("192.0.2.1:4711"),
            since: text("2026-01-02T03:04:05.678Z"),
            pid: 7,
        };
        let two = SessionState { project: text("dev"), ..one.clone() };
        let three = SessionState { remote: text("r1"), ..two.clone() };
        assert_eq!(
            [place(&one), place(&two), place(&three)],
            ["bob@c1", "bob@c1.dev", "r1:bob@c1.dev"].map(str::to_owned)
        );
        let csv = csv_text(std::slice::from_ref(&one));
        assert_eq!(
            csv.lines().nth(1),
            Some("0badcafe,root,SHA256:x,default,c1,bob,192.0.2.1:4711,2026-01-02T03:04:05.678Z,7,local")
        );
        let table = table_text(&[one], Look { width: None, colour: false });
        assert!(
            table.contains("0badcafe") && table.contains("bob@c1") && table.lines().count() == 2,
            "{table}"
        );
    }
}
