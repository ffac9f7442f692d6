//! The benchmark: `cargo xtask bench`. No part of the product.
//!
//! One program in five roles. `run` sets up an arena (a container of a real Incus, a client outside the
//! host) and all peers, and has every workload measured through every peer, in rounds; `show` shows what was
//! measured before. `server` is the service behind every peer, `client` one measurement: the same two programs for
//! all peers, so that what differs is the peer. `counts` counts what a relay worker does for an operation.

mod arena;
mod client;
#[cfg(target_arch = "x86_64")]
mod counts;
mod histogram;
mod net;
mod options;
mod peer;
mod plot;
mod process;
mod profile;
mod report;
mod results;
mod rounds;
mod sample;
mod scale;
mod server;
mod stats;
mod targets;
mod workload;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::client::Ask;
use crate::options::{ClientOptions, CountsOptions, Format, Options, Role, RunOptions, ShowOptions};
use crate::results::Results;
use crate::workload::Workload;

fn main() -> ExitCode {
    let done = match Options::parse().role {
        Role::Run(options) => run(&options),
        Role::Show(options) => show(&options),
        Role::Counts(options) => count(&options),
        Role::Server(options) => server::serve(&options.address, options.unix),
        Role::Client(options) => measure(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &RunOptions) -> Result<()> {
    let results = rounds::run(options, &say)?;
    if let Some(dir) = &options.write {
        write(&results, dir)?;
    }
    match options.format {
        Format::Table => print(&report::page(&results)),
        Format::Json => print(&serde_json::to_string(&results).context("the figures as JSON")?),
    }
    let failed = results.failed();
    anyhow::ensure!(failed == 0, "{failed} measurements failed");
    Ok(())
}

fn show(options: &ShowOptions) -> Result<()> {
    let path = &options.file;
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let results =
        serde_json::from_str(&text).with_context(|| format!("{} holds no figures", path.display()))?;
    if let Some(dir) = &options.write {
        write(&results, dir)?;
    }
    print(&report::page(&results));
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn count(options: &CountsOptions) -> Result<()> {
    counts::run(options, &print)
}

#[cfg(not(target_arch = "x86_64"))]
fn count(_: &CountsOptions) -> Result<()> {
    anyhow::bail!("instructions are counted on x86-64 only")
}

fn measure(options: ClientOptions) -> Result<()> {
    let workload = Workload::named(&options.workload).context("no such workload")?;
    let ask = Ask {
        target: options.target,
        counter: options.counter,
        warm: Duration::from_millis(options.warm_ms),
        span: Duration::from_millis(options.span_ms),
        idle: options.idle,
    };
    let sample = client::measure(workload, &ask)?;
    print(&serde_json::to_string(&sample).context("the sample as JSON")?);
    Ok(())
}

/// Writes the page and its picture.
fn write(results: &Results, dir: &Path) -> Result<()> {
    for (name, text) in [("benchmarks.md", report::page(results)), ("benchmarks.svg", plot::ratios(results))]
    {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a developer's command")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "progress of a developer's command")]
fn say(line: &str) {
    eprintln!("bench: {line}");
}
