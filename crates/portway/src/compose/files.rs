//! Which Compose files are read, and how.

use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use portway_composefile::{Environment, Host, MAX_FILE_BYTES, Options, Source, variables};
use portway_config::files::{self, FileError, Trust};
use portway_control::api::FailureKind;

use crate::cli::compose::FileArgs;
use crate::failure::{Outcome, Stop};

/// Names of Compose files, the preferred ones first.
const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

/// What the arguments say, and below them the variables of incus-compose and those of docker compose.
pub(super) fn options(args: &FileArgs) -> Outcome<Options> {
    let here = std::env::current_dir()
        .map_err(|error| Stop::refused(format!("cannot tell this folder: {error}")))?;
    let mut environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let dir = args.project_directory.clone();
    let dir = dir.or_else(|| said(&environment, "INCUS_COMPOSE_PROJECT_DIRECTORY").map(PathBuf::from));
    let dir = dir.map(|dir| here.join(dir));
    let env_files = env_files(args, &environment, &here);
    let mut named = named(args, &environment);
    if named.is_empty() {
        named = named_inside(&mut environment, env_files.as_deref(), dir.as_deref(), &here)?;
    }
    let sources = sources(&named, &here, dir.as_deref())?;
    let first = sources.iter().find_map(|source| match source {
        Source::File(path) => path.parent().map(Path::to_path_buf),
        Source::Text(_) => None,
    });
    let profiles = match (&args.profiles[..], said(&environment, "INCUS_COMPOSE_PROFILES")) {
        ([], Some(said)) => said.split(',').map(|name| name.trim().to_owned()).collect(),
        (profiles, _) => profiles.to_vec(),
    };
    Ok(Options {
        dir: normal(&dir.or(first).unwrap_or(here)),
        sources,
        name: args.project_name.clone().or_else(|| said(&environment, "INCUS_COMPOSE_PROJECT_NAME").cloned()),
        env_files,
        profiles,
        services: Vec::new(),
        enabled: Vec::new(),
        interpolate: true,
        environment,
    })
}

/// The value of a variable that has one.
fn said<'e>(environment: &'e Environment, name: &str) -> Option<&'e String> {
    environment.get(name).filter(|said| !said.is_empty())
}

/// The files of variables that are named.
fn env_files(args: &FileArgs, environment: &Environment, here: &Path) -> Option<Vec<PathBuf>> {
    let variable =
        said(environment, "INCUS_COMPOSE_ENV_FILE").or_else(|| said(environment, "COMPOSE_ENV_FILES"));
    match (&args.env_files[..], variable) {
        ([], None) => None,
        ([], Some(said)) => Some(said.split(',').map(|file| here.join(file)).collect()),
        (files, _) => Some(files.iter().map(|file| here.join(file)).collect()),
    }
}

/// A path without `.` and `..`, by its text: what is printed must not depend on links.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}

/// The files that are named: by arguments, else by a variable.
fn named(args: &FileArgs, environment: &Environment) -> Vec<PathBuf> {
    if !args.files.is_empty() {
        return args.files.clone();
    }
    match said(environment, "INCUS_COMPOSE_FILE") {
        Some(said) => said.split(',').map(PathBuf::from).collect(),
        None => compose_file(environment),
    }
}

/// The files of `COMPOSE_FILE`.
fn compose_file(environment: &Environment) -> Vec<PathBuf> {
    let separator = said(environment, "COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
    let said = said(environment, "COMPOSE_FILE");
    said.map(|said| said.split(separator).map(PathBuf::from).collect()).unwrap_or_default()
}

/// The files of `COMPOSE_FILE` in the `.env` that stands where a Compose file would be found. What else is said there then
/// counts as said outside, as with docker compose: above the `.env` beside those files.
fn named_inside(
    environment: &mut Environment,
    env_files: Option<&[PathBuf]>,
    dir: Option<&Path>,
    here: &Path,
) -> Outcome<Vec<PathBuf>> {
    let begin = dir.unwrap_or(here);
    let holds = |dir: &&Path| NAMES.iter().any(|name| dir.join(name).is_file());
    let beside = dir.or_else(|| begin.ancestors().find(holds)).unwrap_or(here);
    let known = variables(beside, env_files, environment, &Disk).map_err(super::stop)?;
    let named = compose_file(&known);
    if !named.is_empty() {
        *environment = known;
    }
    Ok(named)
}

/// The named files, else the ones that are found; behind them all, what is for Incus only.
fn sources(named: &[PathBuf], here: &Path, dir: Option<&Path>) -> Outcome<Vec<Source>> {
    let mut sources = Vec::new();
    for file in named {
        if file.as_os_str() == "-" {
            sources.push(Source::Text(standard_input()?));
        } else {
            sources.push(Source::File(normal(&here.join(file))));
        }
    }
    if sources.is_empty() {
        sources = found(dir.unwrap_or(here))?;
    }
    let overlays: Vec<Source> = sources.iter().filter_map(overlay).collect();
    sources.extend(overlays);
    Ok(sources)
}

/// `compose.incus.yaml` beside `compose.yaml`, as incus-compose has it.
fn overlay(source: &Source) -> Option<Source> {
    let Source::File(path) = source else { return None };
    let ending = path.extension()?.to_str()?;
    let path = path.with_extension(format!("incus.{ending}"));
    path.is_file().then_some(Source::File(path))
}

fn standard_input() -> Outcome<String> {
    let mut text = String::new();
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let read = io::stdin().take(limit).read_to_string(&mut text);
    read.map_err(|error| Stop::usage(format!("cannot read standard input: {error}")))?;
    Ok(text)
}

/// The Compose file in `dir` or the nearest folder above, and the one beside it that is laid over it.
fn found(dir: &Path) -> Outcome<Vec<Source>> {
    for dir in dir.ancestors() {
        let Some(name) = NAMES.iter().find(|name| dir.join(name).is_file()) else { continue };
        let mut sources = vec![Source::File(dir.join(name))];
        let stem = name.split('.').next().unwrap_or_default();
        let over = ["yaml", "yml"].map(|ending| dir.join(format!("{stem}.override.{ending}")));
        sources.extend(over.into_iter().find(|path| path.is_file()).map(Source::File));
        return Ok(sources);
    }
    let what = format!("there is no {} in {} or above", NAMES.join(", "), dir.display());
    Err(Stop::of(FailureKind::Missing, what).hint("name one with --file"))
}

/// Most links that are followed beyond what is there.
const MAX_LINKS: u32 = 40;

/// Where a path leads when links are followed, also when its last parts are not there yet; `None` when nobody can tell.
pub(super) fn real(path: &Path) -> Option<PathBuf> {
    real_after(path, MAX_LINKS)
}

fn real_after(path: &Path, links: u32) -> Option<PathBuf> {
    match std::fs::canonicalize(path) {
        Ok(real) => return Some(real),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return None,
        Err(_) => {}
    }
    // A link to what is not there is still a link.
    if let Ok(target) = std::fs::read_link(path) {
        return real_after(&path.parent()?.join(target), links.checked_sub(1)?);
    }
    Some(real_after(path.parent()?, links)?.join(path.file_name()?))
}

/// Real files.
pub(super) struct Disk;

impl Host for Disk {
    fn read(&self, path: &Path) -> io::Result<String> {
        let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
        let bytes = files::read(path, limit, Trust::Named).map_err(|error| match error {
            FileError::Read { source, .. } => source,
            FileError::Missing { .. } => io::ErrorKind::NotFound.into(),
            other => io::Error::other(other.to_string()),
        })?;
        String::from_utf8(bytes).map_err(|_| io::Error::other("it is no UTF-8 text"))
    }

    fn is_file(&self, path: &Path) -> bool {
        path.is_file()
    }

    fn real(&self, path: &Path) -> Option<PathBuf> {
        real(path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Fails when a link of any kind is taken for what it is called.
    #[test]
    fn links_are_followed_as_far_as_there_is_something() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("it is there");
        let at = |name: &str| root.join(name);
        std::fs::create_dir_all(at("shop/in")).expect("made");
        for (target, link) in [
            ("/", "shop/all"),
            ("../other/new", "shop/dangling"),
            ("dangling", "shop/twice"),
            ("round", "shop/round"),
            ("gone/../../etc", "shop/climbs"),
            ("shop", "link"),
        ] {
            symlink(target, at(link)).expect("a link");
        }
        for (path, leads) in [
            ("shop/in", Some(at("shop/in"))),
            ("link/in", Some(at("shop/in"))),
            ("shop/all/etc", Path::new("/etc").canonicalize().ok()),
            ("shop/all/no/such", Some(PathBuf::from("/no/such"))),
            ("shop/new/folder", Some(at("shop/new/folder"))),
            ("shop/dangling", Some(at("other/new"))),
            ("shop/dangling/below", Some(at("other/new/below"))),
            ("shop/twice", Some(at("other/new"))),
            ("shop/new/../..", None),
            ("shop/round", None),
            ("shop/climbs", None),
        ] {
            assert_eq!(real(&at(path)), leads, "{path}");
        }
    }
}
