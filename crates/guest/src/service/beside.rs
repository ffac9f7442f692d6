//! A program beside the service: as its user, with its groups, variables and folder. A test of its health is one.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use portway_proto::service::health::LIMIT;
use portway_proto::service::{NOT_RUN, SPEC, Spec, User};
use portway_sys::process::program::{Ids, become_for_good};
use rustix::fs::Mode;

use super::{UMASK, find, user, variables, within};
use crate::status;

/// Variables of the first process: those that the instance gives the service.
const GIVEN: &str = "/proc/1/environ";

/// What a program beside the service runs in, and where its file is.
pub(super) struct Place {
    pub(super) path: CString,
    pub(super) env: Vec<CString>,
    pub(super) who: User,
    pub(super) cwd: Vec<u8>,
}

impl Place {
    /// That of the program that `words` say, beside the service of `dir`. What is not there has a status as of a shell.
    pub(super) fn of(dir: &Path, words: &[&OsStr]) -> Result<Place, (u8, String)> {
        let name = words.first().ok_or_else(|| (status::USAGE, "nothing is said to run".to_owned()))?;
        let cannot = |why: String| (NOT_RUN[0], why);
        let spec =
            fs::read(dir.join(SPEC)).map_err(|error| cannot(format!("cannot read the service: {error}")))?;
        let spec = Spec::read(&spec).map_err(|error| cannot(format!("cannot read the service: {error}")))?;
        let who = user::find(Path::new("/etc"), &spec.user, &spec.groups).map_err(cannot)?;
        let env = variables(&spec, &who, given()?);
        let path = find(name.as_bytes(), &env)
            .ok_or_else(|| (NOT_RUN[1], format!("{}: not found", name.to_string_lossy())))?;
        Ok(Place { path, env, who, cwd: if spec.cwd.is_empty() { b"/".to_vec() } else { spec.cwd } })
    }

    /// Whether this process is its user already, and may not be anybody else.
    pub(super) fn is_ours(&self) -> bool {
        rustix::process::geteuid().as_raw() == self.who.uid && self.who.uid != 0
    }
}

/// Becomes the program that `words` say, in what the service of `dir` runs in; or, where [`LIMIT`] says how long it may
/// take, waits for it and returns its status.
pub(crate) fn beside(dir: &Path, words: &[&OsStr]) -> Result<u8, (u8, String)> {
    if let Some(limit) = std::env::var_os(LIMIT) {
        return within::guarded(dir, &limit, words);
    }
    let place = Place::of(dir, words)?;
    let cannot = |why: String| (NOT_RUN[0], why);
    if !place.is_ours() {
        let who = &place.who;
        let ids = Ids { uid: who.uid, gid: who.gid, groups: &who.groups };
        become_for_good(ids).map_err(|error| cannot(format!("cannot become its user: {error}")))?;
    }
    rustix::process::umask(Mode::from_raw_mode(UMASK.into()));
    let cwd = Path::new(OsStr::from_bytes(&place.cwd));
    // As the service itself: where its folder cannot be entered, in none.
    let entered = std::env::set_current_dir(cwd).or_else(|_| std::env::set_current_dir("/"));
    entered.map_err(|error| cannot(format!("cannot enter a folder: {error}")))?;
    let pairs = place.env.iter().filter_map(|entry| {
        let entry = entry.as_bytes();
        let at = entry.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(entry.get(..at)?), OsStr::from_bytes(entry.get(at + 1..)?)))
    });
    let mut program = Command::new(OsStr::from_bytes(place.path.as_bytes()));
    program.arg0(words[0]).args(words.get(1..).unwrap_or_default()).env_clear().envs(pairs);
    Err(refusal(words[0], &program.exec()))
}

/// What the first process was given, without which there is no service to be beside of.
fn given() -> Result<Vec<Vec<u8>>, (u8, String)> {
    let all = fs::read(GIVEN).map_err(|error| (NOT_RUN[0], format!("cannot read {GIVEN}: {error}")))?;
    Ok(all.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()).map(<[u8]>::to_vec).collect())
}

fn refusal(name: &OsStr, error: &io::Error) -> (u8, String) {
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    (NOT_RUN[usize::from(is_missing)], format!("{}: {error}", name.to_string_lossy()))
}
