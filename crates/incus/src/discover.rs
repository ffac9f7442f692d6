//! Where the server's socket is.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Default places of the Incus socket; the second is where newer servers put it when /var/lib is
/// not theirs to write.
const INCUS_DEFAULTS: [&str; 2] = ["/var/lib/incus/unix.socket", "/run/incus/unix.socket"];

/// Default places of the LXD socket: a distribution's package, the snap.
const LXD_DEFAULTS: [&str; 2] = ["/var/lib/lxd/unix.socket", "/var/snap/lxd/common/lxd/unix.socket"];

pub(crate) fn discover(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    named(&env, "INCUS_SOCKET", "INCUS_DIR").or_else(|| existing(&INCUS_DEFAULTS))
}

pub(crate) fn discover_lxd(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    named(&env, "LXD_SOCKET", "LXD_DIR").or_else(|| existing(&LXD_DEFAULTS))
}

fn named(env: &impl Fn(&str) -> Option<String>, socket: &str, dir: &str) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    set(socket).map(PathBuf::from).or_else(|| set(dir).map(|dir| Path::new(&dir).join("unix.socket")))
}

/// The first place that holds something, or that we may not look into.
fn existing(places: &[&str]) -> Option<PathBuf> {
    places.iter().map(PathBuf::from).find(|place| match place.symlink_metadata() {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_environment_wins_and_is_not_checked() {
        let both = env(&[("INCUS_SOCKET", "/nowhere/s"), ("INCUS_DIR", "/elsewhere")]);
        assert_eq!(discover(both), Some(PathBuf::from("/nowhere/s")));
        let dir = env(&[("INCUS_SOCKET", ""), ("INCUS_DIR", "/elsewhere")]);
        assert_eq!(discover(dir), Some(PathBuf::from("/elsewhere/unix.socket")));
        let lxd = env(&[("LXD_DIR", "/l"), ("INCUS_DIR", "/elsewhere")]);
        assert_eq!(discover_lxd(lxd), Some(PathBuf::from("/l/unix.socket")));
    }

    #[test]
    fn a_default_counts_only_when_it_is_there() {
        assert_eq!(existing(&["/nowhere/unix.socket"]), None);
        assert_eq!(existing(&["/nowhere/unix.socket", "/proc/self"]), Some(PathBuf::from("/proc/self")));
    }
}
