//! A daemon under test, with all it starts.
//!
//! Workers and keeper outlive their daemon on purpose, in sessions of their own. What they keep is
//! standard error: the log file of this daemon and of no other, and by it they are found and ended.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Api, Bed, Netns, process};

/// How long a daemon may take to answer or to end; a loaded machine needs a second.
const LIMIT: Duration = Duration::from_secs(20);

/// How a daemon is started.
#[derive(Debug, Clone)]
pub struct DaemonSpec {
    program: PathBuf,
    netns: Option<Netns>,
    env: Vec<(String, String)>,
    config: Option<String>,
}

impl DaemonSpec {
    /// The `portway` at `program` on the host itself. In a test: `env!("CARGO_BIN_EXE_portway")`.
    #[must_use]
    pub fn new(program: impl AsRef<Path>) -> Self {
        // A socket that is not there, so that no real server of the machine is touched.
        let nowhere =
            ["INCUS_SOCKET", "LXD_SOCKET"].map(|name| (name.to_owned(), "/nonexistent/socket".to_owned()));
        Self { program: program.as_ref().to_owned(), netns: None, env: nowhere.into(), config: None }
    }

    /// In the bed's namespace, following its server.
    #[must_use]
    pub fn on(self, bed: &Bed) -> Self {
        self.env(bed.server().socket_variable(), &bed.socket().to_string_lossy()).within(bed.netns())
    }

    /// In a namespace.
    #[must_use]
    pub fn within(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.clone());
        self
    }

    /// With a variable; a later one of the same name wins.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this text as `portway.toml`.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer in time; the message holds the end of its log.
    pub fn start(self) -> Result<Daemon> {
        Daemon::start(self)
    }
}

/// A daemon, running or not, and its `PORTWAY_DIR`. Drop kills it, its workers and its keeper, and removes its
/// table.
#[derive(Debug)]
pub struct Daemon {
    spec: DaemonSpec,
    root: TempDir,
    child: Option<Child>,
}

impl Daemon {
    fn start(spec: DaemonSpec) -> Result<Self> {
        let root = tempfile::tempdir().context("cannot make a folder")?;
        fs::DirBuilder::new().mode(0o700).create(root.path().join("p")).context("cannot make PORTWAY_DIR")?;
        let mut daemon = Self { spec, root, child: None };
        if let Some(text) = &daemon.spec.config {
            fs::write(daemon.dir().join("portway.toml"), text).context("cannot write portway.toml")?;
        }
        daemon.launch()?;
        Ok(daemon)
    }

    /// Starts it again, in the same folder, after [`kill`](Self::kill) or
    /// [`terminate`](Self::terminate).
    ///
    /// # Errors
    /// When it runs, or as [`DaemonSpec::start`].
    pub fn launch(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_it_answers()
    }

    /// The same without waiting for an answer.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        anyhow::ensure!(self.child.is_none(), "the daemon runs");
        let log =
            File::options().create(true).append(true).open(self.log_path()).context("cannot open the log")?;
        let mut command = self.command();
        command.arg("daemon").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = match &self.spec.netns {
            Some(netns) => netns.spawn(&mut command)?,
            None => command.spawn().context("cannot start the daemon")?,
        };
        self.child = Some(child);
        Ok(())
    }

    /// Has the next [`launch`](Self::launch) start another program: an upgrade.
    pub fn replace_program(&mut self, program: impl AsRef<Path>) {
        program.as_ref().clone_into(&mut self.spec.program);
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let begin = Instant::now();
        while self.api().get("/1.0").is_err() {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                self.child = None;
                bail!("the daemon ended with {status}: {}", self.log_end());
            }
            if begin.elapsed() > LIMIT {
                bail!("the daemon does not answer: {}", self.log_end());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Its `PORTWAY_DIR`.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.root.path().join("p")
    }

    /// Its control API.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(&self.dir().join("portway.sock"))
    }

    /// Its pid.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<i32> {
        let child = self.child.as_ref().context("the daemon does not run")?;
        i32::try_from(child.id()).context("a pid")
    }

    /// `portway` for this daemon, in its namespace's environment but not in its namespace: the
    /// control socket is a file.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.spec.program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.root.path()).env("LC_ALL", "C.UTF-8").env("PORTWAY_DIR", self.dir());
        command.envs(self.spec.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `portway` with these arguments in the daemon's namespace.
    ///
    /// # Errors
    /// When it cannot be started; its exit status is the caller's to look at.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command();
        command.args(args).stdin(Stdio::null());
        let output = match &self.spec.netns {
            Some(netns) => netns.enter(|| command.output())?,
            None => command.output(),
        };
        output.context("cannot run portway")
    }

    /// Adds a device: `add("c1", "web", &["listen=tcp:0.0.0.0:80", "connect=tcp:127.0.0.1:80"])`.
    ///
    /// # Errors
    /// When the command fails; the message is its standard error.
    pub fn add(&self, instance: &str, device: &str, keys: &[&str]) -> Result<()> {
        let args = [&["device", "add", instance, device], keys].concat();
        let output = self.cli(&args)?;
        if !output.status.success() {
            bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// All devices, as the API lists them.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn devices(&self) -> Result<Vec<Value>> {
        Ok(self.api().get("/1.0/devices")?.as_array().context("a list of devices")?.clone())
    }

    /// One device by its name, of whatever instance.
    ///
    /// # Errors
    /// When there is none.
    pub fn device(&self, name: &str) -> Result<Value> {
        let mut devices = self.devices()?.into_iter();
        devices.find(|device| device["name"] == name).with_context(|| format!("no device {name}"))
    }

    /// Waits until a device is in a state.
    ///
    /// # Errors
    /// When it is not after 20 s; the message says what it is.
    pub fn wait_for_state(&self, name: &str, state: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let device = self.device(name)?;
            if device["state"] == state {
                return Ok(());
            }
            if begin.elapsed() > LIMIT {
                bail!(
                    "{name} is {}, not {state}: {} {}",
                    device["state"],
                    device["reason"],
                    device["last_error"]
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// SIGKILL to the daemon alone; workers and keeper go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon does not run")?;
        child.kill().context("cannot kill the daemon")?;
        child.wait().context("cannot wait for the daemon")?;
        Ok(())
    }

    /// SIGTERM to the daemon, and its exit status.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.pid()?), Signal::SIGTERM).context("cannot signal the daemon")?;
        let mut child = self.child.take().context("the daemon does not run")?;
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for the daemon")? {
                return Ok(status);
            }
            if begin.elapsed() > LIMIT {
                self.child = Some(child);
                bail!("the daemon does not end: {}", self.log_end());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGHUP to the daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn reload(&self) -> Result<()> {
        kill(Pid::from_raw(self.pid()?), Signal::SIGHUP).context("cannot signal the daemon")
    }

    /// Pids of its workers that live, whoever is their parent.
    #[must_use]
    pub fn workers(&self) -> Vec<i32> {
        self.family("worker")
    }

    /// Pids of its keepers that live: one, while all is well.
    #[must_use]
    pub fn keepers(&self) -> Vec<i32> {
        self.family("keeper")
    }

    /// Pids of everything that it started and that lives, itself included.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        self.family("")
    }

    /// Processes with this role in their arguments; all of them for an empty one.
    fn family(&self, role: &str) -> Vec<i32> {
        let log = self.log_path();
        let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let is_ours = |pid: &i32| fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|path| path == log);
        let has_role = |pid: &i32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            role.is_empty() || command.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes())
        };
        pids.filter(|pid| is_ours(pid) && has_role(pid) && process::is_alive(*pid)).collect()
    }

    fn log_path(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// What it and its workers logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(100)..].join("\n")
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "a failed test shows what the daemon said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ends with:\n{}\n---", self.log_end());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.end_family();
        self.remove_table();
    }
}

impl Daemon {
    /// Kills everything that it started and that lives.
    fn end_family(&self) {
        // One that was being started shows up in the next round.
        for _ in 0..100 {
            let left = self.family("");
            if left.is_empty() {
                return;
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes its table, if it has one: it is made to outlive the daemon, and would lead the ports of the
    /// next test to an instance that is gone.
    fn remove_table(&self) {
        if self.dir().join("nat.json").exists() {
            // One that cannot be removed goes when nobody uses the bed.
            let _ = self.cli(&["daemon", "--purge"]);
        }
    }
}
