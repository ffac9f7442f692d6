//! Runs named steps one after the other, says how long each took, and sums up.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// What a step came to.
enum Outcome {
    Passed,
    Failed,
    /// Not run, and why.
    Left(String),
}

/// The steps run so far.
pub(crate) struct Steps {
    began: Instant,
    done: Vec<(String, Outcome, Duration)>,
}

impl Steps {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), done: Vec::new() }
    }

    /// Runs one step, whatever became of those before it. Returns whether it passed.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) -> bool {
        println!("\n=== {name}");
        let began = Instant::now();
        let result = step();
        let took = began.elapsed();
        if let Err(error) = &result {
            println!("{error:#}");
        }
        let passed = result.is_ok();
        println!("--- {name}: {} in {}", if passed { "passed" } else { "FAILED" }, seconds(took));
        self.done.push((name.to_owned(), if passed { Outcome::Passed } else { Outcome::Failed }, took));
        passed
    }

    /// Notes a step that is not run, and why.
    pub(crate) fn leave(&mut self, name: &str, why: &str) {
        println!("\n=== {name}\n--- {name}: not run: {why}");
        self.done.push((name.to_owned(), Outcome::Left(why.to_owned()), Duration::ZERO));
    }

    /// Prints the table.
    ///
    /// # Errors
    /// When a step failed.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        println!("\n=== summary");
        let mut failed = Vec::new();
        for (name, outcome, took) in &self.done {
            let (word, why) = match outcome {
                Outcome::Passed => ("passed", ""),
                Outcome::Failed => ("FAILED", ""),
                Outcome::Left(why) => ("not run", why.as_str()),
            };
            println!("{name:<24} {word:<8} {:>9} {why}", seconds(*took));
            if matches!(outcome, Outcome::Failed) {
                failed.push(name.as_str());
            }
        }
        println!("{:<24} {:<8} {:>9}", "all", "", seconds(self.began.elapsed()));
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Runs a command to its end, its output going where ours goes.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    Ok(())
}
