//! A user of the host with services of its own, and the user `bob` inside a container.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use portway_testkit::{ContainerSpec, DaemonSpec, Rig, require, wait_for};

use crate::PORTWAY;

/// The user of the host; any id that is nobody's, so that nothing of a real user is touched.
const USER: u32 = 47_110;

/// `bob` of the container.
const BOB: &str = "1000";

/// Seconds that a program may take.
const LIMIT: &str = "60";

/// A container with the host's programs, a daemon, and a folder of the host's user.
pub(crate) struct Desk {
    pub(crate) rig: Rig,
    home: PathBuf,
}

/// A program of the host's user, ended on drop.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Desk {
    /// `None`, after [`require`], where there is no bed or one of `programs` is not installed.
    pub(crate) fn start(name: &str, programs: &[&str]) -> Result<Option<Self>> {
        if let Some(missing) = programs.iter().find(|program| !Path::new("/usr/bin").join(program).exists()) {
            require(&format!("{missing} is not installed"));
            return Ok(None);
        }
        let mut container = ContainerSpec::default();
        let usr = [("type", "disk"), ("source", "/usr"), ("path", "/usr"), ("readonly", "true")];
        let usr = usr.map(|(key, value)| (key.to_owned(), value.to_owned()));
        container.devices.insert("usr".to_owned(), usr.into());
        let Some(rig) = Rig::launch(DaemonSpec::new(PORTWAY), name, &container)? else { return Ok(None) };
        rig.container.sh("ln -s usr/lib /lib; ln -s usr/lib64 /lib64; mkdir -p /run/user")?;
        let home = rig.path("u");
        fs::create_dir(&home)?;
        chown(&home, Some(USER), Some(USER))?;
        fs::set_permissions(&home, Permissions::from_mode(0o700))?;
        Ok(Some(Self { rig, home }))
    }

    /// A path in the folder of the host's user, which nobody else may enter.
    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// A program as the host's user, its folder being home and the place of sockets.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let user = USER.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--pdeathsig", "KILL"]);
        command.args(words).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &self.home);
        command.env("XDG_RUNTIME_DIR", &self.home).env("GNUPGHOME", &self.home).env("LC_ALL", "C.UTF-8");
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs it to its end and returns what it printed.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        portway_testkit::run(&mut self.command(words))
    }

    /// Starts a service and waits until its socket is there.
    pub(crate) fn serve(&self, words: &[&str], socket: &Path) -> Result<Running> {
        let mut command = self.command(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = Running(command.spawn().context("cannot start a service")?);
        wait_for(&format!("{words:?} listens"), || {
            let there = fs::symlink_metadata(socket).is_ok_and(|meta| meta.file_type().is_socket());
            let ended = running.0.try_wait().ok().flatten().is_some();
            (there || ended).then_some(())
        })?;
        ensure!(running.0.try_wait()?.is_none(), "{words:?} has ended");
        Ok(running)
    }

    /// Adds a device from a path inside to a socket of the host's user, as the documentation has it.
    pub(crate) fn bring(&self, name: &str, inside: &str, socket: &Path) -> Result<()> {
        let (listen, connect) =
            (format!("listen=unix:{inside}"), format!("connect=unix:{}", socket.display()));
        let user = format!("security.uid={USER}");
        self.rig
            .add(name, &["bind=instance", &listen, &connect, &user, "uid=1000", "gid=1000", "mode=0600"])?;
        self.rig.daemon.wait_for_state(name, "active")
    }

    /// Runs a program inside as bob; its exit status is the caller's to look at.
    pub(crate) fn bob(&self, env: &[(&str, &str)], words: &[&str]) -> Result<Output> {
        self.bob_reads(env, words, Stdio::null())
    }

    fn bob_reads(&self, env: &[(&str, &str)], words: &[&str], stdin: Stdio) -> Result<Output> {
        let mut command = self.rig.bed().client();
        command.args(["exec", "--user", BOB, "--group", BOB, "--env", "HOME=/home/bob"]);
        command.args(["--env", "PATH=/usr/bin:/bin", "--env", "LC_ALL=C.UTF-8"]);
        for (key, value) in env {
            command.args(["--env", &format!("{key}={value}")]);
        }
        command.args([self.rig.container.name(), "--", "timeout", LIMIT]).args(words).stdin(stdin);
        command.output().context("cannot run the incus client")
    }

    /// The same, which must succeed; what it printed.
    pub(crate) fn bob_ok(&self, env: &[(&str, &str)], words: &[&str]) -> Result<String> {
        succeeded(&self.bob(env, words)?, words)
    }

    /// The same with a file of the host as its input.
    pub(crate) fn bob_takes(&self, words: &[&str], input: &Path) -> Result<String> {
        succeeded(&self.bob_reads(&[], words, File::open(input)?.into())?, words)
    }

    /// Makes a folder inside that is bob's alone.
    pub(crate) fn bobs_folder(&self, path: &str) -> Result<()> {
        self.rig.container.sh(&format!("mkdir -p -m 700 {path} && chown bob:bob {path}")).map(drop)
    }
}

fn succeeded(output: &Output, words: &[&str]) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{words:?}: {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
