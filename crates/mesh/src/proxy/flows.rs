//! Clients that come as descriptors: an engine that is not the kernel's has no socket to accept from.
//!
//! Connections go on to the worker. Flows of datagrams are carried here: the worker takes them from one socket only. There
//! are as many at a time as the stack has, which ends those that are idle or one too many; what it ends is ended here.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portway_model::{Direction, RuleListen, Transport};
use portway_proto::Dir;
use portway_proto::udp_flow::FlowTable;
use portway_relay::wire::{Known, Slot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::dial;
use super::link::watched;
use super::ports::Opened;
use super::serve::{Call, Shared};
use super::table::Carried;

/// Idle life of a flow: as that of one in the worker (RFC 4787, REQ-5).
const IDLE: Duration = Duration::from_secs(120);

/// How often it is looked for flows that are idle.
const SWEEP: Duration = Duration::from_secs(1);

/// Longest datagram, bytes.
const DATAGRAM_BYTES: usize = 65_535;

/// Datagrams that one flow has carried before it is another one's turn.
const BURST: usize = 32;

/// Pause after a failure to take one in, which is a shortage.
const PAUSE: Duration = Duration::from_millis(100);

/// The flows that are carried here, by their tickets.
pub(super) struct Flows {
    table: Mutex<FlowTable<u64, AbortHandle>>,
    /// Where every datagram is for a moment.
    buffer: Mutex<Vec<u8>>,
}

impl Flows {
    /// For a process that may have so many files: as many as the stack has.
    pub(super) fn new(files: u64) -> Flows {
        let most = u32::try_from(crate::engine::smoltcp::most_flows(files)).unwrap_or(u32::MAX);
        Flows { table: Mutex::new(FlowTable::new(most, IDLE)), buffer: Mutex::new(vec![0; DATAGRAM_BYTES]) }
    }

    fn table(&self) -> MutexGuard<'_, FlowTable<u64, AbortHandle>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, ticket: u64, dir: Dir) {
        self.table().touch(&ticket, dir, Instant::now());
    }
}

/// Whether the flows of a port are carried here.
pub(super) fn are_carried_here(listen: &RuleListen, listeners: &[OwnedFd]) -> bool {
    listen.direction == Direction::Ingress && listen.transport == Transport::Udp && listeners.is_empty()
}

/// Ends a flow that is carried here.
pub(super) fn end(shared: &Shared, ticket: u64) {
    let ended = shared.flows.table().remove(&ticket);
    given_up(shared, ended.map(|task| (ticket, task)));
}

fn given_up(shared: &Shared, ended: impl IntoIterator<Item = (u64, AbortHandle)>) {
    for (ticket, task) in ended {
        task.abort();
        shared.table().over(ticket, false);
    }
}

/// Ends flows that are idle, for ever.
pub(super) async fn sweep(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let idle = shared.flows.table().expire(Instant::now());
        given_up(&shared, idle);
        let mut table = shared.table();
        table.expire_promises(Instant::now());
        table.expire_closed(Instant::now());
    }
}

/// Takes the clients of a port in, until its tasks are ended.
pub(super) fn attend(shared: &Arc<Shared>, slot: Slot, opened: Opened, calls: &mpsc::Sender<Call>) {
    let mut tasks = Vec::new();
    match opened {
        Opened::Sockets(_) => {}
        Opened::Calls(listeners) => {
            for listener in listeners {
                let calls = calls.clone();
                let fd = listener.as_fd().try_clone_to_owned();
                tasks.push(tokio::spawn(take(
                    fd,
                    move || listener.accept_ends(),
                    async move |(fd, ends)| {
                        let known = Known { mark: None, ends };
                        // The other end is gone when everything ends.
                        calls.send(Call { slot, fd, known }).await.ok();
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
                    move || inlet.accept(),
                    async move |(fd, from)| begin(&shared, slot, fd, from),
                )));
            }
        }
    }
    let mut table = shared.table();
    tasks.into_iter().for_each(|task| table.attend(slot, task.abort_handle()));
}

async fn take<T>(
    fd: io::Result<OwnedFd>,
    accept: impl Fn() -> io::Result<T> + Send,
    mut with: impl AsyncFnMut(T),
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

/// Takes a flow in; another one may have to go for it.
fn begin(shared: &Arc<Shared>, slot: Slot, inside: OwnedFd, from: SocketAddr) {
    let ticket = shared.table().begin_own(slot, from);
    let task = tokio::spawn(flow(Arc::clone(shared), slot, ticket, inside));
    let inserted = shared.flows.table().insert(ticket, task.abort_handle(), Instant::now());
    given_up(shared, inserted.ended);
}

/// Carries one flow between the network and its destination on the host, until one end is gone.
async fn flow(shared: Arc<Shared>, slot: Slot, ticket: u64, inside: OwnedFd) {
    let mut refused = false;
    if let Ok(dial::Found { rule, fd: outside, .. }) = dial::find(&shared, slot).await {
        debug!(ticket, %rule, "flow open");
        let carried = {
            let mut table = shared.table();
            // Who has been revoked meanwhile was not found with the others.
            let is_gone = shared.is_gone(table.member(ticket));
            if is_gone { None } else { table.opened_own(ticket, rule) }
        };
        if let Some(carried) = carried {
            let done = carry(&shared, ticket, inside, outside, &carried).await;
            refused = done.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        }
    }
    shared.flows.table().remove(&ticket);
    shared.table().over(ticket, refused);
}

async fn carry(
    shared: &Shared,
    ticket: u64,
    inside: OwnedFd,
    outside: OwnedFd,
    carried: &Carried,
) -> io::Result<()> {
    let inside = watched(inside)?;
    let outside = UdpSocket::from_std(outside.into())?;
    loop {
        let dir = tokio::select! {
            ready = inside.readable() => { ready?.retain_ready(); Dir::Up }
            ready = outside.readable() => { ready?; Dir::Down }
        };
        for _ in 0..BURST {
            let mut buffer = shared.flows.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            let next = match dir {
                Dir::Up => up(&inside, &outside, &mut buffer)?,
                Dir::Down => down(&inside, &outside, &mut buffer)?,
            };
            drop(buffer);
            match next {
                Next::Carried(bytes) => {
                    carried.count(dir, bytes);
                    shared.flows.touch(ticket, dir);
                }
                Next::Nothing => break,
                Next::Over => return Ok(()),
            }
        }
        // A flow that always has more lets others have their turn.
        tokio::task::yield_now().await;
    }
}

/// What became of a datagram. A side that has no room drops it, as the network would.
enum Next {
    Carried(usize),
    Nothing,
    /// That the flow is over inside is the end of it, and nobody's fault.
    Over,
}

fn up(inside: &AsyncFd<OwnedFd>, outside: &UdpSocket, buffer: &mut [u8]) -> io::Result<Next> {
    let received = inside.try_io(tokio::io::Interest::READABLE, |fd| {
        Ok(rustix::net::recv(fd, &mut buffer[..], RecvFlags::DONTWAIT)?.1)
    });
    let length = match received {
        Ok(0) if has_hung_up(inside) => return Ok(Next::Over),
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Nothing),
        Err(_) => return Ok(Next::Over),
    };
    match outside.try_send(buffer.get(..length).unwrap_or_default()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(error),
        _ => Ok(Next::Carried(length)),
    }
}

fn down(inside: &AsyncFd<OwnedFd>, outside: &UdpSocket, buffer: &mut [u8]) -> io::Result<Next> {
    let length = match outside.try_recv(buffer) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Nothing),
        Err(error) => return Err(error),
    };
    let datagram = buffer.get(..length).unwrap_or_default();
    match rustix::net::send(inside, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(Next::Over),
        _ => Ok(Next::Carried(length)),
    }
}

/// Whether an empty record is the end rather than an empty datagram.
fn has_hung_up(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
