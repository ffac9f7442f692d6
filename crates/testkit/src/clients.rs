//! Other people's SSH programs, of Debian 13 whatever this machine is.

use std::process::Command;

use crate::testbed;

/// Becomes a program in the clients' root, which sees this machine's devices, processes and `/tmp`. The mounts end
/// with it.
const ENTER: &str = "\
root=$1; shift
for name in proc sys dev tmp; do mount --rbind /$name \"$root/$name\"; done
exec chroot \"$root\" \"$@\"";

/// A program of the clients' root: OpenSSH 10, `dbclient`, `plink`, `curl`, `python3` with paramiko, asyncssh and
/// pyte, `ansible`, `ssh-audit`, `sshfs`, `rsync`, `git`, `emacs`. The bed of Incus 6.0 sees to it that it is there.
///
/// Its files are shared by all tests: only `/tmp` is to be written to. Of the environment only what is set on the
/// command is passed on.
#[must_use]
pub fn client(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", ENTER, "sh"]);
    command.arg(testbed::clients_root()).arg(program);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("LC_ALL", "C.UTF-8");
    command
}
