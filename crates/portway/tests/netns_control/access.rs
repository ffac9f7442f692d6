//! Who may open the control socket: its owner, its group and its mode say it, and the kernel keeps to it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Output};

use portway_testkit::{Daemon, DaemonSpec, Netns, require};

use crate::PORTWAY;

/// A group that nobody on a test machine is in.
const GROUP: u32 = 4242;

/// `portway status` by another user of the host, who is in these groups.
fn status(daemon: &Daemon, groups: &str) -> Output {
    let inner = daemon.command();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", groups]);
    // The program may lie below a folder that only its owner enters: it is executed by descriptor.
    command.args(["/proc/self/fd/0", "status"]).stdin(File::open(PORTWAY).unwrap());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.output().unwrap()
}

/// The folders on the way let everybody through: what decides is the socket.
fn open_folders(daemon: &Daemon) {
    for dir in [daemon.dir(), daemon.dir().parent().unwrap().to_owned()] {
        fs::set_permissions(dir, Permissions::from_mode(0o711)).unwrap();
    }
}

fn refused(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no permission to use "), "{error}");
}

/// Without a group `portway` on the host the socket is root's alone. With one it is that group's, too:
/// a member gets in, another user does not. The rest of what the daemon keeps is nobody's.
///
/// Fails when: mode or owner of the socket are set after it can be connected to, or to something else.
#[test]
fn the_control_socket_is_roots_and_its_groups() {
    let host = match Netns::new() {
        Ok(host) => host,
        Err(problem) => return require(&format!("no namespaces: {problem:#}")),
    };
    let folder = tempfile::tempdir().unwrap();
    let system = fs::read_to_string("/etc/group").unwrap();
    let others: String =
        system.lines().filter(|line| !line.starts_with("portway:")).map(|line| format!("{line}\n")).collect();
    for (group, gid) in [("", 0), ("portway:x:4242:\n", GROUP)] {
        // A daemon that sees another file of groups; nobody else does.
        let groups = folder.path().join("group");
        fs::write(&groups, format!("{others}{group}")).unwrap();
        let program = folder.path().join("portway");
        let script = format!(
            "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc/group && exec {PORTWAY} \"$@\"' sh \"$@\"\n",
            groups.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let daemon = DaemonSpec::new(&program).within(&host).start().unwrap();
        open_folders(&daemon);
        let socket = fs::metadata(daemon.dir().join("portway.sock")).unwrap();
        assert_eq!((socket.mode() & 0o7777, socket.uid(), socket.gid()), (0o660, 0, gid));
        refused(&status(&daemon, "--clear-groups"));
        let member = status(&daemon, "--groups=4242");
        if gid == GROUP {
            assert!(member.status.success(), "{}", String::from_utf8_lossy(&member.stderr));
        } else {
            refused(&member);
        }
        let workers = fs::metadata(daemon.dir().join("workers")).unwrap();
        assert_eq!((workers.mode() & 0o7777, workers.uid()), (0o700, 0));
    }
}
