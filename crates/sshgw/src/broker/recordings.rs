//! The files of recordings: made here, written by the processes of connections, which have no way to any other.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use portway_model::rfc3339;

use super::grant::Grant;
use super::open::Order;
use crate::options::Recording;
use crate::recording::{Terms, header};
use crate::wire::What;

/// A file that was made for a recording.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) file: File,
    pub(super) terms: Terms,
    pub(super) path: PathBuf,
}

/// Programs of one session that begin within a millisecond.
const AT_ONCE: u32 = 256;

/// Makes the file of what a program of a session shows: below a folder for each day, nobody's else to read.
///
/// # Errors
/// It cannot be made, or its first line cannot be written; nothing is left behind then.
pub(super) fn make(
    (dir, settings): (&Path, &Recording),
    session: &str,
    grant: &Grant,
    order: &Order,
) -> io::Result<Made> {
    let now = SystemTime::now();
    let (mut file, path) = fresh(dir, session, &rfc3339(now))?;
    let began = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let place = format!("{}@{}", grant.instance_user, grant.instance);
    let title = format!("{}: {place}, {}, {}", grant.person, grant.project, grant.remote);
    let size = order.terminal.as_ref().map(|terminal| (terminal.width, terminal.height));
    let kind = order.terminal.as_ref().map(|terminal| terminal.kind.as_str());
    let command = (order.what == What::Command).then(|| String::from_utf8_lossy(&order.command));
    let first = header(size, began, &title, kind, command.as_deref());
    if let Err(error) = file.write_all(first.as_bytes()) {
        let _gone = fs::remove_file(&path);
        return Err(error);
    }
    let terms = Terms { most_bytes: settings.most_bytes, goes_on: settings.goes_on };
    Ok(Made { file, terms, path })
}

/// Whether a folder is ours alone, if it is there: who else writes there could have a day lead elsewhere.
pub(super) fn check(dir: &Path) -> Result<(), String> {
    let Ok(found) = fs::metadata(dir) else { return Ok(()) };
    let is_ours = found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if is_ours { Ok(()) } else { Err(format!("recordings: others can write into {}", dir.display())) }
}

/// A new file: the folder of its day, and in it the time and the session.
fn fresh(dir: &Path, session: &str, now: &str) -> io::Result<(File, PathBuf)> {
    let (day, time) = now.split_once('T').unwrap_or((now, ""));
    let time: String = time.chars().filter(char::is_ascii_digit).collect();
    let dir = dir.join(day);
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let mut number = 0;
    loop {
        let more = if number == 0 { String::new() } else { format!("-{number}") };
        let path = dir.join(format!("{time}-{session}{more}.cast"));
        // O_EXCL follows no link (open(2)); O_APPEND so that nothing is written over.
        match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < AT_ONCE => number += 1,
            opened => return Ok((opened?, path)),
        }
    }
}

impl Made {
    /// Nothing came of what was to be recorded.
    pub(super) fn discard(self) {
        // It stays, and says that nothing was shown.
        let _stays = fs::remove_file(&self.path);
    }

    /// As the audit log has it: the folder of its day, and its name.
    pub(super) fn name(&self) -> String {
        let parts = self.path.iter().rev().take(2).map(|part| part.to_string_lossy().into_owned());
        let mut parts: Vec<String> = parts.collect();
        parts.reverse();
        parts.join("/")
    }
}
