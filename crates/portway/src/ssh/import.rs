//! `portway ssh import`: an installation of ssh2incus becomes settings of ours.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use portway_config::Settings;
use portway_config::files::{self, FileError, Trust};
use portway_sshgw::create::{CreateConfig, CreateConfigError};
use portway_sshgw::import::{self, Found};

use crate::cli::ssh::ImportArgs;
use crate::failure::{Outcome, Stop, chain};
use crate::output::Out;
use crate::service::wrong_settings;
use crate::session::paths;

/// Longest file that is read.
const FILE_BYTES: u64 = 1 << 20;

/// Texts that are taken over as they are.
const TEXTS: [&str; 2] = ["banner.txt", "welcome.txt"];

/// How instances are made, which may include other files of the folder.
const CREATE: &str = "create-config.yaml";

/// A file to be written.
struct Write {
    path: PathBuf,
    text: String,
    /// Permissions it gets.
    mode: u32,
}

/// What everybody may read, and what may hold passwords of instances.
const OPEN: u32 = 0o644;
const SECRET: u32 = 0o600;

/// Reads an installation and writes ours, or says what it would write.
pub(super) fn run(args: &ImportArgs) -> Outcome {
    let target = paths()?.config;
    let read = |path: &Path| match files::read(path, FILE_BYTES, Trust::Named) {
        Ok(bytes) => files::text(path, bytes).map(Some),
        Err(FileError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let read = |path: &Path| read(path).map_err(|error| unreadable(&error));
    let create = args.from.join(CREATE);
    let create = create.exists().then(|| created(&create)).transpose()?;
    let found = Found {
        defaults: read(&args.defaults)?,
        config: read(&args.from.join("config.yaml"))?,
        create: create.as_ref().map(|config| config.warnings.clone()),
    };
    if found == Found::default() && !args.from.is_dir() {
        let stop =
            format!("there is no ssh2incus: neither {} nor {}", args.defaults.display(), args.from.display());
        return Err(Stop::of(portway_control::api::FailureKind::Missing, stop)
            .hint("`--from` and `--defaults` name its folder and its file of arguments"));
    }
    let imported = import::import(&found).map_err(|error| Stop::usage(chain(&error)))?;
    let settings = read(&target)?.unwrap_or_default();
    let merged = merged(&settings, &imported.table, args.force).ok_or_else(|| {
        Stop::refused(format!("{} has settings for SSH", target.display())).hint("--force replaces them")
    })?;
    // What is written has to be read.
    Settings::parse(&target, &merged).map_err(|error| wrong_settings(&error))?;
    let mut writes = vec![Write { path: target.clone(), text: merged, mode: OPEN }];
    let included = create.iter().flat_map(|config| config.included.iter().map(String::as_str));
    let create = create.iter().map(|_| CREATE).chain(included);
    let names: BTreeSet<&str> = TEXTS.into_iter().chain(create).collect();
    for name in names {
        let path = target.with_file_name(name);
        let Some(text) = read(&args.from.join(name))? else { continue };
        match read(&path)? {
            Some(there) if there == text => {}
            Some(_) if !args.force => {
                let stop = Stop::refused(format!("{} is there and says something else", path.display()));
                return Err(stop.hint("--force replaces it"));
            }
            _ => {
                let mode = if TEXTS.contains(&name) { OPEN } else { SECRET };
                writes.push(Write { path, text, mode });
            }
        }
    }
    let mut out = Out::new();
    if args.dry_run {
        out.text(&imported.table)?;
    }
    for write in &writes {
        if !args.dry_run {
            replace(write).map_err(|error| {
                Stop::refused(format!("cannot write {}: {}", write.path.display(), chain(&error)))
            })?;
        }
        let would = if args.dry_run { "would write" } else { "written:" };
        out.line(&format!("{would} {}", write.path.display()))?;
    }
    for line in &imported.differences {
        out.line(&format!("differs: {line}"))?;
    }
    Ok(())
}

/// How instances are made there.
fn created(path: &Path) -> Outcome<CreateConfig> {
    CreateConfig::load_trusting(path, Trust::Named).map_err(|error| match error {
        CreateConfigError::Syntax { .. } => Stop::usage(chain(&error)),
        CreateConfigError::File(file) => unreadable(&file),
    })
}

/// The settings with this table for `[ssh]`; `None` when there is one that is not to go.
fn merged(settings: &str, table: &str, force: bool) -> Option<String> {
    let is_head = |line: &str| line.trim_start().starts_with('[');
    let is_ours = |line: &str| line.trim_start().starts_with("[ssh]");
    if settings.lines().any(is_ours) && !force {
        return None;
    }
    let mut kept = String::new();
    let mut within = false;
    for line in settings.lines() {
        if is_head(line) {
            within = is_ours(line);
        }
        if !within {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    let gap = if kept.is_empty() || kept.ends_with("\n\n") { "" } else { "\n" };
    Some(format!("{kept}{gap}{table}"))
}

/// Writes a file as a whole, or not at all.
fn replace(write: &Write) -> io::Result<()> {
    if let Some(dir) = write.path.parent() {
        fs::create_dir_all(dir)?;
    }
    let draft = write.path.with_extension("new");
    // One that was left behind by somebody else, or with other permissions, is not written into.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(write.mode).open(&draft)?;
    file.write_all(write.text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, &write.path)
}

fn unreadable(error: &FileError) -> Stop {
    let stop = if error.is_malformed() { Stop::usage(chain(error)) } else { Stop::refused(chain(error)) };
    match error.hint() {
        Some(hint) => stop.hint(hint),
        None => stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when another table is lost, or one of ours is replaced without being asked.
    #[test]
    fn only_our_table_is_replaced() {
        let table = "[ssh]\nlisten = \":22\"\n";
        assert_eq!(merged("", table, false).as_deref(), Some(table));
        let other = "[daemon]\nlog = \"info\"\n";
        assert_eq!(merged(other, table, false), Some(format!("{other}\n{table}")));
        let both = format!("[ssh]\nlisten = \":1\"\n{other}");
        assert_eq!(merged(&both, table, false), None);
        assert_eq!(merged(&both, table, true), Some(format!("{other}\n{table}")));
    }
}
