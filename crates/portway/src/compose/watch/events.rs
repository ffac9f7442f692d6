//! Where something has changed: inotify(7).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Bytes of events that are read at once.
const PIECE_BYTES: usize = 64 << 10;

/// Most folders that are remembered as changed; with more, everything is looked at.
const CHANGED_MAX: usize = 4096;

/// Most events that are read before somebody looks at the clock.
const EVENTS_MAX: usize = 16 << 10;

/// Folders that are watched.
#[derive(Debug)]
pub(super) struct Events {
    fd: AsyncFd<OwnedFd>,
    /// Paths by the kernel's number: one folder may have several.
    folders: BTreeMap<i32, BTreeSet<PathBuf>>,
}

/// Where to look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Where {
    Folders(BTreeSet<PathBuf>),
    /// Events were lost, or are too many.
    Everywhere,
}

impl Where {
    pub(super) fn none() -> Self {
        Where::Folders(BTreeSet::new())
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Where::Folders(folders) if folders.is_empty())
    }
}

impl Events {
    /// Needs a runtime.
    pub(super) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { fd: registered(fd)?, folders: BTreeMap::new() })
    }

    /// Watches a folder, and not what is below it. A link in its place is not followed.
    pub(super) fn watch(&mut self, folder: &Path) -> io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        let number = inotify::add_watch(self.fd.get_ref(), folder, flags).map_err(|error| {
            if error != Errno::NOSPC {
                return io::Error::from(error);
            }
            io::Error::other(
                "there are too many folders to watch: raise the sysctl fs.inotify.max_user_watches",
            )
        })?;
        self.folders.entry(number).or_default().insert(folder.to_owned());
        Ok(())
    }

    /// Adds to `to` where something has changed, once there is any. Cancel safe.
    pub(super) async fn next(&mut self, to: &mut Where) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let read = read(self.fd.get_ref(), &mut self.folders, to)?;
            if read < EVENTS_MAX {
                ready.clear_ready();
            }
            if read > 0 {
                return Ok(());
            }
        }
    }
}

#[expect(deprecated, reason = "what replaces it is unsafe, and an owned descriptor keeps what it asks for")]
fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// Reads what there is, and stops at so many; how many there were.
fn read(fd: &OwnedFd, folders: &mut BTreeMap<i32, BTreeSet<PathBuf>>, to: &mut Where) -> io::Result<usize> {
    let mut piece = vec![MaybeUninit::uninit(); PIECE_BYTES];
    let mut reader = Reader::new(fd, &mut piece);
    let mut count = 0;
    while count < EVENTS_MAX {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        count += 1;
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            *to = Where::Everywhere;
        } else if event.events().contains(ReadFlags::IGNORED) {
            // The folder has gone; the one that it was in tells of that.
            folders.remove(&event.wd());
        } else if let (Where::Folders(all), Some(paths)) = (&mut *to, folders.get(&event.wd())) {
            all.extend(paths.iter().cloned());
            if all.len() > CHANGED_MAX {
                *to = Where::Everywhere;
            }
        }
    }
    Ok(count)
}
