//! A gateway in the bed's namespace, a container, and OpenSSH's client with a key.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Bed, Container, ContainerSpec, Ports, Server, bed_of, is_root, run};
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");

/// Runs the rest in a mount namespace with a user database of its own, where root's home is another.
const AT_HOME: &str = "for name in passwd group shadow ssh; do \
    [ ! -e \"$1/$name\" ] || mount --bind \"$1/$name\" \"/etc/$name\"; done; shift; exec \"$@\"";

/// The same with standard input as what systemd passes, sd_listen_fds(3).
const PASSED: &str = "mount --bind \"$1/passwd\" /etc/passwd; shift; exec 3<&0 </dev/null
    LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";

/// What is killed of those who have to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Client,
    /// The processes of all connections.
    Session,
    /// The gateway, and those with it.
    Gateway,
}

impl Victim {
    pub(crate) const EACH: [Self; 3] = [Self::Client, Self::Session, Self::Gateway];
}

/// A running gateway and its surroundings; killed on drop, with the processes of its connections.
pub(crate) struct Scene {
    pub(crate) bed: &'static Bed,
    pub(crate) container: Container<'static>,
    dir: TempDir,
    gateway: Option<Child>,
    /// Nobody else gets the port while no gateway has it.
    _ports: Ports,
    pub(crate) port: u16,
    /// The socket of the gateway's server.
    pub(crate) incus: PathBuf,
    /// More of its command line.
    pub(crate) arguments: Vec<String>,
    /// What systemd would pass to it.
    pub(crate) listener: Option<OwnedFd>,
}

impl Scene {
    /// On a server's bed; `None` where there is none.
    pub(crate) fn start(server: Server, name: &str) -> Result<Option<Self>> {
        Self::start_with(server, name, &ContainerSpec::default())
    }

    /// The same with a container that is made otherwise.
    pub(crate) fn start_with(server: Server, name: &str, spec: &ContainerSpec) -> Result<Option<Self>> {
        let bed = if is_root() { bed_of(server) } else { None };
        let Some(bed) = bed else { return Ok(None) };
        let container = bed.launch(name, spec)?;
        let dir = tempfile::Builder::new().prefix("pw").tempdir_in("/tmp")?;
        let ports = Ports::claim(bed.netns())?;
        let port = ports.one()?;
        let mut scene = Self {
            bed,
            container,
            dir,
            gateway: None,
            _ports: ports,
            port,
            incus: bed.socket(),
            arguments: Vec::new(),
            listener: None,
        };
        scene.furnish()?;
        scene.launch()?;
        Ok(Some(scene))
    }

    /// Keys, a home for root with one of them, and a user database that says so.
    fn furnish(&self) -> Result<()> {
        let private = fs::Permissions::from_mode(0o700);
        for name in ["home/.ssh", "p", "etc", "incus"] {
            fs::create_dir_all(self.path(name))?;
            fs::set_permissions(self.path(name), private.clone())?;
        }
        fs::set_permissions(self.path("home"), private)?;
        for name in ["key", "other"] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(self.path(name)))?;
        }
        fs::copy(self.path("key.pub"), self.path("home/.ssh/authorized_keys"))?;
        let root = format!("root:x:0:0:root:{}:/bin/sh\n", self.path("home").display());
        let passwd = fs::read_to_string("/etc/passwd")?;
        let others = passwd.lines().filter(|line| !line.starts_with("root:")).map(|line| format!("{line}\n"));
        fs::write(self.path("etc/passwd"), root + &others.collect::<String>())?;
        fs::set_permissions(self.path("etc/passwd"), fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    /// Starts the gateway, at the port it had before.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let listen = format!("127.0.0.1:{}", self.port);
        let mut words = vec!["ssh".to_owned(), "serve".to_owned(), "--listen".to_owned(), listen];
        words.extend(self.arguments.iter().cloned());
        let mut child = self.serve(&words)?;
        let output = child.stdout.take().context("its output")?;
        self.gateway = Some(child);
        let line = first_line(output);
        let address = format!("ready 127.0.0.1:{}", self.port);
        ensure!(line.trim() == address, "the gateway said {line:?}: {}", self.log());
        Ok(())
    }

    /// Starts `portway` where root's home is ours, with the bed's server.
    pub(crate) fn serve(&self, words: &[String]) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.path("log"))?;
        let mut command = Command::new("unshare");
        let script = if self.listener.is_some() { PASSED } else { AT_HOME };
        command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
        command.arg(self.path("etc")).arg(PORTWAY).args(words).env("PORTWAY_DIR", self.path("p"));
        command.env(self.bed.server().socket_variable(), &self.incus);
        command.stdin(match &self.listener {
            Some(listener) => Stdio::from(listener.try_clone()?),
            None => Stdio::null(),
        });
        command
            .env("INCUS_SOCKET", &self.incus)
            .env("INCUS_CONF", self.path("incus"))
            .stdout(Stdio::piped())
            .stderr(log);
        self.bed.netns().spawn(&mut command)
    }

    /// Starts another gateway in the place of the one that runs, which ends by itself.
    pub(crate) fn replace(&mut self) -> Result<()> {
        let before = self.gateway.take().context("it does not run")?;
        self.arguments.push("--replace".to_owned());
        self.launch()?;
        let status = before.wait_with_output()?.status;
        ensure!(status.success(), "the first gateway: {status} {}", self.log());
        Ok(())
    }

    /// Waits for the gateway, which ends by itself; how.
    pub(crate) fn ended(&mut self) -> Result<ExitStatus> {
        self.gateway.take().context("it does not run")?.wait().context("the gateway")
    }

    /// Ends the gateway alone.
    pub(crate) fn stop(&mut self, signal: Signal) -> Result<()> {
        let mut child = self.gateway.take().context("it does not run")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        child.wait()?;
        Ok(())
    }

    /// Kills what serves a client, or the client; what it left is to go then.
    pub(crate) fn kill(&mut self, victim: Victim, client: &mut Child) -> Result<()> {
        match victim {
            Victim::Client => return client.kill().context("the client"),
            Victim::Session => {}
            Victim::Gateway => self.stop(Signal::SIGKILL)?,
        }
        for pid in self.sessions() {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// Has a gateway run again where it was killed.
    pub(crate) fn recover(&mut self) -> Result<()> {
        if self.gateway.is_none() { self.launch() } else { Ok(()) }
    }

    /// Another command of ours beside this gateway, which has to succeed; what it printed.
    pub(crate) fn portway(&self, words: &[&str]) -> Result<String> {
        run(Command::new(PORTWAY).args(words).env("PORTWAY_DIR", self.path("p")))
    }

    /// The same with the way to the gateway's server, to be run.
    pub(crate) fn operator(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PORTWAY);
        command.args(words).env("PORTWAY_DIR", self.path("p")).env("INCUS_SOCKET", &self.incus);
        command.env("INCUS_CONF", self.path("incus")).stdin(Stdio::null());
        command
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the gateway and its processes have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The audit log.
    pub(crate) fn audit(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.path("p/ssh-audit.jsonl"))?;
        text.lines().map(|line| serde_json::from_str(line).context("a line of the audit log")).collect()
    }

    /// OpenSSH's client with the good key and these options, to be given a login and more.
    pub(crate) fn client(&self, options: &[&str]) -> Command {
        self.client_with("key", options)
    }

    /// The same with another key.
    pub(crate) fn client_with(&self, key: &str, options: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(self.options(key)).args(options).args(["-p", &self.port.to_string()]);
        command.env_remove("LANG").env_remove("LC_ALL");
        command
    }

    /// What OpenSSH's programs are told, but for the port: nothing of this machine's, and this key.
    pub(crate) fn options(&self, key: &str) -> Vec<String> {
        let hosts = format!("UserKnownHostsFile={}", self.path("known_hosts").display());
        let words = ["BatchMode=yes", "StrictHostKeyChecking=accept-new", &hosts, "IdentitiesOnly=yes"];
        let words = words.into_iter().chain(["IdentityAgent=none", "LogLevel=ERROR"]);
        let mut options: Vec<String> = ["-F", "none", "-i"].map(str::to_owned).into();
        options.push(self.path(key).display().to_string());
        options.extend(words.flat_map(|word| ["-o".to_owned(), word.to_owned()]));
        options
    }

    /// Where a login leads on this gateway.
    pub(crate) fn at(login: &str) -> String {
        format!("{login}@127.0.0.1")
    }

    /// Runs a command as root in the container, with this to read.
    pub(crate) fn command(&self, words: &str, input: &[u8]) -> Result<Output> {
        self.talk(self.client(&[]).arg(Self::at(self.container.name())).arg(words), input)
    }

    /// Runs a client to its end.
    pub(crate) fn talk(&self, client: &mut Command, input: &[u8]) -> Result<Output> {
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.bed.netns().spawn(client)?;
        let mut stdin = child.stdin.take().context("its input")?;
        std::thread::scope(|scope| {
            // A program that does not read it has reasons.
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().context("a client")
        })
    }

    /// The same, which has to succeed; what it printed.
    pub(crate) fn said(&self, words: &str) -> Result<String> {
        let output = self.command(words, b"")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{words}`: {} {error} {}", output.status, self.log());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Pids of the gateway and of all that it has started on this host.
    pub(crate) fn processes(&self) -> Vec<i32> {
        processes_below(&self.path("log"))
    }

    /// Pids of the processes of connections.
    pub(crate) fn sessions(&self) -> Vec<i32> {
        sessions_below(&self.path("log"))
    }
}

/// The first line of a program that has 30 seconds to say it; empty when it does not.
fn first_line(output: ChildStdout) -> String {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut line = String::new();
        let _broken = BufReader::new(output).read_line(&mut line);
        // Who has stopped waiting needs no answer.
        let _late = sender.send(line);
    });
    receiver.recv_timeout(Duration::from_secs(30)).unwrap_or_default()
}

/// Processes of connections that log to this file: of this gateway and of no other.
fn sessions_below(log: &Path) -> Vec<i32> {
    let is_session = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "portway-ssh")
    };
    processes_below(log).into_iter().filter(is_session).collect()
}

/// All processes that log to this file.
pub(crate) fn processes_below(log: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|at| at == log)).collect()
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(child) = &mut self.gateway {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
        for pid in processes_below(&self.path("log")) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            // A test that fails is to say more than it knows.
            let _unheard = std::io::stderr().write_all(self.log().as_bytes());
        }
    }
}
