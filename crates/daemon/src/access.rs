//! The access log: a line of JSON for each connection and flow that is over.
//!
//! Workers make the records; a thread of its own writes them, so that a slow disk holds nobody up. What waits for it is
//! bounded, and what there is no room for, or cannot be written, is counted and lost.

mod file;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use portway_config::AccessSettings;
use portway_model::{DeviceName, InstanceKey, rfc3339};
use portway_relay::wire::AccessRecord;
use serde::Serialize;
use tracing::{info, warn};

use self::file::LogFile;
use crate::tally::{self, Done, Hit};

/// Batches of records that wait to be written; each has at most 32.
const QUEUE_LENGTH: usize = 512;

/// Longest text of a worker's in a line, characters.
const TEXT_MAX_CHARS: usize = 300;

/// Where and how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    path: PathBuf,
    max_bytes: u64,
    files: u32,
}

/// Records of one message of a worker.
#[derive(Debug)]
struct Batch {
    instance: InstanceKey,
    worker: String,
    records: Vec<AccessRecord>,
}

/// What the thread is to do.
#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Batch>,
    /// Where it writes; `None`: nowhere.
    target: Option<Target>,
    /// The file is to be opened again: it may have been moved away.
    reopens: bool,
    ends: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Why nothing is written at present.
    failing: Mutex<Option<String>>,
}

/// See the module. Off until it is told where to write.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccessLog {
    /// Takes over settings, and opens the file again. `path` is where it is when they do not say.
    pub(crate) fn follow(&self, settings: &AccessSettings, path: &Path) {
        let target = settings.on.then(|| Target {
            path: settings.path.clone().unwrap_or_else(|| path.to_owned()),
            max_bytes: settings.max_bytes,
            files: settings.files,
        });
        let is_on = target.is_some();
        {
            let mut queue = locked(&self.shared.queue);
            queue.target = target;
            queue.reopens = true;
        }
        self.shared.changed.notify_one();
        let mut writer = locked(&self.writer);
        if is_on && writer.is_none() {
            let shared = Arc::clone(&self.shared);
            match std::thread::Builder::new().name("access".into()).spawn(move || shared.run()) {
                Ok(handle) => *writer = Some(handle),
                Err(error) => warn!(%error, "no thread for the access log"),
            }
        }
    }

    /// Whether records are wanted.
    pub(crate) fn is_on(&self) -> bool {
        locked(&self.shared.queue).target.is_some()
    }

    /// Why nothing is written, if it should be.
    pub(crate) fn failure(&self) -> Option<String> {
        locked(&self.shared.failing).clone()
    }

    /// Has the records of a worker of `instance` written; `lost` more could not be told.
    pub(crate) fn take(&self, instance: &InstanceKey, worker: &str, records: Vec<AccessRecord>, lost: u64) {
        self.lose(lost);
        let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
        let mut queue = locked(&self.shared.queue);
        if queue.target.is_none() || records.is_empty() {
            return;
        }
        if queue.batches.len() >= QUEUE_LENGTH {
            drop(queue);
            tally::hit(Hit::AccessQueue);
            return self.lose(count);
        }
        let (instance, worker) = (instance.clone(), worker.to_owned());
        queue.batches.push_back(Batch { instance, worker, records });
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// Counts records that nobody will see.
    pub(crate) fn lose(&self, count: u64) {
        if count > 0 {
            tally::add(Done::AccessLost, count);
        }
    }

    /// Writes what waits, and ends the thread.
    pub(crate) fn end(&self) {
        locked(&self.shared.queue).ends = true;
        self.shared.changed.notify_one();
        if let Some(writer) = locked(&self.writer).take() {
            // It does not panic; if it did, there is nothing left to write with.
            let _ended = writer.join();
        }
    }
}

impl Shared {
    /// The thread.
    fn run(&self) {
        let mut open: Option<(Target, LogFile)> = None;
        loop {
            let (batch, target) = {
                let mut queue = locked(&self.queue);
                loop {
                    if std::mem::take(&mut queue.reopens) {
                        open = None;
                    }
                    if let Some(batch) = queue.batches.pop_front() {
                        break (batch, queue.target.clone());
                    }
                    if queue.ends {
                        return;
                    }
                    queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let Some(target) = target else { continue };
            let (lines, count) = lines(&batch);
            let written = write(&mut open, target, &lines);
            self.note(&written, count);
        }
    }

    /// Counts what became of `count` records, and says it when that changes.
    fn note(&self, written: &std::io::Result<()>, count: u64) {
        let mut failing = locked(&self.failing);
        match (written, failing.is_some()) {
            (Ok(()), was_failing) => {
                tally::add(Done::AccessWritten, count);
                if was_failing {
                    info!("access log is written again");
                    *failing = None;
                }
            }
            (Err(error), was_failing) => {
                tally::add(Done::AccessLost, count);
                tally::count(Done::AccessFailed);
                let text = crate::state::with_sources(error);
                if !was_failing {
                    warn!(error = text, "access log not written, records are lost");
                }
                *failing = Some(text);
            }
        }
    }
}

/// Appends `lines` to the file of `target`, which is opened or changed when it is time.
fn write(open: &mut Option<(Target, LogFile)>, target: Target, lines: &[u8]) -> std::io::Result<()> {
    if open.as_ref().is_none_or(|(of, _)| *of != target) {
        *open = None;
        let file = LogFile::open(&target.path)?;
        *open = Some((target, file));
    }
    let Some((target, file)) = open else { return Ok(()) };
    if file.is_full(lines, target.max_bytes) {
        file::turn(&target.path, target.files)?;
        *file = LogFile::open(&target.path)?;
    }
    file.append(lines)
}

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    instance: &'a str,
    device: &'a str,
    /// The worker and the number of the record in it.
    id: String,
    client: Option<String>,
    via: Option<String>,
    listen: &'a str,
    target: &'a str,
    bytes_in: u64,
    bytes_out: u64,
    duration_us: u64,
    dial_us: Option<u64>,
    end: &'a str,
}

/// The lines of a batch, and how many. A worker speaks of devices of its own instance or of none.
fn lines(batch: &Batch) -> (Vec<u8>, u64) {
    let instance = batch.instance.to_string();
    let (mut bytes, mut count, mut strange) = (Vec::new(), 0, 0);
    for record in &batch.records {
        let device = record.device.strip_prefix(instance.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let Some(device) = device.filter(|name| name.parse::<DeviceName>().is_ok()) else {
            strange += 1;
            continue;
        };
        let line = Line {
            time: rfc3339(UNIX_EPOCH + Duration::from_millis(record.ended_millis.min(MILLIS_MAX))),
            instance: &instance,
            device,
            id: format!("{}-{}", batch.worker, record.number),
            client: record.client.map(|client| client.to_string()),
            via: record.via.map(|via| via.to_string()),
            listen: cut(&record.listen),
            target: cut(&record.target),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            duration_us: record.lasted_micros,
            dial_us: record.dial_micros,
            end: cut(&record.end),
        };
        let before = bytes.len();
        match serde_json::to_writer(&mut bytes, &line) {
            Ok(()) => {
                bytes.push(b'\n');
                count += 1;
            }
            Err(_) => {
                bytes.truncate(before);
                strange += 1;
            }
        }
    }
    tally::add(Done::AccessLost, strange);
    (bytes, count)
}

/// The last moment of the year 9999: what a worker that lies says is a date all the same.
const MILLIS_MAX: u64 = 253_402_300_799_999;

/// The first part of a text of a worker's.
fn cut(text: &str) -> &str {
    text.char_indices().nth(TEXT_MAX_CHARS).map_or(text, |(end, _)| text.get(..end).unwrap_or_default())
}
