//! The shared test server, as a test sees it.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

mod https;

pub use https::{HTTPS_ADDRESS, Trusted, certificate};

use crate::testbed::{self, InUse, Place, Server};
use crate::{Container, ContainerSpec, Incus, Netns, process, require};

/// Configuration key that says which process made an instance or a project: `PID:START`.
pub(crate) const OWNER: &str = "user.testkit.owner";

/// A real Incus server in its own network namespace, which is the "host" of a test. While the value
/// lives nobody takes the server down.
#[derive(Debug)]
pub struct Bed {
    place: Place,
    incus: Incus,
    netns: Netns,
    in_use: InUse,
}

/// The bed, brought up at the first call in a process; `None` after [`require()`] when it cannot be.
///
/// # Panics
/// As [`require()`].
pub fn bed() -> Option<&'static Bed> {
    bed_of(Server::Incus6)
}

/// The bed of one of the servers; as [`bed()`].
///
/// # Panics
/// As [`require()`].
pub fn bed_of(server: Server) -> Option<&'static Bed> {
    static BEDS: [OnceLock<std::result::Result<Bed, String>>; 3] = [const { OnceLock::new() }; 3];
    let own = match server {
        Server::Incus6 => &BEDS[0],
        Server::Incus7 => &BEDS[1],
        Server::Lxd => &BEDS[2],
    };
    match own.get_or_init(|| Bed::open(server).map_err(|error| format!("{error:#}"))) {
        Ok(bed) => Some(bed),
        Err(reason) => {
            require(reason);
            None
        }
    }
}

impl Bed {
    /// Brings the bed up if it is not, takes a share in its use, and deletes what dead tests left.
    ///
    /// # Errors
    /// When it cannot be brought up, as by anybody but root.
    pub fn open(server: Server) -> Result<Self> {
        let place = Place::of(server);
        for _ in 0..3 {
            testbed::up(&place)?;
            clear_tables(&place);
            let in_use = InUse::share(&place)?;
            // It may have been taken down between the two lines; from here on it may not.
            if !testbed::is_complete(&place) {
                continue;
            }
            let netns = Netns::open(&place.netns_path())?;
            let incus = Incus::new(&place.socket());
            let bed = Self { place, incus, netns, in_use };
            bed.sweep()?;
            return Ok(bed);
        }
        bail!("the test server is taken down again and again")
    }

    /// Which server it is.
    #[must_use]
    pub fn server(&self) -> Server {
        self.place.server
    }

    /// What `portway` calls an instance of the default project here: `c1`, `lxd:c1`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        if self.place.server == Server::Lxd { format!("lxd:{name}") } else { name.to_owned() }
    }

    /// The server's `INCUS_DIR` or `LXD_DIR`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// The bed's own files, beside the server's.
    pub(crate) fn own_dir(&self) -> &Path {
        &self.place.own_dir
    }

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.socket()
    }

    /// The API.
    #[must_use]
    pub fn incus(&self) -> &Incus {
        &self.incus
    }

    /// The namespace of the server: where a daemon under test runs.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Sees to it that there are images of nginx, PostgreSQL and dnsmasq, and says what their aliases begin with.
    ///
    /// # Errors
    /// When they cannot be built or imported.
    pub fn services(&self) -> Result<&'static str> {
        testbed::services::import(&self.place)?;
        Ok(testbed::services::PREFIX)
    }

    /// The archive of such an image, to be pushed to a registry.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn service_archive(&self, name: &str) -> Result<PathBuf> {
        testbed::services::provide()?;
        Ok(testbed::services::archive(name))
    }

    /// Ends the server's daemon and starts it again, when no other process uses it; instances run on.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart_server(&self) -> Result<()> {
        self.in_use.alone(|| testbed::restart(&self.place))?
    }

    /// The same with SIGKILL.
    ///
    /// # Errors
    /// As [`Bed::restart_server`].
    pub fn kill_server(&self) -> Result<()> {
        self.in_use.alone(|| testbed::crash(&self.place))?
    }

    /// Lets containers have an id of the host's in their map (`raw.idmap`): a range of one for root, which the
    /// server does not take for containers in general.
    ///
    /// # Errors
    /// When the bed's files cannot be written.
    pub fn permit_id(&self, id: u32) -> Result<()> {
        let line = format!("root:{id}:1\n");
        for name in ["subuid", "subgid"] {
            // In place: the server has the very file mounted.
            let path = self.own_dir().join(name);
            let mut file = std::fs::File::options().read(true).append(true).open(&path)?;
            file.lock().context("cannot lock a range of ids")?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            if !text.contains(&line) {
                file.write_all(line.as_bytes())?;
            }
        }
        Ok(())
    }

    /// The server's own log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(self.place.log()).context("cannot read the server's log")
    }

    /// The `incus` client for this server, which must be one of Incus, and no configuration but the bed's.
    #[must_use]
    pub fn client(&self) -> Command {
        let mut command = Command::new("incus");
        command.env("INCUS_DIR", &self.place.dir).env("INCUS_CONF", self.place.own_dir.join("client"));
        command
    }

    /// Runs the `incus` client.
    ///
    /// # Errors
    /// When it cannot be started; its exit status is the caller's to look at.
    pub fn client_output(&self, args: &[&str]) -> Result<Output> {
        self.client().args(args).output().context("cannot run the incus client")
    }

    /// A running container with a name of its own that starts with `name`, in the default project;
    /// deleted on drop.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn container(&self, name: &str) -> Result<Container<'_>> {
        self.launch(name, &ContainerSpec::default())
    }

    /// The same, made as `spec` says.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn launch(&self, name: &str, spec: &ContainerSpec) -> Result<Container<'_>> {
        Container::create(self, &unique(name), spec)
    }

    /// A container with exactly this name: for a namesake of one that was deleted.
    ///
    /// # Errors
    /// When the server refuses, as when there is one.
    pub fn launch_exactly(&self, name: &str, spec: &ContainerSpec) -> Result<Container<'_>> {
        Container::create(self, name, spec)
    }

    /// An instance that is there already, as a copy or one that has moved; deleted on drop.
    #[must_use]
    pub fn take(&self, project: &str, name: &str) -> Container<'_> {
        Container::found(self, project, name)
    }

    /// A project with a name of its own, sharing images and profiles; deleted on drop, when empty.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn project(&self, name: &str) -> Result<Project<'_>> {
        let name = unique(name);
        let config = json!({"features.images": "false", "features.profiles": "false", OWNER: owner()});
        self.incus.change("POST", "/1.0/projects", Some(&json!({"name": name, "config": config})))?;
        Ok(Project { bed: self, name })
    }

    /// Deletes what processes that are gone left behind. Several may sweep at once: who comes too
    /// late finds nothing, which is no failure.
    fn sweep(&self) -> Result<()> {
        let instances = self.incus.get("/1.0/instances?recursion=1&all-projects=true")?;
        for instance in instances.as_array().into_iter().flatten() {
            if is_orphaned(&instance["config"]) {
                let text = |key: &str| instance[key].as_str().unwrap_or_default().to_owned();
                let _ = delete_instance(&self.incus, &text("project"), &text("name"));
            }
        }
        let projects = self.incus.get("/1.0/projects?recursion=1")?;
        for project in projects.as_array().into_iter().flatten() {
            if is_orphaned(&project["config"]) {
                let name = project["name"].as_str().unwrap_or_default();
                let _ = self.incus.change("DELETE", &format!("/1.0/projects/{name}"), None);
            }
        }
        Ok(())
    }
}

/// Removes the tables of daemons that were killed with their tests, when nobody uses the bed: they lead ports
/// that the next test may get to instances that are gone.
fn clear_tables(place: &Place) {
    let Ok(_alone) = testbed::alone(place, Duration::ZERO) else { return };
    let Ok(netns) = Netns::open(&place.netns_path()) else { return };
    let listed = netns.nft("list tables inet").unwrap_or_default();
    for name in listed.split_ascii_whitespace().filter(|word| word.starts_with("portway_")) {
        let _ = netns.nft(&format!("delete table inet {name}"));
    }
}

/// A project of a test.
#[derive(Debug)]
pub struct Project<'a> {
    bed: &'a Bed,
    name: String,
}

impl Project<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        // With an instance in it it stays for the next sweep.
        let _ = self.bed.incus.change("DELETE", &format!("/1.0/projects/{}", self.name), None);
    }
}

/// Stops and deletes an instance.
pub(crate) fn delete_instance(incus: &Incus, project: &str, name: &str) -> Result<()> {
    let stop = json!({"action": "stop", "force": true, "timeout": -1});
    // Refused when it is stopped.
    let _ = incus.change("PUT", &format!("/1.0/instances/{name}/state?project={project}"), Some(&stop));
    incus.change("DELETE", &format!("/1.0/instances/{name}?project={project}"), None).map(|_| ())
}

/// This process, as [`OWNER`] has it.
pub(crate) fn owner() -> String {
    let pid = std::process::id();
    let start = i32::try_from(pid).ok().and_then(|pid| process::start_time(pid).ok());
    format!("{pid}:{}", start.unwrap_or_default())
}

fn is_orphaned(config: &Value) -> bool {
    let Some(owner) = config[OWNER].as_str() else { return false };
    let Some((pid, start)) = owner.split_once(':') else { return true };
    let lives =
        pid.parse().is_ok_and(|pid| process::start_time(pid).is_ok_and(|time| time.to_string() == start));
    !lives
}

/// `name` made different from all others that live.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
