//! Where something was said: a line of a file, a variable, a flag. It goes into messages and is no part of what was
//! said.

use std::fmt;
use std::path::{Path, PathBuf};

use portway_config::files::Position;
use zeroize::Zeroizing;

/// Who said something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A variable of the environment, by its name.
    Variable(String),
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
    /// Whoever spoke to the network while it ran.
    Control,
    /// `portway.toml`, which the daemon has read.
    Daemon,
}

/// Where something was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Who said it.
    pub source: Source,
    /// Where in a file.
    pub position: Option<Position>,
}

impl Place {
    /// A place in a file.
    pub(super) fn file(path: &Path, line: usize, column: usize) -> Place {
        Place { source: Source::File(path.to_owned()), position: Some(Position { line, column }) }
    }

    /// What was said to the network while it ran.
    #[must_use]
    pub fn kept() -> Place {
        Place::of(Source::Control)
    }

    /// What the daemon's file says.
    #[must_use]
    pub fn configured() -> Place {
        Place::of(Source::Daemon)
    }

    /// A place without lines.
    pub(super) fn of(source: Source) -> Place {
        Place { source, position: None }
    }

    /// Whether one hand has written both: the same file, the environment, or the command line.
    pub(super) fn same_hand(&self, other: &Place) -> bool {
        match (&self.source, &other.source) {
            (Source::File(one), Source::File(two)) => one == two,
            (Source::Variable(_), Source::Variable(_))
            | (Source::Flag(_), Source::Flag(_))
            | (Source::Control, Source::Control)
            | (Source::Daemon, Source::Daemon) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::File(path) => path.display().fmt(f)?,
            Source::Variable(name) => f.write_str(name)?,
            Source::Flag(name) => f.write_str(name)?,
            Source::Control => f.write_str("added while it ran")?,
            Source::Daemon => f.write_str("portway.toml")?,
        }
        match self.position {
            Some(Position { line, column }) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// A text as it was said. It may be a secret: it is overwritten when it goes.
#[derive(Clone)]
pub(super) struct Field {
    /// Where.
    pub(super) place: Place,
    /// What, without blanks around it.
    pub(super) text: Zeroizing<String>,
}

impl Field {
    pub(super) fn new(place: Place, text: &str) -> Field {
        Field { place, text: Zeroizing::new(text.to_owned()) }
    }

    /// The items of a list with commas or blanks, each with its place. Empty ones are left out.
    pub(super) fn items(&self) -> Vec<Field> {
        let mut items = Vec::new();
        let mut place = self.place.clone();
        for item in self.text.split_inclusive(|c: char| c == ',' || c.is_whitespace()) {
            let word = item.trim_end_matches(|c: char| c == ',' || c.is_whitespace());
            if !word.is_empty() {
                items.push(Field::new(place.clone(), word));
            }
            if let Some(position) = &mut place.position {
                position.column += item.chars().count();
            }
        }
        items
    }
}

/// Something that is left out or that is most likely not meant, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
