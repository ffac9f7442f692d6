//! The desired state on disk: which devices are wanted, nothing about what is there.
//!
//! One JSON file, replaced atomically (write aside, fsync, rename, fsync of the folder); the
//! generation before it stays beside it as `state.json.prev`. A checksum over the content
//! catches a torn or edited file; then the previous generation is used and said so. Changes
//! that arrive while one write runs are committed together by the next.

mod lines;
mod refused;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use portway_config::files::{self, FileError, Trust};
use portway_control::api::Place;
use portway_model::{DeviceKey, DeviceName, DeviceSpec, InstanceKey};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use self::lines::{Before, Lines, Sum};
pub(crate) use self::refused::{Refused, RefusedDevice, StoredText, keep_up};
use crate::aside::{Aside, AsideError};
use crate::tally::{self, Done, Hit};

/// Version of the file's layout.
const LAYOUT_VERSION: u32 = 1;

/// Changes that may wait for the writer.
const QUEUE_LENGTH: usize = 1024;

/// Largest state file that is read or written, bytes: 100,000 devices of 600 bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A wanted device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredDevice {
    /// Instance by name.
    pub(crate) instance: InstanceKey,
    /// UUID of the instance it was bound to at its first match.
    pub(crate) uuid: Option<String>,
    /// Device name.
    pub(crate) name: DeviceName,
    /// Its options.
    pub(crate) keys: DeviceSpec,
    /// What it was before it was imported.
    pub(crate) origin: Option<Origin>,
}

/// A device as Incus had it, for the way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    /// Its keys, `type` among them.
    pub(crate) device: BTreeMap<String, String>,
    /// Where it was.
    pub(crate) place: Place,
}

impl StoredDevice {
    /// The device's full name.
    pub(crate) fn key(&self) -> DeviceKey {
        DeviceKey { instance: self.instance.clone(), device: self.name.clone() }
    }
}

/// All wanted devices.
pub(crate) type Desired = BTreeMap<DeviceKey, StoredDevice>;

/// What can fail with the state file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] AsideError),
    /// The file cannot be read, or must not be trusted.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file's content is not a state file of this version.
    #[error("{path} is not a valid state file: {reason}")]
    Invalid {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// What is wanted is more than would be read again.
    #[error("{path} would be {size_bytes} bytes, more than {limit_bytes}: too many devices")]
    TooLarge {
        /// Which file.
        path: String,
        /// What it would be.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The writer has ended.
    #[error("the state writer has stopped")]
    Stopped,
}

/// The file as it is read. It is written by [`Lines::file`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    version: u32,
    generation: u64,
    sha256: String,
    devices: Vec<StoredText>,
}

/// One change of the desired state.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Adds or replaces a device.
    Put(Box<StoredDevice>),
    /// Removes a device.
    Delete(DeviceKey),
    /// Binds a device that is there to an instance, unless it is bound already. Does nothing else.
    Bind {
        /// Which device.
        key: DeviceKey,
        /// UUID of the instance.
        uuid: String,
    },
    /// Gives a device another name, all else unchanged.
    Rename {
        /// The present name.
        from: DeviceKey,
        /// The new one.
        to: DeviceKey,
    },
}

pub(crate) struct Commit {
    changes: Vec<Change>,
    reply: oneshot::Sender<Result<u64, String>>,
}

/// Handle of the state writer. Clones share it.
#[derive(Clone)]
pub(crate) enum Store {
    /// Writes to disk.
    Writing(mpsc::Sender<Commit>),
    /// Keeps nothing.
    Ephemeral,
    /// Writes nothing: the files hold what cannot be read, and stay for somebody to mend.
    Frozen,
}

/// What was found at the start.
pub(crate) struct Loaded {
    /// The devices.
    pub(crate) desired: Desired,
    /// Devices whose keys are refused.
    pub(crate) refused: Refused,
    /// Their generation.
    pub(crate) generation: u64,
    /// What went wrong on the way, for `status`; empty when nothing did.
    pub(crate) warnings: Vec<String>,
    /// A file was there that could not be used: `desired` is not the last generation.
    pub(crate) damaged: bool,
    /// No generation could be used, and there was one: what is wanted is not known.
    pub(crate) lost: bool,
}

impl Store {
    /// Starts the writer thread for `path`, which holds `loaded`. When that is lost, nothing is
    /// ever written.
    pub(crate) fn start(path: PathBuf, loaded: &Loaded) -> io::Result<Store> {
        if loaded.lost {
            return Ok(Store::Frozen);
        }
        let (queue, inbox) = mpsc::channel(QUEUE_LENGTH);
        let lines = Lines::of(&loaded.desired, &loaded.refused)?;
        let writer = Writer { path, lines, generation: loaded.generation, inbox };
        std::thread::Builder::new().name("state".into()).spawn(move || writer.run())?;
        Ok(Store::Writing(queue))
    }

    /// A store that keeps nothing: for a device in the foreground.
    pub(crate) fn ephemeral() -> Store {
        Store::Ephemeral
    }

    /// Commits `changes` together and returns the generation once it is on disk.
    ///
    /// Cancel safe: a commit that was queued is carried out all the same.
    ///
    /// # Errors
    /// The reason as one line; the state on disk and in memory is then what it was before.
    pub(crate) async fn commit(&self, changes: Vec<Change>) -> Result<u64, String> {
        let queue = match self {
            Store::Writing(queue) => queue,
            Store::Ephemeral => return Ok(0),
            Store::Frozen => return Err("the state on disk cannot be read and is left as it is".into()),
        };
        let (reply, answer) = oneshot::channel();
        queue.send(Commit { changes, reply }).await.map_err(|_| StateError::Stopped.to_string())?;
        answer.await.map_err(|_| StateError::Stopped.to_string())?
    }
}

struct Writer {
    path: PathBuf,
    lines: Lines,
    generation: u64,
    inbox: mpsc::Receiver<Commit>,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.inbox.blocking_recv() {
            let mut commits = vec![first];
            while let Ok(next) = self.inbox.try_recv() {
                commits.push(next);
            }
            let mut before = Before::default();
            let changes = commits.iter().flat_map(|commit| &commit.changes);
            let result = self.make(changes, &mut before).inspect(|_| tally::count(Done::StateWritten));
            let result = result.map_err(|failure| {
                tally::count(Done::StateNotWritten);
                if matches!(failure, StateError::TooLarge { .. }) {
                    tally::hit(Hit::StateBytes);
                }
                self.lines.restore(before);
                let text = with_sources(&failure);
                error!(error = %text, "state not written");
                text
            });
            for commit in commits {
                // The asker may be gone; the change stands all the same.
                let _ = commit.reply.send(result.clone());
            }
        }
    }

    /// Carries changes out and writes what comes of them; returns the generation that this is.
    fn make<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
        before: &mut Before,
    ) -> Result<u64, StateError> {
        for change in changes {
            self.lines.apply(change, before).map_err(|problem| invalid(&self.path, &problem))?;
        }
        save(&self.path, self.generation + 1, &self.lines)?;
        self.generation += 1;
        Ok(self.generation)
    }
}

/// The error and its sources on one line. The number behind a system error's words says nothing more to people.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    if let Some((words, number)) = text.rsplit_once(" (os error ")
        && number.ends_with(')')
    {
        text.truncate(words.len());
    }
    text
}

/// Carries `change` out on the map.
pub(crate) fn apply(desired: &mut Desired, change: &Change) {
    match change {
        Change::Put(device) => {
            desired.insert(device.key(), (**device).clone());
        }
        Change::Delete(key) => {
            desired.remove(key);
        }
        Change::Bind { key, uuid } => {
            if let Some(device) = desired.get_mut(key) {
                device.uuid.get_or_insert_with(|| uuid.clone());
            }
        }
        Change::Rename { from, to } => {
            if let Some(mut device) = desired.remove(from) {
                device.instance = to.instance.clone();
                device.name = to.device.clone();
                desired.insert(to.clone(), device);
            }
        }
    }
}

/// Reads the state at `path`, falling back to the previous generation: then the file that cannot be
/// used is kept aside as `*.damaged`. When there is no generation to fall back to, every file stays
/// as it is. What cannot be used is named in the warnings; this never fails.
pub(crate) fn load(path: &Path) -> Loaded {
    let mut warnings = Vec::new();
    let mut unusable: Vec<PathBuf> = Vec::new();
    for candidate in [path.to_path_buf(), previous(path)] {
        match read(&candidate) {
            Ok(Some(State { generation, desired, refused })) => {
                let damaged = !unusable.is_empty();
                if damaged {
                    warnings.push(format!("generation {generation} of {} is used", candidate.display()));
                }
                unusable.iter().for_each(|file| keep_aside(file));
                let failed =
                    |(key, device): (&DeviceKey, &RefusedDevice)| format!("{key}: {}", device.reason());
                warnings.extend(refused.iter().map(failed));
                return Loaded { desired, refused, generation, warnings, damaged, lost: false };
            }
            Ok(None) => {}
            Err(failure) => {
                let text = with_sources(&failure);
                warn!(error = %text, "state file not usable");
                warnings.push(text);
                unusable.push(candidate);
            }
        }
    }
    let lost = !unusable.is_empty();
    if lost {
        warnings.push("no generation of the state can be read: devices cannot be changed".into());
    }
    let (desired, refused) = (Desired::new(), Refused::new());
    Loaded { desired, refused, generation: 0, warnings, damaged: lost, lost }
}

fn keep_aside(path: &Path) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    if let Err(failure) = fs::rename(path, &aside) {
        warn!(path = %path.display(), error = %failure, "damaged state file not kept aside");
    }
}

fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".prev");
    PathBuf::from(name)
}

/// What one file holds.
pub(crate) struct State {
    generation: u64,
    desired: Desired,
    refused: Refused,
}

fn read(path: &Path) -> Result<Option<State>, StateError> {
    let text = match files::read(path, MAX_FILE_BYTES, Trust::Own) {
        Ok(text) => text,
        Err(FileError::Missing { .. }) => return Ok(None),
        Err(problem) => return Err(StateError::File(problem)),
    };
    decode(path, &text).map(Some)
}

/// What a state file says. A device whose keys are refused costs no other. `path` is only for messages.
///
/// # Errors
/// [`StateError::Invalid`].
pub(crate) fn decode(path: &Path, text: &[u8]) -> Result<State, StateError> {
    let layout: Layout = serde_json::from_slice(text).map_err(|problem| invalid(path, &problem))?;
    if layout.version != LAYOUT_VERSION {
        let reason = format!("layout version {} is not {LAYOUT_VERSION}", layout.version);
        return Err(invalid(path, &reason));
    }
    let mut sum = Sum::new(layout.generation);
    for device in &layout.devices {
        sum.add(&serde_json::to_string(device).map_err(|problem| invalid(path, &problem))?);
    }
    if sum.hex() != layout.sha256 {
        return Err(invalid(path, &"the checksum does not match"));
    }
    let mut state = State { generation: layout.generation, desired: Desired::new(), refused: Refused::new() };
    for device in layout.devices {
        let key = device.key();
        match device.read() {
            Ok(device) => drop(state.desired.insert(key, device)),
            Err(refused) => drop(state.refused.insert(key, *refused)),
        }
    }
    Ok(state)
}

fn invalid(path: &Path, reason: &dyn std::fmt::Display) -> StateError {
    StateError::Invalid { path: path.display().to_string(), reason: reason.to_string() }
}

/// Replaces the file at `path` by `lines`; the file there becomes the previous generation.
///
/// # Errors
/// [`StateError::Write`], [`StateError::TooLarge`]; the file at `path` is then unchanged.
fn save(path: &Path, generation: u64, lines: &Lines) -> Result<(), StateError> {
    let text = lines.file(generation);
    check_size(path, &text, MAX_FILE_BYTES)?;
    Ok(replace(path, &text)?)
}

/// Whether so much is read again. `path` is only for messages.
fn check_size(path: &Path, text: &[u8], limit_bytes: u64) -> Result<(), StateError> {
    let size_bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if size_bytes > limit_bytes {
        return Err(StateError::TooLarge { path: path.display().to_string(), size_bytes, limit_bytes });
    }
    Ok(())
}

fn replace(path: &Path, text: &[u8]) -> Result<(), AsideError> {
    let fresh = Aside::write(path, text, 0o666)?;
    let before = previous(path);
    let is_first = !path.exists();
    if !is_first {
        match fs::remove_file(&before) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(AsideError::of("replace", &before)(source));
            }
            _ => fs::hard_link(path, &before).map_err(AsideError::of("keep", &before))?,
        }
    }
    fresh.replace().inspect_err(|_| take_back(path, is_first))
}

/// The folder could not be synced, and the new content stands at `path` all the same: whoever asked for it is told that it
/// is not there, and the next daemon must not find it.
fn take_back(path: &Path, is_first: bool) {
    let taken = if is_first {
        fs::remove_file(path).or_else(|failure| match failure.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(failure),
        })
    } else {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".back");
        let aside = PathBuf::from(aside);
        let linked = fs::hard_link(previous(path), &aside).and_then(|()| fs::rename(&aside, path));
        // Left when both are the same file already (rename(2)), or the rename has failed.
        let _ = fs::remove_file(&aside);
        linked
    };
    if let Err(failure) = taken {
        error!(path = %path.display(), error = %failure, "a state that was refused could not be taken back");
    }
}

#[cfg(test)]
mod tests;
