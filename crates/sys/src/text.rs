//! Short texts formatted on the stack, for the data path, which must not allocate.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Room for `/proc/`, two numbers and a short name.
const ROOM_BYTES: usize = 48;

/// A path below /proc.
pub(crate) struct ProcPath {
    bytes: [u8; ROOM_BYTES],
    length: usize,
}

impl ProcPath {
    /// `/proc/PID/FILE`
    pub(crate) fn of_pid(pid: i32, file: &str) -> ProcPath {
        ProcPath::format(format_args!("/proc/{pid}/{file}"))
    }

    /// `/proc/self/fd/N`: a path that leads to what `fd` has open.
    pub(crate) fn of_fd(fd: BorrowedFd<'_>) -> ProcPath {
        ProcPath::format(format_args!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    fn format(text: fmt::Arguments<'_>) -> ProcPath {
        let mut path = ProcPath { bytes: [0; ROOM_BYTES], length: 0 };
        let fits = path.write_fmt(text).is_ok();
        debug_assert!(fits, "callers pass short names");
        path
    }

    pub(crate) fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.bytes.get(..self.length).unwrap_or_default()))
    }
}

impl Write for ProcPath {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
