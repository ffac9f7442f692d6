//! What is wrong with a Compose file, and where.

use std::fmt;
use std::sync::Arc;

/// Where a node stands: file, line and column, both from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the file as messages say it.
    pub file: Arc<str>,
    /// Line; 0 when there is none.
    pub line: u32,
    /// Column in characters.
    pub column: u32,
}

impl Place {
    /// The file as a whole.
    pub fn of_file(file: &str) -> Place {
        Place { file: file.into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The text is not what it should be.
    Malformed,
    /// Each part is right, and they contradict each other.
    Inconsistent,
    /// A file or a service is not there.
    Missing,
    /// A file is there and cannot be read.
    Unreadable,
    /// Larger or deeper than anything sensible.
    TooLarge,
}

/// One fault, on one line: place, path of the key, what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: Kind,
    /// Where, when it has a place.
    pub place: Option<Place>,
    /// Path of the key, as in `services.web.ports[0]`; may be empty.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What was probably meant.
    pub hint: Option<String>,
}

impl Fault {
    /// A malformed node.
    pub fn at(place: &Place, path: &str, what: impl Into<String>) -> Fault {
        Fault {
            kind: Kind::Malformed,
            place: Some(place.clone()),
            path: path.to_owned(),
            what: what.into(),
            hint: None,
        }
    }

    /// A fault of the project, not of one place.
    pub fn of(kind: Kind, what: impl Into<String>) -> Fault {
        Fault { kind, place: None, path: String::new(), what: what.into(), hint: None }
    }

    /// The same as another kind.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Fault {
        self.kind = kind;
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: Option<String>) -> Fault {
        self.hint = hint;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}

/// `word` without its mistake, when one of `known` is near: at most a third of its letters differ.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    // Longer words are nobody's key, and comparing them would cost.
    if word.len() > 64 {
        return None;
    }
    let near =
        known.into_iter().map(|key| (distance(word, key), key)).min_by_key(|(distance, _)| *distance)?;
    (near.0 <= limit).then_some(near.1)
}

/// Letters to insert, remove or change between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (to, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let change = corner + usize::from(from != *to);
            corner = *above;
            left = change.min(left + 1).min(*above + 1);
            *above = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_found_and_a_far_one_is_not() {
        let known = ["ports", "profiles", "environment"];
        assert_eq!(nearest("prots", known), None, "two letters of five");
        assert_eq!(nearest("port", known), Some("ports"));
        assert_eq!(nearest("enviroment", known), Some("environment"));
        assert_eq!(nearest("zzz", known), None);
        assert_eq!(nearest(&"ports".repeat(100), known), None);
    }

    #[test]
    fn a_fault_is_one_line() {
        let place = Place { file: "compose.yaml".into(), line: 3, column: 5 };
        let fault = Fault::at(&place, "services.web.port", "no such key");
        assert_eq!(fault.to_string(), "compose.yaml:3:5: services.web.port: no such key");
        assert_eq!(Place::of_file("x").to_string(), "x");
    }
}
