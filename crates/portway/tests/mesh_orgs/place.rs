//! A registrar that runs as a process, and hosts that join.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A folder with a registrar's in it and those of its devices.
pub(crate) struct Place {
    dir: TempDir,
    running: Option<Child>,
    pub(crate) listen: Option<SocketAddr>,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { dir: TempDir::new().unwrap(), running: None, listen: None }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program on host `host`.
    pub(crate) fn command(&self, host: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portway"));
        command.args(arguments).env_clear().env("PORTWAY_DIR", self.path().join(host));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn output(&self, host: &str, arguments: &[&str]) -> Output {
        self.command(host, arguments).output().unwrap()
    }

    /// What it prints when all is well.
    pub(crate) fn run(&self, host: &str, arguments: &[&str]) -> String {
        let output = self.output(host, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it prints when not, and its exit code.
    pub(crate) fn refused(&self, host: &str, arguments: &[&str]) -> String {
        let output = self.output(host, arguments);
        let code = output.status.code().unwrap();
        assert_ne!(code, 0, "{arguments:?}");
        format!("{}[exit {code}]", String::from_utf8(output.stderr).unwrap())
    }

    /// Starts the registrar, on the port it had before, with more arguments.
    pub(crate) fn start(&mut self, arguments: &[&str]) {
        let listen = self.listen.map_or_else(|| "127.0.0.1:0".to_owned(), |listen| listen.to_string());
        let all = [&["mesh", "registrar", "--listen", &listen][..], arguments].concat();
        let log = std::fs::File::create(self.path().join("log")).unwrap();
        let mut child = self.command("registrar", &all).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let listen = line.trim().strip_prefix("ready ").map(|listen| listen.parse().unwrap());
        assert!(listen.is_some(), "{line}{}", std::fs::read_to_string(self.path().join("log")).unwrap());
        (self.listen, self.running) = (listen, Some(child));
    }

    /// Kills it, without a chance to put anything in order.
    pub(crate) fn kill(&mut self) {
        let mut child = self.running.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.listen.unwrap())
    }

    pub(crate) fn token(&self, arguments: &[&str]) -> String {
        let all = [&["mesh", "key", "create", "--org", "acme"][..], arguments].concat();
        self.run("registrar", &all).trim().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            // It may have ended by itself.
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}
