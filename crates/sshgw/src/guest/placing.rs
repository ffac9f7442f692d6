//! Getting the program into an instance.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};

use portway_guestbin::{Unsupported, program};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};

use super::link::{Guest, GuestError, greet};

/// What the names of files and folders begin with: the program removes those and no others.
const NAME_PREFIX: &str = ".portway-guest-";

/// The way into a running instance, as its root.
pub trait Instance {
    /// What runs a program there.
    type Streams: AsyncRead + AsyncWrite + Unpin + Send + 'static;

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
pub async fn start<I: Instance>(instance: &I) -> Result<Guest, PlaceError> {
    place(instance).await.map(Guest::adopt)
}

/// Puts the helper into an instance and starts it; it has been greeted, and is to be adopted.
///
/// # Errors
/// [`PlaceError`]; nothing is left in the instance then.
pub async fn place<I: Instance>(instance: &I) -> Result<I::Streams, PlaceError> {
    let program = program(instance.architecture())?;
    let hash: [u8; 32] = Sha256::digest(program).into();
    let name = random_name().map_err(PlaceError::Name)?;
    let mut failed = PlaceError::NoPlace(io::ErrorKind::NotFound.into());
    for candidate in candidates(&name) {
        match try_place(instance, &candidate, program, &hash).await {
            Ok(streams) => return Ok(streams),
            Err(error) => failed = error,
        }
        // What the program has removed already is not there any more.
        let _ = instance.remove(&candidate.path).await;
        if let Some(dir) = &candidate.dir {
            let _ = instance.remove(dir).await;
        }
    }
    Err(failed)
}

async fn try_place<I: Instance>(
    instance: &I,
    candidate: &Candidate,
    program: &[u8],
    hash: &[u8; 32],
) -> Result<I::Streams, PlaceError> {
    if let Some(dir) = &candidate.dir {
        instance.make_dir(dir).await.map_err(PlaceError::NoPlace)?;
    }
    instance.put(&candidate.path, 0o700, program).await.map_err(PlaceError::NoPlace)?;
    let mut streams =
        instance.run(&[&candidate.path, "serve", &hex(hash)]).await.map_err(PlaceError::NoPlace)?;
    greet(&mut streams, hash).await.map_err(PlaceError::Silent)?;
    Ok(streams)
}

/// 128 bits: no two are the same, and nobody in the instance knows one before it is used.
fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{NAME_PREFIX}{}", hex(&bytes)))
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
