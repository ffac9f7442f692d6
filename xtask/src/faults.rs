//! `cargo xtask faults`: the tests of what may go wrong, each with the number it was tried and what came of it.
//!
//! Rows stand in `xtask/faults.toml`, results in `docs/reliability.toml`; `docs/reliability.md` is put together from
//! both. A row names the change to the product that its test must find (`xtask/mutations`): a test of tests.

mod mutations;
mod page;
mod results;
mod rows;
mod run;
#[cfg(test)]
mod tests;

use std::fs;

use anyhow::{Context as _, bail, ensure};

use self::results::Results;
use self::rows::Rows;
use crate::needs;
use crate::workspace::Workspace;

/// What is rendered.
const PAGE: &str = "docs/reliability.md";

/// Whether a test runs as it does with all others, or with the numbers that are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Short,
    Long,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Run(Form),
    Mutate,
    Check,
    Render,
}

/// A command line.
#[derive(Debug)]
pub(crate) struct Options {
    deed: Deed,
    rows: Vec<String>,
    writes: bool,
    note: String,
}

impl Options {
    /// Reads what stands behind `faults`.
    ///
    /// # Errors
    /// What is not understood.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options =
            Self { deed: Deed::Run(Form::Short), rows: Vec::new(), writes: false, note: String::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--long" => options.deed = Deed::Run(Form::Long),
                "--mutations" => options.deed = Deed::Mutate,
                "--check" => options.deed = Deed::Check,
                "--render" => options.deed = Deed::Render,
                "--write" => options.writes = true,
                "--note" => {
                    let text = words.next().ok_or("--note TEXT wanted")?;
                    (*text).clone_into(&mut options.note);
                }
                row if !row.starts_with('-') => options.rows.push(row.to_owned()),
                other => return Err(format!("{other} is not known")),
            }
        }
        Ok(options)
    }
}

/// Does it.
///
/// # Errors
/// When a test fails, a mutation survives, or something does not fit.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let rows = Rows::load(workspace)?;
    let chosen = rows.chosen(&options.rows)?;
    let form = match options.deed {
        Deed::Check => return check(workspace),
        Deed::Render => return write(workspace, &rows, |_| {}),
        Deed::Run(form) => Some(form),
        Deed::Mutate => None,
    };
    ensure!(needs::is_root(), "faults are made in network namespaces, which needs root");
    needs::provide()?;
    let mut failed = Vec::new();
    let bench = form.is_none().then(|| mutations::Bench::prepare(workspace)).transpose()?;
    for row in chosen {
        let passed = match (form, &bench) {
            (Some(form), _) => run::row(workspace, row, form, &options.note).and_then(|result| {
                let passed = result.passed;
                options.keep(workspace, &rows, |results| results.keep(result))?;
                ensure!(passed, "its test fails");
                Ok(())
            }),
            (None, Some(bench)) => bench
                .try_row(row)
                .and_then(|kill| options.keep(workspace, &rows, |results| results.keep_kill(kill))),
            (None, None) => Ok(()),
        };
        if let Err(error) = passed {
            println!("{error:#}");
            failed.push(format!("{} {}", row.id, row.name));
        }
    }
    if !failed.is_empty() {
        bail!("{} failed: {}", failed.len(), failed.join(", "));
    }
    Ok(())
}

impl Options {
    /// Keeps something that a row has found, if that is wanted: after each, so that a long run that is ended early
    /// leaves what it has found.
    fn keep(
        &self,
        workspace: &Workspace,
        rows: &Rows,
        change: impl FnOnce(&mut Results),
    ) -> anyhow::Result<()> {
        if self.writes { write(workspace, rows, change) } else { Ok(()) }
    }
}

/// Results are read just before they are written: another run may have added to them.
fn write(workspace: &Workspace, rows: &Rows, change: impl FnOnce(&mut Results)) -> anyhow::Result<()> {
    let mut results = Results::load(workspace)?;
    change(&mut results);
    results.drop_strangers(rows);
    results.save(workspace)?;
    let path = workspace.root().join(PAGE);
    fs::write(&path, page::render(rows, &results)).with_context(|| format!("cannot write {PAGE}"))
}

/// Whether rows, tests, mutations, results and page belong together.
///
/// # Errors
/// One line per offence.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    let (rows, results) = (Rows::load(workspace)?, Results::load(workspace)?);
    let mut faults = rows.faults(workspace)?;
    faults.extend(results.strangers(&rows).map(|name| format!("{}: no row has {name}", results::FILE)));
    let there = fs::read_to_string(workspace.root().join(PAGE)).unwrap_or_default();
    if there != page::render(&rows, &results) {
        faults.push(format!("{PAGE} is not what its rows and results give: cargo xtask faults --render"));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{} rows of faults, each with a test and a mutation that applies", rows.all.len());
    Ok(())
}
