//! The door: where clients connect, and who else may have it.
//!
//! The listener comes from systemd (`sd_listen_fds(3)`), from the gateway that runs until now, or is opened here. The
//! first two are never closed on the way from one gateway to the next: who connects meanwhile waits.
//!
//! A gateway is spoken to over a socket in the folder of the roll, which nobody else can enter: one packet, one answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portway_sys::listen::{self, V6Only};
use portway_sys::process;
use portway_sys::seqpacket::Channel;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::{Broker, lock};
use crate::watched::{receive, send, watched, watched_channel};

/// Name of the socket.
pub(super) const SOCKET: &str = "gateway";

/// Asks for the listener; the gateway that has given it away ends.
const TAKE: &[u8] = b"take";

/// Asks for the metrics.
const METRICS: &[u8] = b"metrics";

/// Asks it to take nobody new and end with its last connection; milliseconds follow, or nothing for any time.
const DRAIN: &[u8] = b"drain ";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The listener.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    /// Somebody else keeps it open when this gateway ends.
    pub(super) is_kept: bool,
}

/// The listener that systemd has passed. To be called before anything else opens descriptors.
pub(super) fn passed() -> Option<OwnedFd> {
    let fd = process::inherited(sd_notify::listen_fds().ok()?.next()?).ok()?;
    listen::is_listening(fd.as_fd()).is_ok_and(|listens| listens).then_some(fd)
}

/// The listener of the gateway that runs, if it still has one; `None` when none does. It ends now.
pub(super) fn taken(dir: &Path) -> Option<Option<OwnedFd>> {
    match ask(dir, TAKE) {
        Ok((_, fds)) => Some(fds.into_iter().next()),
        Err(error) => {
            tracing::info!(%error, "no other gateway gives its listener");
            None
        }
    }
}

/// What the gateway of this folder counts, as Prometheus reads it.
///
/// # Errors
/// When there is none, or it does not answer.
pub(super) fn metrics(dir: &Path) -> io::Result<String> {
    String::from_utf8(ask(dir, METRICS)?.0).map_err(io::Error::other)
}

/// Has the gateway of this folder take nobody new. How many are in, and whether somebody else keeps its listener.
///
/// # Errors
/// When there is none, or it does not answer; `Unsupported` when it does not know how.
pub(super) fn drain(dir: &Path, limit: Option<Duration>) -> io::Result<(usize, bool)> {
    let limit = limit.map_or_else(String::new, |limit| limit.as_millis().to_string());
    let (said, _) = ask(dir, &[DRAIN, limit.as_bytes()].concat()).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::ErrorKind::Unsupported.into(),
        _ => error,
    })?;
    let said = String::from_utf8(said).map_err(io::Error::other)?;
    let (count, kept) = said.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    Ok((count.parse().map_err(io::Error::other)?, kept == "kept"))
}

fn ask(dir: &Path, question: &[u8]) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let channel = Channel::connect(&dir.join(SOCKET))?;
    channel.set_timeout(Some(PATIENCE))?;
    channel.send(question, &[])?;
    let mut answer = Vec::new();
    let fds = channel.recv(&mut answer)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((answer, fds))
}

impl Door {
    /// Needs a runtime. A listener from elsewhere serves if it is the one that is wanted; systemd's always is.
    pub(super) fn open(
        address: SocketAddr,
        passed: Option<OwnedFd>,
        taken: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let is_kept = passed.is_some();
        let taken = taken.filter(|fd| address.port() == 0 || is_at(fd, address));
        let fd = match passed.or(taken) {
            Some(fd) => fd,
            None => bind(address)?,
        };
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok(Self { listener: TcpListener::from_std(listener)?, is_kept })
    }
}

fn is_at(fd: &OwnedFd, address: SocketAddr) -> bool {
    let all = |ip: IpAddr| ip.is_unspecified();
    listen::local_addr(fd.as_fd()).is_ok_and(|at| {
        at.port() == address.port() && (at.ip() == address.ip() || all(at.ip()) && all(address.ip()))
    })
}

/// Both families for `[::]`, whatever the host's default is; IPv4 alone where IPv6 is off.
fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    match listen::tcp(address, V6Only::No) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_off(&error) => {
            listen::tcp((Ipv4Addr::UNSPECIFIED, address.port()).into(), V6Only::No)
        }
        other => other,
    }
}

fn is_off(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL))
}

/// The socket on which a gateway is spoken to. One of a gateway that has died is removed.
pub(super) fn socket(dir: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let path = dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok((Channel::listen(&path)?, path))
}

/// What is given away of a door: nothing once it is shut.
#[derive(Debug)]
pub(super) struct Handed {
    listener: Mutex<Option<OwnedFd>>,
    is_kept: bool,
}

impl Handed {
    pub(super) fn of(door: &Door) -> io::Result<Self> {
        let listener = door.listener.as_fd().try_clone_to_owned()?;
        Ok(Self { listener: Mutex::new(Some(listener)), is_kept: door.is_kept })
    }
}

/// Answers on the socket, for ever. `taken` is told when the listener was given away.
pub(super) async fn answer(broker: Arc<Broker>, socket: OwnedFd, handed: Handed, taken: Arc<Notify>) {
    let socket = match watched(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "the gateway cannot be spoken to");
            return;
        }
    };
    let own = rustix::process::geteuid().as_raw();
    while let Ok(mut guard) = socket.readable().await {
        match guard.try_io(|socket| Channel::accept(socket.get_ref().as_fd())) {
            Ok(Ok(channel)) if channel.peer_uid().is_ok_and(|uid| uid == own || uid == 0) => {
                let told = told(&broker, channel, &handed);
                if let Ok(Ok(true)) = tokio::time::timeout(PATIENCE, told).await {
                    taken.notify_one();
                    return;
                }
            }
            Ok(Err(error)) if error.kind() != io::ErrorKind::ConnectionAborted => {
                tokio::time::sleep(super::arrivals::SHORTAGE).await;
            }
            _ => {}
        }
    }
}

/// Answers one question; whether it took the listener.
async fn told(broker: &Broker, channel: Channel, handed: &Handed) -> io::Result<bool> {
    let channel: AsyncFd<Channel> = watched_channel(channel)?;
    let mut question = Vec::new();
    receive(&channel, &mut question).await?;
    match question.as_slice() {
        TAKE => {
            let listener = lock(&handed.listener).as_ref().map(OwnedFd::try_clone).transpose()?;
            send(&channel, b"taken", listener.as_slice()).await?;
            Ok(true)
        }
        METRICS => {
            send(&channel, broker.count.text(broker).as_bytes(), &[]).await?;
            Ok(false)
        }
        question => {
            let limit = question.strip_prefix(DRAIN).and_then(time).ok_or(io::ErrorKind::InvalidData)?;
            drop(lock(&handed.listener).take());
            let count = broker.drain.begin(limit).await;
            let kept = if handed.is_kept { "kept" } else { "closed" };
            send(&channel, format!("{count} {kept}").as_bytes(), &[]).await?;
            Ok(false)
        }
    }
}

/// Milliseconds, or nothing for any time; `None` when it is neither.
fn time(text: &[u8]) -> Option<Option<Duration>> {
    let text = str::from_utf8(text).ok()?;
    if text.is_empty() {
        Some(None)
    } else {
        text.parse().ok().map(|millis| Some(Duration::from_millis(millis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when "all addresses" is one family, or a listener for elsewhere is taken for ours.
    #[tokio::test]
    async fn all_addresses_are_both_families() {
        let door = Door::open((Ipv6Addr::UNSPECIFIED, 0).into(), None, None).expect("a door");
        let port = door.listener.local_addr().expect("an address").port();
        tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("IPv4 comes in");
        let other = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a listener");
        let at = listen::local_addr(other.as_fd()).expect("an address");
        assert!(is_at(&other, at));
        assert!(!is_at(&other, (Ipv4Addr::LOCALHOST, at.port() ^ 1).into()));
        assert!(!is_at(&other, (Ipv4Addr::UNSPECIFIED, at.port()).into()));
    }
}
