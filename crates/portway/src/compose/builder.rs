//! A program that builds images, and the way of what it has built to the server.
//!
//! The program is started with arguments, never through a shell, and does what the files say with the rights of whoever
//! runs this command. Its result is one archive of files, which the server gets with what the image says of itself.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_compose::build::{self, Build, Builder, Dockerfile, Output, Paths, SecretSource};
use portway_compose::want::Keys;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::build::tell;
use super::stage::server;
use super::store::{Store, send};
use crate::cli::compose::images::BuilderArg;
use crate::failure::{Outcome, Stop};

/// How long a builder that is told to end may take for it.
const CLEARING: Duration = Duration::from_secs(20);

/// How much is repeated of what a builder that was to be quiet has said before it failed.
const COMPLAINT_BYTES: u64 = 4 << 10;

/// A builder that is on this machine.
#[derive(Debug)]
pub(super) struct Workshop {
    builder: Builder,
    program: PathBuf,
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
        let own = |name: &str| dir.path().join(name);
        let (instructions, rootfs, id) = (own("Dockerfile"), own("rootfs.tar"), own("id"));
        let secrets = dir.path();
        if let Dockerfile::Inline(text) = &build.dockerfile {
            keep(&instructions, text)?;
        }
        for (number, secret) in build.secrets.iter().enumerate() {
            if let SecretSource::Variable(name, value) = &secret.from {
                let missing =
                    || Stop::refused(format!("image {}: the variable {name} is not set", build.name));
                keep(&secrets.join(number.to_string()), value.as_ref().ok_or_else(missing)?)?;
            }
        }
        let paths = Paths { instructions: &instructions, rootfs: &rootfs, id: &id, secrets };
        let words = self.builder.build(build, paths, output);
        // Values of variables are not among the words where that can be: a command line is everybody's to read.
        self.run(&words, &build.hidden_args(), output, &format!("build {}", build.name)).await?;
        // By its name it might be what somebody else has built meanwhile.
        let id = fs::read_to_string(&id)
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
        let mark = self.builder.mark(id);
        let sent = send(store, build, (&image, &mark), &rootfs, dir);
        tokio::select! {
            sent = sent => sent,
            _ = signalled() => Err(Stop::refused("ended in the middle")),
        }
    }

    /// Sends an image to its registry: the one that was built for the project, whatever has got its name since.
    pub(super) async fn push(&self, store: Store<'_>, build: &Build, output: &Output<'_>) -> Outcome {
        let (name, program) = (&build.name, self.builder.program());
        let image = store.client.image(store.place, &build.alias).await.map_err(|error| server(&error))?;
        let mark = image.and_then(|image| image.properties.get(build::ID).cloned());
        let id = mark.as_deref().and_then(|mark| self.builder.marked(mark));
        let id = id.ok_or_else(|| {
            let stop = Stop::refused(format!("image {name} is not sent: {program} has not built it"));
            stop.hint("run `portway compose build` first, or say another --builder")
        })?;
        for words in self.builder.push(id, name, output) {
            self.run(&words, &Keys::new(), output, &format!("send {name}")).await?;
        }
        Ok(())
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

    /// Runs the builder with these variables more; what it says goes to standard error, and where it is to be quiet only
    /// when it fails.
    async fn run<W: AsRef<OsStr>>(
        &self,
        words: &[W],
        variables: &Keys,
        output: &Output<'_>,
        what: &str,
    ) -> Outcome {
        let kept = if output.is_quiet { tempfile::tempfile().ok() } else { None };
        let errors: io::Result<OwnedFd> = match &kept {
            Some(kept) => kept.try_clone().map(OwnedFd::from),
            None => io::stderr().as_fd().try_clone_to_owned(),
        };
        let errors = errors.map_err(|error| self.unstarted(&error))?;
        let said = if output.is_quiet { Ok(Stdio::null()) } else { errors.try_clone().map(Stdio::from) };
        let said = said.map_err(|error| self.unstarted(&error))?;
        let mut command = self.command(words);
        let child = command.envs(variables).stdout(said).stderr(Stdio::from(errors)).spawn();
        let status = ended(child.map_err(|error| self.unstarted(&error))?).await?;
        if status.success() {
            return Ok(());
        }
        if let Some(kept) = kept {
            complain(&last(kept));
        }
        Err(Stop::refused(format!("{} could not {what}: {status}", self.builder.program())))
    }

    /// Runs the builder for what it prints.
    async fn answer<W: AsRef<OsStr>>(&self, words: &[W]) -> Outcome<Vec<u8>> {
        let child = self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|error| self.unstarted(&error))?;
        let output = child.wait_with_output().await.map_err(|error| self.unstarted(&error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        complain(&output.stderr);
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

/// The end of what a builder has said.
fn last(mut kept: File) -> Vec<u8> {
    let mut text = Vec::new();
    let length = kept.metadata().map_or(0, |file| file.len());
    let from = SeekFrom::Start(length.saturating_sub(COMPLAINT_BYTES));
    // What cannot be read is not repeated.
    let _unread = kept.seek(from).and_then(|_| kept.read_to_end(&mut text));
    text
}

/// Repeats what a builder has said of its failure.
fn complain(said: &[u8]) {
    for line in String::from_utf8_lossy(said).lines() {
        tell(&Output::default(), line);
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

/// Writes a file that nobody else reads.
fn keep(path: &Path, text: &str) -> Outcome {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Stop::refused(format!("cannot write {}: {error}", path.display())))
}
