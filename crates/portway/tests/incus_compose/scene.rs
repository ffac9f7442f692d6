//! A project of a test's own: a folder with a Compose file, and the program run on it beside the server.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use portway_incus::Client;
use portway_testkit::{Bed, Ports, Server, bed_of, is_root, wait_for};
use serde_json::Value;
use tempfile::TempDir;

use crate::PORTWAY;

/// What the names of all projects of these tests begin with.
const PREFIX: &str = "pwc-";

/// A line is waited for so long: whatever is slower stands still.
const PATIENCE: Duration = Duration::from_secs(60);

/// A project. Drop takes it down with all that is in it.
pub(crate) struct Scene {
    pub(crate) bed: &'static Bed,
    pub(crate) name: String,
    /// What stands before the command each time.
    pub(crate) words: Vec<String>,
    /// Further variables of each command.
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
    home: TempDir,
    dir: PathBuf,
    ports: Ports,
    /// `PORTWAY_DIR` of a daemon.
    portway: Option<PathBuf>,
}

/// What a command has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Scene {
    /// A project called after `name`; `None` where no server can be had.
    pub(crate) fn open(name: &str) -> Option<Scene> {
        Scene::on(Server::Incus6, name)
    }

    /// The same on one of the servers.
    pub(crate) fn on(server: Server, name: &str) -> Option<Scene> {
        let bed = if is_root() { bed_of(server)? } else { return None };
        let name = format!("{PREFIX}{}-{name}", std::process::id());
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("shop");
        std::fs::create_dir(&dir).unwrap();
        let scene = Scene {
            bed,
            name,
            words: Vec::new(),
            variables: Vec::new(),
            home,
            dir,
            ports: Ports::claim(bed.netns()).unwrap(),
            portway: None,
        };
        scene.sweep();
        Some(scene)
    }

    /// The project's folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder around it, which is `HOME`.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// With a daemon of Portway.
    pub(crate) fn with_daemon(mut self, dir: &Path) -> Scene {
        self.portway = Some(dir.to_owned());
        self
    }

    /// Takes down what tests have left that were killed.
    fn sweep(&self) {
        let projects = self.bed.incus().get("/1.0/projects?recursion=1").unwrap();
        for project in projects.as_array().unwrap() {
            let Some(name) = project["config"]["user.portway.project"].as_str() else { continue };
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                self.command(&["-p", name, "down", "-v", "-t", "0"]).output().unwrap();
            }
        }
    }

    /// Writes the Compose file.
    pub(crate) fn write(&self, text: &str) {
        self.put("compose.yaml", text);
    }

    /// Writes a file of the project's folder.
    pub(crate) fn put(&self, name: &str, text: &str) {
        let path = self.dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// `portway compose ARGS` in the project's folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PORTWAY);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.home()).env("LC_ALL", "C.UTF-8");
        command.env("COMPOSE_PROJECT_NAME", &self.name).env("INCUS_SOCKET", self.bed.socket());
        let nowhere = self.home().join("none");
        command.env("PORTWAY_DIR", self.portway.as_ref().unwrap_or(&nowhere));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.dir).arg("compose").args(&self.words).args(args).stdin(Stdio::null());
        command
    }

    /// Runs it to its end, on the server's host.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        self.end(&mut self.command(args))
    }

    /// Runs any command to its end there.
    pub(crate) fn end(&self, command: &mut Command) -> Said {
        Said::of(self.bed.netns().enter(|| command.output()).unwrap().unwrap())
    }

    /// The same, which must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Said {
        let said = self.run(args);
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        said
    }

    fn get(&self, target: &str) -> Value {
        self.bed.incus().get(target).unwrap()
    }

    /// An instance as the server has it; `None` when there is none.
    pub(crate) fn instance(&self, name: &str) -> Option<Value> {
        self.bed.incus().find(&format!("/1.0/instances/{name}?project={}", self.name)).unwrap()
    }

    /// What the server tells of the project's instances while `work` runs: `instance-updated web-1`. The last is a change of
    /// `mark` that is made here.
    pub(crate) fn events(&self, mark: &str, work: impl FnOnce()) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = Client::new(self.bed.socket());
        let mut events = runtime.block_on(client.events()).unwrap();
        work();
        let change = serde_json::json!({"config": {"user.mark": "1"}});
        let target = format!("/1.0/instances/{mark}?project={}", self.name);
        self.bed.incus().change("PATCH", &target, Some(&change)).unwrap();
        let mut seen = Vec::new();
        loop {
            let event = runtime.block_on(events.next()).unwrap();
            if event.project == self.name {
                let last = event.action == "instance-updated" && event.name == mark;
                seen.push(format!("{} {}", event.action, event.name));
                if last {
                    return seen;
                }
            }
        }
    }

    /// Images of the server that were built for the project.
    pub(crate) fn images(&self) -> Vec<Value> {
        let all = self.get("/1.0/images?recursion=1");
        let own = |image: &&Value| image["properties"]["portway.project"] == self.name.as_str();
        all.as_array().unwrap().iter().filter(own).cloned().collect()
    }

    /// Names of the instances and their states: `web-1 Running`.
    pub(crate) fn instances(&self) -> Vec<String> {
        let found =
            self.bed.incus().find(&format!("/1.0/instances?recursion=1&project={}", self.name)).unwrap();
        let found = found.unwrap_or_default();
        let mut names: Vec<String> = found
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| format!("{} {}", one["name"].as_str().unwrap(), one["status"].as_str().unwrap()))
            .collect();
        names.sort();
        names
    }

    /// Pid of an instance's first process: another after each start.
    pub(crate) fn pid(&self, instance: &str) -> i64 {
        self.get(&format!("/1.0/instances/{instance}/state?project={}", self.name))["pid"].as_i64().unwrap()
    }

    /// Networks of the server that were made for the project.
    pub(crate) fn networks(&self) -> Vec<Value> {
        let all = self.get("/1.0/networks?recursion=1");
        let own = |one: &&Value| one["config"]["user.portway.project"] == self.name.as_str();
        let mut own: Vec<Value> = all.as_array().unwrap().iter().filter(own).cloned().collect();
        for one in &mut own {
            // In another order each time.
            if let Some(users) = one["used_by"].as_array_mut() {
                users.sort_by_key(Value::to_string);
            }
        }
        own
    }

    /// Everything the server has of the project.
    pub(crate) fn all(&self) -> Value {
        let project = &self.name;
        let get = |target: String| self.bed.incus().find(&target).unwrap();
        serde_json::json!({
            "project": get(format!("/1.0/projects/{project}")),
            "instances": get(format!("/1.0/instances?recursion=1&project={project}")),
            "volumes": get(format!("/1.0/storage-pools/default/volumes/custom?recursion=1&project={project}")),
            "networks": self.networks(),
        })
    }

    /// Nothing of the project is left.
    pub(crate) fn is_gone(&self) -> bool {
        self.bed.incus().find(&format!("/1.0/projects/{}", self.name)).unwrap().is_none()
            && self.networks().is_empty()
    }

    /// What a program in an instance prints.
    pub(crate) fn exec(&self, instance: &str, script: &str) -> Output {
        self.bed
            .client_output(&["exec", "--project", &self.name, instance, "--", "sh", "-c", script])
            .unwrap()
    }

    /// Exit code and output of `wait`.
    pub(crate) fn waited(&self, service: &str) -> (Option<i32>, String) {
        let waited = self.run(&["wait", service]);
        (waited.code, waited.out)
    }

    /// A port of the server's host that is this test's alone.
    pub(crate) fn free_port(&self) -> u16 {
        self.ports.one().unwrap()
    }

    /// What is answered to a web client on the server's host, once something answers.
    pub(crate) fn fetch(&self, port: u16, path: &str) -> String {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let ask = || {
            let limit = Duration::from_secs(5);
            let mut stream = TcpStream::connect_timeout(&address, limit)?;
            stream.set_read_timeout(Some(limit))?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        wait_for("an answer of the web server", || {
            let answer = self.bed.netns().enter(ask).unwrap().ok()?;
            answer
                .split_once("\r\n\r\n")
                .filter(|(head, _)| head.contains(" 200 "))
                .map(|(_, body)| body.to_owned())
        })
        .unwrap()
    }

    /// Whether somebody takes connections to a port on the server's host.
    pub(crate) fn is_open(&self, port: u16) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        self.bed.netns().enter(|| TcpStream::connect(address)).unwrap().is_ok()
    }
}

impl Said {
    pub(crate) fn of(output: Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// A command that goes on, and what it has said on both outputs.
pub(crate) struct Live {
    child: Child,
    lines: mpsc::Receiver<String>,
    said: String,
}

impl Live {
    pub(crate) fn start(command: &mut Command) -> Live {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = mpsc::sync_channel(1 << 14);
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines() {
                    if send.send(line.unwrap()).is_err() {
                        return;
                    }
                }
            });
        }
        Live { child, lines, said: String::new() }
    }

    /// Waits for a line with this in it.
    pub(crate) fn until(&mut self, text: &str) {
        while !self.said.contains(text) {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{error} before {text:?}: {}", self.said));
            self.said.push_str(&format!("{line}\n"));
        }
    }

    /// Whether it has said this by now.
    pub(crate) fn has(&mut self, text: &str) -> bool {
        while let Ok(line) = self.lines.try_recv() {
            self.said.push_str(&format!("{line}\n"));
        }
        self.said.contains(text)
    }

    /// How often it has said this by now.
    pub(crate) fn count(&mut self, text: &str) -> usize {
        self.has(text);
        self.said.matches(text).count()
    }

    /// All that was heard of it.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Its exit code, once it has ended, and all that it has said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.said.push_str(&format!("{line}\n")),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("{error} before its end: {}", self.said),
            }
        }
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.said))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.words.clear();
        let down = ["-p", self.name.as_str(), "down", "-v", "-t", "0"];
        let rmi = if self.images().is_empty() { &[][..] } else { &["--rmi", "all"] };
        let down = Said::of(self.command(&[&down, rmi].concat()).output().unwrap());
        if !std::thread::panicking() {
            assert_eq!(down.code, Some(0), "{down:?}");
            assert!(self.is_gone() && self.images().is_empty(), "{:#}", self.all());
        }
    }
}
