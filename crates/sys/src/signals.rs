//! Signals to this process, as something that is read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// All signals of this process but the two that nobody can take.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks them in the calling thread, which must be the only one, and holds them ready. What is started later with
    /// [`spawn`](crate::process::program::spawn) has none blocked. Those for programs' own use (real-time signals) stay
    /// as they are: LXC takes an init that blocks one of them for systemd, and says with it what others hear as SIGPWR.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn take() -> io::Result<Self> {
        let all: SigSet = Signal::iterator().collect();
        all.thread_block()?;
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { fd })
    }

    /// The number of the next one, if there is one.
    ///
    /// # Errors
    /// What cannot happen.
    pub fn read(&mut self) -> io::Result<Option<i32>> {
        let info = self.fd.read_signal()?;
        Ok(info.and_then(|info| i32::try_from(info.ssi_signo).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own: the mask is the thread's.
    #[test]
    fn a_signal_is_read_and_not_suffered() {
        let read = std::thread::spawn(|| {
            let mut signals = Signals::take().expect("a descriptor");
            assert_eq!(signals.read().expect("an answer"), None);
            nix::sys::signal::raise(Signal::SIGTERM).expect("sent");
            signals.read().expect("an answer")
        });
        assert_eq!(read.join().expect("it lives"), Some(libc::SIGTERM));
    }
}
