//! Checks of the documentation: links, command examples, the table of keys, example configurations, names of tests.
//!
//! A `portway` command in a `console` block is run for real, in a folder where no daemon answers: it may
//! fail to reach one, but not to understand its arguments. The keys of a device are read by the same
//! code the daemon uses. Commands that stay in the foreground are not run; their options are looked up in
//! their help.

mod blocks;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail, ensure};
use portway_config::Settings;
use portway_model::{DeviceName, DeviceSpec, InstanceRef};

use crate::named;
use crate::shell::{Example, examples};
use crate::workspace::Workspace;

/// Files of the top folder that are read, besides everything in `docs/`.
const TOP_FILES: &[&str] =
    &["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// The page that documents every key of a device.
const KEYS_PAGE: &str = "docs/devices.md";

/// The example of the daemon's settings.
const SETTINGS_EXAMPLE: &str = "contrib/portway.toml";

/// Commands that do not end by themselves, or do more than an example should.
const FOREGROUND: &[&str] = &["daemon", "demo", "proxy"];

/// Exit code of `portway` for arguments it does not understand.
const USAGE_CODE: i32 = 2;

/// Seconds after which an example is ended.
const EXAMPLE_SECONDS: &str = "10";

/// Checks README.md and its neighbours, docs/ and contrib/ against the binary `portway`.
///
/// # Errors
/// One line per offence.
pub(crate) fn check(workspace: &Workspace, portway: &Path) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("portway-docs-").tempdir().context("cannot make a folder")?;
    let runner = Runner { portway: portway.to_owned(), dir: dir.path().to_owned() };
    let mut faults = Vec::new();
    let mut commands = 0;
    let pages = pages(workspace)?;
    for path in &pages {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = workspace.relative(path).display().to_string();
        let broken = links(&text).into_iter().filter(|link| !path.with_file_name(link).exists());
        faults.extend(broken.map(|link| format!("{name}: link to {link}, which is not there")));
        for example in examples(&text) {
            commands += 1;
            if let Err(error) = runner.try_example(&example) {
                faults.push(format!("{name}:{}: {error:#}", example.line));
            }
        }
        faults.extend(blocks::faults(&runner, &name, &text));
        faults.extend(named::faults(workspace.root(), &name, &text));
        if name == KEYS_PAGE {
            faults.extend(key_faults(&text));
        }
    }
    faults.extend(settings_faults(workspace)?);
    if let Err(error) = crate::faults::check(workspace) {
        faults.push(format!("{error:#}"));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{} pages with {commands} commands, {} keys documented", pages.len(), DeviceSpec::KEYS.len());
    Ok(())
}

fn pages(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    let mut pages: Vec<PathBuf> = TOP_FILES.iter().map(|name| workspace.root().join(name)).collect();
    for entry in fs::read_dir(workspace.root().join("docs")).context("cannot list docs/")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(pages)
}

/// Files a page links to, without their anchors.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.map(|target| target.split('#').next().unwrap_or_default());
    files.filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(' ')).collect()
}

/// Every key has a row `| `key` | … | default | …`, and no other row looks like one.
fn key_faults(page: &str) -> Vec<String> {
    let rows: Vec<Vec<&str>> = page.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    let row_of =
        |key: &str| rows.iter().find(|row| row.first().is_some_and(|cell| cell.trim_matches('`') == key));
    let mut faults = Vec::new();
    for key in DeviceSpec::KEYS {
        let Some(row) = row_of(key.name) else {
            faults.push(format!("{KEYS_PAGE}: key {} has no row in a table", key.name));
            continue;
        };
        if !key.default.is_empty() && row.get(2).map(|cell| cell.trim_matches('`')) != Some(key.default) {
            faults.push(format!("{KEYS_PAGE}: the default of {} is {}", key.name, key.default));
        }
    }
    faults
}

fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

/// The example is valid as it is, and with every commented key put in.
fn settings_faults(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let text =
        fs::read_to_string(workspace.root().join(SETTINGS_EXAMPLE)).context("cannot read the example")?;
    let open =
        |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned();
    let all: Vec<String> = text.lines().map(open).collect();
    let results = [&text, &all.join("\n")].map(|text| Settings::parse(Path::new(SETTINGS_EXAMPLE), text));
    Ok(results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect())
}

/// Runs examples where no daemon answers.
struct Runner {
    portway: PathBuf,
    dir: PathBuf,
}

impl Runner {
    fn try_example(&self, example: &Example) -> anyhow::Result<()> {
        let Some(arguments) = portway_arguments(&example.words) else { return Ok(()) };
        let Some(command) = arguments.iter().find(|word| !word.starts_with('-')) else { return Ok(()) };
        check_keys(arguments)?;
        if FOREGROUND.contains(&command.as_str()) {
            return self.check_options(command, arguments);
        }
        let output = self.run(arguments)?;
        let code = output.status.code().context("ended by a signal or not in time")?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(code != USAGE_CODE && code < 100, "{}: {}", example.words.join(" "), message.trim());
        Ok(())
    }

    /// Looks the options of a command up in its help.
    fn check_options(&self, command: &str, arguments: &[String]) -> anyhow::Result<()> {
        let output = self.run(&[command.to_owned(), "--help".to_owned()])?;
        ensure!(output.status.success(), "portway {command} --help failed");
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        for option in arguments.iter().filter(|word| word.starts_with("--")) {
            let name = option.split('=').next().unwrap_or(option);
            ensure!(help.contains(name), "portway {command} has no option {name}");
        }
        Ok(())
    }

    fn run(&self, arguments: &[String]) -> anyhow::Result<Output> {
        let mut command = Command::new("timeout");
        command.arg(EXAMPLE_SECONDS).arg(&self.portway).args(arguments).current_dir(&self.dir);
        command
            .env("PORTWAY_DIR", &self.dir)
            .env("INCUS_SOCKET", self.dir.join("no.socket"))
            .stdin(Stdio::null());
        command.output().with_context(|| format!("cannot run {}", self.portway.display()))
    }
}

/// The arguments when the command is ours, however it is started.
fn portway_arguments(words: &[String]) -> Option<&[String]> {
    let start = words.iter().position(|word| word != "sudo" && !word.contains('='))?;
    let words = &words[start..];
    let text: Vec<&str> = words.iter().map(String::as_str).collect();
    match text.as_slice() {
        ["portway" | "target/release/portway", ..] => words.get(1..),
        ["cargo", "run", "--release", "--", ..] => words.get(4..),
        _ => None,
    }
}

/// Reads the keys of `device add` and `proxy` as the daemon would.
fn check_keys(arguments: &[String]) -> anyhow::Result<()> {
    let plain: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let (instance, device, keys) = match plain.as_slice() {
        ["device", "add", instance, device, "proxy", keys @ ..]
        | ["device", "add", instance, device, keys @ ..] => (Some(*instance), Some(*device), keys),
        ["proxy", first, keys @ ..] if !first.contains('=') => (Some(*first), None, keys),
        ["proxy", keys @ ..] => (None, None, keys),
        _ => return Ok(()),
    };
    if let Some(instance) = instance {
        instance.parse::<InstanceRef>().with_context(|| format!("instance {instance}"))?;
    }
    if let Some(device) = device {
        device.parse::<DeviceName>().with_context(|| format!("device {device}"))?;
    }
    let mut pairs = Vec::new();
    for word in keys {
        pairs.push(word.split_once('=').with_context(|| format!("{word} is no key=value"))?);
    }
    DeviceSpec::from_keys(pairs)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{check_keys, key_faults, links, portway_arguments};

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn only_files() {
        assert_eq!(
            links("[a](docs/a.md#x) [b](#y) [c](https://example.com/) [d](b.md)"),
            ["docs/a.md", "b.md"]
        );
    }

    #[test]
    fn finds_our_commands() {
        let arguments = |line: &str| portway_arguments(&words(line)).map(<[String]>::to_vec);
        assert_eq!(arguments("portway status"), Some(words("status")));
        assert_eq!(arguments("sudo PORTWAY_DIR=/x portway status"), Some(words("status")));
        assert_eq!(arguments("cargo run --release -- demo --once"), Some(words("demo --once")));
        assert_eq!(arguments("cargo xtask test"), None);
    }

    #[test]
    fn reads_keys() {
        let check = |line: &str| check_keys(&words(line));
        assert!(check("device add c1 web listen=tcp::80 connect=tcp::80").is_ok());
        assert!(check("device add c1 web proxy listen=tcp::80 connect=tcp::80").is_ok());
        assert!(check("proxy netns:blue listen=tcp::80 connect=unix:/run/x").is_ok());
        assert!(check("device add c1 web listen=tcp::80").is_err());
        assert!(check("device add c1 web listen=tcp::80 connect=tcp::0").is_err());
        assert!(check("device add c1 - listen=tcp::80 connect=tcp::80").is_err());
    }

    #[test]
    fn a_key_without_a_row_is_a_fault() {
        let faults = key_faults("| `hold` | duration | `30s` | x |\n| `fds` | x | `off` | x |\n");
        assert!(!faults.iter().any(|fault| fault.contains("hold")));
        assert!(faults.iter().any(|fault| fault.ends_with("the default of fds is on")));
        assert!(faults.iter().any(|fault| fault.contains("key listen has no row")));
    }
}
