//! tmux or screen in an instance whose sessions that stay are to be kept by it: looked for, and installed where it is missing.
//!
//! It is installed by root of the instance with the instance's own package manager, never asked anything, within a time. What
//! fails is tried again later; meanwhile the helper keeps sessions itself. Nothing of a login is in any of the commands.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use portway_incus::{Client, Exec, ExecEnd, ExecSpec, FileContent, Output};
use tokio::sync::watch;

use super::grant::Grant;
use super::turns::{self, Place, Turns};
use super::{account, judge, lock};

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a program may take to say its version.
const VERSION: Duration = Duration::from_secs(10);

/// How long what was found counts, and how much of it is remembered.
const KNOWN: Duration = Duration::from_secs(600);
const KNOWN_MAX_COUNT: usize = 4096;

/// What says which system it is (os-release(5)), and how much of it is read.
const SYSTEM: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
const SYSTEM_BYTES: usize = 64 << 10;

/// Longest part of a line that is told, characters.
const LINE_CHARS: usize = 120;

/// Longest line that is kept, bytes.
const LINE_BYTES: usize = 4096;

/// A program that keeps sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mux {
    Tmux,
    Screen,
}

impl Mux {
    /// Of the program, and of its package in all families.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tmux => "tmux",
            Self::Screen => "screen",
        }
    }

    /// Has it say its version.
    const fn version(self) -> &'static str {
        match self {
            Self::Tmux => "-V",
            Self::Screen => "-v",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Had {
    /// Nothing was changed.
    AsItWas,
    /// It was installed.
    Installed,
    /// It could not be, and why.
    Failed(String),
}

/// What is known of instances.
#[derive(Debug, Default)]
pub(super) struct Muxes {
    turns: Turns,
    known: Mutex<BTreeMap<(Place, Mux), Instant>>,
}

impl Muxes {
    /// Has it be in the instance of a grant, as far as that can be had; what is being done is said.
    pub(super) async fn have(
        &self,
        client: &Client,
        grant: &Grant,
        mux: Mux,
        say: &watch::Sender<String>,
    ) -> Had {
        let key = (turns::place(grant), mux);
        if self.knows(&key) {
            return Had::AsItWas;
        }
        let _turn = self.turns.take(&key.0).await;
        if self.knows(&key) {
            return Had::AsItWas;
        }
        let provided = tokio::time::timeout(LIMIT, provide(client, &key.0, mux, say)).await;
        let late = || Had::Failed(format!("it is not installed within {} s", LIMIT.as_secs()));
        let had = provided.unwrap_or_else(|_| late());
        let mut known = lock(&self.known);
        known.retain(|_, since| since.elapsed() < KNOWN);
        if known.len() < KNOWN_MAX_COUNT {
            known.insert(key, Instant::now());
        }
        had
    }

    /// Whether it is there, or could not be had, a short time ago.
    fn knows(&self, key: &(Place, Mux)) -> bool {
        lock(&self.known).get(key).is_some_and(|since| since.elapsed() < KNOWN)
    }
}

async fn provide(client: &Client, place: &Place, mux: Mux, say: &watch::Sender<String>) -> Had {
    let (_, project, name) = place;
    let version = ExecSpec::of_root([mux.name(), mux.version()].map(str::to_owned).into(), environment());
    match client.run(project, name, &version, (VERSION, 0)).await {
        // Some versions of screen say so with status 1.
        Ok(Some(ran)) if !matches!(ran.end, Some(ExecEnd::Status(126 | 127) | ExecEnd::Failed(_))) => {
            return Had::AsItWas;
        }
        Ok(Some(_)) => {}
        Ok(None) => return Had::Failed("the instance has gone".to_owned()),
        Err(error) => return Had::Failed(judge::why(&error)),
    }
    let Some(family) = system(client, project, name).await else {
        return Had::Failed("its system has no package manager that is known here".to_owned());
    };
    for words in family.commands(mux.name()) {
        if let Err(why) = step(client, place, mux, &words, say).await {
            return Had::Failed(why);
        }
    }
    Had::Installed
}

/// A family of systems with one package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Debian,
    RedHat,
    Alpine,
}

impl Family {
    /// By a word of `ID` or `ID_LIKE`.
    fn named(word: &str) -> Option<Self> {
        Some(match word {
            "debian" | "ubuntu" => Self::Debian,
            "rhel" | "fedora" | "centos" | "rocky" | "almalinux" => Self::RedHat,
            "alpine" => Self::Alpine,
            _ => return None,
        })
    }

    /// What installs a package.
    fn commands(self, package: &str) -> Vec<Vec<String>> {
        let commands: &[&[&str]] = match self {
            Self::Debian => &[
                &["apt-get", "-q", "update"],
                &["apt-get", "-q", "-y", "--no-install-recommends", "install"],
            ],
            Self::RedHat => &[&["dnf", "-y", "install"]],
            Self::Alpine => &[&["apk", "add", "--no-cache"]],
        };
        let last = commands.len() - 1;
        let words = commands.iter().enumerate().map(|(at, words)| {
            let package = (at == last).then_some(package);
            words.iter().copied().chain(package).map(str::to_owned).collect()
        });
        words.collect()
    }
}

async fn system(client: &Client, project: &str, name: &str) -> Option<Family> {
    for path in SYSTEM {
        let file = account::read(client, project, name, path, SYSTEM_BYTES).await.ok().flatten();
        if let Some(FileContent::Plain(text)) = file.map(|file| file.content) {
            return family(&String::from_utf8_lossy(&text));
        }
    }
    None
}

/// `ID` counts before `ID_LIKE`, and of that the first word before others.
fn family(text: &str) -> Option<Family> {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim().trim_matches(['"', '\''])).unwrap_or_default()
    };
    let words = value("ID").split_whitespace().chain(value("ID_LIKE").split_whitespace());
    words.filter_map(Family::named).next()
}

/// Of what root runs: it asks nothing, and speaks as everywhere.
fn environment() -> BTreeMap<String, String> {
    let variables = [("DEBIAN_FRONTEND", "noninteractive"), ("LC_ALL", "C"), ("HOME", "/root")];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Runs a command to its end; its lines are told. Dropped, it is killed.
async fn step(
    client: &Client,
    (_, project, name): &Place,
    mux: Mux,
    words: &[String],
    say: &watch::Sender<String>,
) -> Result<(), String> {
    let program = words.first().map_or("", String::as_str);
    say.send_replace(format!("installing {} in {name}", mux.name()));
    let spec = ExecSpec::of_root(words.to_vec(), environment());
    let sockets = client.exec(project, name, &spec).await.map_err(|error| judge::why(&error))?;
    let sockets = sockets.ok_or("the instance has gone")?;
    let exec = Exec::new(sockets).await.map_err(|error| error.to_string())?;
    let Exec { mut control, mut input, output, errors, outcome } = exec;
    let tell = |line: &str| {
        say.send_replace(format!("installing {} in {name}: {line}", mux.name()));
    };
    let says = async {
        let _gone = input.finish().await;
        last_line(output, tell).await
    };
    let complains = async {
        match errors {
            Some(errors) => last_line(errors, tell).await,
            None => String::new(),
        }
    };
    let ((), said, complained, end) = tokio::join!(control.closed(), says, complains, outcome.wait());
    // What is wrong is mostly said there.
    let last = if complained.is_empty() { said } else { complained };
    match end {
        Ok(ExecEnd::Status(0)) => Ok(()),
        Ok(ExecEnd::Status(127)) => Err(format!("there is no {program}")),
        Ok(ExecEnd::Status(status)) => Err(format!("{program} ends with status {status}: {last}")),
        Ok(ExecEnd::Failed(why)) => Err(format!("{program}: {why}")),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// Reads an output to its end and tells its lines; the last that says something.
async fn last_line(mut output: Output, mut tell: impl FnMut(&str)) -> String {
    let mut lines = Lines::default();
    while let Some(piece) = output.next().await {
        lines.take(&piece, &mut tell);
    }
    lines.take(b"\n", &mut tell);
    lines.last
}

/// What a program says, line by line.
#[derive(Debug, Default)]
struct Lines {
    part: Vec<u8>,
    /// The last that says something.
    last: String,
}

impl Lines {
    fn take(&mut self, piece: &[u8], tell: &mut impl FnMut(&str)) {
        for &byte in piece {
            if !matches!(byte, b'\n' | b'\r') {
                if self.part.len() < LINE_BYTES {
                    self.part.push(byte);
                }
                continue;
            }
            let text = String::from_utf8_lossy(&self.part);
            let text: String =
                text.trim().chars().filter(|letter| !letter.is_control()).take(LINE_CHARS).collect();
            self.part.clear();
            if !text.is_empty() {
                tell(&text);
                self.last = text;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a system is taken for another, or the words it is like come before its own.
    #[test]
    fn a_system_is_known_by_its_family() {
        for (text, is) in [
            ("NAME=\"Debian\"\nID=debian\n", Some(Family::Debian)),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Some(Family::Debian)),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Some(Family::RedHat)),
            ("ID=ol\nID_LIKE='fedora'\n", Some(Family::RedHat)),
            ("VERSION_ID=3\nID=alpine\n", Some(Family::Alpine)),
            ("ID=arch\n", None),
            ("VERSION_ID=debian\n", None),
            ("", None),
        ] {
            assert_eq!(family(text), is, "{text:?}");
        }
    }

    #[test]
    fn packages_are_installed_without_a_question() {
        let words = |family: Family| {
            family.commands("tmux").into_iter().map(|words| words.join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(
            words(Family::Debian),
            ["apt-get -q update", "apt-get -q -y --no-install-recommends install tmux"]
        );
        assert_eq!(words(Family::RedHat), ["dnf -y install tmux"]);
        assert_eq!(words(Family::Alpine), ["apk add --no-cache tmux"]);
    }

    /// Fails when an instance's words are more than a short line on a client's terminal.
    #[test]
    fn lines_are_short_and_plain() {
        let mut lines = Lines::default();
        let mut told = Vec::new();
        lines.take(b"one\ntw", &mut |line| told.push(line.to_owned()));
        lines.take(b"o\x1b[2J\r\r\n  \n", &mut |line| told.push(line.to_owned()));
        lines.take(&[&[b'x'; 9000][..], b"\n"].concat(), &mut |line| told.push(line.to_owned()));
        assert_eq!(told[..2], ["one", "two[2J"]);
        assert_eq!((told[2].len(), told.len()), (LINE_CHARS, 3));
        assert_eq!(lines.last, told[2]);
    }
}
