//! Licences, sources and banned crates of every dependency, by the rules in `deny.toml`.
//!
//! `cargo deny check bans licenses sources` reads the same file and says more; this needs no
//! further program and no network, so it runs everywhere.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::workspace::{Package, Workspace};

/// The one registry, as cargo names it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What is read of `deny.toml`.
#[derive(Deserialize)]
struct Rules {
    licenses: LicenceRules,
    bans: BanRules,
}

#[derive(Deserialize)]
struct LicenceRules {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct BanRules {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    name: String,
    /// Which versions, all when absent: `<1.2.3`, the one form that is understood here.
    version: Option<String>,
    reason: String,
}

impl Ban {
    /// Whether it means this package; `None` when its version cannot be read.
    fn means(&self, package: &Package) -> Option<bool> {
        if self.name != package.name {
            return Some(false);
        }
        let Some(version) = &self.version else { return Some(true) };
        Some(numbers(&package.version)? < numbers(version.strip_prefix('<')?)?)
    }
}

/// The three numbers of a version, without what may stand behind them.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let plain = version.split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// Checks every package in the lock file.
///
/// # Errors
/// One line per offence.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    let text = fs::read_to_string(workspace.root().join("deny.toml")).context("cannot read deny.toml")?;
    let rules: Rules = toml::from_str(&text).context("cannot parse deny.toml")?;
    let mut count = 0;
    let mut faults = Vec::new();
    for package in workspace.external() {
        count += 1;
        faults.extend(rules.faults(package));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{count} packages: licences and sources allowed, none banned");
    Ok(())
}

impl Rules {
    fn faults(&self, package: &Package) -> Vec<String> {
        let name = format!("{} {}", package.name, package.version);
        let mut faults = Vec::new();
        match package
            .license
            .as_deref()
            .map(|text| (text, Expression::new(text).allowed(&self.licenses.allow)))
        {
            Some((_, Some(true))) => {}
            Some((text, Some(false))) => {
                faults.push(format!("{name}: licence {text} is not allowed by deny.toml"))
            }
            Some((text, None)) => faults.push(format!("{name}: cannot read licence {text:?}")),
            None => faults.push(format!("{name}: names no licence")),
        }
        if package.source.as_deref() != Some(REGISTRY) {
            faults.push(format!("{name}: comes from {}", package.source.as_deref().unwrap_or("nowhere")));
        }
        for ban in &self.bans.deny {
            match ban.means(package) {
                Some(false) => {}
                Some(true) => faults.push(format!("{name}: banned by deny.toml: {}", ban.reason)),
                None => faults.push(format!("{name}: deny.toml has a version of it that is not like <1.2.3")),
            }
        }
        faults
    }
}

/// An SPDX licence expression (SPDX specification, annex D), with the old `A/B` for `A OR B`.
struct Expression<'a> {
    words: Vec<&'a str>,
    at: usize,
}

impl<'a> Expression<'a> {
    fn new(text: &'a str) -> Self {
        let mut words = Vec::new();
        for part in text.split_whitespace() {
            let mut rest = part;
            while let Some(at) = rest.find(['(', ')', '/']) {
                words.extend((at > 0).then_some(&rest[..at]));
                words.push(&rest[at..=at]);
                rest = &rest[at + 1..];
            }
            words.extend((!rest.is_empty()).then_some(rest));
        }
        Self { words, at: 0 }
    }

    /// Whether some choice of the expression uses allowed licences only; `None` when it is malformed.
    fn allowed(mut self, allow: &BTreeSet<String>) -> Option<bool> {
        let result = self.any(allow)?;
        (self.at == self.words.len()).then_some(result)
    }

    fn any(&mut self, allow: &BTreeSet<String>) -> Option<bool> {
        let mut result = self.all(allow)?;
        while self.take("OR") || self.take("/") {
            let right = self.all(allow)?;
            result = result || right;
        }
        Some(result)
    }

    fn all(&mut self, allow: &BTreeSet<String>) -> Option<bool> {
        let mut result = self.one(allow)?;
        while self.take("AND") {
            let right = self.one(allow)?;
            result = result && right;
        }
        Some(result)
    }

    fn one(&mut self, allow: &BTreeSet<String>) -> Option<bool> {
        if self.take("(") {
            let inside = self.any(allow)?;
            return self.take(")").then_some(inside);
        }
        let word = self.word()?;
        let mut licence = word.to_owned();
        if self.take("WITH") {
            licence = format!("{word} WITH {}", self.word()?);
        }
        Some(allow.contains(&licence))
    }

    fn word(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at).copied()?;
        let is_name = !matches!(word, "(" | ")" | "/" | "AND" | "OR" | "WITH");
        self.at += usize::from(is_name);
        is_name.then_some(word)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Expression, numbers};

    fn allowed(text: &str) -> Option<bool> {
        let allow = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];
        Expression::new(text).allowed(&allow.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>())
    }

    #[test]
    fn one_allowed_choice_is_enough() {
        assert_eq!(allowed("MIT"), Some(true));
        assert_eq!(allowed("GPL-3.0 OR MIT"), Some(true));
        assert_eq!(allowed("MIT/Apache-2.0"), Some(true));
        assert_eq!(allowed("Apache-2.0 WITH LLVM-exception OR Apache-2.0"), Some(true));
        assert_eq!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"), Some(true));
    }

    #[test]
    fn and_needs_both() {
        assert_eq!(allowed("MIT AND GPL-3.0"), Some(false));
        assert_eq!(allowed("Apache-2.0"), Some(false));
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("0.9.10") > numbers("0.9.9"));
        assert!(numbers("1.0.0-rc.1") == numbers("1.0.0+build"));
        for text in ["", "1", "1.2", "1.2.3.4", "1.x.3", "<1.2.3"] {
            assert_eq!(numbers(text), None, "{text}");
        }
    }

    #[test]
    fn malformed_is_not_allowed() {
        for text in ["", "MIT OR", "(MIT", "MIT)", "MIT MIT", "AND MIT", "MIT WITH"] {
            assert_eq!(allowed(text), None, "{text}");
        }
    }
}
