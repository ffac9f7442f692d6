//! Checks of the kernel: what the daemon and its workers ask of it.

use std::fs;
use std::io::{self, Write as _};
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::process::{ExitCode, Stdio};

use portway_sys::{netns, sandbox, userns};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::Finding;
use crate::failure::chain;
use crate::role;

const UPDATE: &str = "use Linux 5.14 or newer";

/// Runs the checks.
pub(super) fn check() -> Vec<Finding> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    vec![
        Finding::ok("kernel", format!("Linux {release}")),
        tried("openat2", "paths inside an instance cannot lead out of it", try_openat2()),
        tried("pidfd", "the end of an instance is seen at once", try_pidfd()),
        tried("netns", "namespaces of sockets can be told apart", try_netns()),
        seccomp(&fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default()),
        landlock(sandbox::landlock_version()),
        user_namespaces(),
    ]
}

fn tried(check: &'static str, text: &'static str, result: io::Result<()>) -> Finding {
    match result {
        Ok(()) => Finding::ok(check, text),
        Err(error) => Finding::fail(check, format!("refused by the kernel: {error}"), UPDATE),
    }
}

/// Linux 5.6; also missing where an old container runtime's seccomp filter does not know it.
fn try_openat2() -> io::Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    Ok(())
}

/// Linux 5.3.
fn try_pidfd() -> io::Result<()> {
    pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(())
}

/// `SO_NETNS_COOKIE`, Linux 5.14: the newest thing we need.
fn try_netns() -> io::Result<()> {
    netns::current()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    netns::socket_netns_cookie(socket.as_fd())?;
    Ok(())
}

fn seccomp(actions: &str) -> Finding {
    const CHECK: &str = "seccomp";
    if actions.split_ascii_whitespace().any(|action| action == "kill_process") {
        return Finding::ok(CHECK, "workers can be kept to the system calls they need");
    }
    Finding::fail(CHECK, "the kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER")
}

/// What there is of it is used; see docs/sandbox.md.
fn landlock(version: io::Result<u32>) -> Finding {
    const CHECK: &str = "landlock";
    let text = |version| format!("version {version}: workers and sessions are kept from");
    match version {
        Ok(version @ 6..) => {
            Finding::ok(CHECK, format!("{} files, ports, signals and other processes", text(version)))
        }
        Ok(version @ 4..) => {
            Finding::ok(CHECK, format!("{} files, ports and other processes", text(version)))
        }
        Ok(version) => Finding::ok(CHECK, format!("{} files and other processes", text(version))),
        Err(error) => Finding::warn(
            CHECK,
            format!("not there ({error}): processes of one user are kept apart by less"),
            "use a kernel with CONFIG_SECURITY_LANDLOCK, and `landlock` in its boot option lsm=",
        ),
    }
}

/// Only the demo needs them.
fn user_namespaces() -> Finding {
    const CHECK: &str = "userns";
    let mut probe = role::ourselves();
    probe.arg(role::PROBE_USERNS).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    match probe.output() {
        Ok(output) if output.status.success() => Finding::ok(CHECK, "`portway demo` can make its namespaces"),
        Ok(output) => Finding::warn(
            CHECK,
            format!("`portway demo` cannot run: {}", String::from_utf8_lossy(&output.stderr).trim()),
            userns_mend(),
        ),
        Err(error) => Finding::warn(CHECK, format!("cannot be tried: {error}"), "mount /proc"),
    }
}

/// Which of the known switches forbids user namespaces.
pub(crate) fn userns_mend() -> String {
    let reads = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let switches = [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    let forbids = switches.iter().find(|(path, value, _)| reads(path, value));
    forbids.map_or_else(
        || {
            "user namespaces are forbidden here, as in most containers; run it as root or on the host"
                .to_owned()
        },
        |(_, _, cure)| format!("`{cure}` allows it, or run it as root"),
    )
}

/// The role: a process of its own, because a namespace cannot be left again.
pub(crate) fn try_userns() -> ExitCode {
    match userns::unshare_as_root(true, true) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told when this fails.
            let _unheard = writeln!(io::stderr(), "{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn this_kernel_has_what_we_need() {
        for result in [try_openat2(), try_pidfd(), try_netns()] {
            result.unwrap();
        }
        assert_eq!(
            seccomp("kill_process kill_thread trap errno user_notif trace log allow\n").status,
            Status::Ok
        );
        assert_eq!(seccomp("").status, Status::Fail);
    }
}
