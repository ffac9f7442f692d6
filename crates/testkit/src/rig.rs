//! What most end-to-end tests stand on: the bed, a container, and a daemon beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{Bed, Container, ContainerSpec, Daemon, DaemonSpec, Netns, Ports, Server, Site, bed, bed_of};

/// A container of its own with a daemon of its own, both gone on drop.
#[derive(Debug)]
pub struct Rig {
    /// The daemon.
    pub daemon: Daemon,
    /// The container.
    pub container: Container<'static>,
    /// Ports on the host's side.
    pub ports: Ports,
    bed: &'static Bed,
    host: Site,
    folder: TempDir,
}

impl Rig {
    /// A running container whose name begins with `name`, and the daemon `program`. `None`, after
    /// [`require`](crate::require()), where there is no bed.
    ///
    /// # Errors
    /// When either does not start.
    pub fn start(program: &str, name: &str) -> Result<Option<Self>> {
        Self::launch(DaemonSpec::new(program), name, &ContainerSpec::default())
    }

    /// The same with a daemon and a container to measure; the daemon is put on the bed here.
    ///
    /// # Errors
    /// When either does not start.
    pub fn launch(daemon: DaemonSpec, name: &str, container: &ContainerSpec) -> Result<Option<Self>> {
        let Some(bed) = bed() else { return Ok(None) };
        Self::assemble(bed, bed.netns(), daemon, name, container).map(Some)
    }

    /// The same on the bed of one of the servers.
    ///
    /// # Errors
    /// When either does not start.
    pub fn on(
        server: Server,
        daemon: DaemonSpec,
        name: &str,
        container: &ContainerSpec,
    ) -> Result<Option<Self>> {
        let Some(bed) = bed_of(server) else { return Ok(None) };
        Self::assemble(bed, bed.netns(), daemon, name, container).map(Some)
    }

    /// The same with a host's side of its own, a namespace with nothing but loopback: the test has all
    /// its ports, and may give it addresses, links and sysctls.
    ///
    /// # Errors
    /// When either does not start.
    pub fn apart(daemon: DaemonSpec, name: &str) -> Result<Option<Self>> {
        let Some(bed) = bed() else { return Ok(None) };
        Self::assemble(bed, &Netns::new()?, daemon, name, &ContainerSpec::default()).map(Some)
    }

    fn assemble(
        bed: &'static Bed,
        netns: &Netns,
        daemon: DaemonSpec,
        name: &str,
        container: &ContainerSpec,
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        // Workers without privilege look for sockets below it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            container: bed.launch(name, container)?,
            daemon: daemon.on(bed).within(netns).start()?,
            ports: Ports::claim(netns)?,
            bed,
            host: Site::netns(netns),
            folder,
        })
    }

    /// The bed.
    #[must_use]
    pub fn bed(&self) -> &'static Bed {
        self.bed
    }

    /// The host's side: the bed's namespace or one of this rig's own, this machine's files.
    #[must_use]
    pub fn host(&self) -> &Site {
        &self.host
    }

    /// Deletes the container and makes another one of its name, which is returned. The rig's own value then stands
    /// for a placeholder.
    ///
    /// # Errors
    /// When one cannot be deleted, or the other not be made.
    pub fn replace_container(&mut self) -> Result<Container<'static>> {
        let name = self.container.name().to_owned();
        let spec = ContainerSpec { stopped: true, ..ContainerSpec::default() };
        let placeholder = self.bed.launch("placeholder", &spec)?;
        std::mem::replace(&mut self.container, placeholder).delete()?;
        self.bed.launch_exactly(&name, &ContainerSpec::default())
    }

    /// The inside of the container as it runs at this moment.
    ///
    /// # Errors
    /// When it does not run.
    pub fn inside(&self) -> Result<Site> {
        self.container.site()
    }

    /// A path on the host's side in a folder of this rig's own, which everybody may enter.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of [`path`](Self::path).
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What `portway` calls the container.
    #[must_use]
    pub fn reference(&self) -> String {
        self.bed.reference(self.container.name())
    }

    /// Adds a device to the container.
    ///
    /// # Errors
    /// As [`Daemon::add`].
    pub fn add(&self, device: &str, keys: &[&str]) -> Result<()> {
        self.daemon.add(&self.reference(), device, keys)
    }

    /// Runs `portway device VERB CONTAINER WORDS...`; its exit status is the caller's to look at.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn device(&self, verb: &str, words: &[&str]) -> Result<Output> {
        self.daemon.cli(&[&["device", verb, &self.reference()], words].concat())
    }

    /// The same, which must succeed; returns what it printed.
    ///
    /// # Errors
    /// When it does not exit with 0; the message is what it said.
    pub fn device_ok(&self, verb: &str, words: &[&str]) -> Result<String> {
        let output = self.device(verb, words)?;
        anyhow::ensure!(
            output.status.success(),
            "device {verb} {words:?}: {}: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stdout).trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
