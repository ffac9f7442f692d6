//! Which keys of an instance's configuration can be set in the shell, and which of their values are nobody else's to read.
//!
//! A list of what is allowed: a key that a server has tomorrow is none of it. What is not here makes an instance more than
//! its limits (`security.*`, `raw.*`, `linux.*`, `nvidia.*`, `limits.kernel.*`), is the server's own (`volatile.*`,
//! `image.*`), or the gateway's (`user.portway*`). `snapshots.pattern` is a template that servers fill in with what they
//! can read, and some of them any file (CVE-2025-54287).

use super::words;

/// Keys by their whole names.
const WHOLE: &[&str] = &[
    "boot.autostart",
    "boot.autostart.delay",
    "boot.autostart.priority",
    "boot.host_shutdown_action",
    "boot.host_shutdown_timeout",
    "boot.stop.priority",
    "cloud-init.network-config",
    "cloud-init.user-data",
    "cloud-init.vendor-data",
    "limits.cpu",
    "limits.cpu.allowance",
    "limits.cpu.priority",
    "limits.disk.priority",
    "limits.memory",
    "limits.memory.enforce",
    "limits.memory.swap",
    "limits.memory.swap.priority",
    "limits.network.priority",
    "limits.processes",
    "security.protection.delete",
    "snapshots.expiry",
    "snapshots.schedule",
    "snapshots.schedule.stopped",
];

/// Beginnings; what follows is anybody's.
const BEGINNINGS: &[&str] = &["environment.", "user."];

/// What the gateway, and others of ours, say of instances.
const OWN: &str = "user.portway";

/// Beginnings of keys whose values may be secrets.
const PRIVATE: &[&str] = &["environment.", "user.", "cloud-init."];

/// Whether a key can be set.
pub(super) fn is_allowed(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let below = |beginning: &&str| key.strip_prefix(*beginning).is_some_and(|rest| !rest.is_empty());
    key.bytes().all(plain) && !key.starts_with(OWN) && (WHOLE.contains(&key) || BEGINNINGS.iter().any(below))
}

/// What completes a key.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    WHOLE.iter().chain(BEGINNINGS).copied()
}

/// A line as others may read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redacted {
    /// Its words.
    pub(crate) words: Vec<String>,
    /// Whether a value was left out.
    pub(crate) has_secret: bool,
}

/// The words of a line without what may be a secret: values of an environment, of a user's keys, of cloud-init. A line that
/// cannot be split is one word, or none if it may hold such a key.
pub(crate) fn redacted(line: &str) -> Redacted {
    let begins = |word: &str| PRIVATE.iter().filter_map(|beginning| word.find(beginning)).min();
    let Ok(words) = words::split(line) else {
        let has_secret = begins(line).is_some();
        let words = if has_secret { Vec::new() } else { vec![line.trim().to_owned()] };
        return Redacted { words, has_secret };
    };
    let (mut has_secret, mut is_value) = (false, false);
    let words = words.into_iter().map(|word| {
        if is_value {
            return "...".to_owned();
        }
        let Some(at) = begins(&word.text) else { return word.text };
        has_secret = true;
        match word.text.get(at..).and_then(|key| key.find('=')) {
            Some(end) => format!("{}=...", word.text.get(..at + end).unwrap_or_default()),
            None => {
                // `KEY VALUE`: all that follows is of it.
                is_value = true;
                word.text
            }
        }
    });
    let words = words.collect();
    Redacted { words, has_secret }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a key can be set that leads to the host, to its files or past the gateway, or one that people need cannot.
    #[test]
    fn keys_are_those_of_the_list() {
        for key in [
            "raw.lxc",
            "raw.apparmor",
            "raw.idmap",
            "raw.qemu",
            "security.privileged",
            "security.nesting",
            "security.guestapi",
            "security.idmap.isolated",
            "security.syscalls.intercept.mount",
            "linux.kernel_modules",
            "nvidia.runtime",
            "limits.kernel.memlock",
            "limits.hugepages.2MB",
            "limits.cpu.nodes",
            "volatile.uuid",
            "volatile.idmap.next",
            "image.os",
            "user.portway.ssh.owner",
            "user.portway.compose",
            "user.portway",
            "user.portwayx",
            "boot",
            "user.",
            "environment.",
            "environment.A=B",
            "user.a b",
            "user.\u{e4}",
            "migration.stateful",
            "cluster.evacuate",
            "agent.nic_config",
            "oci.entrypoint",
            "oci.uid",
            "smbios11.x",
            "snapshots.pattern",
            "ubuntu_pro.guest_attach",
            "",
        ] {
            assert!(!is_allowed(key), "{key}");
        }
        for key in
            ["limits.memory", "environment.HTTP_PROXY", "user.note", "boot.autostart", "cloud-init.user-data"]
        {
            assert!(is_allowed(key), "{key}");
        }
    }

    /// Fails when a value that may be a password gets into the audit log or the history.
    #[test]
    fn what_may_be_a_secret_is_left_out() {
        let of = |line: &str| {
            let Redacted { words, has_secret } = redacted(line);
            (words.join(" "), has_secret)
        };
        assert_eq!(of("config set c1 limits.cpu=2"), ("config set c1 limits.cpu=2".to_owned(), false));
        assert_eq!(
            of("config set c1 environment.PW=x y=z"),
            ("config set c1 environment.PW=... y=z".to_owned(), true)
        );
        assert_eq!(of("config set c1 user.pw 'a b' c"), ("config set c1 user.pw ... ...".to_owned(), true));
        assert_eq!(of("config set c1 environment.PW=\"x"), (String::new(), true));
        assert_eq!(of("list | x"), ("list | x".to_owned(), false));
        assert_eq!(of("launch i c -c user.a=b"), ("launch i c -c user.a=...".to_owned(), true));
        assert!(of("launch i c '--config=user.a=b=c'").1);
        assert!(!of("launch i c '--config=user.a=b=c'").0.contains("b=c"));
    }
}
