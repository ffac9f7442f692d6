//! A program that builds images, and the way of what it has built to the server.
//!
//! The program is started with arguments, never through a shell, and does what the files say with the rights of whoever
//! runs this command. Its result is one archive of files, which the server gets with what the image says of itself.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_compose::build::{self, Build, Builder, Dockerfile, Inspected, Output, tar};
use portway_incus::{Client, ImageFiles, Refusal};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::stage::server;
use crate::cli::compose::images::BuilderArg;
use crate::failure::{Outcome, Stop};

/// How long a builder that is told to end may take for it.
const CLEARING: Duration = Duration::from_secs(20);

/// A builder that is on this machine.
#[derive(Debug)]
pub(super) struct Workshop {
    builder: Builder,
    program: PathBuf,
}

/// The server, and where in it images are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Store<'s> {
    pub(super) client: &'s Client,
    /// Its project that has the images.
    pub(super) place: &'s str,
    /// The Compose project they are for.
    pub(super) project: &'s str,
}

impl Workshop {
    /// The one that is asked for, else the first that is here.
    pub(super) fn find(asked: Option<BuilderArg>) -> Outcome<Workshop> {
        let asked = asked.map(|asked| match asked {
            BuilderArg::Buildah => Builder::Buildah,
            BuilderArg::Podman => Builder::Podman,
            BuilderArg::Docker => Builder::Docker,
        });
        let wanted = Builder::ALL.into_iter().filter(|builder| asked.is_none_or(|asked| asked == *builder));
        let mut found = wanted.filter_map(|builder| Some(Workshop { builder, program: program(builder)? }));
        found.next().ok_or_else(|| match asked {
            Some(builder) => Stop::refused(format!("{} is not installed here", builder.program())),
            None => Stop::refused("images are built by buildah, podman or docker, and none of them is here")
                .hint("install buildah, or name in `image` what is built elsewhere"),
        })
    }

    /// Builds an image, and gives it to the server.
    pub(super) async fn build(&self, store: Store<'_>, build: &Build, output: &Output<'_>) -> Outcome {
        let dir = tempfile::Builder::new().prefix("portway-build-").tempdir_in(large());
        let dir = dir.map_err(|error| Stop::refused(format!("cannot make a temporary folder: {error}")))?;
        let (instructions, rootfs) = (dir.path().join("Dockerfile"), dir.path().join("rootfs.tar"));
        if let Dockerfile::Inline(text) = &build.dockerfile {
            std::fs::write(&instructions, text).map_err(|error| {
                Stop::refused(format!("cannot write {}: {error}", instructions.display()))
            })?;
        }
        let id = dir.path().join("id");
        let words = self.builder.build(build, &instructions, (&rootfs, &id), output);
        self.run(&words, output, &format!("build {}", build.name)).await?;
        // By its name it might be what somebody else has built meanwhile.
        let id = std::fs::read_to_string(&id)
            .map_err(|error| Stop::refused(format!("{} made no image: {error}", self.builder.program())))?;
        let id = id.trim();
        let said = self.answer(&self.builder.inspect(id)).await?;
        let image = serde_json::from_slice(&said).ok().and_then(|json| build::inspected(&json));
        let image = image.ok_or_else(|| {
            Stop::refused(format!("{} does not say what {} is", self.builder.program(), build.name))
        })?;
        if !self.builder.exports_itself() {
            self.export(id, &rootfs).await?;
        }
        let sent = send(store, build, &image, &rootfs, dir);
        tokio::select! {
            sent = sent => sent,
            _ = signalled() => Err(Stop::refused("ended in the middle")),
        }
    }

    /// Sends an image to its registry.
    pub(super) async fn push(&self, name: &str, output: &Output<'_>) -> Outcome {
        self.run(&self.builder.push(name, output), output, &format!("send {name}")).await
    }

    /// Has the files of an image written, by way of a container that is never started.
    async fn export(&self, id: &str, rootfs: &Path) -> Outcome {
        // An image without a command needs one to become a container.
        let made = self.answer(&["create", id, "/portway"].map(OsStr::new)).await?;
        let made = String::from_utf8_lossy(&made);
        let container = made.lines().last().unwrap_or_default().trim().to_owned();
        let words = ["export".as_ref(), "-o".as_ref(), rootfs.as_os_str(), container.as_ref()];
        let exported = self.answer(&words).await;
        let removed = self.answer(&["rm", &container].map(OsStr::new)).await;
        exported.and(removed).map(|_| ())
    }

    /// Runs the builder; what it says goes to standard error.
    async fn run<W: AsRef<OsStr>>(&self, words: &[W], output: &Output<'_>, what: &str) -> Outcome {
        let said = if output.is_quiet {
            Stdio::null()
        } else {
            io::stderr().as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from)
        };
        let child = self.command(words).stdout(said).spawn().map_err(|error| self.unstarted(&error))?;
        match ended(child).await? {
            status if status.success() => Ok(()),
            status => Err(Stop::refused(format!("{} could not {what}: {status}", self.builder.program()))),
        }
    }

    /// Runs the builder for what it prints.
    async fn answer<W: AsRef<OsStr>>(&self, words: &[W]) -> Outcome<Vec<u8>> {
        let child = self.command(words).stdout(Stdio::piped()).spawn();
        let child = child.map_err(|error| self.unstarted(&error))?;
        let output = child.wait_with_output().await.map_err(|error| self.unstarted(&error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let word = words.first().map(|word| word.as_ref().to_string_lossy().into_owned());
        let what = word.unwrap_or_default();
        Err(Stop::refused(format!("{} {what} has failed: {}", self.builder.program(), output.status)))
    }

    fn command<W: AsRef<OsStr>>(&self, words: &[W]) -> Command {
        let mut command = Command::new(&self.program);
        // What a file names by half a path is nowhere, whichever folder this was called in.
        command.args(words).current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn unstarted(&self, error: &io::Error) -> Stop {
        Stop::refused(format!("cannot run {}: {error}", self.program.display()))
    }
}

/// Waits for the end of a program. A signal to end is passed on, and the program given the time to clear up after itself.
async fn ended(mut child: Child) -> Outcome<ExitStatus> {
    let waited = |error: io::Error| Stop::refused(format!("cannot wait for a program: {error}"));
    let told = tokio::select! {
        status = child.wait() => return status.map_err(waited),
        told = signalled() => told,
    };
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // One that has ended needs no signal.
        let _ended = kill(Pid::from_raw(pid), told);
    }
    // Dropped at the end of it, a program that stays is killed.
    let _late = tokio::time::timeout(CLEARING, child.wait()).await;
    Err(Stop::refused("ended in the middle"))
}

/// The first signal to end that comes from now on.
async fn signalled() -> Signal {
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Signal::SIGINT,
        _ = term.recv() => Signal::SIGTERM,
    }
}

/// A folder for the files of an image, which on many hosts do not fit into the memory that /tmp is.
fn large() -> PathBuf {
    let usual = PathBuf::from("/var/tmp");
    if std::env::var_os("TMPDIR").is_none() && usual.is_dir() { usual } else { std::env::temp_dir() }
}

/// Where a builder is.
fn program(builder: Builder) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let dirs = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    dirs.map(|dir| dir.join(builder.program())).find(is_program)
}

/// Gives the server an image and its name, which the one before loses. `_dir` holds the files.
async fn send(store: Store<'_>, build: &Build, image: &Inspected, rootfs: &Path, _dir: TempDir) -> Outcome {
    let Store { client, place, project } = store;
    let unread = |error: io::Error| Stop::refused(format!("cannot read {}: {error}", rootfs.display()));
    let (metadata, head) = (tar::metadata(image, project, build), tar::folders());
    let files = File::open(rootfs).map_err(unread)?;
    let (fingerprint, files_bytes) = tar::fingerprint(&[&metadata, &head], &files).map_err(unread)?;
    let before = client.image(place, &build.alias).await.map_err(|error| server(&error))?;
    if before.as_ref().is_some_and(|before| before.fingerprint == fingerprint) {
        return Ok(());
    }
    if client.image(place, &fingerprint).await.map_err(|error| server(&error))?.is_none() {
        let files = File::open(rootfs).map_err(unread)?;
        let sent = ImageFiles { fingerprint: fingerprint.clone(), metadata, head, files, files_bytes };
        let sent = match client.import(place, sent).await {
            Ok(operation) => client.finish(&operation, None, |_| ()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match sent {
            Err(error) if error.refusal() == Some(Refusal::Exists) => {}
            sent => sent.map_err(|error| server(&error))?,
        }
    }
    let named = client.name_image(place, &build.alias, &fingerprint).await;
    named.map_err(|error| server(&error))?;
    // What nobody names any more is of no use. Instances made of it have copies.
    let is_left = |before: &portway_incus::Image| {
        before.aliases == [build.alias.clone()]
            && before.properties.get(build::PROJECT).is_some_and(|of| of == project)
    };
    if let Some(before) = before.filter(is_left) {
        let _kept = client.remove_image(place, &before.fingerprint).await;
    }
    Ok(())
}
