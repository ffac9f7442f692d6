//! Developer commands, run as `cargo xtask COMMAND`.
//!
//! `test` is the whole of continuous integration; the other commands are its steps, or what a
//! developer needs by hand. Nothing here is part of the product.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a developer's command talks to a terminal")]

mod bench;
mod deps;
mod docs;
mod faults;
mod figures;
mod licences;
mod limits;
mod man;
mod named;
mod needs;
mod package;
mod sbom;
mod shell;
mod sizes;
mod source;
mod steps;
mod test;
mod units;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::package::Kind;
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
  faults [ROW...] [--long] [--write [--note TEXT]]
                      the tests of docs/reliability.md, one after the other; --long: with the numbers that
                      are claimed; --write: what they find becomes that page
  faults --mutations [ROW...] [--write]
                      makes for each row the change to the product that its test must find
  faults --check | --render
                      whether rows, tests, mutations and page belong together; writes the page anew
  figures             times of `device add` and memory in use, beside Incus' own proxy device
  deps                which crate may use which, unused dependencies, where `unsafe` stands
  licences            licences, sources and banned crates of all dependencies (deny.toml)
  sizes               lines per file, and the reasons for what is over the limit
  limits [--write]    docs/limits.md, made from the constants; --write writes it anew
  docs                links, commands, keys and settings in README.md, docs/ and contrib/
  units [--write]     docs/units.md beside what systemd-analyze says of contrib/systemd; --write writes it
  man [DIR]           man pages and shell completions into DIR (default target/man)
  package [deb] [rpm] [tar]
                      packages in target/package, of a build without paths of this machine; tar has a static
                      program; all three when none is named
  package --check     packages of the release build that is there, one of them installed in a bare Debian
  reproduce           two builds of the last commit in two places, which have to be the same
  sbom [FILE]         what the program is made of, as CycloneDX

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
        ["faults", rest @ ..] => match faults::Options::parse(rest) {
            Ok(options) => Command::Faults(options),
            Err(problem) => {
                eprintln!("xtask: faults: {problem}");
                return ExitCode::from(2);
            }
        },
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
        ["units"] => Command::Units { write: false },
        ["units", "--write"] => Command::Units { write: true },
        ["man"] => Command::Man { dir: None },
        ["man", dir] if !dir.starts_with('-') => Command::Man { dir: Some(PathBuf::from(dir)) },
        ["package", "--check"] => Command::CheckPackage,
        ["package"] => Command::Package(vec![Kind::Deb, Kind::Rpm, Kind::Tarball]),
        ["package", kinds @ ..] if kinds.iter().all(|kind| Kind::named(kind).is_some()) => {
            Command::Package(kinds.iter().filter_map(|kind| Kind::named(kind)).collect())
        }
        ["reproduce"] => Command::Reproduce,
        ["sbom"] => Command::Sbom { file: None },
        ["sbom", file] if !file.starts_with('-') => Command::Sbom { file: Some(PathBuf::from(file)) },
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
    Faults(faults::Options),
    Figures,
    Deps,
    Licences,
    Sizes,
    Limits(limits::Mode),
    Docs,
    Units { write: bool },
    Man { dir: Option<PathBuf> },
    Package(Vec<Kind>),
    CheckPackage,
    Reproduce,
    Sbom { file: Option<PathBuf> },
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        let workspace = Workspace::load()?;
        match self {
            Self::Test { quick } => test::run(&workspace, quick),
            Self::Bench(arguments) => bench::run(&workspace, &arguments),
            Self::Counts(arguments) => bench::run_counts(&workspace, &arguments),
            Self::Faults(options) => faults::run(&workspace, &options),
            Self::Figures => figures::run(&workspace),
            Self::Deps => deps::check(&workspace),
            Self::Licences => licences::check(&workspace),
            Self::Sizes => sizes::check(&workspace),
            Self::Limits(mode) => limits::run(&workspace, mode),
            Self::Docs => docs::check(&workspace, &workspace.portway()?),
            Self::Units { write } => units::check(&workspace, write),
            Self::Man { dir } => {
                let dir = dir.unwrap_or_else(|| workspace.target().join("man"));
                man::generate(&workspace.portway()?, &dir)
            }
            Self::Package(kinds) => package::make(&workspace, &kinds),
            Self::CheckPackage => package::check(&workspace),
            Self::Reproduce => package::reproduce(&workspace),
            Self::Sbom { file } => sbom::write(&workspace, file.as_deref()),
        }
    }
}
