//! A project of a test's own, and a builder with a store of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use portway_testkit::{Bed, Server, bed_of, is_root, require};
use serde_json::Value;
use tempfile::TempDir;

use crate::PORTWAY;

/// What the names of all projects of these tests begin with.
const PREFIX: &str = "pwb-";

/// A project. Drop takes it down, with its images.
pub(crate) struct Scene {
    pub(crate) bed: &'static Bed,
    pub(crate) name: String,
    dir: TempDir,
    /// What stands before the command each time.
    pub(crate) words: Vec<String>,
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
    pub(crate) fn open(server: Server, name: &str) -> Option<Scene> {
        let bed = if is_root() { bed_of(server)? } else { return None };
        let name = format!("{PREFIX}{}-{name}", std::process::id());
        Some(Scene { bed, name, dir: tempfile::tempdir().unwrap(), words: Vec::new() })
    }

    /// The same, where there is a builder too.
    pub(crate) fn with_builder(server: Server, name: &str) -> Option<Scene> {
        if Command::new("buildah").arg("--version").output().is_err() {
            require("buildah is not installed");
            return None;
        }
        Scene::open(server, name)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("shop").join(name)
    }

    /// The folder that is `HOME`, outside of the project's.
    pub(crate) fn home(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file of the project's folder.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Puts busybox into the project's folder, for a `Dockerfile` to copy.
    pub(crate) fn add_busybox(&self) {
        std::fs::create_dir_all(self.path("bin")).unwrap();
        std::fs::copy("/bin/busybox", self.path("bin/busybox")).unwrap();
        for name in ["sh", "sleep", "cat", "tr", "stat", "readlink"] {
            std::os::unix::fs::symlink("busybox", self.path("bin").join(name)).unwrap();
        }
    }

    /// `portway compose ARGS` in the project's folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PORTWAY);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", self.home()).env("LC_ALL", "C.UTF-8");
        command.env("COMPOSE_PROJECT_NAME", &self.name).env("INCUS_SOCKET", self.bed.socket());
        command.env("PORTWAY_DIR", self.home().join("none"));
        // A builder that needs nothing of the host: plain files, and no container of its own.
        let storage = self.home().join("storage.conf");
        let text = format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = \"{0}/run\"\ngraphroot = \"{0}/graph\"\n",
            self.home().display()
        );
        std::fs::write(&storage, text).unwrap();
        command.env("CONTAINERS_STORAGE_CONF", storage).env("BUILDAH_ISOLATION", "chroot");
        command.current_dir(self.dir.path().join("shop")).arg("compose").args(&self.words).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end, where the server's own addresses are those of this host.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        self.end(&mut self.command(args))
    }

    pub(crate) fn end(&self, command: &mut Command) -> Said {
        std::fs::create_dir_all(self.dir.path().join("shop")).unwrap();
        Said::of(self.bed.netns().enter(|| command.output()).unwrap().unwrap())
    }

    /// The same, which must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Said {
        let said = self.run(args);
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        said
    }

    /// An instance as the server has it; `None` when there is none.
    pub(crate) fn instance(&self, name: &str) -> Option<Value> {
        self.bed.incus().find(&format!("/1.0/instances/{name}?project={}", self.name)).unwrap()
    }

    /// Names of the images that were built for the project.
    pub(crate) fn images(&self) -> Vec<Value> {
        let all = self.bed.incus().get("/1.0/images?recursion=1").unwrap();
        let own = |image: &&Value| image["properties"]["portway.project"] == self.name.as_str();
        all.as_array().unwrap().iter().filter(own).cloned().collect()
    }

    /// What a program in an instance prints.
    pub(crate) fn exec(&self, instance: &str, script: &str) -> String {
        let output = self
            .bed
            .client_output(&["exec", "--project", &self.name, instance, "--", "/bin/sh", "-c", script])
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Said {
    fn of(output: Output) -> Said {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.words.clear();
        let down = self.end(&mut self.command(&["-p", &self.name, "down", "-v", "-t", "0", "--rmi", "all"]));
        for image in self.images() {
            let target = format!("/1.0/images/{}", image["fingerprint"].as_str().unwrap());
            let _gone = self.bed.incus().change("DELETE", &target, None);
        }
        if !std::thread::panicking() {
            assert_eq!(down.code, Some(0), "{down:?}");
        }
    }
}
