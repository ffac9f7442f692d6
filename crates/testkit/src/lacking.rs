//! A kernel that lacks a system call: for one thread, and for all that it starts.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context as _, Result};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::netns::on_thread;

/// Runs `work` on a thread for which the system call `number` does not exist (ENOSYS), as on an older kernel or below
/// an old filter. Programs that are started there go on without it.
///
/// # Errors
/// When the kernel takes no filter.
///
/// # Panics
/// With `work`.
pub fn without<T: Send>(number: i64, work: impl FnOnce() -> T + Send) -> Result<T> {
    let arch = std::env::consts::ARCH.try_into().context("no filters for this machine")?;
    let absent = SeccompAction::Errno(u32::try_from(nix::libc::ENOSYS)?);
    let rules = BTreeMap::from([(number, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, arch).context("a filter")?;
    let program: BpfProgram = filter.try_into().context("a filter")?;
    let done = on_thread(|| {
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
        Ok(work())
    });
    done.context("cannot set a filter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_gone_there_and_nowhere_else() {
        let own = rustix::process::getpid();
        let open = || rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).map(drop);
        assert_eq!(without(nix::libc::SYS_pidfd_open, open).unwrap(), Err(rustix::io::Errno::NOSYS));
        assert_eq!(open(), Ok(()));
    }
}
