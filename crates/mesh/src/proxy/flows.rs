//! Clients that come as descriptors: an engine that is not the kernel's has no socket to accept from.
//!
//! Connections go on to the worker. Flows of datagrams are carried here: the worker takes them from one socket only. How
//! many there are at once is bounded by the engine.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use portway_model::{Direction, RuleListen, Transport};
use portway_relay::wire::Slot;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::dial;
use super::link::watched;
use super::ports::Opened;
use super::serve::Shared;

/// Idle life of a flow: as that of one in the worker (RFC 4787, REQ-5).
const IDLE: Duration = Duration::from_secs(120);

/// Longest datagram, bytes.
const DATAGRAM_BYTES: usize = 65_535;

/// Pause after a failure to take one in, which is a shortage.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether the flows of a port are carried here.
pub(super) fn are_carried_here(listen: &RuleListen, listeners: &[OwnedFd]) -> bool {
    listen.direction == Direction::Ingress && listen.transport == Transport::Udp && listeners.is_empty()
}

/// Takes the clients of a port in, until its tasks are ended.
pub(super) fn attend(
    shared: &Arc<Shared>,
    slot: Slot,
    opened: Opened,
    calls: &mpsc::Sender<(Slot, OwnedFd)>,
) {
    let mut tasks = Vec::new();
    match opened {
        Opened::Sockets(_) => {}
        Opened::Calls(listeners) => {
            for listener in listeners {
                let calls = calls.clone();
                let fd = listener.as_fd().try_clone_to_owned();
                tasks.push(tokio::spawn(take(
                    fd,
                    move || listener.accept().map(|(fd, _)| fd),
                    async move |fd| {
                        // The other end is gone when everything ends.
                        calls.send((slot, fd)).await.ok();
                    },
                )));
            }
        }
        Opened::Flows(inlets) => {
            for inlet in inlets {
                let shared = Arc::clone(shared);
                let fd = inlet.as_fd().try_clone_to_owned();
                tasks.push(tokio::spawn(take(
                    fd,
                    move || inlet.accept().map(|(fd, _)| fd),
                    async move |fd| {
                        let ticket = shared.table().own_ticket();
                        let task = tokio::spawn(flow(Arc::clone(&shared), slot, ticket, fd));
                        shared.table().begin(slot, ticket, task.abort_handle());
                    },
                )));
            }
        }
    }
    let mut table = shared.table.lock().unwrap_or_else(PoisonError::into_inner);
    tasks.into_iter().for_each(|task| table.attend(slot, task.abort_handle()));
}

async fn take(
    fd: io::Result<OwnedFd>,
    accept: impl Fn() -> io::Result<OwnedFd> + Send,
    mut with: impl AsyncFnMut(OwnedFd),
) {
    let Ok(fd) = fd.and_then(watched).inspect_err(|error| warn!(%error, "clients not taken in")) else {
        return;
    };
    loop {
        let Ok(mut ready) = fd.readable().await else { return };
        match accept() {
            Ok(client) => with(client).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            // The stack is gone, which is seen elsewhere.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
            Err(error) => {
                debug!(%error, "client not taken in");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Carries one flow between the network and its destination on the host, until it is idle or one end is gone.
async fn flow(shared: Arc<Shared>, slot: Slot, ticket: u64, inside: OwnedFd) {
    let refused = match dial::find(&shared, slot).await {
        Ok((rule, outside)) => {
            shared.table().opened(ticket, rule);
            match carry(inside, outside).await {
                Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
                Ok(()) => false,
            }
        }
        Err(_) => false,
    };
    shared.table().over(ticket, refused);
}

async fn carry(inside: OwnedFd, outside: OwnedFd) -> io::Result<()> {
    let inside: std::os::unix::net::UnixDatagram = inside.into();
    inside.set_nonblocking(true)?;
    let inside = UnixDatagram::from_std(inside)?;
    let outside = UdpSocket::from_std(outside.into())?;
    let (mut out, mut back) = (vec![0; DATAGRAM_BYTES], vec![0; DATAGRAM_BYTES]);
    loop {
        let next = async {
            tokio::select! {
                got = inside.recv(&mut out) => got.map(|length| (true, length)),
                got = outside.recv(&mut back) => got.map(|length| (false, length)),
            }
        };
        let Ok(next) = timeout(IDLE, next).await else { return Ok(()) };
        // A side that has no room drops it, as the network would.
        match next {
            Ok((true, length)) => settle(outside.try_send(out.get(..length).unwrap_or_default()))?,
            Ok((false, length)) => {
                // That the flow is over inside is the end of it, and nobody's fault.
                if settle(inside.try_send(back.get(..length).unwrap_or_default())).is_err() {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn settle(sent: io::Result<usize>) -> io::Result<()> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(error),
        _ => Ok(()),
    }
}
