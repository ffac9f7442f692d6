//! The file of ceilings, and what is above them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Share by which a count may be above what was written down, and below it before somebody is told.
const SLACK: f64 = 0.05;

const HEAD: &str = "\
# Written by `cargo xtask counts --write`: what a relay worker does for one operation, instructions in user space
# and system calls. More than 5 % above fails continuous integration.
";

/// Counts of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    pub(crate) instructions: f64,
    pub(crate) syscalls: f64,
}

/// Counts by workload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ceilings {
    figures: BTreeMap<String, Figure>,
}

/// A comparison: a table, and a line for each fault.
pub(crate) struct Compared {
    pub(crate) text: String,
    pub(crate) faults: Vec<String>,
}

impl Ceilings {
    /// From a file.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} holds no ceilings", path.display()))
    }

    /// To a file, rounded: no count means more than its third digit.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = HEAD.to_owned();
        for (name, figure) in &self.figures {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n[{name}]\ninstructions = {:.1}\nsyscalls = {:.3}\n",
                figure.instructions, figure.syscalls
            );
        }
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn insert(&mut self, name: &str, figure: Figure) {
        self.figures.insert(name.to_owned(), figure);
    }

    /// Holds what was found against these; `operation` says what a workload's counts are of.
    pub(crate) fn compare(&self, found: &Self, operation: impl Fn(&str) -> &'static str) -> Compared {
        let mut compared = Compared {
            text: format!(
                "{:<16} {:<11} {:>12} {:>9} {:>9} {:>9}\n",
                "workload", "for each", "instructions", "at most", "syscalls", "at most"
            ),
            faults: Vec::new(),
        };
        let mut lower = Vec::new();
        for (name, figure) in &found.figures {
            let Some(known) = self.figures.get(name) else {
                compared.faults.push(format!("{name}: no ceiling; `cargo xtask counts --write` writes one"));
                continue;
            };
            let each = operation(name);
            let pairs = [
                ("instructions", figure.instructions, known.instructions),
                ("system calls", figure.syscalls, known.syscalls),
            ];
            for (what, count, known) in pairs {
                let ceiling = known * (1.0 + SLACK);
                if count > ceiling {
                    compared.faults.push(format!(
                        "{name}: {count:.1} {what} for each {each}, at most {ceiling:.1} allowed ({known:.1} + 5 %)"
                    ));
                } else if count < known * (1.0 - SLACK) {
                    lower.push(format!("{name}: {count:.1} {what} for each {each}, {known:.1} written down"));
                }
            }
            let [most_instructions, most_syscalls] =
                [known.instructions, known.syscalls].map(|known| known * (1.0 + SLACK));
            // Writing to a String cannot fail.
            let _ = writeln!(
                compared.text,
                "{name:<16} {each:<11} {:>12.1} {most_instructions:>9.1} {:>9.3} {most_syscalls:>9.3}",
                figure.instructions, figure.syscalls
            );
        }
        for name in self.figures.keys().filter(|name| !found.figures.contains_key(*name)) {
            compared.faults.push(format!("{name}: a ceiling of nothing that is counted"));
        }
        if !lower.is_empty() {
            compared.text.push_str("\nCeilings that can be lowered, by `cargo xtask counts --write`:\n");
            lower.iter().for_each(|line| compared.text.push_str(&format!("  {line}\n")));
        }
        compared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, instructions: f64, syscalls: f64) -> Ceilings {
        let mut ceilings = Ceilings::default();
        ceilings.insert(name, Figure { instructions, syscalls });
        ceilings
    }

    fn compare(instructions: f64, syscalls: f64) -> Compared {
        one("conn", 1000.0, 10.0).compare(&one("conn", instructions, syscalls), |_| "connection")
    }

    /// Fails when: a count more than 5 % above its ceiling passes, or one less than that does not.
    #[test]
    fn what_is_above_names_workload_count_and_ceiling() {
        assert!(compare(1049.0, 10.4).faults.is_empty());
        assert_eq!(
            compare(1051.0, 10.0).faults,
            ["conn: 1051.0 instructions for each connection, at most 1050.0 allowed (1000.0 + 5 %)"]
        );
        assert_eq!(
            compare(1000.0, 11.0).faults,
            ["conn: 11.0 system calls for each connection, at most 10.5 allowed (10.0 + 5 %)"]
        );
    }

    #[test]
    fn what_is_clearly_below_is_said_and_no_fault() {
        let compared = compare(940.0, 10.0);
        assert!(compared.faults.is_empty());
        assert!(compared.text.contains("can be lowered"), "{}", compared.text);
        assert!(compared.text.contains("conn: 940.0 instructions"), "{}", compared.text);
        assert!(!compare(960.0, 10.0).text.contains("can be lowered"));
    }

    /// Fails when: a workload that has no ceiling, or a ceiling that has no workload, is passed over.
    #[test]
    fn workloads_and_ceilings_belong_together() {
        let compared = one("old", 1.0, 1.0).compare(&one("new", 1.0, 1.0), |_| "x");
        assert_eq!(compared.faults.len(), 2, "{:?}", compared.faults);
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ceilings.toml");
        one("udp-1", 1234.5, 6.25).write(&path).unwrap();
        assert_eq!(Ceilings::read(&path).unwrap(), one("udp-1", 1234.5, 6.25));
        fs::write(&path, "conn = 5").unwrap();
        assert!(Ceilings::read(&path).is_err());
    }
}
