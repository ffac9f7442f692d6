//! `portway demo`: it shows what it promises, ends when asked, and leaves nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use portway_testkit::{is_root, wait_for};

/// A folder with a copy of the program, by which all its processes are known, and one for temporary files.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Place> {
        // Below /tmp: the demo takes no folder whose sockets would get too long a name.
        let dir = tempfile::Builder::new().prefix("pw").tempdir_in("/tmp").context("cannot make a folder")?;
        let place = Place { dir };
        fs::copy(env!("CARGO_BIN_EXE_portway"), place.program()).context("cannot copy the program")?;
        fs::create_dir(place.temp())?;
        for path in [place.dir.path().to_owned(), place.temp()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).context("cannot open a folder")?;
        }
        Ok(place)
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("portway")
    }

    fn temp(&self) -> PathBuf {
        self.dir.path().join("t")
    }

    fn demo(&self) -> Command {
        let mut command = Command::new(self.program());
        command.arg("demo").env("TMPDIR", self.temp());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Pids of the program's processes, workers and orphans included.
    fn processes(&self) -> Vec<String> {
        let program = self.program();
        let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let pids = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let runs = |pid: &String| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
        pids.filter(runs).collect()
    }

    /// Neither process nor file of the demo is there any more.
    fn ensure_gone(&self) -> Result<()> {
        self.ensure_dead()?;
        let files = fs::read_dir(self.temp())?.count();
        ensure!(files == 0, "{files} files are left");
        Ok(())
    }

    fn ensure_dead(&self) -> Result<()> {
        wait_for("the end of every process", || self.processes().is_empty().then_some(()))
            .with_context(|| format!("processes {:?} are left", self.processes()))
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn ensure_shown(output: &Output) -> Result<()> {
    let text = text(output);
    ensure!(output.status.success(), "{:?}: {text}", output.status);
    for line in [
        "tcp: sent 1.0 MiB, shut my side down, and only then got it all back",
        "unix: sent 1.0 MiB, shut my side down, and only then got it all back",
        "udp: datagrams of 0, 1, 1472, 32769, 65507 bytes came back whole",
        "Nothing of this is left behind",
    ] {
        ensure!(text.contains(line), "`{line}` is missing in {text}");
    }
    Ok(())
}

#[test]
fn once_shows_everything_and_leaves_nothing() -> Result<()> {
    let place = Place::new()?;
    ensure_shown(&place.demo().arg("--once").output()?)?;
    place.ensure_gone()
}

/// Starts the demo and waits until it shows live traffic.
fn start(place: &Place) -> Result<Child> {
    let mut child = place.demo().spawn().context("cannot start the demo")?;
    let stdout = child.stdout.take().context("no output")?;
    for line in BufReader::new(stdout).lines() {
        if line?.starts_with("NAME ") {
            let count = place.processes().len();
            // Stage, first process, instance, daemon, keeper, at least one worker.
            ensure!(count >= 6, "only {count} processes are seen");
            return Ok(child);
        }
    }
    bail!("the demo ended: {}", text(&child.wait_with_output()?))
}

fn signal(child: &Child, signal: &str) -> Result<()> {
    portway_testkit::run(Command::new("kill").args(["-s", signal, &child.id().to_string()])).map(drop)
}

#[test]
fn every_ending_leaves_nothing() -> Result<()> {
    for name in ["INT", "TERM", "HUP"] {
        let place = Place::new()?;
        let mut child = start(&place)?;
        signal(&child, name)?;
        let status = child.wait()?;
        // Its output has no reader by then, so it may also have ended by itself, with 1.
        ensure!(status.code().is_some_and(|code| code <= 1), "SIG{name}: {status:?}");
        place.ensure_gone().with_context(|| format!("after SIG{name}"))?;
    }
    Ok(())
}

#[test]
fn a_killed_demo_leaves_no_process() -> Result<()> {
    let place = Place::new()?;
    let mut child = start(&place)?;
    signal(&child, "KILL")?;
    child.wait()?;
    // Its folder stays: nobody is there to remove it.
    place.ensure_dead()
}

/// Runs the demo as an unprivileged user, in a mount namespace of its own that `prepare` has changed.
fn unprivileged(place: &Place, prepare: &str, root: &Path) -> Result<Output> {
    let script = format!(
        "set -e; {prepare}; exec chroot --userspec=65534:65534 --groups= {} {} demo --once",
        root.display(),
        place.program().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).env("TMPDIR", place.temp());
    command.output().context("cannot run unshare")
}

#[test]
fn it_runs_without_root() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let place = Place::new()?;
    ensure_shown(&unprivileged(&place, "true", Path::new("/"))?)?;
    place.ensure_gone()
}

#[test]
fn it_runs_where_proc_is_masked() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    // As container engines do: no fresh /proc can be mounted then.
    let place = Place::new()?;
    ensure_shown(&unprivileged(&place, "mount -t tmpfs none /proc/irq", Path::new("/"))?)?;
    place.ensure_gone()
}

#[test]
fn forbidden_namespaces_are_told_with_a_cure() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    // The kernel makes no user namespace for a process in a chroot.
    let (place, jail) = (Place::new()?, tempfile::tempdir()?);
    let prepare = format!("mount --rbind / {}", jail.path().display());
    let output = unprivileged(&place, &prepare, jail.path())?;
    let text = text(&output);
    ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
    ensure!(text.starts_with("error: cannot make namespaces without root: "), "{text}");
    ensure!(text.lines().count() == 2 && text.contains("\nhint: "), "{text}");
    place.ensure_gone()
}
