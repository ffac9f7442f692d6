//! What a line asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use portway_model::{InstanceName, ProjectName};

use super::verbs::{Flag, Id, Kind, VERBS, Verb, find, instead};
use super::{Format, keys};
use crate::create::Wanted;

/// How long an instance may take to stop where nobody says it, and the longest that can be said.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_MAX_SECONDS: u64 = 3600;

/// Longest name of anything, bytes.
const NAME_BYTES: usize = 255;

/// Where something is, as far as it is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Server.
    pub(crate) remote: Option<String>,
    /// Project.
    pub(crate) project: Option<String>,
}

/// An instance that is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// Where.
    pub(crate) place: Place,
    /// Its name.
    pub(crate) name: String,
}

/// What becomes of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// They run.
    Start,
    /// They do not.
    Stop {
        /// At once.
        force: bool,
        /// How long each may take.
        patience: Duration,
    },
    /// The one and then the other.
    Restart {
        /// At once.
        force: bool,
        /// How long each may take to stop.
        patience: Duration,
    },
    /// Their processes wait.
    Pause,
    /// They wait no longer.
    Resume,
}

/// What of an instance's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConfigOrder {
    /// A value.
    Get(String),
    /// Values that it gets; an empty one is none.
    Set(BTreeMap<String, String>),
    /// All of it.
    Show {
        /// With that of its profiles.
        is_expanded: bool,
    },
}

/// What of an instance's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapshotOrder {
    /// A new one; without a name the server gives it one.
    Create(Option<String>),
    /// One goes.
    Delete(String),
    /// All of them.
    List(Format),
    /// The instance is what it was.
    Restore(String),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Instances.
    List {
        /// Where.
        place: Place,
        /// In every project.
        everywhere: bool,
        /// Whose names are like one of these; none is all.
        patterns: Vec<String>,
        /// How they are told.
        format: Format,
    },
    /// One of them.
    Info(Instance),
    /// Something becomes of some.
    Change(Change, Vec<Instance>),
    /// One is made.
    Launch(Instance, Wanted),
    /// Some are deleted.
    Delete {
        /// Which.
        instances: Vec<Instance>,
        /// Also when they run.
        force: bool,
    },
    /// One's configuration.
    Config(Instance, ConfigOrder),
    /// One's snapshots.
    Snapshot(Instance, SnapshotOrder),
    /// Images of a project.
    Images(Place, Format),
    /// Networks of a project.
    Networks(Place, Format),
    /// Projects.
    Projects(Option<String>, Format),
    /// Another project where none is said.
    Switch(String),
    /// The server.
    Version(Option<String>),
    /// What there is.
    Help(Vec<String>),
    /// The end.
    Exit,
}

impl Order {
    /// Whether something is another afterwards: it is not to be done twice.
    pub(crate) const fn is_change(&self) -> bool {
        match self {
            Self::Change(..) | Self::Launch(..) | Self::Delete { .. } => true,
            Self::Config(_, what) => matches!(what, ConfigOrder::Set(_)),
            Self::Snapshot(_, what) => !matches!(what, SnapshotOrder::List(_)),
            Self::List { .. }
            | Self::Info(_)
            | Self::Images(..)
            | Self::Networks(..)
            | Self::Projects(..)
            | Self::Switch(_)
            | Self::Version(_)
            | Self::Help(_)
            | Self::Exit => false,
        }
    }
}

/// Why words are no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    /// What people know and is not here.
    #[error("`{0}` is not here: {1}")]
    Absent(String, &'static str),
    /// Nothing that is known.
    #[error("there is no `{0}`{1}; `help` lists what there is")]
    Unknown(String, String),
    /// A flag that is not here.
    #[error("`{0}` takes no `{1}`; `help {0}` says what it takes")]
    Flag(String, String),
    /// A flag without its value, or with one too many.
    #[error("`{0}` {1}")]
    Value(String, &'static str),
    /// A word too many or too few.
    #[error("it is: {0}")]
    Usage(&'static str),
    /// What nothing has for a name.
    #[error("`{0}` is no name")]
    Name(String),
    /// A key that is not to be set here.
    #[error("the key `{0}` cannot be set here; `help config set` says which can")]
    Key(String),
    /// No key and value.
    #[error("`{0}` is no KEY=VALUE")]
    Pair(String),
    /// What only a login says.
    #[error("`{0}` cannot be said here; make it and use config set")]
    Wish(String),
}

/// What follows a verb.
#[derive(Debug)]
struct Given {
    verb: &'static Verb,
    operands: Vec<String>,
    flags: Vec<(&'static Flag, String)>,
}

/// A stranger's word for a message.
fn shown(word: &str) -> String {
    const CHARS: usize = 64;
    word.chars().take(CHARS).collect()
}

/// Reads words; `None`: there are none.
pub(super) fn read(words: &[String]) -> Result<Option<Order>, OrderError> {
    // As people have it in their fingers.
    let words = match words.split_first() {
        Some((first, rest)) if matches!(first.as_str(), "incus" | "lxc") => rest,
        _ => words,
    };
    let Some(first) = words.first() else { return Ok(None) };
    let Some((verb, count)) = find(words) else {
        return Err(match instead(words) {
            Some((name, text)) => OrderError::Absent(shown(&name), text),
            None => {
                let near = portway_model::nearest(
                    first,
                    VERBS.iter().filter_map(|verb| verb.words.first().copied()),
                );
                let near = near.map(|near| format!(", is it `{near}`?")).unwrap_or_default();
                OrderError::Unknown(shown(first), near)
            }
        });
    };
    given(verb, words.get(count..).unwrap_or_default())?.order().map(Some)
}

fn given(verb: &'static Verb, words: &[String]) -> Result<Given, OrderError> {
    let mut given = Given { verb, operands: Vec::new(), flags: Vec::new() };
    let unknown = |word: &str| OrderError::Flag(verb.name(), shown(word));
    let mut words = words.iter();
    let mut is_over = false;
    while let Some(word) = words.next() {
        if is_over || word == "-" || !word.starts_with('-') {
            given.operands.push(word.clone());
            continue;
        }
        if word == "--" {
            is_over = true;
            continue;
        }
        let (flag, value) = match word.strip_prefix("--") {
            Some(long) => {
                let (name, value) =
                    long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                (verb.flag(name).ok_or_else(|| unknown(word))?, value)
            }
            None => {
                let mut letters = word.chars();
                letters.next();
                let flag =
                    letters.next().and_then(|letter| verb.short(letter)).ok_or_else(|| unknown(word))?;
                let rest = letters.as_str();
                let value = rest.strip_prefix('=').unwrap_or(rest);
                (flag, Some(value).filter(|_| !rest.is_empty()))
            }
        };
        let value = match (flag.value, value) {
            (None, None) => String::new(),
            (None, Some(_)) => return Err(OrderError::Value(shown(word), "takes no value")),
            (Some(_), Some(value)) => value.to_owned(),
            (Some(_), None) => {
                let next = words.next().ok_or_else(|| OrderError::Value(shown(word), "needs a value"))?;
                next.clone()
            }
        };
        given.flags.push((flag, value));
    }
    let count = given.operands.len();
    if count < verb.least || count > verb.most {
        return Err(OrderError::Usage(verb.usage));
    }
    Ok(given)
}

impl Given {
    fn has(&self, long: &str) -> bool {
        self.flags.iter().any(|(flag, _)| flag.long == long)
    }

    /// The last value of a flag.
    fn value(&self, long: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(flag, _)| flag.long == long).map(|(_, value)| value.as_str())
    }

    fn project(&self) -> Result<Option<String>, OrderError> {
        self.value("project").map(project).transpose()
    }

    fn format(&self) -> Result<Format, OrderError> {
        let Some(word) = self.value("format") else { return Ok(Format::Table) };
        Format::find(word).ok_or(OrderError::Value(shown(word), "is no format: table, csv or json"))
    }

    fn patience(&self) -> Result<Duration, OrderError> {
        let Some(word) = self.value("timeout") else { return Ok(PATIENCE) };
        let seconds = word.parse().ok().filter(|seconds| (1..=PATIENCE_MAX_SECONDS).contains(seconds));
        let seconds = seconds.ok_or(OrderError::Value(shown(word), "is no time: 1 to 3600 seconds"))?;
        Ok(Duration::from_secs(seconds))
    }

    /// The instance of a word.
    fn instance(&self, word: &str) -> Result<Instance, OrderError> {
        let (remote, name) = split_remote(word)?;
        let bad = || OrderError::Name(shown(word));
        // What no server has for a name, and what its API would take for something else.
        let name: InstanceName = name.parse().map_err(|_| bad())?;
        let name = name.to_string();
        if name.starts_with('-')
            || name.contains(['/', '*', '?', ' ', '%', '\\'])
            || matches!(name.as_str(), "." | "..")
        {
            return Err(bad());
        }
        Ok(Instance { place: Place { remote, project: self.project()? }, name })
    }

    fn instances(&self) -> Result<Vec<Instance>, OrderError> {
        self.operands.iter().map(|word| self.instance(word)).collect()
    }

    fn operand(&self, number: usize) -> Result<&str, OrderError> {
        self.operands.get(number).map(String::as_str).ok_or(OrderError::Usage(self.verb.usage))
    }

    fn first(&self) -> Result<Instance, OrderError> {
        self.instance(self.operand(0)?)
    }

    /// Where all of something is, of a word that says a server alone.
    fn place(&self) -> Result<Place, OrderError> {
        Ok(Place { remote: self.remote()?, project: self.project()? })
    }

    fn remote(&self) -> Result<Option<String>, OrderError> {
        let Some(word) = self.operands.first() else { return Ok(None) };
        match split_remote(word)? {
            (remote @ Some(_), "") => Ok(remote),
            _ => Err(OrderError::Usage(self.verb.usage)),
        }
    }

    fn order(&self) -> Result<Order, OrderError> {
        let change = |change| Ok(Order::Change(change, self.instances()?));
        let (force, config) = (self.has("force"), |what| Ok(Order::Config(self.first()?, what)));
        let snapshot = |what| Ok(Order::Snapshot(self.first()?, what));
        match self.verb.id {
            Id::List => self.list(),
            Id::Info => Ok(Order::Info(self.first()?)),
            Id::Start => change(Change::Start),
            Id::Stop => change(Change::Stop { force, patience: self.patience()? }),
            Id::Restart => change(Change::Restart { force, patience: self.patience()? }),
            Id::Pause => change(Change::Pause),
            Id::Resume => change(Change::Resume),
            Id::Launch => Ok(Order::Launch(self.instance(self.operand(1)?)?, self.wanted()?)),
            Id::Delete => Ok(Order::Delete { instances: self.instances()?, force }),
            Id::ConfigGet => config(ConfigOrder::Get(name(self.operand(1)?)?)),
            Id::ConfigSet => config(ConfigOrder::Set(self.pairs()?)),
            Id::ConfigShow => config(ConfigOrder::Show { is_expanded: self.has("expanded") }),
            Id::ConfigUnset => {
                let key = settable(self.operand(1)?)?;
                config(ConfigOrder::Set([(key, String::new())].into()))
            }
            Id::SnapshotCreate => {
                let snapshot_name = self.operands.get(1).map(|word| name(word)).transpose()?;
                snapshot(SnapshotOrder::Create(snapshot_name))
            }
            Id::SnapshotDelete => snapshot(SnapshotOrder::Delete(name(self.operand(1)?)?)),
            Id::SnapshotList => snapshot(SnapshotOrder::List(self.format()?)),
            Id::SnapshotRestore => snapshot(SnapshotOrder::Restore(name(self.operand(1)?)?)),
            Id::ImageList => Ok(Order::Images(self.place()?, self.format()?)),
            Id::NetworkList => Ok(Order::Networks(self.place()?, self.format()?)),
            Id::ProjectList => Ok(Order::Projects(self.remote()?, self.format()?)),
            Id::ProjectSwitch => Ok(Order::Switch(project(self.operand(0)?)?)),
            Id::Version => Ok(Order::Version(self.remote()?)),
            Id::Help => Ok(Order::Help(self.operands.clone())),
            Id::Exit => Ok(Order::Exit),
        }
    }

    fn list(&self) -> Result<Order, OrderError> {
        let mut place = Place { remote: None, project: self.project()? };
        let mut patterns = Vec::new();
        for (number, word) in self.operands.iter().enumerate() {
            match split_remote(word)? {
                (None, pattern) => patterns.push(pattern.to_owned()),
                // One server at a time.
                (Some(_), _) if number > 0 => return Err(OrderError::Usage(self.verb.usage)),
                (Some(remote), pattern) => {
                    place.remote = Some(remote);
                    patterns.extend(Some(pattern.to_owned()).filter(|pattern| !pattern.is_empty()));
                }
            }
        }
        let everywhere = self.has("all-projects");
        if everywhere && place.project.is_some() {
            return Err(OrderError::Usage(self.verb.usage));
        }
        Ok(Order::List { place, everywhere, patterns, format: self.format()? })
    }

    /// `KEY=VALUE...`, or `KEY VALUE`.
    fn pairs(&self) -> Result<BTreeMap<String, String>, OrderError> {
        if let [_, key, value] = self.operands.as_slice()
            && !key.contains('=')
        {
            return Ok([(settable(key)?, value.clone())].into());
        }
        let pairs = self.operands.iter().skip(1).map(|word| {
            let (key, value) = word.split_once('=').ok_or_else(|| OrderError::Pair(shown(word)))?;
            Ok((settable(key)?, value.to_owned()))
        });
        pairs.collect()
    }

    /// What a new instance is made of: what a login could say.
    fn wanted(&self) -> Result<Wanted, OrderError> {
        let image = self.operand(0)?;
        if image.is_empty() || image.len() > NAME_BYTES {
            return Err(OrderError::Name(shown(image)));
        }
        let mut wanted = Wanted {
            image: Some(image.to_owned()),
            ephemeral: self.has("ephemeral"),
            vm: self.has("vm"),
            ..Wanted::default()
        };
        for (flag, value) in &self.flags {
            let wish = || OrderError::Wish(format!("--{} {}", flag.long, shown(value)));
            match flag.long {
                "profile" => wanted.profiles.push(name(value)?),
                "config" => match value.split_once('=') {
                    Some(("limits.memory", size)) => wanted.memory_gib = Some(gib(size).ok_or_else(wish)?),
                    Some(("limits.cpu", count)) => {
                        wanted.cpu_count = Some(count.parse().map_err(|_| wish())?)
                    }
                    _ => return Err(wish()),
                },
                "device" => match value.split_once(",size=") {
                    Some(("root", size)) => wanted.disk_gib = Some(gib(size).ok_or_else(wish)?),
                    _ => return Err(wish()),
                },
                _ => {}
            }
        }
        Ok(wanted)
    }
}

/// GiB of a size as servers write one.
fn gib(size: &str) -> Option<u32> {
    size.strip_suffix("GiB").or_else(|| size.strip_suffix("G")).unwrap_or(size).parse().ok()
}

/// `REMOTE:` and what follows.
fn split_remote(word: &str) -> Result<(Option<String>, &str), OrderError> {
    match word.split_once(':') {
        Some((remote, rest)) => Ok((Some(name(remote)?), rest)),
        None => Ok((None, word)),
    }
}

/// The name of anything but an instance.
fn name(word: &str) -> Result<String, OrderError> {
    let is_good = !word.is_empty()
        && word.len() <= NAME_BYTES
        && !word.starts_with('-')
        && !matches!(word, "." | "..")
        && !word.contains(|c: char| c.is_control() || c == '/');
    if is_good { Ok(word.to_owned()) } else { Err(OrderError::Name(shown(word))) }
}

fn project(word: &str) -> Result<String, OrderError> {
    let project: ProjectName = word.parse().map_err(|_| OrderError::Name(shown(word)))?;
    name(project.as_str())
}

/// A key that can be set.
fn settable(key: &str) -> Result<String, OrderError> {
    if keys::is_allowed(key) { Ok(key.to_owned()) } else { Err(OrderError::Key(shown(key))) }
}

/// What [`Kind`] of value a flag takes, for whoever completes it.
pub(super) fn value_of(verb: &Verb, word: &str) -> Option<Kind> {
    let flag = match word.strip_prefix("--") {
        Some(long) => verb.flag(long),
        None => {
            let mut letters = word.strip_prefix('-')?.chars();
            let flag = verb.short(letters.next()?);
            flag.filter(|_| letters.as_str().is_empty())
        }
    };
    flag?.value
}

#[cfg(test)]
mod tests;
