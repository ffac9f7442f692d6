//! What a service has said, and goes on saying, on standard output.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use portway_proto::service::{LOGS, Record, Stamp};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{CreateFlags, WatchFlags};

/// How often the file is looked at, should nothing tell that there is more.
const PAUSE: Duration = Duration::from_millis(200);

/// Writes the records of the log in `dir` that are later than `since`, as they are kept, until nobody reads them.
pub(crate) fn tail(dir: &Path, since: Stamp) -> io::Result<()> {
    let mut last = since;
    // In order: a file that changes its place meanwhile is read twice, and its records are known by their time.
    for name in LOGS.iter().skip(1).rev() {
        show(&fs::read(dir.join(name)).unwrap_or_default(), &mut last)?;
    }
    let mut open: Option<(File, Vec<u8>)> = None;
    let told = events(dir);
    loop {
        let newest = fs::metadata(dir.join(LOGS[0])).map(|file| file.ino()).ok();
        if let Some((file, rest)) = &mut open {
            // Also of one that has just been put aside: to its end.
            drain(file, rest, &mut last)?;
            if newest != Some(file.metadata()?.ino()) {
                open = None;
                continue;
            }
        } else if let Ok(file) = File::open(dir.join(LOGS[0])) {
            open = Some((file, Vec::new()));
            continue;
        }
        if is_left_alone(told.as_ref()) {
            return Ok(());
        }
    }
}

/// Reads a file on.
fn drain(file: &mut File, rest: &mut Vec<u8>, last: &mut Stamp) -> io::Result<()> {
    file.read_to_end(rest)?;
    let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    show(&rest[..whole], last)?;
    rest.drain(..whole);
    Ok(())
}

fn show(log: &[u8], last: &mut Stamp) -> io::Result<()> {
    let mut out = Vec::new();
    for record in Record::all(log) {
        if record.at > *last {
            record.write(&mut out);
            *last = record.at;
        }
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(&out)?;
    stdout.flush()
}

/// What tells that there is more: without it there is a look now and then.
fn events(dir: &Path) -> Option<OwnedFd> {
    let told = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    rustix::fs::inotify::add_watch(&told, dir, flags).ok()?;
    Some(told)
}

/// Waits for more, or a moment; whether nobody reads any more.
fn is_left_alone(told: Option<&OwnedFd>) -> bool {
    let stdout = io::stdout();
    let mut polled = vec![PollFd::new(&stdout, PollFlags::empty())];
    polled.extend(told.map(|told| PollFd::new(told, PollFlags::IN)));
    let pause = Timespec { tv_sec: 0, tv_nsec: PAUSE.subsec_nanos().into() };
    let _ = rustix::event::poll(&mut polled, Some(&pause));
    if let Some(told) = told {
        // What they say does not matter: the file is looked at.
        let mut events = [0; 4 << 10];
        while rustix::io::read(told, &mut events).is_ok_and(|count| count > 0) {}
    }
    polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}
