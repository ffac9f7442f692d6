//! What people have typed into the shell of Incus commands: a file for each of them, which they read and add to and which
//! none of them names.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Mutex;

use portway_config::files::{self, Trust};

use super::lock;
use crate::shell::is_kept;

/// Lines that are kept of one person, and their bytes.
const LINES: usize = 500;
const BYTES: usize = 64 << 10;

/// Longest name of a file, bytes (`NAME_MAX` of limits.h, without the end of a draft's).
const NAME_BYTES: usize = 240;

/// The folder.
#[derive(Debug)]
pub(super) struct History {
    dir: PathBuf,
    /// Held while a file is changed.
    changing: Mutex<()>,
}

impl History {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, changing: Mutex::default() }
    }

    /// What a person has typed, the oldest first.
    pub(super) fn of(&self, person: &str) -> Vec<String> {
        let Some(path) = self.path(person) else { return Vec::new() };
        let limit = u64::try_from(BYTES).unwrap_or(u64::MAX);
        let text = files::read(&path, limit, Trust::Own).and_then(|bytes| files::text(&path, bytes));
        text.unwrap_or_default().lines().filter(|line| is_kept(line)).map(str::to_owned).collect()
    }

    /// Adds a line, unless it is one that nobody keeps or the same as the last.
    pub(super) fn add(&self, person: &str, line: &str) {
        if !is_kept(line) || line.contains(char::is_control) {
            return;
        }
        let _changing = lock(&self.changing);
        let mut lines = self.of(person);
        if lines.last().is_some_and(|last| last == line) {
            return;
        }
        lines.push(line.to_owned());
        let mut bytes = 0;
        let fits = |line: &&String| {
            bytes += line.len() + 1;
            bytes <= BYTES
        };
        let count = lines.iter().rev().take(LINES).take_while(fits).count();
        let kept = lines.get(lines.len() - count..).unwrap_or_default();
        if let Err(error) = self.write(person, kept) {
            tracing::warn!(%error, dir = %self.dir.display(), "what was typed is not kept");
        }
    }

    fn write(&self, person: &str, lines: &[String]) -> io::Result<()> {
        let Some(path) = self.path(person) else { return Ok(()) };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let draft = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        file.write_all(text.as_bytes())?;
        fs::rename(&draft, &path)
    }

    /// A file of a person's name, of which every odd byte is written as two digits; `None`: it would be too long.
    fn path(&self, person: &str) -> Option<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let name: String = person
            .bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        (!name.is_empty() && name.len() <= NAME_BYTES).then(|| self.dir.join(name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Fails when somebody gets at the lines, or the file, of another, a secret is kept, or a file grows for ever.
    #[test]
    fn each_has_his_own() {
        let dir = tempfile::tempdir().expect("a folder");
        let history = History::new(dir.path().join("h"));
        assert!(history.of("ann").is_empty());
        history.add("ann", "list");
        history.add("ann", "list");
        history.add("ann", " info c1");
        history.add("ann", "config set c1 environment.PW=x");
        history.add("ann", "info c1");
        history.add("../../etc/x", "stop c1");
        assert_eq!(history.of("ann"), ["list", "info c1"]);
        assert_eq!(history.of("../../etc/x"), ["stop c1"]);
        assert!(history.of("bob").is_empty() && history.path("").is_none());
        assert!(history.path(&"\u{e4}".repeat(100)).is_none());
        let files = fs::read_dir(dir.path().join("h")).expect("a folder");
        let mut names: Vec<_> = files.map(|file| file.expect("a file").file_name()).collect();
        names.sort();
        assert_eq!(names, ["%2E%2E%2F%2E%2E%2Fetc%2Fx", "ann"]);
        let mode =
            |path: &str| fs::metadata(dir.path().join(path)).expect("it is there").permissions().mode();
        assert_eq!((mode("h") & 0o777, mode("h/ann") & 0o777), (0o700, 0o600));
        for number in 0..LINES + 10 {
            history.add("ann", &format!("info {number}"));
        }
        let kept = history.of("ann");
        assert_eq!((kept.len(), kept[0].as_str()), (LINES, "info 10"));
        for number in 0..40 {
            history.add("ann", &format!("info {number} {}", "x".repeat(4000)));
        }
        assert!(history.of("ann").iter().map(|line| line.len() + 1).sum::<usize>() <= BYTES);
        assert!(history.of("ann").last().is_some_and(|last| last.starts_with("info 39")));
    }
}
