//! What a service reads: what is written to a named pipe by those who attach to it ([`feed`]), or nothing.
//!
//! The pipe is held open for both by the first process, so that it has no end: who attaches and goes leaves it as it is.
//! Without a terminal the service reads the pipe itself. With one the first process passes on what comes, no more at a
//! time than the terminal takes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use portway_proto::guest::Size;
use portway_proto::service::{INPUT, TERMINAL};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::{status, terminal};

/// Most bytes on their way to a terminal: what its line discipline takes at once (termios(3), 4096).
const PIECE_BYTES: usize = 4 << 10;

/// A pipe that is read by a service.
pub(super) struct Pipe {
    /// For both, without waiting.
    own: OwnedFd,
    /// What the terminal has not taken yet.
    rest: Vec<u8>,
}

impl Pipe {
    /// Makes it, in place of an earlier one.
    pub(super) fn make(dir: &Path) -> io::Result<Self> {
        let path = dir.join(INPUT);
        let _none = fs::remove_file(&path);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { own, rest: Vec::new() })
    }

    /// Its end for a program of this user.
    pub(super) fn end(&self, dir: &Path, uid: u32, gid: u32) -> io::Result<OwnedFd> {
        if rustix::process::geteuid().is_root() {
            // As container engines have it: `/dev/stdin` can be opened.
            rustix::fs::fchown(&self.own, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(dir.join(INPUT), flags, Mode::empty())?)
    }

    /// What is to be waited for so that `to` gets what comes.
    pub(super) fn polled<'a>(&'a self, to: BorrowedFd<'a>) -> PollFd<'a> {
        if self.rest.is_empty() {
            PollFd::from_borrowed_fd(self.own.as_fd(), PollFlags::IN)
        } else {
            PollFd::from_borrowed_fd(to, PollFlags::OUT)
        }
    }

    /// Passes on what has come, as much as is taken.
    pub(super) fn pass(&mut self, to: BorrowedFd<'_>) {
        if self.rest.is_empty() {
            let mut piece = [0; PIECE_BYTES];
            let count = rustix::io::read(&self.own, &mut piece).unwrap_or(0);
            self.rest.extend_from_slice(&piece[..count]);
        }
        if self.rest.is_empty() {
            return;
        }
        match rustix::io::write(to, &self.rest) {
            Ok(count) => drop(self.rest.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody has the terminal open any more.
            Err(_) => self.rest.clear(),
        }
    }
}

/// Notes which terminal a service has.
pub(super) fn note_terminal(dir: &Path, path: &[u8]) -> io::Result<()> {
    fs::write(dir.join(TERMINAL), path)
}

/// Writes standard input to the pipe in `dir`, until its end, or until nobody reads standard output any more.
pub(crate) fn feed(dir: &Path) -> Result<(), (u8, String)> {
    let failed =
        |error: io::Error| (status::FAILED, format!("cannot write to what the service reads: {error}"));
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits()).unwrap_or_default();
    let opened = File::options().write(true).custom_flags(flags).open(dir.join(INPUT));
    let mut pipe = opened.map_err(failed)?;
    if !pipe.metadata().map_err(failed)?.file_type().is_fifo() {
        return Err((status::FAILED, "what the service reads is no pipe".to_owned()));
    }
    let (input, output) = (io::stdin(), io::stdout());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = match rustix::io::read(&input, &mut *piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(failed(error.into())),
        };
        let mut rest = &piece[..count];
        while !rest.is_empty() {
            match pipe.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut polled =
                        [PollFd::new(&pipe, PollFlags::OUT), PollFd::new(&output, PollFlags::empty())];
                    let _ = rustix::event::poll(&mut polled, None);
                    if polled[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Gives the terminal of the service in `dir` another size.
pub(crate) fn resize(dir: &Path, columns: &str, rows: &str) -> Result<(), (u8, String)> {
    let (Ok(columns), Ok(rows)) = (columns.parse(), rows.parse()) else {
        return Err((status::USAGE, format!("{columns} and {rows} are no size")));
    };
    let failed =
        |error: io::Error| (status::FAILED, format!("cannot give the terminal another size: {error}"));
    let path = fs::read_to_string(dir.join(TERMINAL)).map_err(failed)?;
    if !path.strip_prefix("/dev/pts/").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err((status::FAILED, "what the service runs on is no terminal".to_owned()));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let slave =
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| failed(io::Error::from(error)))?;
    let size = Size { columns, rows, width: 0, height: 0 };
    terminal::resize(&slave, &size).map_err(|error| failed(error.into()))
}
