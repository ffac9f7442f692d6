//! The `.deb` in a bare Debian: installed, run, upgraded, removed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use portway_testkit::testbed;

use crate::steps::run as run_command;
use crate::workspace::Workspace;

/// Longest time for all of it, seconds: it takes ten.
const SECONDS: &str = "300";

/// Enters a copy of the root `$1` that is kept in memory, with `$2` as `/work`, and runs what that holds. A chroot
/// would not do: in one the kernel makes no user namespaces, and workers would find another root than `/`.
const ENTER: &str = r#"
set -e
root=$1 own=$2
mount --make-rprivate /
ip link set lo up
mount -t tmpfs tmpfs "$own/copy"
mkdir "$own/copy/upper" "$own/copy/work" "$own/copy/root"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$own/copy/upper,workdir=$own/copy/work" "$own/copy/root"
cd "$own/copy/root"
mkdir -p old work
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind "$own/files" work
pivot_root . old
umount -l /old
cd /
rmdir /old
exec bash /work/inside.sh
"#;

/// Installs `deb` in a root of its own and says what does not hold.
///
/// # Errors
/// When a line of `inside.sh` fails; it has said which.
pub(super) fn check(workspace: &Workspace, deb: &Path) -> anyhow::Result<()> {
    let root = testbed::bare_root().context("cannot build a bare root")?;
    let dir =
        tempfile::Builder::new().prefix("portway-package-").tempdir().context("cannot make a folder")?;
    let files = dir.path().join("files");
    fs::create_dir(&files).context("cannot make a folder")?;
    fs::create_dir(dir.path().join("copy")).context("cannot make a folder")?;
    fs::copy(deb, files.join("portway.deb")).context("cannot copy the package")?;
    fs::write(files.join("inside.sh"), include_str!("inside.sh")).context("cannot write the script")?;
    let mut command = Command::new("timeout");
    command.args([
        SECONDS,
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        ENTER,
        "sh",
    ]);
    command.arg(&root).arg(dir.path()).current_dir(workspace.root()).stdin(Stdio::null());
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    run_command(command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive"))
}
