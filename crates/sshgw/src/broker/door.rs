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
use std::sync::Arc;
use std::time::Duration;

use portway_sys::listen::{self, V6Only};
use portway_sys::process;
use portway_sys::seqpacket::Channel;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::Broker;
use crate::watched::{receive, send, watched, watched_channel};

/// Name of the socket.
pub(super) const SOCKET: &str = "gateway";

/// Asks for the listener; the gateway that has given it away ends.
const TAKE: &[u8] = b"take";

/// Asks for the metrics.
const METRICS: &[u8] = b"metrics";

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

/// The listener of the gateway that runs; `None` when none does.
pub(super) fn taken(dir: &Path) -> Option<OwnedFd> {
    match ask(dir, TAKE) {
        Ok((_, fds)) => fds.into_iter().next(),
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

/// Answers on the socket, for ever. `taken` is told when the listener was given away.
pub(super) async fn answer(broker: Arc<Broker>, socket: OwnedFd, listener: Arc<OwnedFd>, taken: Arc<Notify>) {
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
                let told = told(&broker, channel, &listener);
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
async fn told(broker: &Broker, channel: Channel, listener: &OwnedFd) -> io::Result<bool> {
    let channel: AsyncFd<Channel> = watched_channel(channel)?;
    let mut question = Vec::new();
    receive(&channel, &mut question).await?;
    match question.as_slice() {
        TAKE => {
            send(&channel, b"taken", &[listener.try_clone()?]).await?;
            Ok(true)
        }
        METRICS => {
            send(&channel, broker.count.text(broker).as_bytes(), &[]).await?;
            Ok(false)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
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
