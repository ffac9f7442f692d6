//! A process that removes a socket's file, or a folder of ours, when this one cannot any more: the instance's server kills
//! it when its gateway dies, and nobody runs anything after that.
//!
//! It is this program once more, waits for the end of its standard input, which nobody writes to, and looks whether the
//! file or folder is still the one it was told of.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use portway_sys::process::program::{Image, Input, Program, spawn};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

/// Where a socket's file is to be: a folder that stays the one it is, however it is called meanwhile.
#[derive(Debug)]
pub(crate) struct Spot {
    dir: OwnedFd,
    name: OsString,
}

/// What is removed: known by more than its name.
#[derive(Debug)]
pub(crate) struct Traces {
    spot: Spot,
    dev: u64,
    ino: u64,
    kind: Kind,
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A socket's file.
    File,
    /// A folder, with the files in it.
    Folder,
}

impl Kind {
    /// What the process is told to do.
    const fn word(self) -> &'static [u8] {
        match self {
            Self::File => b"sweep",
            Self::Folder => b"clear",
        }
    }
}

/// The process, which ends with this.
#[derive(Debug)]
pub(crate) struct Janitor {
    /// What it waits for the end of.
    _end: OwnedFd,
    pid: Pid,
}

impl Spot {
    /// Of a path at which nothing is.
    ///
    /// # Errors
    /// [`Errno::ADDRINUSE`] when something is there, and what keeps one from looking.
    pub(crate) fn find(path: &Path) -> rustix::io::Result<Self> {
        let name = path.file_name().ok_or(Errno::ADDRINUSE)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())?;
        match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Self { dir, name }),
            Ok(_) => Err(Errno::ADDRINUSE),
            Err(error) => Err(error),
        }
    }

    /// The socket that has been made there.
    ///
    /// # Errors
    /// When none is: the folder was exchanged meanwhile.
    pub(crate) fn taken(self) -> rustix::io::Result<Traces> {
        let is = rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(is.st_mode) != FileType::Socket {
            return Err(Errno::NOENT);
        }
        Ok(Traces { spot: self, dev: is.st_dev, ino: is.st_ino, kind: Kind::File })
    }

    /// Makes a folder there that nobody else can look into, and opens it.
    ///
    /// # Errors
    /// [`Errno::EXIST`] when something is there, and what keeps one from making it.
    pub(crate) fn furnished(self) -> rustix::io::Result<(Traces, OwnedFd)> {
        rustix::fs::mkdirat(&self.dir, &self.name, Mode::RWXU)?;
        let folder = self.folder()?;
        let is = rustix::fs::fstat(&folder)?;
        Ok((Traces { spot: self, dev: is.st_dev, ino: is.st_ino, kind: Kind::Folder }, folder))
    }

    fn folder(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, &self.name, flags, Mode::empty())
    }
}

impl Traces {
    /// Removes it if it is that one.
    pub(crate) fn remove(&self) {
        if self.kind == Kind::Folder {
            // A folder in it is somebody's doing, and stays.
            let _stays = self.clear();
            return;
        }
        let Spot { dir, name } = &self.spot;
        let is = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        if is.is_ok_and(|is| (is.st_dev, is.st_ino) == (self.dev, self.ino)) {
            // Who made it may remove it, unless the folder has another owner since.
            let _stays = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
    }

    /// Removes a folder and the files in it, whatever their names lead to.
    fn clear(&self) -> rustix::io::Result<()> {
        let folder = self.spot.folder()?;
        let is = rustix::fs::fstat(&folder)?;
        if (is.st_dev, is.st_ino) != (self.dev, self.ino) {
            return Ok(());
        }
        for entry in Dir::read_from(&folder)? {
            let _folder_or_gone = rustix::fs::unlinkat(&folder, entry?.file_name(), AtFlags::empty());
        }
        rustix::fs::unlinkat(&self.spot.dir, &self.spot.name, AtFlags::REMOVEDIR)
    }
}

impl Janitor {
    /// Starts one.
    ///
    /// # Errors
    /// When there can be no more processes.
    pub(crate) fn start(traces: &Traces) -> io::Result<Self> {
        let own = File::open("/proc/self/exe")?;
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        let (stdin, end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let text = |text: &[u8]| CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let args = [
            text(b"portway-guest")?,
            text(traces.kind.word())?,
            text(traces.spot.name.as_encoded_bytes())?,
            text(traces.dev.to_string().as_bytes())?,
            text(traces.ino.to_string().as_bytes())?,
        ];
        let running = spawn(&Program {
            image: Image::File(own.as_fd()),
            args: &args,
            env: &[],
            cwd: c"/",
            ids: None,
            umask: 0o077,
            // It says nothing: the folder is in that place.
            stdio: [stdin.as_fd(), traces.spot.dir.as_fd(), nothing.as_fd()],
            input: Input::Stream,
        });
        let running = running.map_err(io::Error::other)?;
        let pid = Pid::from_raw(running.child.pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { _end: end, pid })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // Nothing is left for it to do, and who has stopped it keeps nobody.
        let _gone = rustix::process::kill_process(self.pid, Signal::KILL);
        let _reaped = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The process itself: `sweep NAME DEV INO`, or `clear` of a folder, in the folder that is its standard output.
pub(crate) fn sweep(kind: Kind, name: &OsStr, dev: &str, ino: &str) -> io::Result<()> {
    // Who has started it is what it outlives.
    rustix::process::set_parent_process_death_signal(None)?;
    let number = |text: &str| text.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let spot = Spot { dir: io::stdout().as_fd().try_clone_to_owned()?, name: name.to_owned() };
    let traces = Traces { spot, dev: number(dev)?, ino: number(ino)?, kind };
    io::stdin().read_to_end(&mut Vec::new())?;
    traces.remove();
    Ok(())
}
