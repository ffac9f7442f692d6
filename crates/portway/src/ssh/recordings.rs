//! `portway ssh recordings` and `portway ssh replay`.

use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use portway_control::api::FailureKind;
use portway_model::rfc3339;
use portway_sshgw::recording::{Calm, Cast, CastError, Happened, visible};
use serde::Serialize;

use super::serve::recordings_dir;
use crate::cli::ssh::{RecordingsArgs, ReplayArgs};
use crate::failure::{Outcome, Stop, chain, printable};
use crate::output::table::Text;
use crate::output::{Look, Out, csv, human, table};
use crate::session::runtime;

/// Ends of names of recordings.
const ENDS: &str = ".cast";

/// Most recordings that are listed.
const LISTED: usize = 100_000;

/// What a terminal is told when a recording ends wherever it was: plain text, the cursor, the first screen, all of its
/// lines and columns, its letters, nothing inverse or inserted.
const RESTORED: &str = concat!(
    "\u{1b}[0m\u{1b}[4l\u{1b}[?25h\u{1b}[?1049l\u{1b}[?5;6;45;69l\u{1b}[?7h\u{1b}[?2026l",
    "\u{1b}[r\u{f}\u{1b}(B\u{1b})B\n"
);

/// A recording in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Listed {
    name: String,
    title: String,
    began: Option<String>,
    seconds: Option<u64>,
    bytes: u64,
}

/// Prints what there is, the oldest first.
pub(super) fn list(args: &RecordingsArgs) -> Outcome {
    let dir = folder(args.folder.as_deref())?;
    if args.folder.is_some() && !dir.exists() {
        return Err(Stop::of(FailureKind::Missing, format!("there is no folder {}", dir.display())));
    }
    let unreadable = |error: &io::Error| {
        let stop = Stop::refused(format!("cannot look at {}: {}", dir.display(), chain(error)));
        if error.kind() == io::ErrorKind::PermissionDenied { stop.hint("run as root") } else { stop }
    };
    let mut all: Vec<Listed> =
        names(&dir).map_err(|error| unreadable(&error))?.into_iter().map(|name| look(&dir, name)).collect();
    all.sort_by(|one, two| (&one.began, &one.name).cmp(&(&two.began, &two.name)));
    let table = |look| table_text(&all, look);
    Out::new().show(args.format.format, &all, table, || csv_text(&all))
}

/// Names below the folder and its days. None where there is no folder: nothing was recorded yet.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let days = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        days => days?,
    };
    let mut names = Vec::new();
    for day in days {
        let day = day?;
        if !day.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(day.path())? {
            let name = entry?.file_name();
            if let (Some(day), Some(name)) = (day.file_name().to_str(), name.to_str())
                && name.ends_with(ENDS)
                && names.len() < LISTED
            {
                names.push(format!("{day}/{name}"));
            }
        }
    }
    Ok(names)
}

/// What a recording says of itself. One that says nothing is listed all the same.
fn look(dir: &Path, name: String) -> Listed {
    let path = dir.join(&name);
    let found = fs::metadata(&path).ok();
    let bytes = found.as_ref().map_or(0, fs::Metadata::len);
    let cast = File::open(&path).ok().and_then(|file| Cast::new(BufReader::new(file)).ok());
    let began = cast.as_ref().and_then(Cast::began);
    let title = cast.and_then(|cast| cast.title().map(str::to_owned)).unwrap_or_default();
    let since = began.map(|began| SystemTime::UNIX_EPOCH + Duration::from_secs(began));
    // It was last written when it last showed something.
    let until = found.and_then(|found| found.modified().ok());
    let seconds = since.zip(until).and_then(|(since, until)| until.duration_since(since).ok());
    Listed { name, title, began: since.map(rfc3339), seconds: seconds.map(|time| time.as_secs()), bytes }
}

/// Shows one as it was.
pub(super) fn replay(args: &ReplayArgs) -> Outcome {
    let path = place(args)?;
    let named = |what: &dyn std::fmt::Display| format!("{}: {what}", printable(&path.display().to_string()));
    let file = File::open(&path).map_err(|error| {
        let stop = Stop::of(FailureKind::Missing, named(&chain(&error)));
        match error.kind() {
            io::ErrorKind::NotFound => stop.hint("`portway ssh recordings` lists them"),
            io::ErrorKind::PermissionDenied => Stop::refused(named(&chain(&error))).hint("run as root"),
            _ => Stop::refused(named(&chain(&error))),
        }
    })?;
    let wrong = |error: CastError| Stop::refused(named(&chain(&error)));
    let mut cast = Cast::new(BufReader::new(file)).map_err(wrong)?;
    let on_terminal = io::stdout().is_terminal();
    warn_of_size(&cast);
    let player = Player {
        calm: (!args.raw).then(Calm::default),
        speed: args.speed,
        most: args.max_pause,
        on_terminal,
    };
    let played = runtime()?.block_on(async {
        tokio::select! {
            played = player.play(&mut cast) => played.map_err(|error| match error {
                Ended::Cast(error) => wrong(error),
                Ended::Stop(stop) => stop,
            }),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    if on_terminal {
        Out::new().text(RESTORED)?;
    }
    played
}

/// Why it is not played to its end.
enum Ended {
    Cast(CastError),
    Stop(Stop),
}

struct Player {
    /// What of it a terminal is told; all where there is none.
    calm: Option<Calm>,
    speed: f64,
    /// Longest pause; `None` is as long as it was.
    most: Option<Duration>,
    on_terminal: bool,
}

impl Player {
    async fn play(mut self, cast: &mut Cast<BufReader<File>>) -> Result<(), Ended> {
        let mut out = Out::new();
        let mut last = Duration::ZERO;
        while let Some(moment) = cast.next_moment().map_err(Ended::Cast)? {
            let pause = moment.at.saturating_sub(std::mem::replace(&mut last, moment.at));
            // What reads without looking does not wait.
            if self.on_terminal {
                let pause = pause.div_f64(self.speed);
                tokio::time::sleep(self.most.map_or(pause, |most| pause.min(most))).await;
            }
            let text = match moment.what {
                Happened::Output(text) => match &mut self.calm {
                    Some(calm) => calm.pass(&text),
                    None => text,
                },
                Happened::Mark(text) => format!("\r\n-- {} --\r\n", visible(&printable(&text))),
                Happened::Resize(..) => continue,
            };
            out.text(&text).map_err(Ended::Stop)?;
        }
        Ok(())
    }
}

/// A recording of a larger terminal looks torn on a smaller one.
fn warn_of_size(cast: &Cast<BufReader<File>>) {
    let (columns, rows) = cast.size();
    // No terminal has no size.
    let Ok(have) = rustix::termios::tcgetwinsize(io::stdout()) else { return };
    if have.ws_col > 0 && (have.ws_col < columns || have.ws_row < rows) {
        let (wide, high) = (have.ws_col, have.ws_row);
        // Whoever reads along may go.
        let _unheard = writeln!(
            io::stderr(),
            "note: recorded on a terminal of {columns}x{rows}, this one has {wide}x{high}"
        );
    }
}

/// A file, or a name of the list.
fn place(args: &ReplayArgs) -> Outcome<PathBuf> {
    let given = PathBuf::from(&args.recording);
    if given.is_absolute() || given.exists() {
        return Ok(given);
    }
    Ok(folder(args.folder.as_deref())?.join(given))
}

fn folder(given: Option<&Path>) -> Outcome<PathBuf> {
    given.map_or_else(recordings_dir, |given| Ok(given.to_owned()))
}

fn table_text(all: &[Listed], look: Look) -> String {
    let rows = all.iter().map(|one| {
        let lasted = one.seconds.map(human::seconds).unwrap_or_default();
        let began = one.began.clone().unwrap_or_default();
        [one.name.clone(), printable(&one.title), began, lasted, human::bytes(one.bytes)].map(Text::new)
    });
    table::render(["NAME", "WHO AND WHERE", "BEGAN", "LASTED", "SIZE"], rows.collect(), look)
}

fn csv_text(all: &[Listed]) -> String {
    let lines = all.iter().map(|one| {
        let seconds = one.seconds.map(|seconds| seconds.to_string()).unwrap_or_default();
        let began = one.began.clone().unwrap_or_default();
        csv::line([&one.name, &one.title, &began, &seconds, &one.bytes.to_string()])
    });
    csv::line(["name", "title", "began", "seconds", "bytes"]) + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when one file that is no recording hides the others, or a name leaves the folder.
    #[test]
    fn what_is_there_is_listed() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(names(&dir.path().join("none")).expect("nothing").is_empty());
        let day = dir.path().join("2026-01-02");
        fs::create_dir(&day).expect("made");
        let header =
            "{\"version\":2,\"width\":80,\"height\":24,\"timestamp\":1767312000,\"title\":\"ann: bob@c1\"}\n";
        fs::write(day.join("a-0.cast"), header).expect("written");
        fs::write(day.join("b-0.cast"), "nothing").expect("written");
        fs::write(day.join("note"), "nothing").expect("written");
        fs::write(dir.path().join("c.cast"), "nothing").expect("written");
        let mut found = names(dir.path()).expect("listed");
        found.sort_unstable();
        assert_eq!(found, ["2026-01-02/a-0.cast", "2026-01-02/b-0.cast"]);
        let one = look(dir.path(), found[0].clone());
        assert_eq!(
            (one.title.as_str(), one.began.as_deref()),
            ("ann: bob@c1", Some("2026-01-02T00:00:00.000Z"))
        );
        assert!(one.seconds.is_some_and(|seconds| seconds > 0) && one.bytes == 82, "{one:?}");
        let two = look(dir.path(), found[1].clone());
        assert_eq!((two.title.as_str(), &two.began, two.seconds, two.bytes), ("", &None, None, 7));
        let text = table_text(&[one.clone(), two], Look { width: None, colour: false });
        assert!(text.contains("ann: bob@c1") && text.lines().count() == 3, "{text}");
        assert!(
            csv_text(&[one])
                .lines()
                .nth(1)
                .is_some_and(|line| line.starts_with("2026-01-02/a-0.cast,ann: bob@c1,"))
        );
    }
}
