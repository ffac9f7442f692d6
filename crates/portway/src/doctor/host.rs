//! Checks of the caller and the host's limits: privileges, the group, descriptors.

use std::fs;

use nix::unistd::{Group, getgid, getgroups};
use rustix::process::{Resource, geteuid, getrlimit};

use super::Finding;

/// What the daemon keeps, as linux/capability.h numbers them.
const NEEDED: [(&str, u32); 11] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("FOWNER", 3),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("SETPCAP", 8),
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
];

/// Descriptors below which a busy worker runs short: 30,000 connections.
const NOFILE_GOOD: u64 = 65_536;

/// Group of the control socket.
const GROUP: &str = "portway";

/// Runs the checks.
pub(super) fn check() -> Vec<Finding> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let uid = geteuid().as_raw();
    vec![
        privileges(uid, effective(&status), whole_map(&map)),
        group(uid),
        nofile(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)),
    ]
}

/// The effective capabilities in /proc/PID/status, proc_pid_status(5).
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a uid map is that of the first user namespace: every id is itself.
fn whole_map(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

fn privileges(uid: u32, effective: u64, whole_map: bool) -> Finding {
    const CHECK: &str = "privileges";
    if uid != 0 {
        return Finding::warn(
            CHECK,
            format!("uid {uid}: commands go through the daemon, the daemon itself needs root"),
            "run `sudo portway doctor` for what only root can see",
        );
    }
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        return Finding::fail(
            CHECK,
            format!("root without the capabilities {}", missing.join(" ")),
            "run portway on the host itself, or give the container it runs in these capabilities",
        );
    }
    if !whole_map {
        return Finding::warn(
            CHECK,
            "root of a user namespace: instances outside of it are out of reach",
            "run portway on the host itself to serve its instances",
        );
    }
    Finding::ok(CHECK, "root, with every capability the daemon needs")
}

fn group(uid: u32) -> Finding {
    const CHECK: &str = "group";
    let found = match Group::from_name(GROUP) {
        Ok(Some(found)) => found,
        Ok(None) => {
            return Finding::warn(
                CHECK,
                format!("no group {GROUP}: only root may use the control socket"),
                format!("`groupadd --system {GROUP}`; its members will be as powerful as root on this host"),
            );
        }
        Err(error) => {
            return Finding::warn(
                CHECK,
                format!("cannot look up group {GROUP}: {error}"),
                "look at /etc/nsswitch.conf",
            );
        }
    };
    let member = getgid() == found.gid || getgroups().is_ok_and(|groups| groups.contains(&found.gid));
    if uid != 0 && !member {
        return Finding::warn(
            CHECK,
            format!("you are not in group {GROUP}: the control socket is closed to you"),
            format!("`usermod -aG {GROUP} USER`; members are as powerful as root on this host"),
        );
    }
    let members = if found.mem.is_empty() { "no members".to_owned() } else { found.mem.join(", ") };
    Finding::ok(CHECK, format!("{GROUP}: {members}; members are as powerful as root on this host"))
}

fn nofile(hard: u64) -> Finding {
    const CHECK: &str = "nofile";
    // A connection takes two descriptors.
    let text = format!("a process may open {hard} files, so a worker carries about {} connections", hard / 2);
    if hard >= NOFILE_GOOD {
        return Finding::ok(CHECK, text);
    }
    Finding::warn(CHECK, text, "LimitNOFILE=1048576 in the unit of the daemon, or `ulimit -Hn` in its shell")
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn capabilities_are_named() {
        let all = effective("Name:\tx\nCapEff:\t000001ffffffffff\n");
        assert_eq!(all, 0x1ff_ffff_ffff);
        assert_eq!(privileges(0, all, true).status, Status::Ok);
        assert_eq!(privileges(0, all, false).status, Status::Warn);
        assert_eq!(privileges(1000, 0, true).status, Status::Warn);
        // What a container has by default.
        let finding = privileges(0, 0xa804_25fb, true);
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.text, "root without the capabilities NET_ADMIN SYS_PTRACE SYS_ADMIN");
    }

    #[test]
    fn only_the_first_namespace_maps_everything() {
        assert!(whole_map("         0          0 4294967295\n"));
        assert!(!whole_map("         0       1000          1\n"));
        assert!(!whole_map(""));
    }

    #[test]
    fn few_descriptors_are_worth_a_warning() {
        assert_eq!(nofile(1_048_576).status, Status::Ok);
        assert_eq!(nofile(20_000).status, Status::Warn);
    }
}
