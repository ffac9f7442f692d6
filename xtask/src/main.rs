//! Developer commands, run as `cargo xtask COMMAND`.
//!
//! `test` is the whole of continuous integration; the other commands are its steps, or what a
//! developer needs by hand. Nothing here is part of the product.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a developer's command talks to a terminal")]

mod bench;
mod deps;
mod docs;
mod figures;
mod licences;
mod limits;
mod man;
mod named;
mod needs;
mod shell;
mod sizes;
mod source;
mod steps;
mod test;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::workspace::Workspace;

const USAGE: &str = "usage: cargo xtask COMMAND

  test [--quick]      install what the tests need, then check and test everything
                      --quick: without the tests that need an Incus server
  testbed up|down|status [incus6] [incus7] [lxd]
                      real servers, each in a network namespace of its own, for the tests
  bench [OPTIONS]     speed and cost beside other proxies, Incus' own and none; bench --help
  bench mesh [--quick | --write DIR]
                      streams, round trips, connections and memory of the mesh beside wireguard-go
  counts [OPTIONS]    instructions and system calls of a relay worker for each operation, beside their
                      ceilings; --write writes the ceilings anew
  figures             times of `device add` and memory in use, beside Incus' own proxy device
  deps                which crate may use which, unused dependencies, where `unsafe` stands
  licences            licences, sources and banned crates of all dependencies (deny.toml)
  sizes               lines per file, and the reasons for what is over the limit
  limits [--write]    docs/limits.md, made from the constants; --write writes it anew
  docs                links, commands, keys and settings in README.md, docs/ and contrib/
  man [DIR]           man pages and shell completions into DIR (default target/man)

PORTWAY_TESTS=require makes a test that would skip itself fail.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let command = match args.as_slice() {
        ["bench", rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
            if let Some(refusal) = bench::refusal(&rest) {
                eprintln!("xtask: {refusal}");
                return ExitCode::from(2);
            }
            Command::Bench(rest)
        }
        ["counts", rest @ ..] => Command::Counts(rest.iter().map(|word| (*word).to_owned()).collect()),
        ["testbed", rest @ ..] => return portway_testkit::testbed::main(rest),
        ["test"] => Command::Test { quick: false },
        ["test", "--quick"] => Command::Test { quick: true },
        ["figures"] => Command::Figures,
        ["deps"] => Command::Deps,
        ["licences"] => Command::Licences,
        ["sizes"] => Command::Sizes,
        ["limits"] => Command::Limits(limits::Mode::Check),
        ["limits", "--write"] => Command::Limits(limits::Mode::Write),
        ["docs"] => Command::Docs,
        ["man"] => Command::Man { dir: None },
        ["man", dir] if !dir.starts_with('-') => Command::Man { dir: Some(PathBuf::from(dir)) },
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

enum Command {
    Test { quick: bool },
    Bench(Vec<String>),
    Counts(Vec<String>),
    Figures,
    Deps,
    Licences,
    Sizes,
    Limits(limits::Mode),
    Docs,
    Man { dir: Option<PathBuf> },
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        let workspace = Workspace::load()?;
        match self {
            Self::Test { quick } => test::run(&workspace, quick),
            Self::Bench(arguments) => bench::run(&workspace, &arguments),
            Self::Counts(arguments) => bench::run_counts(&workspace, &arguments),
            Self::Figures => figures::run(&workspace),
            Self::Deps => deps::check(&workspace),
            Self::Licences => licences::check(&workspace),
            Self::Sizes => sizes::check(&workspace),
            Self::Limits(mode) => limits::run(&workspace, mode),
            Self::Docs => docs::check(&workspace, &workspace.portway()?),
            Self::Man { dir } => {
                let dir = dir.unwrap_or_else(|| workspace.target().join("man"));
                man::generate(&workspace.portway()?, &dir)
            }
        }
    }
}
