//! A root folder of Debian 13 with the packages of Incus 7 and of LXD, for the beds whose servers this
//! machine's own release does not have, or must not have beside its Incus: LXD's package adds a second
//! range of ids for root, with which Incus starts no container any more.
//!
//! It is built once, from the mirror this machine uses, and kept like packages are: about two minutes.
//! The servers only read it; their state lies in the beds' own folders.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{lock, packages, say};
use crate::run;

/// Where it is.
pub(super) const PATH: &str = "/var/cache/portway-testbed/trixie";

/// Version of what is built; raise it with every change to the script.
const MAKE: &str = "root 1\n";

/// File that says it is complete.
const STAMP: &str = ".portway-testbed";

/// Builds the root `$1` from the mirror `$2`, in a mount namespace that ends with it. The packages'
/// scripts start no service (exit code 101, Debian policy 9.3.3.1), and nothing waits for the disk.
const BUILD: &str = r#"
set -e
root=$1 mirror=$2
debootstrap --variant=minbase --include=ca-certificates trixie "$root" "$mirror"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
echo "deb $mirror trixie-backports main" >"$root/etc/apt/sources.list.d/backports.list"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
mount -t proc proc "$root/proc"
export DEBIAN_FRONTEND=noninteractive
chroot "$root" apt-get update -q
chroot "$root" apt-get install -y -q --no-install-recommends -t trixie-backports \
    incus-base nftables iproute2 dnsmasq-base uidmap attr rsync squashfs-tools
chroot "$root" apt-get install -y -q --no-install-recommends lxd
chroot "$root" apt-get clean
"#;

/// Whether it is built.
pub(super) fn is_ready() -> bool {
    is_made(PATH, MAKE)
}

/// Builds it, or finds it built.
pub(super) fn provide() -> Result<()> {
    provide_root(PATH, MAKE, BUILD)
}

/// Whether a root is there as this version makes it.
pub(super) fn is_made(path: &str, make: &str) -> bool {
    fs::read_to_string(Path::new(path).join(STAMP)).is_ok_and(|text| text == make)
}

/// Builds a root by a script that gets its folder and the mirror, or finds it built.
pub(super) fn provide_root(path: &str, make: &str, script: &str) -> Result<()> {
    if is_made(path, make) {
        return Ok(());
    }
    let _building = lock::shared_build()?;
    // Whoever held the lock may have done it.
    if is_made(path, make) {
        return Ok(());
    }
    let mirror = packages::mirror()?;
    let unfinished = format!("{path}.new");
    for path in [path, &unfinished] {
        if Path::new(path).exists() {
            fs::remove_dir_all(path).with_context(|| format!("cannot remove {path}"))?;
        }
    }
    fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {unfinished}"))?;
    say("building a root of Debian, about two minutes");
    let mut build = Command::new("unshare");
    build.args(["--mount", "sh", "-c", script, "sh", &unfinished, &mirror]);
    build.env_clear().env("PATH", packages::PATH).env("HOME", "/root").env("LC_ALL", "C.UTF-8");
    // The ways to the mirror are the machine's own.
    build.envs(std::env::vars().filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy")));
    run(&mut build).context("cannot build the root")?;
    fs::write(Path::new(&unfinished).join(STAMP), make).context("cannot write the stamp")?;
    fs::rename(&unfinished, path).context("cannot put the root in place")
}
