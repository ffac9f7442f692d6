//! What a service says, kept in files that do not grow beyond a bound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use portway_proto::service::{LOG_MAX_BYTES, LOGS, Record, Source, Stamp, TEXT_MAX_BYTES};
use rustix::fs::OFlags;

/// The log of one service. A disk that is full costs lines and never holds the service up.
pub(super) struct Log {
    dir: PathBuf,
    file: File,
    file_bytes: u64,
    last: Stamp,
    /// Beginnings of lines: of standard output, of standard error.
    begun: [Vec<u8>; 2],
    /// Records that have not been written yet.
    records: Vec<u8>,
}

impl Log {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file = open(dir)?;
        let file_bytes = file.metadata()?.len();
        // A clock may have been set back since.
        let before = fs::read(dir.join(LOGS[0])).unwrap_or_default();
        let last = Record::all(&before).map(|record| record.at).max().unwrap_or_default();
        if !before.is_empty() && !before.ends_with(b"\n") {
            (&file).write_all(b"\n")?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            file,
            file_bytes,
            last,
            begun: Default::default(),
            records: Vec::new(),
        })
    }

    /// The time; never twice the same, and never an earlier one.
    pub(super) fn stamp(&mut self) -> Stamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = Stamp { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() };
        self.last = clock.max(self.last.after());
        self.last
    }

    /// Takes what was read.
    pub(super) fn take(&mut self, source: Source, mut bytes: &[u8]) {
        let begun = usize::from(source == Source::Error);
        while !bytes.is_empty() {
            let room = TEXT_MAX_BYTES - self.begun[begun].len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let count = end.unwrap_or(room.min(bytes.len()));
            self.begun[begun].extend_from_slice(&bytes[..count]);
            bytes = &bytes[count + usize::from(end.is_some())..];
            if end.is_some() || self.begun[begun].len() == TEXT_MAX_BYTES {
                self.line(source, end.is_none());
            }
        }
    }

    /// What was said without a line's end is a line.
    pub(super) fn end_line(&mut self, source: Source) {
        if !self.begun[usize::from(source == Source::Error)].is_empty() {
            self.line(source, false);
        }
    }

    /// What was said without a line's end is kept too, as a part: somebody may be asked something.
    pub(super) fn part(&mut self) {
        for source in [Source::Out, Source::Error] {
            if !self.begun[usize::from(source == Source::Error)].is_empty() {
                self.line(source, true);
            }
        }
    }

    /// All of it, to the file.
    pub(super) fn flush(&mut self) {
        self.end_line(Source::Out);
        self.end_line(Source::Error);
        self.write();
    }

    /// A line of this process.
    pub(super) fn own(&mut self, text: &str) {
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        let record = Record { at: self.stamp(), source: Source::Own, goes_on: false, text: text.as_bytes() };
        record.write(&mut self.records);
        self.write();
    }

    fn line(&mut self, source: Source, goes_on: bool) {
        let at = self.stamp();
        let begun = &mut self.begun[usize::from(source == Source::Error)];
        // A terminal ends its lines with both.
        let text = begun.strip_suffix(b"\r").filter(|_| !goes_on).unwrap_or(begun);
        Record { at, source, goes_on, text }.write(&mut self.records);
        begun.clear();
        if self.records.len() > TEXT_MAX_BYTES {
            self.write();
        }
    }

    /// Writes what has come together.
    pub(super) fn write(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let count = u64::try_from(self.records.len()).unwrap_or(u64::MAX);
        if self.file_bytes.saturating_add(count) > LOG_MAX_BYTES && self.file_bytes > 0 {
            self.rotate();
        }
        if (&self.file).write_all(&self.records).is_ok() {
            self.file_bytes += count;
        } else {
            // A part may be there: where it ends the next record begins.
            let _ = (&self.file).write_all(b"\n");
            self.file_bytes = self.file.metadata().map_or(self.file_bytes, |file| file.len());
        }
        self.records.clear();
    }

    fn rotate(&mut self) {
        for (to, from) in LOGS.iter().skip(1).zip(LOGS).rev() {
            let _ = fs::rename(self.dir.join(from), self.dir.join(to));
        }
        if let Ok(file) = open(&self.dir) {
            self.file = file;
            self.file_bytes = self.file.metadata().map_or(0, |file| file.len());
        }
    }
}

/// The newest one. Not what a link in its place leads to.
fn open(dir: &Path) -> io::Result<File> {
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(nofollow).open(dir.join(LOGS[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path, name: &str) -> Vec<u8> {
        fs::read(dir.join(name)).unwrap_or_default()
    }

    /// Fails when a piece's end is taken for a line's.
    #[test]
    fn lines_are_whole_and_long_ones_go_on() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(dir.path()).expect("a log");
        log.take(Source::Out, b"on");
        log.take(Source::Error, b"two\n");
        log.take(Source::Out, b"e\r\n\nlast");
        log.take(Source::Error, &vec![b'x'; TEXT_MAX_BYTES + 3]);
        log.flush();
        let bytes = read(dir.path(), LOGS[0]);
        let said: Vec<_> = Record::all(&bytes).collect();
        let texts: Vec<_> =
            said.iter().map(|record| (record.source, record.goes_on, record.text.len())).collect();
        let (out, error) = (Source::Out, Source::Error);
        let long = TEXT_MAX_BYTES;
        assert_eq!(
            texts,
            [
                (error, false, 3),
                (out, false, 3),
                (out, false, 0),
                (error, true, long),
                (out, false, 4),
                (error, false, 3),
            ]
        );
        assert!(said.windows(2).all(|pair| pair[0].at < pair[1].at), "in order");
    }

    /// Fails when the files grow beyond their bound, or lines are lost before it.
    #[test]
    fn it_stays_within_its_bound() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(dir.path()).expect("a log");
        let mut number = 0_u32;
        while read(dir.path(), LOGS[2]).is_empty() {
            for _ in 0..1000 {
                number += 1;
                log.take(Source::Out, format!("{number:0100}\n").as_bytes());
            }
            log.write();
        }
        let mut kept = Vec::new();
        for name in LOGS.iter().rev() {
            let bytes = read(dir.path(), name);
            assert!(bytes.len() as u64 <= LOG_MAX_BYTES, "{name}");
            let numbers =
                Record::all(&bytes).map(|record| String::from_utf8_lossy(record.text).parse::<u32>());
            kept.extend(numbers.map(|number| number.expect("a number")));
        }
        assert_eq!(kept, (1..=number).collect::<Vec<_>>(), "nothing was dropped yet");
        // Where it left off, whatever the clock says.
        let last = log.last;
        drop(log);
        assert!(Log::open(dir.path()).expect("a log").stamp() > last);
    }
}
