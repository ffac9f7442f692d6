//! A process that removes a socket's file when this one cannot any more: the instance's server kills it when its gateway
//! dies, and nobody runs anything after that.
//!
//! It is this program once more, waits for the end of its standard input, which nobody writes to, and looks whether the
//! file is still the one it was told of.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use portway_sys::process::program::{Image, Input, Program, spawn};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitOptions};

/// What is removed: known by more than its name.
#[derive(Debug)]
pub(crate) struct Traces {
    pub(crate) path: PathBuf,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

/// The process, which ends with this.
#[derive(Debug)]
pub(crate) struct Janitor {
    /// What it waits for the end of.
    end: Option<OwnedFd>,
    pid: Pid,
}

impl Traces {
    /// Removes the file if it is that one.
    pub(crate) fn remove(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|is| (is.dev(), is.ino()) == (self.dev, self.ino)) {
            // Who made it may remove it, unless the folder has another owner since.
            let _stays = fs::remove_file(&self.path);
        }
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
            text(b"sweep")?,
            text(traces.path.as_os_str().as_encoded_bytes())?,
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
            stdio: [stdin.as_fd(), nothing.as_fd(), nothing.as_fd()],
            input: Input::Stream,
        });
        let running = running.map_err(io::Error::other)?;
        let pid = Pid::from_raw(running.child.pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { end: Some(end), pid })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.end = None;
        // It has nothing to wait for any more.
        let _reaped = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The process itself: `sweep PATH DEV INO`.
pub(crate) fn sweep(path: &OsStr, dev: &str, ino: &str) -> io::Result<()> {
    let number = |text: &str| text.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let traces = Traces { path: Path::new(path).to_owned(), dev: number(dev)?, ino: number(ino)? };
    // Who has started it is what it outlives.
    rustix::process::set_parent_process_death_signal(None)?;
    io::stdin().read_to_end(&mut Vec::new())?;
    traces.remove();
    Ok(())
}
