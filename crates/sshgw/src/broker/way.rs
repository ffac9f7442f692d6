//! A listener inside an instance's network namespace: by it the helper of a connection comes to us, and no byte goes
//! through the server of the instance from then on.
//!
//! What an instance of this machine is reached by is a unix socket without a place in any file system. It is bound
//! before anybody knows its name, and belongs to the namespace it was made in: no program of another one finds it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use portway_incus::Client;
use portway_proto::guest::Way;
use portway_sys::{listen, netns, random};
use rustix::net::SocketType;

/// What their names begin with: ss(8) and /proc/net/unix show them.
const PREFIX: &[u8] = b"portway-";

/// How long a listener may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a helper may come to.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) way: Way,
}

/// Listens in the namespace of a container; `None` where that cannot be had in a second, and the helper stays where it is:
/// a virtual machine, a container that shares our namespace, a machine that is too busy. Takes one request, 5 ms.
pub(super) async fn open(client: &Client, project: &str, instance: &str) -> Option<Listener> {
    let opened = async {
        let state = client.state(project, instance).await.map_err(io::Error::other)?;
        let pid = state.and_then(|state| state.pid).ok_or(io::ErrorKind::NotFound)?;
        tokio::task::spawn_blocking(move || bind(pid)).await?
    };
    let opened =
        tokio::time::timeout(PATIENCE, opened).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    opened.inspect_err(|error| tracing::debug!(%error, instance, "no way beside the server")).ok()
}

/// The emulator of a virtual machine is in our namespace, which no helper is in. A number that is another process' by
/// now leads to where nobody comes.
fn bind(pid: i32) -> io::Result<Listener> {
    let ns = netns::open_pid(pid)?;
    if netns::id(ns.as_fd())? == netns::id(netns::current()?.as_fd())? {
        return Err(io::Error::other("it is our own network namespace"));
    }
    let way = way()?;
    let name = way.name;
    let fd = netns::run_in(Some(ns), move || listen::unix_abstract(SocketType::STREAM, &name))??;
    Ok(Listener { fd, way })
}

/// A name of 120 bits that nobody else has, a token and an answer.
fn way() -> io::Result<Way> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut way = Way { name: random::bytes()?, token: random::bytes()?, answer: random::bytes()? };
    for (at, byte) in way.name.iter_mut().enumerate() {
        *byte = *PREFIX.get(at).unwrap_or(&LETTERS[usize::from(*byte & 31)]);
    }
    Ok(way)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when names can be guessed, or are no text.
    #[test]
    fn names_differ() {
        let (one, other) = (way().expect("a way"), way().expect("a way"));
        assert!(one.name != other.name && one.token != other.token);
        assert!(one.name.starts_with(PREFIX) && one.name.is_ascii());
    }

    #[test]
    fn nobody_listens_in_our_own_namespace() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(bind(own).is_err());
    }
}
