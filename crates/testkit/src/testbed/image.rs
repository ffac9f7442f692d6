//! The image `bb`: busybox and a small server, made on the spot.
//!
//! It has no getent, no shared library, no package manager: the bare case. A container of it runs
//! in a quarter of a second and stops at once, because its init ends on the stop signal. `/etc/boot`,
//! when a test puts it there, is run by init. Users: root, bob (1000), in the group audio (29).

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::packages;
use crate::run;

/// Source of the server in the image; it stands for any service of a container's own.
const SERVE: &str = include_str!("../../guest/serve.rs");

/// Init. As the first process of its namespace it gets only signals it has a handler for, and it
/// is the parent of all orphans: the shell's `wait` takes them in.
pub(super) const INIT: &str = "\
#!/bin/sh
trap 'exit 0' PWR TERM INT USR1 USR2
ip link set lo up
for name in default eth0; do
	echo 0 2>/dev/null >/proc/sys/net/ipv6/conf/$name/accept_dad
done
ip link set eth0 up 2>/dev/null && udhcpc -i eth0 -T 1 -t 10 -b -s /etc/udhcpc.sh >/dev/null 2>&1 &
[ -f /etc/boot ] && sh /etc/boot >/tmp/boot.log 2>&1 &
while :; do
	sleep 100000 &
	wait $!
done
";

pub(super) const UDHCPC: &str = "\
#!/bin/sh
case \"$1\" in
bound | renew)
	ip addr replace $ip/24 dev $interface
	ip route replace default via $router
	;;
esac
";

/// Every file but the programs: path, mode, text.
const FILES: [(&str, u32, &str); 5] = [
    ("sbin/init", 0o755, INIT),
    ("etc/udhcpc.sh", 0o755, UDHCPC),
    ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n"),
    ("etc/group", 0o644, "root:x:0:\nbob:x:1000:\naudio:x:29:bob\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
];

const DIRS: [&str; 15] = [
    "bin", "sbin", "etc", "proc", "sys", "dev", "root", "tmp", "run", "var", "var/lib", "usr/bin",
    "usr/sbin", "home/bob", "srv",
];

/// Builds the archive in `dir` and returns its path.
pub(super) fn build(dir: &Path) -> Result<PathBuf> {
    let work = tempfile::tempdir_in(dir).context("cannot make a work folder")?;
    let root = work.path().join("rootfs");
    for name in DIRS {
        fs::create_dir_all(root.join(name)).with_context(|| format!("cannot make {name}"))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    symlink("../run", root.join("var/run"))?;
    for (name, mode, text) in FILES {
        let path = root.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {name}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    add_busybox(&root)?;
    add_serve(work.path(), &root)?;
    std::os::unix::fs::chown(root.join("home/bob"), Some(1000), Some(1000))?;
    let metadata = format!(
        "architecture: {}\ncreation_date: 1700000000\nproperties: {{os: busybox, description: busybox}}\n",
        std::env::consts::ARCH
    );
    fs::write(work.path().join("metadata.yaml"), metadata).context("cannot write metadata.yaml")?;
    let archive = dir.join("bb.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--gzip").arg("--numeric-owner").arg("--file").arg(&archive);
    run(tar.arg("--directory").arg(work.path()).args(["metadata.yaml", "rootfs"]))?;
    Ok(archive)
}

/// Busybox under all its names but the ones that are ours.
fn add_busybox(root: &Path) -> Result<()> {
    let busybox = packages::busybox().context("no static busybox is installed")?;
    fs::copy(&busybox, root.join("bin/busybox")).context("cannot copy busybox")?;
    let names = run(Command::new(&busybox).arg("--list"))?;
    for name in names.lines().filter(|name| !matches!(*name, "busybox" | "init" | "linuxrc")) {
        symlink("busybox", root.join("bin").join(name)).with_context(|| format!("cannot link {name}"))?;
    }
    Ok(())
}

/// Compiles the server: static, because the image has no C library.
fn add_serve(work: &Path, root: &Path) -> Result<()> {
    let source = work.join("serve.rs");
    fs::write(&source, SERVE).context("cannot write serve.rs")?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compile = Command::new(rustc);
    compile.args(["--edition", "2024", "-C", "opt-level=2", "-C", "panic=abort", "-C", "strip=symbols"]);
    compile.args(["-C", "target-feature=+crt-static", "-o"]).arg(root.join("bin/serve")).arg(source);
    run(&mut compile).context("cannot compile the image's server")?;
    Ok(())
}
