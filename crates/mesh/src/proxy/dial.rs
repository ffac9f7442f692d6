//! The other end of a connection: a rule is chosen, its destination looked up and connected to; when that fails, the
//! next one is tried. All of it has one deadline.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use portway_model::{Direction, Host, MeshRule, Transport};
use portway_relay::wire::{MAX_FDS, Slot, ToWorker};
use portway_relay::worker::is_shortage;
use portway_sys::interface;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::link::{Link, watched};
use super::room::PortRoom;
use super::serve::Shared;
use super::table::Upstream;
use crate::engine::Dial;
use crate::spec::RuleId;

/// How long a client waits for all tries together.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// How long one destination may take when there are others, and when it is the last.
const ATTEMPT: Duration = Duration::from_secs(5);

/// How long a name may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// An end that was found: by which rule, and which member it leads to, if it leads to one.
pub(super) struct Found {
    pub(super) rule: RuleId,
    pub(super) fd: OwnedFd,
    member: Option<IpAddr>,
}

/// Finds an end for the connection that has asked with `ticket`, and tells the worker.
pub(super) async fn answer(shared: Arc<Shared>, link: Arc<Link>, slot: Slot, ticket: u64, mark: Option<u64>) {
    let begun = Instant::now();
    let client = shared.table().member(ticket);
    let found = match mark {
        _ if shared.is_gone(client) => Err(io::ErrorKind::ConnectionReset.into()),
        // It has been dialled for already.
        Some(mark) => {
            let kept = shared.table().redeem(slot, mark);
            let found = |(rule, Upstream { fd, member })| Found { rule, fd, member: Some(member) };
            kept.map(found).ok_or_else(|| io::ErrorKind::TimedOut.into())
        }
        None => find(&shared, slot).await,
    };
    let said = match found {
        Ok(Found { rule, fd, member }) => {
            debug!(ticket, %rule, connect_time = ?begun.elapsed(), "connection open");
            let (line, is_gone) = {
                let mut table = shared.table();
                // Who has been revoked meanwhile was not found with the others.
                let is_gone = shared.is_gone(member);
                let is_wanted = !is_gone && table.opened(ticket, rule, member);
                (is_wanted.then(|| table.line(rule)), is_gone)
            };
            let Some(line) = line else {
                // The other side is not to take that for an end of all that was said.
                let _closed = portway_sys::sockopt::linger_reset(fd.as_fd());
                if is_gone {
                    deny(&link, ticket, Errno::CONNRESET).await;
                }
                return;
            };
            match link.say(&ToWorker::Dialed { ticket, error: None, line }, &[fd.as_fd()]).await {
                Ok(()) => Ok(()),
                // Its client need not wait for what does not come.
                Err(error) => {
                    debug!(ticket, %error, "connection not handed on");
                    shared.table().over(ticket, false);
                    let error = Some(errno_of(&error).raw_os_error());
                    link.say(&ToWorker::Dialed { ticket, error, line: None }, &[]).await
                }
            }
        }
        Err(error) => {
            debug!(ticket, %error, "connection not served");
            let error = Some(errno_of(&error).raw_os_error());
            link.say(&ToWorker::Dialed { ticket, error, line: None }, &[]).await
        }
    };
    if let Err(error) = said {
        // Its end is seen elsewhere.
        debug!(%error, "worker not answered");
    }
}

/// Tells the worker that there is nothing for the connection that has asked with `ticket`.
pub(super) async fn refuse(link: Arc<Link>, ticket: u64) {
    deny(&link, ticket, Errno::CONNREFUSED).await;
}

async fn deny(link: &Link, ticket: u64, why: Errno) {
    let error = Some(why.raw_os_error());
    if let Err(error) = link.say(&ToWorker::Dialed { ticket, error, line: None }, &[]).await {
        debug!(%error, "worker not answered");
    }
}

pub(super) async fn find(shared: &Shared, slot: Slot) -> io::Result<Found> {
    let deadline = Instant::now() + PATIENCE;
    let port = shared.table().room(slot).ok_or(io::ErrorKind::ConnectionRefused)?;
    let _places = shared.room.dial(&port, deadline).await?;
    let mut tried = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
    loop {
        let (rule, count) = {
            let mut table = shared.table();
            (table.choose(slot, &tried), table.rule_count(slot))
        };
        let Some(rule) = rule else { return Err(last) };
        let id = RuleId::of(&rule);
        tried.push(id);
        let until = if tried.len() < count { deadline.min(Instant::now() + ATTEMPT) } else { deadline };
        match timeout_at(until, connect(shared, &port, &rule)).await {
            Ok(Ok((fd, ip))) => {
                let member = (rule.direction() == Direction::Egress).then_some(ip.to_canonical());
                return Ok(Found { rule: id, fd, member });
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
        // It is this host that has too little: the destination may be as well as ever, and is not put aside; another one
        // may need less.
        if Errno::from_io_error(&last).is_some_and(is_shortage) {
            debug!(%rule, error = %last, "destination not tried");
            continue;
        }
        debug!(%rule, error = %last, "destination does not serve");
        let aside = shared.table().failed(slot, id, last.to_string());
        // So it is said once for each time that it is put aside, however many clients there are.
        if let Some(aside) = aside {
            warn!(%rule, error = %last, ?aside, "destination put aside");
            let text = format!("{last}; put aside for {} s", aside.as_secs());
            shared.events.tell("rule-failed", None, Some(id.to_string()), text);
        }
        if Instant::now() >= deadline {
            return Err(last);
        }
    }
}

async fn connect(shared: &Shared, port: &PortRoom, rule: &MeshRule) -> io::Result<(OwnedFd, IpAddr)> {
    let addresses = addresses(shared, port, rule).await?;
    let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
    for (place, address) in addresses.iter().enumerate() {
        let attempt = reach(shared, rule, *address);
        // The last one has all the time that is left.
        let reached = if place + 1 == addresses.len() {
            attempt.await
        } else {
            timeout(ATTEMPT / 2, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match reached {
            Ok(fd) => return Ok((fd, address.ip())),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn reach(shared: &Shared, rule: &MeshRule, address: SocketAddr) -> io::Result<OwnedFd> {
    match (rule.direction(), rule.listen().transport) {
        (Direction::Ingress, Transport::Tcp) => connected(call(address)?).await,
        (Direction::Ingress, Transport::Udp) => {
            let any: IpAddr =
                if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        }
        (Direction::Egress, Transport::Udp) => {
            let engine = Arc::clone(&shared.engine);
            shared.room.ask(move || engine.connect_udp(address)).await
        }
        (Direction::Egress, Transport::Tcp) => through_tunnel(shared, address).await,
    }
}

/// A connection from the inside. It is waited for no longer than there is a member to answer.
pub(super) async fn through_tunnel(shared: &Shared, address: SocketAddr) -> io::Result<OwnedFd> {
    let mut cuts = shared.cuts.subscribe();
    let engine = Arc::clone(&shared.engine);
    let dialled = async { connected(shared.room.ask(move || engine.connect_tcp(address)).await?).await };
    let is_cut = async {
        loop {
            let is_cut = match cuts.recv().await {
                Ok(blocks) => blocks.iter().any(|block| block.contains(address.ip())),
                Err(RecvError::Lagged(_)) => shared.is_gone(Some(address.ip())),
                Err(RecvError::Closed) => std::future::pending().await,
            };
            if is_cut {
                return;
            }
        }
    };
    tokio::select! {
        done = dialled => done,
        () = is_cut => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// Begins to connect on the host.
fn call(address: SocketAddr) -> io::Result<Dial> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(Dial::socket(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Gives the worker sockets of the inside, for it to connect; it is told also when there are none.
pub(super) async fn stock(shared: Arc<Shared>, link: Arc<Link>, v4: bool, count: u32) {
    let engine = Arc::clone(&shared.engine);
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(MAX_FDS);
    let made = shared.room.ask(move || engine.sockets(v4, count)).await.unwrap_or_else(|error| {
        debug!(%error, "no sockets for the worker");
        Vec::new()
    });
    let fds: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
    let message = ToWorker::Stock { v4 };
    if link.say(&message, &fds).await.is_err() {
        // Too many are on their way; of a worker that is gone the end is seen elsewhere.
        link.say(&message, &[]).await.ok();
    }
}

/// Waits for the end of a connect that was begun.
async fn connected(dial: Dial) -> io::Result<OwnedFd> {
    let fd = watched(dial.as_fd().try_clone_to_owned()?)?;
    if dial.interest() == PollFlags::OUT {
        fd.writable().await?.retain_ready();
    } else {
        fd.readable().await?.retain_ready();
    }
    drop(fd);
    dial.finish()
}

async fn addresses(shared: &Shared, room: &PortRoom, rule: &MeshRule) -> io::Result<Vec<SocketAddr>> {
    let port = rule.destination_port().get();
    let name = match rule.destination() {
        Host::Ip(host) => {
            let mut address = SocketAddr::new(host.ip(), port);
            if let (SocketAddr::V6(v6), Some(zone)) = (&mut address, host.zone()) {
                v6.set_scope_id(interface::index(zone.as_str())?);
            }
            return Ok(vec![address]);
        }
        Host::Name(name) => name.as_str(),
    };
    let found = match rule.direction() {
        Direction::Ingress => {
            let place = (name.to_owned(), port);
            let work = move || Ok(place.to_socket_addrs()?.collect::<Vec<_>>());
            shared.room.look_up(room, LOOKUP, work).await?
        }
        Direction::Egress => shared.names.lookup(shared, name, port).await?,
    };
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::HostUnreachable, "the name has no address"));
    }
    Ok(found)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(match error.kind() {
        io::ErrorKind::TimedOut => Errno::TIMEDOUT,
        io::ErrorKind::ConnectionRefused => Errno::CONNREFUSED,
        io::ErrorKind::ConnectionReset => Errno::CONNRESET,
        _ => Errno::HOSTUNREACH,
    })
}
