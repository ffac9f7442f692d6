//! Debian 13 in two parts: the image `debian-N`, an ordinary distribution beside busybox, and the clients'
//! root, which holds other people's SSH programs so that this machine's own are left alone.
//!
//! One root serves both: the image is taken from it before the clients are added. It is built once, from the
//! mirror this machine uses, and kept like packages are. Users of the image: root, bob (1000; in the groups
//! audio, 29, and extra, 4001), who may become root by sudo. Its init is that of the busybox image.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Place, image, lock, root, say};
use crate::Incus;

/// Where the clients' root is.
pub(super) const CLIENTS: &str = "/var/cache/portway-testbed/clients";

/// The image's archive.
pub(super) const ARCHIVE: &str = "/var/cache/portway-testbed/debian.tar";

/// Alias of the image; the number is that of [`MAKE`].
pub(super) const IMAGE: &str = "debian-2";

/// Version of what is built; raise it, and the alias' number, with every change to the script.
const MAKE: &str = "debian 2\n";

/// Builds the root `$1` from the mirror `$2`, and the image's archive beside it, in a mount namespace that ends
/// with it. `INIT` and `UDHCPC` are the busybox image's. No name server is named: sudo would wait for it. Of the
/// collections of ansible only one is wanted.
const BUILD: &str = r#"
set -e
root=$1 mirror=$2
debootstrap --variant=minbase \
    --include=ca-certificates,busybox-static,iproute2,procps,python3,vim-tiny,htop,tmux,rsync,git,sudo,acl,openssh-server,ncurses-term \
    trixie "$root" "$mirror"
rm -rf "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
chroot "$root" apt-get clean
printf '%s' "$INIT" >"$root/sbin/init"
printf '%s' "$UDHCPC" >"$root/etc/udhcpc.sh"
chmod 755 "$root/sbin/init" "$root/etc/udhcpc.sh"
ln -s /usr/bin/busybox "$root/usr/local/bin/udhcpc"
chroot "$root" groupadd -g 4001 extra
chroot "$root" useradd -m -u 1000 -s /bin/bash -G audio,extra bob
echo 'bob ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/bob"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
mkdir -p "$root/run/sshd"
rm -f "$root"/etc/ssh/ssh_host_*
work=$(mktemp -d)
printf 'architecture: %s\ncreation_date: 1700000000\nproperties: {os: debian, description: debian}\n' "$(uname -m)" >"$work/metadata.yaml"
tar --create --numeric-owner --xattrs --file "$ARCHIVE.new" --directory "$work" metadata.yaml \
    --directory "$root" --transform 's,^\.,rootfs,S' --exclude './dev/*' --one-file-system .
rm -r "$work"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
printf 'force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' >"$root/etc/dpkg/dpkg.cfg.d/testbed"
mount -t proc proc "$root/proc"
export DEBIAN_FRONTEND=noninteractive
chroot "$root" apt-get update -q
chroot "$root" apt-get install -y -q --no-install-recommends \
    openssh-client dropbear-bin putty-tools curl sshfs python3-paramiko python3-asyncssh python3-pyte ansible-core ssh-audit \
    emacs-nox
cd "$root/tmp"
chroot "$root" sh -c 'cd /tmp && apt-get download ansible && dpkg-deb --fsys-tarfile ansible_*.deb | \
    tar --extract --directory / --wildcards "*/ansible_collections/ansible/posix/*" && rm ansible_*.deb'
chroot "$root" apt-get clean
mv "$ARCHIVE.new" "$ARCHIVE"
"#;

/// Builds root and archive, or finds them built.
pub(super) fn provide() -> Result<()> {
    let script = format!(
        "INIT='{}'\nUDHCPC='{}'\nARCHIVE={ARCHIVE}\n{BUILD}",
        quoted(image::INIT),
        quoted(image::UDHCPC)
    );
    root::provide_root(CLIENTS, MAKE, &script)
}

/// Sees to it that a bed has the image, too.
pub(super) fn import(place: &Place) -> Result<()> {
    let incus = Incus::new(&place.socket());
    let alias = format!("/1.0/images/aliases/{IMAGE}");
    if incus.find(&alias)?.is_some() {
        return Ok(());
    }
    provide()?;
    let _setup = lock::setup(place)?;
    // Whoever held the lock may have done it.
    if incus.find(&alias)?.is_some() {
        return Ok(());
    }
    say("importing the image of Debian");
    let made =
        incus.upload("/1.0/images", Path::new(ARCHIVE)).context("cannot import the image of Debian")?;
    let fingerprint = made["fingerprint"].as_str().context("the image has no fingerprint")?;
    let name = json!({"name": IMAGE, "target": fingerprint, "description": ""});
    incus.change("POST", "/1.0/images/aliases", Some(&name)).context("cannot name the image")?;
    Ok(())
}

/// As it stands between single quotes of a shell.
fn quoted(text: &str) -> String {
    text.replace('\'', r"'\''")
}
