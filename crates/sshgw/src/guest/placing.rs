//! Getting the program into an instance.

use std::fmt::Write as _;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use portway_guestbin::{Unsupported, program};
use portway_sys::random;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};

use super::link::{Guest, GuestError, greet};

/// How long putting it into one place and starting it may take, and how long it may take to say hello: an instance has its
/// say in both.
const PLACING: Duration = Duration::from_secs(20);
const GREETING: Duration = Duration::from_secs(10);

/// What the names of files and folders begin with: the program removes those and no others.
const NAME_PREFIX: &str = ".portway-guest-";

/// The way into a running instance, as its root.
pub trait Instance {
    /// What runs a program there.
    type Streams: Send + 'static;

    /// Its architecture, as Incus names it.
    fn architecture(&self) -> &str;

    /// Makes a folder that only root may enter. Its parents are there or it fails.
    fn make_dir(&self, path: &str) -> impl Future<Output = io::Result<()>> + Send;

    /// Writes a file of root's with this mode.
    fn put(&self, path: &str, mode: u32, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Removes a file or an empty folder.
    fn remove(&self, path: &str) -> impl Future<Output = io::Result<()>> + Send;

    /// Runs a program with these arguments, without a terminal. Its standard error is the caller's to log.
    fn run(&self, args: &[&str]) -> impl Future<Output = io::Result<Self::Streams>> + Send;
}

/// Standard input and output of a program as one stream.
pub type Streams<R, W> = tokio::io::Join<R, W>;

/// Why an instance has no helper.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// None is built for it.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// No place did. The reason of the last one.
    #[error("cannot put the helper into the instance")]
    NoPlace(#[source] io::Error),
    /// It was put there and does not serve.
    #[error("the helper does not start in the instance")]
    Silent(#[source] GuestError),
    /// This machine gives no random numbers.
    #[error("cannot make a name for the helper")]
    Name(#[source] io::Error),
}

/// One place for the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    /// A folder to be made first.
    dir: Option<String>,
    path: String,
}

/// Places in the order they are tried in. `/dev/shm` is memory wherever it is a file system of its own; `/run` is mostly, and
/// where it is not the file is there for the moment until the program runs.
fn candidates(name: &str) -> [Candidate; 2] {
    let dir = format!("/run/{name}");
    [
        Candidate { dir: None, path: format!("/dev/shm/{name}") },
        Candidate { path: format!("{dir}/{name}"), dir: Some(dir) },
    ]
}

/// Puts the helper into an instance, starts it and speaks to it.
///
/// # Errors
/// [`PlaceError`]; nothing is left in the instance then.
pub async fn start<I>(instance: &I) -> Result<Guest, PlaceError>
where
    I: Instance,
    I::Streams: AsyncRead + AsyncWrite + Unpin,
{
    place(instance).await.map(Guest::adopt)
}

/// Puts the helper into an instance and starts it; it has been greeted, and is to be adopted.
///
/// # Errors
/// [`PlaceError`]; nothing is left in the instance then.
pub async fn place<I>(instance: &I) -> Result<I::Streams, PlaceError>
where
    I: Instance,
    I::Streams: AsyncRead + AsyncWrite + Unpin,
{
    let hash = build(instance.architecture())?;
    let mut next = 0;
    loop {
        let mut launched = launch(instance, next, &[]).await?;
        match tokio::time::timeout(GREETING, greet(&mut launched.streams, &hash)).await {
            Ok(Ok(())) => return Ok(launched.streams),
            Ok(Err(error)) if launched.is_last => {
                launched.clear(instance).await;
                return Err(PlaceError::Silent(error));
            }
            Err(_) if launched.is_last => {
                launched.clear(instance).await;
                let late = io::ErrorKind::TimedOut.into();
                return Err(PlaceError::Silent(GuestError::Stream(late)));
            }
            Ok(Err(_)) | Err(_) => launched.clear(instance).await,
        }
        next = launched.place + 1;
    }
}

/// SHA-256 of the helper for this architecture.
pub(crate) fn build(architecture: &str) -> Result<[u8; 32], PlaceError> {
    static KNOWN: OnceLock<[u8; 32]> = OnceLock::new();
    let program = program(architecture)?;
    Ok(*KNOWN.get_or_init(|| Sha256::digest(program).into()))
}

/// A helper that was started and has not said anything.
#[derive(Debug)]
pub(crate) struct Launched<S> {
    pub(crate) streams: S,
    /// Which of the places it is.
    pub(crate) place: usize,
    /// There is no other place after it.
    pub(crate) is_last: bool,
    candidate: Candidate,
}

impl<S> Launched<S> {
    /// Removes its file and folder, if it has not done so itself.
    pub(crate) async fn clear<I: Instance>(&self, instance: &I) {
        clear(instance, &self.candidate).await;
    }

    /// The same later, without its streams.
    pub(crate) fn into_parts(self) -> (S, Launched<()>) {
        let Self { streams, place, is_last, candidate } = self;
        (streams, Launched { streams: (), place, is_last, candidate })
    }
}

/// Starts the helper with these limits, in the first place from this one on where that can be done.
///
/// # Errors
/// [`PlaceError`]; nothing is left in the instance then.
pub(crate) async fn launch<I: Instance>(
    instance: &I,
    first: usize,
    limits: &[String],
) -> Result<Launched<I::Streams>, PlaceError> {
    let program = program(instance.architecture())?;
    let hash = hex(&build(instance.architecture())?);
    let name = random_name().map_err(PlaceError::Name)?;
    let all = candidates(&name);
    let last = all.len() - 1;
    let mut failed: io::Error = io::ErrorKind::NotFound.into();
    for (place, candidate) in all.into_iter().enumerate().skip(first) {
        let mut args = vec![candidate.path.as_str(), "serve", &hash];
        args.extend(limits.iter().map(String::as_str));
        let tried = tokio::time::timeout(PLACING, try_place(instance, &candidate, program, &args)).await;
        match tried.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(streams) => return Ok(Launched { streams, place, is_last: place == last, candidate }),
            Err(error) => failed = error,
        }
        clear(instance, &candidate).await;
    }
    Err(PlaceError::NoPlace(failed))
}

async fn try_place<I: Instance>(
    instance: &I,
    candidate: &Candidate,
    program: &[u8],
    args: &[&str],
) -> io::Result<I::Streams> {
    if let Some(dir) = &candidate.dir {
        instance.make_dir(dir).await?;
    }
    instance.put(&candidate.path, 0o700, program).await?;
    instance.run(args).await
}

/// What the program has removed already is not there any more.
async fn clear<I: Instance>(instance: &I, candidate: &Candidate) {
    let _ = instance.remove(&candidate.path).await;
    if let Some(dir) = &candidate.dir {
        let _ = instance.remove(dir).await;
    }
}

/// 128 bits: no two are the same, and nobody in the instance knows one before it is used.
fn random_name() -> io::Result<String> {
    Ok(format!("{NAME_PREFIX}{}", hex(&random::bytes::<16>()?)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ours_and_never_the_same() {
        let (one, two) = (random_name().unwrap(), random_name().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), NAME_PREFIX.len() + 32);
        assert_eq!(candidates("x")[1].path, "/run/x/x");
    }
}
