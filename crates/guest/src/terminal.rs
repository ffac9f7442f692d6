//! A terminal for a program.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use portway_proto::guest::Size;
use rustix::fs::Mode;
use rustix::io::Result;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Winsize};

use crate::modes;

/// Opens one that belongs to `uid`; returns the side that is read and written here, the program's side, and its path.
pub(crate) fn open(uid: u32, size: &Size, wanted: &[(u8, u32)]) -> Result<(OwnedFd, OwnedFd, CString)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let path = rustix::pty::ptsname(&master, Vec::new())?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    hand_over(&slave, uid)?;
    resize(&master, size)?;
    if !wanted.is_empty() {
        let mut termios = rustix::termios::tcgetattr(&slave)?;
        modes::apply(&mut termios, wanted);
        rustix::termios::tcsetattr(&slave, OptionalActions::Now, &termios)?;
    }
    Ok((master, slave, path))
}

/// Leaves every byte as it is: what is behind it has a terminal of its own.
pub(crate) fn make_raw(slave: impl AsFd) -> Result<()> {
    let mut termios = rustix::termios::tcgetattr(&slave)?;
    termios.make_raw();
    rustix::termios::tcsetattr(&slave, OptionalActions::Now, &termios)
}

/// The user owns it; a group other than root's is the one for terminals, and may write to it (mesg(1)).
fn hand_over(slave: &OwnedFd, uid: u32) -> Result<()> {
    let stat = rustix::fs::fstat(slave)?;
    if stat.st_uid != uid {
        rustix::fs::fchown(slave, Some(rustix::fs::Uid::from_raw(uid)), None)?;
    }
    let mode = if stat.st_gid == 0 { 0o600 } else { 0o620 };
    rustix::fs::fchmod(slave, Mode::from_raw_mode(mode))
}

/// Gives the terminal another size; what runs there gets SIGWINCH when it is one.
pub(crate) fn resize(master: &OwnedFd, size: &Size) -> Result<()> {
    let size =
        Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: size.width, ws_ypixel: size.height };
    rustix::termios::tcsetwinsize(master, size)
}
