//! A container of a test.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::bed::{OWNER, delete_instance, owner};
use crate::testbed::debian_image;
use crate::{Bed, Netns, Site, process};

/// What a container is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Image {
    /// The bare case: runs in a quarter of a second.
    #[default]
    Busybox,
    /// Debian 13 with vim, htop, tmux, rsync, git, Python, sudo and an idle `sshd`; on Incus 6.0 only, and some
    /// seconds to make.
    Debian,
}

/// How a container is made. The default: the busybox image, started, in the default project, with
/// an address on the bed's bridge.
#[derive(Debug, Clone, Default)]
pub struct ContainerSpec {
    /// Project; `None` is the default one.
    pub project: Option<String>,
    /// Configuration keys.
    pub config: BTreeMap<String, String>,
    /// Devices by name, each a map of keys; they replace those of the profile with that name.
    pub devices: BTreeMap<String, BTreeMap<String, String>>,
    /// Text of `/etc/boot`, which init runs at every start: `serve echo tcp:0.0.0.0:7` is there.
    pub boot: Option<String>,
    /// Whether it is left stopped.
    pub stopped: bool,
    /// What it is made of.
    pub image: Image,
}

impl ContainerSpec {
    /// The default with this `/etc/boot`.
    #[must_use]
    pub fn booting(script: &str) -> Self {
        Self { boot: Some(script.to_owned()), ..Self::default() }
    }

    /// The same in a project.
    #[must_use]
    pub fn in_project(mut self, project: &str) -> Self {
        self.project = Some(project.to_owned());
        self
    }

    /// The same with a macvlan NIC as `eth0` in place of the bridged one.
    #[must_use]
    pub fn with_macvlan(mut self) -> Self {
        let keys = [("type", "nic"), ("nictype", "macvlan"), ("parent", "lan0"), ("name", "eth0")];
        let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.devices.insert("eth0".to_owned(), keys.into());
        self
    }
}

/// A container; deleted, running or not, on drop.
#[derive(Debug)]
pub struct Container<'a> {
    bed: &'a Bed,
    project: String,
    name: String,
    /// Whether drop has something to delete.
    exists: bool,
}

impl<'a> Container<'a> {
    pub(crate) fn create(bed: &'a Bed, name: &str, spec: &ContainerSpec) -> Result<Self> {
        let project = spec.project.clone().unwrap_or_else(|| "default".to_owned());
        let mut config = spec.config.clone();
        config.insert(OWNER.to_owned(), owner());
        // A restarted server must not bring the dead back.
        config.entry("boot.autostart".to_owned()).or_insert_with(|| "false".to_owned());
        let alias = match spec.image {
            Image::Busybox => "bb",
            Image::Debian => debian_image(),
        };
        let wanted = json!({
            "name": name, "type": "container", "config": config, "devices": spec.devices,
            "source": {"type": "image", "alias": alias},
        });
        bed.incus().change("POST", &format!("/1.0/instances?project={project}"), Some(&wanted))?;
        let container = Self { bed, project, name: name.to_owned(), exists: true };
        if let Some(script) = &spec.boot {
            container.write_stopped("/etc/boot", script)?;
        }
        if !spec.stopped {
            container.start()?;
        }
        Ok(container)
    }

    pub(crate) fn found(bed: &'a Bed, project: &str, name: &str) -> Self {
        Self { bed, project: project.to_owned(), name: name.to_owned(), exists: true }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its project.
    #[must_use]
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Starts it and waits until its init can be told to stop.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn start(&self) -> Result<()> {
        self.act("start", false)?;
        self.wait_for_init()
    }

    /// Asks init to end, and waits.
    ///
    /// # Errors
    /// When the server refuses or init does not end in 30 s.
    pub fn stop(&self) -> Result<()> {
        self.act("stop", false)
    }

    /// Kills it.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn kill(&self) -> Result<()> {
        self.act("stop", true)
    }

    /// Restarts it as `incus restart` does.
    ///
    /// # Errors
    /// When the server refuses or init does not end in 30 s.
    pub fn restart(&self) -> Result<()> {
        self.act("restart", false)?;
        self.wait_for_init()
    }

    /// Kills and starts it, as `incus restart --force` does.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn restart_by_force(&self) -> Result<()> {
        self.act("restart", true)?;
        self.wait_for_init()
    }

    fn act(&self, action: &str, force: bool) -> Result<()> {
        let change = json!({"action": action, "force": force, "timeout": if force { -1 } else { 30 }});
        self.bed.incus().change("PUT", &self.target("/state"), Some(&change)).map(|_| ())
    }

    /// A stop that comes before init has a handler for its signal is lost, and the server waits for
    /// half a minute. An init that never gets one is not waited for any longer than a moment.
    fn wait_for_init(&self) -> Result<()> {
        let (pid, begin) = (self.pid()?, Instant::now());
        while !process::catches(pid, nix::libc::SIGPWR)? && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Puts it into another project, under its name; it must be stopped.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn move_to(&mut self, project: &str) -> Result<()> {
        let wanted = json!({"name": self.name, "project": project, "migration": true, "live": false});
        self.bed.incus().change("POST", &self.target(""), Some(&wanted))?;
        project.clone_into(&mut self.project);
        Ok(())
    }

    /// Changes its run-time state: `freeze`, `unfreeze`.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn change_state(&self, action: &str) -> Result<()> {
        self.act(action, false)
    }

    /// Sends something to the server about it: `container.request("POST", "/snapshots", &body)`.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn request(&self, method: &str, below: &str, body: &Value) -> Result<()> {
        self.bed.incus().change(method, &self.target(below), Some(body)).map(|_| ())
    }

    /// Gives it another name; it must be stopped.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn rename(&mut self, name: &str) -> Result<()> {
        self.bed.incus().change("POST", &self.target(""), Some(&json!({"name": name})))?;
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// Stops and deletes it.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn delete(mut self) -> Result<()> {
        self.exists = false;
        delete_instance(self.bed.incus(), &self.project, &self.name)
    }

    /// Runs a program inside to its end.
    ///
    /// # Errors
    /// When the client cannot be started; the program's exit status is the caller's to look at.
    pub fn exec(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.bed.client();
        command.args(["exec", "--project", &self.project, &self.name, "--"]).args(args);
        command.output().context("cannot run the incus client")
    }

    /// Runs shell text inside and returns what it printed.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.exec(&["sh", "-c", script])?;
        if !output.status.success() {
            bail!("`{script}` in {}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the API says of it.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn read(&self) -> Result<Value> {
        self.bed.incus().get(&self.target(""))
    }

    /// Its UUID.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn uuid(&self) -> Result<String> {
        Ok(self.read()?["config"]["volatile.uuid"].as_str().context("no UUID")?.to_owned())
    }

    /// Init's pid.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<i32> {
        let pid = self.bed.incus().get(&self.target("/state"))?["pid"].as_i64().unwrap_or_default();
        i32::try_from(pid).ok().filter(|pid| *pid > 0).with_context(|| format!("{} does not run", self.name))
    }

    /// Its network namespace as it is now; a restart makes another.
    ///
    /// # Errors
    /// When it does not run.
    pub fn netns(&self) -> Result<Netns> {
        Netns::of_pid(self.pid()?)
    }

    /// The inside, until it stops.
    ///
    /// # Errors
    /// When it does not run.
    pub fn site(&self) -> Result<Site> {
        Site::of_init(self.pid()?)
    }

    /// First global address of a family on `eth0`, waited for: DHCP takes 0.1 s, an IPv6 address 2 s.
    ///
    /// # Errors
    /// When there is none after 15 s.
    pub fn address(&self, v6: bool) -> Result<IpAddr> {
        let begin = Instant::now();
        let family = if v6 { "inet6" } else { "inet" };
        while begin.elapsed() < Duration::from_secs(15) {
            let state = self.bed.incus().get(&self.target("/state"))?;
            let addresses = state["network"]["eth0"]["addresses"].as_array().cloned().unwrap_or_default();
            let found = addresses.iter().find(|a| a["family"] == family && a["scope"] == "global");
            if let Some(address) = found.and_then(|a| a["address"].as_str()?.parse().ok()) {
                return Ok(address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} has no {family} address", self.name)
    }

    /// Writes a file of a container that does not run. Only on the bed's storage, plain folders.
    fn write_stopped(&self, path: &str, text: &str) -> Result<()> {
        let path = self.rootfs().join(path.trim_start_matches('/'));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Its files as the storage has them, running or not: what is mounted inside is not seen here.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        let prefix = if self.project == "default" { String::new() } else { format!("{}_", self.project) };
        let containers = Path::new("storage-pools/default/containers");
        self.bed.dir().join(containers).join(format!("{prefix}{}", self.name)).join("rootfs")
    }

    fn target(&self, below: &str) -> String {
        format!("/1.0/instances/{}{below}?project={}", self.name, self.project)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.exists {
            // What stays is swept by the next process that uses the bed.
            let _ = delete_instance(self.bed.incus(), &self.project, &self.name);
        }
    }
}
