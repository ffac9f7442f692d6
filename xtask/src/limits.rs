//! `docs/limits.md`: every cap, queue, buffer and time of the product, made from the constants themselves.
//!
//! A constant that is a time, or a number whose name says that it bounds something, is a row: its value, what its comment
//! says, and the counter that shows when it is hit (`xtask/limits.toml`). A constant that is new or has changed makes the
//! page stale, so none is forgotten; the names of those that bound nothing stand there too, each with its reason.

mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use self::value::{Constants, shown};
use crate::workspace::Workspace;

/// The page.
const PAGE: &str = "docs/limits.md";

/// Words in the name of a number that bounds something.
const WORDS: &[&str] = &[
    "MAX",
    "LIMIT",
    "QUEUE",
    "COUNT",
    "BYTES",
    "LENGTH",
    "CHARS",
    "LINES",
    "TRIES",
    "BATCH",
    "BATCHES",
    "DEPTH",
    "MESSAGES",
    "READERS",
    "KEPT",
    "ROUNDS",
    "ATTEMPTS",
    "FILES",
    "DESCRIPTORS",
    "CHILDREN",
    "SESSIONS",
];

/// Types of numbers.
const NUMBERS: &[&str] = &["usize", "u8", "u16", "u32", "u64", "i32", "i64"];

/// Crates in the order of the page, with what each is.
const CRATES: &[(&str, &str)] = &[
    ("relay", "Relay workers and the keeper"),
    ("daemon", "Daemon and control socket"),
    ("nat", "Kernel NAT"),
    ("sshgw", "SSH gateway"),
    ("guest", "Program inside an instance"),
    ("mesh", "Mesh"),
    ("compose", "Compose"),
    ("composefile", "Compose files"),
    ("incus", "Client of Incus and LXD"),
    ("control", "Client of the control socket"),
    ("config", "Files of settings"),
    ("model", "Words and keys of a device"),
    ("proto", "Protocols"),
    ("sys", "System calls"),
    ("portway", "Command line"),
];

/// `xtask/limits.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    /// Counter of a cap: `FILE NAME` to its value of `portway_limit_hits_total{limit}`, or another metric.
    hits: BTreeMap<String, String>,
    /// Names of constants that bound nothing, wherever they stand, with the reason.
    not: BTreeMap<String, String>,
}

/// A constant that bounds something.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// `FILE NAME`.
    key: String,
    name: String,
    value: String,
    what: String,
}

/// Whether the page is written anew or compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Compared.
    Check,
    /// Written.
    Write,
}

/// Makes the page, or compares it with the one that is there.
///
/// # Errors
/// It is not the same, or a note is about no constant.
pub(crate) fn run(workspace: &Workspace, mode: Mode) -> anyhow::Result<()> {
    let text = fs::read_to_string(workspace.root().join("xtask/limits.toml")).context("xtask/limits.toml")?;
    let notes: Notes = toml::from_str(&text).context("xtask/limits.toml")?;
    let mut page = HEAD.to_owned();
    let (mut seen, mut count) = (BTreeSet::new(), 0);
    for (name, title) in CRATES {
        let rows = rows(&workspace.root().join("crates").join(name).join("src"), workspace.root())?;
        seen.extend(rows.iter().map(|row| row.key.clone()));
        let bounds = |row: &Row| !notes.not.contains_key(row.key.rsplit(' ').next().unwrap_or_default());
        let rows: Vec<Row> = rows.into_iter().filter(bounds).collect();
        count += rows.len();
        section(&mut page, title, &rows, &notes);
    }
    let is_there =
        |note: &String| seen.iter().any(|key| key == note || key.rsplit(' ').next() == Some(note.as_str()));
    let strays: Vec<&String> =
        notes.hits.keys().chain(notes.not.keys()).filter(|note| !is_there(note)).collect();
    if !strays.is_empty() {
        bail!("xtask/limits.toml has notes about constants that are not there: {strays:?}");
    }
    let path = workspace.root().join(PAGE);
    if mode == Mode::Write {
        fs::write(&path, page).with_context(|| format!("cannot write {PAGE}"))?;
    } else if fs::read_to_string(&path).ok().as_deref() != Some(page.as_str()) {
        bail!("{PAGE} is not what the constants say; `cargo xtask limits --write` makes it anew");
    }
    println!("{count} limits in {PAGE}");
    Ok(())
}

const HEAD: &str = "# Limits

Every cap, queue, buffer and time of Portway, made from the source by `cargo xtask limits --write`; a check of the build
compares it. Limits of a device are its keys ([devices.md](devices.md)) and are not repeated here.

What is over a cap is refused, waits or is dropped, as its row says; nothing grows without a bound. Where a row has a
counter, `portway_limit_hits_total{limit=\"...\"}` of `/metrics` counts how often it was hit since the daemon started,
and `portway status` names those that were. Besides the rows it counts, over all devices: `device.limits.connections`,
`device.limits.rate`, `device.limits.per_source` (keys of a device), `device.udp.max_flows` (flows that made room for
others) and `device.descriptors` (dials and clients that waited because a worker had no descriptors left).
";

fn section(page: &mut String, title: &str, rows: &[Row], notes: &Notes) {
    if rows.is_empty() {
        return;
    }
    // Writing to a String cannot fail, here and below.
    let _infallible =
        write!(page, "\n## {title}\n\n| limit | value | what it bounds | counter |\n|---|---|---|---|\n");
    for row in rows {
        let hits = notes.hits.get(&row.key).map_or_else(String::new, |name| format!("`{name}`"));
        let _infallible = writeln!(page, "| `{}` | {} | {} | {hits} |", row.name, row.value, row.what);
    }
}

/// The rows of a crate, by file and then in the order they stand in.
fn rows(src: &Path, root: &Path) -> anyhow::Result<Vec<Row>> {
    let mut files = Vec::new();
    walk(src, &mut files)?;
    files.sort();
    let mut all = Vec::new();
    let mut constants = Constants::default();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        for found in constants_in(&text) {
            constants.add(&file, &found.name, &found.expression);
            all.push((file.clone(), found));
        }
    }
    let src = src.strip_prefix(root).unwrap_or(src).display().to_string();
    let bounding = all.into_iter().filter(|(_, found)| found.bounds());
    let row = |(file, found): (String, Found)| {
        let module =
            file.trim_start_matches(&src).trim_start_matches('/').trim_end_matches(".rs").replace('/', "::");
        Row {
            key: format!("{file} {}", found.name),
            name: format!("{module}::{}", found.name),
            value: shown(&constants, &file, &found.name, &found.expression),
            what: found.what,
        }
    };
    Ok(bounding.map(row).collect())
}

fn walk(dir: &Path, files: &mut Vec<std::path::PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() && name != "tests" {
            walk(&path, files)?;
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "fuzz.rs" {
            files.push(path);
        }
    }
    Ok(())
}

/// A constant as it stands in a file.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    name: String,
    kind: String,
    expression: String,
    what: String,
}

impl Found {
    /// Whether it is a time, or a number whose name says that it bounds something.
    fn bounds(&self) -> bool {
        let words = || self.name.split('_').any(|word| WORDS.contains(&word));
        self.kind == "Duration" || (NUMBERS.contains(&self.kind.as_str()) && words())
    }
}

/// The constants of a file outside its tests. Those that stand together under one comment share it.
fn constants_in(text: &str) -> Vec<Found> {
    let code = text.split_once("\n#[cfg(test)]\nmod tests {").map_or(text, |(code, _)| code);
    let (mut found, mut comment, mut shared) = (Vec::new(), Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(words) = line.strip_prefix("///") {
            comment.push(words.trim());
            continue;
        }
        if line.starts_with("#[") {
            continue;
        }
        let Some((name, kind, mut expression)) = constant(line) else {
            comment.clear();
            shared.clear();
            continue;
        };
        while !expression.contains(';') {
            let Some(more) = lines.next() else { break };
            expression.push(' ');
            expression.push_str(more.trim());
        }
        let expression = expression.split(';').next().unwrap_or_default().trim().to_owned();
        if !comment.is_empty() {
            shared = first_paragraph(&std::mem::take(&mut comment));
        }
        found.push(Found { name, kind, expression, what: shared.clone() });
    }
    found
}

/// Name, type and the beginning of the expression of a line that declares a constant.
fn constant(line: &str) -> Option<(String, String, String)> {
    let rest = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let (name, rest) = rest.strip_prefix("const ")?.split_once(':')?;
    let (kind, expression) = rest.split_once('=')?;
    let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    is_name.then(|| (name.to_owned(), kind.trim().to_owned(), expression.trim().to_owned()))
}

/// The first paragraph of a comment as a cell of a table.
fn first_paragraph(comment: &[&str]) -> String {
    let lines: Vec<&str> = comment.iter().copied().take_while(|line| !line.is_empty()).collect();
    let mut text = lines.join(" ").replace('|', "\\|");
    // What is a link in the source leads nowhere here.
    while let Some((before, rest)) = text.split_once("[`") {
        let Some((inside, after)) = rest.split_once("`]") else { break };
        let after = match after.strip_prefix('(').and_then(|target| target.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
        text = format!("{before}`{}`{after}", inside.trim_start_matches("Self::"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
/// Clients, at most; see [`Other::X`]. The rest waits.
///
/// Not this.
pub(crate) const CLIENTS_MAX: usize = 4 * 1024;

/// Pauses: first and last.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST: Duration =
    Duration::from_secs(2 * 60);
const NAME: &str = \"x\";
struct A;
const WIDTH_BYTES: u64 = CLIENTS_MAX as u64 << 10;
const PORT: u16 = 53;

#[cfg(test)]
mod tests {
    const LIMIT: u8 = 1;
}
";

    #[test]
    fn rows_come_from_constants_and_their_comments() {
        let found = constants_in(SOURCE);
        let names: Vec<&str> = found.iter().filter(|one| one.bounds()).map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["CLIENTS_MAX", "PAUSE", "LONGEST", "WIDTH_BYTES"]);
        assert_eq!(found[0].what, "Clients, at most; see `Other::X`. The rest waits.");
        assert_eq!(
            (found[1].what.as_str(), found[2].what.as_str()),
            ("Pauses: first and last.", "Pauses: first and last.")
        );
        let mut constants = Constants::default();
        found.iter().for_each(|one| constants.add("a.rs", &one.name, &one.expression));
        let value = |at: usize| shown(&constants, "a.rs", &found[at].name, &found[at].expression);
        assert_eq!((value(0).as_str(), value(1).as_str(), value(2).as_str()), ("4,096", "250 ms", "2 min"));
        assert_eq!(found[4].name, "WIDTH_BYTES");
        assert_eq!(value(4), "4 MiB");
    }
}
