//! The verbs there are, with their flags. What is not here is refused, and where people would look for it with the way
//! that leads there.

use std::fmt::Write as _;

/// A verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Id {
    List,
    Info,
    Start,
    Stop,
    Restart,
    Pause,
    Resume,
    Launch,
    Delete,
    ConfigGet,
    ConfigSet,
    ConfigShow,
    ConfigUnset,
    SnapshotCreate,
    SnapshotDelete,
    SnapshotList,
    SnapshotRestore,
    ImageList,
    NetworkList,
    ProjectList,
    ProjectSwitch,
    Version,
    Help,
    Exit,
}

/// What a word, or the value of a flag, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `[REMOTE:]NAME`.
    Instance,
    /// `[REMOTE:]`, or a pattern of names.
    Pattern,
    /// `[SERVER:]NAME`.
    Image,
    Key,
    KeyValue,
    Snapshot,
    Project,
    Format,
    /// `[REMOTE:]`.
    Remote,
    Number,
    Verb,
    Text,
}

/// A flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flag {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    /// What its value is, if it takes one.
    pub(super) value: Option<Kind>,
}

/// A verb and what may follow it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verb {
    pub(super) id: Id,
    /// One word, or two.
    pub(super) words: &'static [&'static str],
    /// The same by other words.
    pub(super) others: &'static [&'static [&'static str]],
    /// Words that follow; the last one may be there many times where `most` is more.
    pub(super) operands: &'static [Kind],
    pub(super) least: usize,
    pub(super) most: usize,
    pub(super) flags: &'static [Flag],
    pub(super) usage: &'static str,
    pub(super) about: &'static str,
}

/// Words of one verb, at most.
const MANY: usize = 64;

const fn flag(long: &'static str, short: Option<char>, value: Option<Kind>) -> Flag {
    Flag { long, short, value }
}

const PROJECT: Flag = flag("project", None, Some(Kind::Project));
const FORMAT: Flag = flag("format", Some('f'), Some(Kind::Format));
const FORCE: Flag = flag("force", Some('f'), None);
const TIMEOUT: Flag = flag("timeout", None, Some(Kind::Number));

/// A verb about instances.
const fn instances(
    id: Id,
    words: &'static [&'static str],
    flags: &'static [Flag],
    usage: &'static str,
    about: &'static str,
) -> Verb {
    Verb { id, words, others: &[], operands: &[Kind::Instance], least: 1, most: MANY, flags, usage, about }
}

/// A verb about one instance and something of it.
const fn of_one(
    id: Id,
    words: &'static [&'static str],
    operands: &'static [Kind],
    (least, most): (usize, usize),
    usage: &'static str,
    about: &'static str,
) -> Verb {
    Verb { id, words, others: &[], operands, least, most, flags: &[PROJECT], usage, about }
}

/// A verb about what a server has.
const fn all(id: Id, words: &'static [&'static str], usage: &'static str, about: &'static str) -> Verb {
    let flags = &[PROJECT, FORMAT];
    Verb { id, words, others: &[], operands: &[Kind::Remote], least: 0, most: 1, flags, usage, about }
}

/// All of them, as `help` has them.
pub(super) const VERBS: &[Verb] = &[
    Verb {
        others: &[&["ls"]],
        operands: &[Kind::Pattern],
        least: 0,
        most: MANY,
        ..instances(
            Id::List,
            &["list"],
            &[PROJECT, FORMAT, flag("all-projects", None, None)],
            "list [REMOTE:] [NAME or PATTERN]... [--project P | --all-projects] [-f table|csv|json]",
            "The instances you may see",
        )
    },
    Verb { most: 1, ..instances(Id::Info, &["info"], &[PROJECT], "info [REMOTE:]NAME", "What one is at") },
    instances(Id::Start, &["start"], &[PROJECT], "start [REMOTE:]NAME...", "Start instances"),
    instances(
        Id::Stop,
        &["stop"],
        &[PROJECT, FORCE, TIMEOUT],
        "stop [REMOTE:]NAME... [--force] [--timeout SECONDS]",
        "Stop instances; with --force at once",
    ),
    instances(
        Id::Restart,
        &["restart"],
        &[PROJECT, FORCE, TIMEOUT],
        "restart [REMOTE:]NAME... [--force] [--timeout SECONDS]",
        "Stop instances and start them",
    ),
    Verb {
        others: &[&["freeze"]],
        ..instances(Id::Pause, &["pause"], &[PROJECT], "pause [REMOTE:]NAME...", "Pause instances")
    },
    Verb {
        others: &[&["unfreeze"], &["unpause"]],
        ..instances(Id::Resume, &["resume"], &[PROJECT], "resume [REMOTE:]NAME...", "Resume paused ones")
    },
    Verb {
        operands: &[Kind::Image, Kind::Instance],
        least: 2,
        most: 2,
        ..instances(
            Id::Launch,
            &["launch"],
            &[
                PROJECT,
                flag("ephemeral", Some('e'), None),
                flag("vm", None, None),
                flag("profile", Some('p'), Some(Kind::Text)),
                flag("config", Some('c'), Some(Kind::Text)),
                flag("device", Some('d'), Some(Kind::Text)),
            ],
            "launch [SERVER:]IMAGE [REMOTE:]NAME [-e] [--vm] [-p PROFILE]... [-c limits.cpu=N] \
             [-c limits.memory=NGiB] [-d root,size=NGiB]",
            "Make an instance and start it, as the login +NAME does; profiles are the gateway's",
        )
    },
    Verb {
        others: &[&["rm"]],
        ..instances(
            Id::Delete,
            &["delete"],
            &[PROJECT, FORCE],
            "delete [REMOTE:]NAME... [--force]",
            "Delete stopped instances; with --force running ones too",
        )
    },
    of_one(
        Id::ConfigGet,
        &["config", "get"],
        &[Kind::Instance, Kind::Text],
        (2, 2),
        "config get [REMOTE:]NAME KEY",
        "A key of one's configuration",
    ),
    of_one(
        Id::ConfigSet,
        &["config", "set"],
        &[Kind::Instance, Kind::KeyValue],
        (2, MANY),
        "config set [REMOTE:]NAME KEY=VALUE...",
        "Set keys: limits, boot, snapshots, cloud-init, environment and user keys",
    ),
    Verb {
        flags: &[PROJECT, flag("expanded", Some('e'), None)],
        ..of_one(
            Id::ConfigShow,
            &["config", "show"],
            &[Kind::Instance],
            (1, 1),
            "config show [REMOTE:]NAME [--expanded]",
            "One's configuration and devices; with --expanded those of its profiles too",
        )
    },
    of_one(
        Id::ConfigUnset,
        &["config", "unset"],
        &[Kind::Instance, Kind::Key],
        (2, 2),
        "config unset [REMOTE:]NAME KEY",
        "Unset a key that can be set",
    ),
    of_one(
        Id::SnapshotCreate,
        &["snapshot", "create"],
        &[Kind::Instance, Kind::Text],
        (1, 2),
        "snapshot create [REMOTE:]NAME [SNAPSHOT]",
        "Make a snapshot",
    ),
    of_one(
        Id::SnapshotDelete,
        &["snapshot", "delete"],
        &[Kind::Instance, Kind::Snapshot],
        (2, 2),
        "snapshot delete [REMOTE:]NAME SNAPSHOT",
        "Delete a snapshot",
    ),
    Verb {
        flags: &[PROJECT, FORMAT],
        ..of_one(
            Id::SnapshotList,
            &["snapshot", "list"],
            &[Kind::Instance],
            (1, 1),
            "snapshot list [REMOTE:]NAME [-f table|csv|json]",
            "One's snapshots",
        )
    },
    of_one(
        Id::SnapshotRestore,
        &["snapshot", "restore"],
        &[Kind::Instance, Kind::Snapshot],
        (2, 2),
        "snapshot restore [REMOTE:]NAME SNAPSHOT",
        "Bring an instance back to what it was",
    ),
    all(
        Id::ImageList,
        &["image", "list"],
        "image list [REMOTE:] [-f table|csv|json]",
        "Images of the project",
    ),
    all(Id::NetworkList, &["network", "list"], "network list [REMOTE:] [-f table|csv|json]", "Its networks"),
    Verb {
        flags: &[FORMAT],
        ..all(
            Id::ProjectList,
            &["project", "list"],
            "project list [REMOTE:] [-f table|csv|json]",
            "The projects you may see",
        )
    },
    Verb {
        operands: &[Kind::Project],
        least: 1,
        flags: &[],
        ..all(
            Id::ProjectSwitch,
            &["project", "switch"],
            "project switch NAME",
            "What --project is where it is left out",
        )
    },
    Verb { flags: &[], ..all(Id::Version, &["version"], "version [REMOTE:]", "Which server it is") },
    Verb {
        operands: &[Kind::Verb],
        most: 2,
        flags: &[],
        ..all(Id::Help, &["help"], "help [VERB]", "This, or what a verb takes")
    },
    Verb {
        others: &[&["quit"], &["logout"]],
        operands: &[],
        most: 0,
        flags: &[],
        ..all(Id::Exit, &["exit"], "exit", "Leave; so do Ctrl-D and Ctrl-C where nothing is typed")
    },
];

/// What people know of the client and is not here, and what there is instead. The first one that fits counts.
const ABSENT: &[(&[&str], &str)] = &[
    (&["exec"], "log in by its name instead: ssh USER@NAME.PROJECT@GATEWAY COMMAND"),
    (&["shell"], "log in by its name instead: ssh USER@NAME.PROJECT@GATEWAY"),
    (&["console"], "log in by its name instead: ssh USER@NAME.PROJECT@GATEWAY"),
    (&["file"], "files go by sftp, scp and rsync: sftp USER@NAME.PROJECT@GATEWAY"),
    (&["create"], "use launch"),
    (&["init"], "use launch"),
    (&["config", "edit"], "no editor runs here; use config set"),
    (&["config", "device"], "devices lead to the host; they are its administrator's"),
    (&["config"], "of configurations there are get, set, show and unset"),
    (&["snapshot"], "of snapshots there are create, delete, list and restore"),
    (&["image"], "of images there is list"),
    (&["network"], "of networks there is list"),
    (&["project"], "of projects there are list and switch"),
    (&["remote"], "servers are the gateway's; a name is said as REMOTE:NAME"),
    (&["export"], "it writes files of the host"),
    (&["import"], "it reads files of the host"),
    (&["publish"], "images are the administrator's"),
    (&["alias"], "a line is what it says"),
    (&["query"], "the server's API is not to be had here"),
    (&["admin"], "the server is its administrator's"),
    (&["cluster"], "the server is its administrator's"),
    (&["profile"], "profiles are the administrator's"),
    (&["storage"], "storage is the administrator's"),
    (&["top"], "use list and info"),
    (&["monitor"], "the server's log is its administrator's"),
];

/// The verb that words begin with, and how many of them it has.
pub(super) fn find(words: &[String]) -> Option<(&'static Verb, usize)> {
    let begins = |name: &&[&str]| {
        name.len() <= words.len() && name.iter().zip(words).all(|(name, word)| *name == word)
    };
    VERBS.iter().find_map(|verb| {
        let mut names = std::iter::once(&verb.words).chain(verb.others);
        names.find(|name| begins(name)).map(|name| (verb, name.len()))
    })
}

/// What is not there, as it was said, and what there is instead.
pub(super) fn instead(words: &[String]) -> Option<(String, &'static str)> {
    let begins =
        |name: &[&str]| name.len() <= words.len() && name.iter().zip(words).all(|(name, word)| *name == word);
    let (name, text) = ABSENT.iter().find(|(name, _)| begins(name))?;
    let is_group = VERBS.iter().any(|verb| verb.words.len() > 1 && verb.words.first() == name.first());
    let said = words.iter().take(if is_group { 2 } else { name.len() });
    Some((said.cloned().collect::<Vec<_>>().join(" "), text))
}

impl Verb {
    /// As it is said.
    pub(super) fn name(&self) -> String {
        self.words.join(" ")
    }

    /// The flag of a word without its dashes.
    pub(super) fn flag(&self, name: &str) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.long == name)
    }

    /// The same of a letter.
    pub(super) fn short(&self, letter: char) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.short == Some(letter))
    }

    /// What the word of this number is.
    pub(super) fn operand(&self, number: usize) -> Option<Kind> {
        if number >= self.most {
            return None;
        }
        self.operands.get(number).or(self.operands.last()).copied()
    }
}

/// What there is, or what a verb takes; `None`: there is no such verb.
pub(crate) fn help(words: &[String]) -> Option<String> {
    let mut text = String::new();
    if words.is_empty() {
        let width = VERBS.iter().map(|verb| verb.name().len()).max().unwrap_or_default();
        for verb in VERBS {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{:width$}  {}", verb.name(), verb.about);
        }
        text.push_str("\n`help VERB` says what one takes. There are no pipes, files, variables or patterns of shells.\n");
        return Some(text);
    }
    let of_group = |verb: &&Verb| {
        verb.words.len() > 1
            && words.len() == 1
            && words.first().is_some_and(|word| verb.words.first() == Some(&word.as_str()))
    };
    let found: Vec<&Verb> = match find(words) {
        Some((verb, count)) if count == words.len() => vec![verb],
        _ => VERBS.iter().filter(of_group).collect(),
    };
    for verb in &found {
        let _infallible = writeln!(text, "{}\n  {}", verb.usage, verb.about);
        let others: Vec<String> = verb.others.iter().map(|words| words.join(" ")).collect();
        if !others.is_empty() {
            let _infallible = writeln!(text, "  also: {}", others.join(", "));
        }
    }
    (!found.is_empty()).then_some(text)
}
