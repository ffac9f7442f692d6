//! What may follow what is typed: words that are known here, and names that a server has to be asked for.

use super::order::value_of;
use super::table::Format;
use super::verbs::{Id, Kind, VERBS, find};
use super::{keys, words};

/// Most candidates that are shown.
const CANDIDATES: usize = 200;

/// What the word at the end of a line may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Where the part begins that is completed, bytes.
    pub(crate) start: usize,
    /// What of it is typed.
    prefix: String,
    /// Words of the table.
    words: Vec<String>,
    /// What a server has.
    pub(crate) names: Option<Names>,
    /// The server of the word, and the project that is said before it.
    pub(crate) remote: Option<String>,
    /// See `remote`.
    pub(crate) project: Option<String>,
}

/// What a server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Names {
    /// Its instances.
    Instances,
    /// Its projects.
    Projects,
    /// Snapshots of an instance.
    Snapshots(String),
}

/// What may stand at the end of a line, up to the cursor; `None`: nothing that is known.
pub(crate) fn expected(line: &str) -> Option<Expected> {
    let mut all = words::split(line).ok()?;
    let is_new = line.is_empty() || line.ends_with([' ', '\t']);
    let (start, prefix) = if is_new {
        // A blank that was meant belongs to its word.
        if all.last().is_some_and(|word| !word.is_plain && word.text.ends_with([' ', '\t'])) {
            return None;
        }
        (line.len(), String::new())
    } else {
        let last = all.pop().filter(|word| word.is_plain)?;
        (last.start, last.text)
    };
    let mut before: Vec<String> = all.into_iter().map(|word| word.text).collect();
    if before.first().is_some_and(|first| matches!(first.as_str(), "incus" | "lxc")) {
        before.remove(0);
    }
    let mut expected =
        Expected { start, prefix, words: Vec::new(), names: None, remote: None, project: None };
    let Some((verb, count)) = find(&before) else {
        expected.words = second(&before);
        return Some(expected).filter(|expected| !expected.words.is_empty());
    };
    let rest = before.get(count..).unwrap_or_default();
    let said = said(rest, |word| value_of(verb, word).is_some());
    expected.project = said.project;
    let kind = match rest.last().and_then(|last| value_of(verb, last)) {
        Some(kind) => Some(kind),
        None if expected.prefix.starts_with('-') => {
            expected.words = verb.flags.iter().map(|flag| format!("--{}", flag.long)).collect();
            None
        }
        None if verb.id == Id::Help => {
            expected.words = second(rest);
            None
        }
        None => verb.operand(said.operands.len()),
    };
    if let Some(kind) = kind {
        expected.fill(kind, said.operands.first().copied());
    }
    Some(expected)
}

/// What may be the first word, or the second one.
fn second(before: &[String]) -> Vec<String> {
    let begins = |words: &&&[&str]| {
        before.len() < words.len() && words.iter().zip(before).all(|(word, typed)| *word == typed)
    };
    let all = VERBS.iter().flat_map(|verb| std::iter::once(&verb.words).chain(verb.others));
    let mut words: Vec<String> =
        all.filter(begins).filter_map(|words| words.get(before.len()).map(|&word| word.to_owned())).collect();
    words.sort();
    words.dedup();
    words
}

/// What was said before.
#[derive(Debug, Default)]
struct Said<'l> {
    operands: Vec<&'l str>,
    project: Option<String>,
}

fn said(words: &[String], takes_value: impl Fn(&str) -> bool) -> Said<'_> {
    let mut said = Said::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if let Some(project) = word.strip_prefix("--project=") {
            said.project = Some(project.to_owned());
        } else if takes_value(word) {
            let value = words.next();
            if word == "--project" {
                said.project = value.cloned();
            }
        } else if !word.starts_with('-') {
            said.operands.push(word);
        }
    }
    said
}

impl Expected {
    fn fill(&mut self, kind: Kind, first: Option<&str>) {
        let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        match kind {
            Kind::Instance | Kind::Pattern => {
                self.cut_remote();
                self.names = Some(Names::Instances);
            }
            Kind::Project => self.names = Some(Names::Projects),
            Kind::Snapshot => {
                let Some(first) = first else { return };
                let (remote, name) =
                    first.split_once(':').map_or((None, first), |(remote, name)| (Some(remote), name));
                self.remote = remote.map(str::to_owned);
                self.names = Some(Names::Snapshots(name.to_owned()));
            }
            Kind::Key => self.words = keys::all().map(str::to_owned).collect(),
            Kind::KeyValue => {
                let assigned =
                    |key: &str| if key.ends_with('.') { key.to_owned() } else { format!("{key}=") };
                self.words = keys::all().map(assigned).collect();
            }
            Kind::Format => self.words = own(&Format::WORDS),
            Kind::Verb => self.words = second(&[]),
            Kind::Image | Kind::Remote | Kind::Number | Kind::Text => {}
        }
    }

    /// What is completed of `REMOTE:NAME` is the name.
    fn cut_remote(&mut self) {
        if let Some((remote, name)) = self.prefix.split_once(':') {
            let (remote, name) = (remote.to_owned(), name.to_owned());
            self.start += remote.len() + 1;
            (self.remote, self.prefix) = (Some(remote), name);
        }
    }
}

/// What completes it, of the words that are known and the names that a server has: each the whole part.
pub(crate) fn candidates(expected: &Expected, names: Vec<String>) -> Vec<String> {
    let all = expected.words.iter().cloned().chain(names);
    // What needs quotes is typed by who means it.
    let plain = |word: &String| {
        word.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'=' | b'/' | b':')
        })
    };
    let mut found: Vec<String> =
        all.filter(|word| word.starts_with(&expected.prefix) && plain(word)).collect();
    found.sort();
    found.dedup();
    found.truncate(CANDIDATES);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Vec<String> {
        expected(line).map(|expected| candidates(&expected, Vec::new())).unwrap_or_default()
    }

    /// Fails when what may follow is not what is offered.
    #[test]
    fn what_follows() {
        assert_eq!(of("li"), ["list"]);
        assert_eq!(of("incus sta"), ["start"]);
        assert_eq!(of("config "), ["get", "set", "show", "unset"]);
        assert_eq!(of("config u"), ["unset"]);
        assert_eq!(of("stop c1 --"), ["--force", "--project", "--timeout"]);
        assert_eq!(of("list -f "), ["csv", "json", "table"]);
        assert_eq!(
            of("config set c1 limits.mem"),
            [
                "limits.memory.enforce=",
                "limits.memory.swap.priority=",
                "limits.memory.swap=",
                "limits.memory="
            ]
        );
        assert_eq!(of("config set c1 env"), ["environment."]);
        assert_eq!(of("help conf"), ["config"]);
        assert_eq!(of("help config s"), ["set", "show"]);
        assert!(of("nothing ").is_empty() && of("exec ").is_empty() && of("exit ").is_empty());
        assert_eq!(of(""), second(&[]));
        assert!(of("list | ").is_empty() && of("info 'c").is_empty());
    }

    /// Fails when names of another server or project are offered.
    #[test]
    fn names_are_asked_for() {
        let names = |line: &str| {
            let Expected { start, names, remote, project, .. } = expected(line).expect("something");
            (start, names, remote, project)
        };
        assert_eq!(names("stop c"), (5, Some(Names::Instances), None, None));
        assert_eq!(names("stop a b "), (9, Some(Names::Instances), None, None));
        let far = (8, Some(Names::Instances), Some("r1".to_owned()), None);
        assert_eq!(names("stop r1:c"), far);
        let dev = Some("dev".to_owned());
        assert_eq!(names("stop --project dev "), (19, Some(Names::Instances), None, dev.clone()));
        assert_eq!(names("stop --project=dev c"), (19, Some(Names::Instances), None, dev));
        assert_eq!(names("list --project d"), (15, Some(Names::Projects), None, None));
        let snapshots = Some(Names::Snapshots("c1".to_owned()));
        assert_eq!(names("snapshot delete r1:c1 "), (22, snapshots, Some("r1".to_owned()), None));
        assert_eq!(names("info c1 ").1, None);
        let found = expected("stop c").expect("names");
        let names = ["c2", "c1", "d", "c 3", "c1"].map(str::to_owned).to_vec();
        assert_eq!(candidates(&found, names), ["c1", "c2"]);
    }
}
