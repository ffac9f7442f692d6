//! Texts under the names of flags, and where they come from: arguments, one line of them, a table of a file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::OptionsError;
use super::flags::{FLAGS, Flag, Shape};

/// Values of flags, unchecked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Values(BTreeMap<&'static str, String>);

/// Why a source cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// Not a flag.
    #[error("unknown flag {0}")]
    Unknown(String),
    /// A flag without what it takes.
    #[error("flag {0} needs a value")]
    Missing(String),
    /// A word that belongs to no flag.
    #[error("unexpected argument {0}")]
    Unexpected(String),
    /// A quote that does not end.
    #[error("quote without its end")]
    Quote,
}

impl Values {
    /// Reads arguments: `--flag=value`, `--flag value`, `-f value`, `-fvalue`, `-f=value`, and switches in one word, `-mW`.
    ///
    /// # Errors
    /// The first argument that is none.
    pub fn from_args<T: AsRef<str>>(args: impl IntoIterator<Item = T>) -> Result<Self, ValuesError> {
        let mut values = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let arg = arg.as_ref();
            if let Some(long) = arg.strip_prefix("--").filter(|long| !long.is_empty()) {
                let (name, given) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (long, None),
                };
                let flag = Flag::find(name).ok_or_else(|| ValuesError::Unknown(quoted(arg)))?;
                let value = complete(flag, given, || args.next().map(|next| next.as_ref().to_owned()));
                values.0.insert(flag.long, value.ok_or_else(|| ValuesError::Missing(quoted(arg)))?);
            } else if let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                values.take_letters(arg, letters, || args.next().map(|next| next.as_ref().to_owned()))?;
            } else {
                return Err(ValuesError::Unexpected(quoted(arg)));
            }
        }
        Ok(values)
    }

    fn take_letters(
        &mut self,
        arg: &str,
        letters: &str,
        mut next: impl FnMut() -> Option<String>,
    ) -> Result<(), ValuesError> {
        let mut rest = letters;
        while let Some(letter) = rest.chars().next() {
            rest = rest.get(letter.len_utf8()..).unwrap_or_default();
            let flag = FLAGS.iter().find(|flag| flag.short == Some(letter));
            let flag = flag.ok_or_else(|| ValuesError::Unknown(quoted(arg)))?;
            let given = match rest.strip_prefix('=') {
                Some(value) => Some(value.to_owned()),
                None if flag.shape == Shape::Value && !rest.is_empty() => Some(rest.to_owned()),
                None => None,
            };
            let is_last = given.is_some();
            let value = complete(flag, given, &mut next);
            self.0.insert(flag.long, value.ok_or_else(|| ValuesError::Missing(quoted(arg)))?);
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// Reads one line of arguments, as `ARGS=` and `SSH2INCUS_ARGS` hold them: split at blanks, with double quotes and
    /// backslashes.
    ///
    /// # Errors
    /// As [`Values::from_args`].
    pub fn from_line(line: &str) -> Result<Self, ValuesError> {
        Self::from_args(words(line)?)
    }

    /// Takes keys of a file: long names, and texts as they would stand behind the flag.
    ///
    /// # Errors
    /// The first key that is no flag.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, ValuesError> {
        let mut values = Self::default();
        for (name, value) in pairs {
            let flag = Flag::find(&name).ok_or_else(|| ValuesError::Unknown(quoted(&name)))?;
            values.0.insert(flag.long, value);
        }
        Ok(values)
    }

    /// These, and of `lower` what these do not say.
    #[must_use]
    pub fn over(mut self, lower: Self) -> Self {
        for (name, value) in lower.0 {
            self.0.entry(name).or_insert(value);
        }
        self
    }

    /// The value of a flag, or its default.
    #[must_use]
    pub fn text(&self, name: &'static str) -> &str {
        let default = || Flag::find(name).map_or("", |flag| flag.default);
        self.0.get(name).map_or_else(default, String::as_str)
    }

    /// Whether a flag was given.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The value of a switch.
    ///
    /// # Errors
    /// When it is neither true nor false.
    pub fn is_on(&self, name: &'static str) -> Result<bool, OptionsError> {
        match self.text(name) {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
            _ => Err(self.wrong(name, "true or false")),
        }
    }

    /// An error about the value of a flag.
    pub(super) fn wrong(&self, flag: &'static str, expected: &'static str) -> OptionsError {
        let value = self.text(flag).chars().take(64).collect();
        OptionsError::Value { flag, value, expected }
    }

    /// What is given and means something else here than in ssh2incus: flag and difference.
    pub fn notes(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let given = FLAGS.iter().filter(|flag| self.has(flag.long) && !flag.note.is_empty());
        given.map(|flag| (flag.long, flag.note))
    }

    /// Every flag and its value as YAML, as `--dump` prints them; secrets are left out.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for flag in
            FLAGS.iter().filter(|flag| !matches!(flag.long, "help" | "version" | "dump" | "dump-create"))
        {
            let value = self.text(flag.long);
            // Writing to a String cannot fail.
            let _infallible = match flag.shape {
                _ if flag.is_secret() && !value.is_empty() => writeln!(text, "{}: \"(hidden)\"", flag.long),
                Shape::Switch => writeln!(text, "{}: {value}", flag.long),
                Shape::Value => writeln!(text, "{}: {value:?}", flag.long),
            };
        }
        text
    }
}

/// What a flag gets: what stands in its own word, or the next one.
fn complete(flag: &Flag, given: Option<String>, next: impl FnOnce() -> Option<String>) -> Option<String> {
    match flag.shape {
        Shape::Switch => Some(given.unwrap_or_else(|| "true".to_owned())),
        Shape::Value => given.or_else(next),
    }
}

/// The words of a line.
fn words(line: &str) -> Result<Vec<String>, ValuesError> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().push(chars.next().ok_or(ValuesError::Quote)?),
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quoted { Err(ValuesError::Quote) } else { Ok(words) }
}

/// A word for a message: what follows a `=` may be a secret.
fn quoted(word: &str) -> String {
    let name = word.split('=').next().unwrap_or_default();
    format!("`{}`", name.chars().take(48).flat_map(char::escape_debug).collect::<String>())
}
