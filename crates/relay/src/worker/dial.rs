//! Calling the target.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use portway_proto::Dir;
use portway_proto::proxy_protocol;
use portway_sys::{sockopt, unix_path};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::device::TargetPlace;
use super::engine::Engine;
use super::failures::{Failure, Operation, kind};
use super::header;
use super::lane;
use super::poller::{Token, Watch};
use super::records;
use super::slab::Key;
use super::socket::{Carrier, Socket};
use super::stream::{End, Phase, Relay};
use crate::wire::field;

/// Longest wait for one answer during a hold: the packet may have been lost on an instance that was not up yet,
/// and the kernel repeats it only after a second.
const HELD_ATTEMPT: Duration = Duration::from_millis(250);

/// A socket on its way to the target.
pub(super) struct Called {
    pub(super) fd: OwnedFd,
    pub(super) connected: bool,
}

/// Calls `place` without waiting.
pub(super) fn call(place: &TargetPlace<'_>, carrier: Carrier) -> Result<Called, Errno> {
    let connected = |fd| Ok(Called { fd, connected: true });
    match place {
        TargetPlace::Inet(address) => call_inet(address, carrier),
        TargetPlace::Abstract(_) | TargetPlace::Path { .. } => {
            let fd = unix_socket(carrier)?;
            if carrier == Carrier::Gram {
                connect_named(fd.as_fd(), place)?;
            } else {
                connect_unix(fd.as_fd(), place)?;
            }
            connected(fd)
        }
    }
}

fn connect_unix(socket: BorrowedFd<'_>, place: &TargetPlace<'_>) -> Result<(), Errno> {
    match place {
        TargetPlace::Inet(_) => Err(Errno::AFNOSUPPORT),
        TargetPlace::Abstract(name) => connect(socket, &SocketAddrUnix::new_abstract_name(name)?),
        TargetPlace::Path { base, kind, path } => unix_path::connect(socket, *base, *kind, path)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// Connects a datagram socket, which gets a name to be answered at: the kernel gives it one if it asks for
/// credentials when it connects (unix(7), autobind). It does not want them.
pub(super) fn connect_named(socket: BorrowedFd<'_>, place: &TargetPlace<'_>) -> Result<(), Errno> {
    sockopt::pass_credentials(socket, true).map_err(|_| Errno::IO)?;
    let connected = connect_unix(socket, place);
    sockopt::pass_credentials(socket, false).map_err(|_| Errno::IO)?;
    connected
}

fn call_inet(address: &SocketAddr, carrier: Carrier) -> Result<Called, Errno> {
    call_with(inet_socket(address, carrier.socket_type())?, address)
}

/// Calls `address` with a socket that is there, without waiting.
pub(super) fn call_with(fd: OwnedFd, address: &SocketAddr) -> Result<Called, Errno> {
    match connect(&fd, address) {
        Ok(()) => Ok(Called { fd, connected: true }),
        Err(Errno::INPROGRESS) => Ok(Called { fd, connected: false }),
        Err(errno) => Err(errno),
    }
}

/// A fresh socket for `address`.
fn inet_socket(address: &SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

fn unix_socket(carrier: Carrier) -> Result<OwnedFd, Errno> {
    let (kind, flags) = (carrier.socket_type(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC);
    let fd = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    if let Err(error) = unix_path::widen(fd.as_fd(), kind) {
        tracing::debug!(%error, "long messages may not fit");
    }
    Ok(fd)
}

/// Whether a failure says that something is short for the moment: descriptors, memory, local ports, or room in
/// the backlog of a unix target.
#[must_use]
pub fn is_shortage(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL
    )
}

impl Engine {
    /// Calls the target of a stream that has none; true when it is being called or connected.
    pub(super) fn dial(&mut self, key: Key) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let (index, device_key) = (stream.index, stream.device);
        stream.called = self.core.now;
        let Some(device) = self.devices.get(device_key) else { return false };
        if device.plan.wire.brokered {
            return self.call_directly(key) || self.ask_for_stream(key);
        }
        let carrier = device.plan.connect_carrier();
        let called =
            device.plan.place(index).ok_or(Errno::ADDRNOTAVAIL).and_then(|place| call(&place, carrier));
        let patience = if device.holds(device.plan.target_index(index)) {
            HELD_ATTEMPT.min(device.plan.spec().connect_timeout)
        } else {
            device.plan.spec().connect_timeout
        };
        let called = match called {
            Ok(called) => called,
            Err(errno) => {
                self.dial_failed(key, errno);
                return false;
            }
        };
        let mut up = Socket::new(called.fd, carrier);
        up.write = called.connected;
        if carrier == Carrier::Packet {
            records::prepare(&up);
        }
        if let Err(error) = self.core.poller.add(up.as_fd(), Token::Upstream(key), Watch::Stream) {
            tracing::debug!(%error, "target not watched");
            self.dial_failed(key, Errno::NOMEM);
            return false;
        }
        stream.up = Some(up);
        stream.phase = Phase::Dialing;
        if called.connected {
            self.open(key);
        } else {
            self.set_stream_timer(key, self.core.now + patience);
        }
        true
    }

    /// The target has answered, one way or the other.
    pub(super) fn on_answer(&mut self, key: Key, flags: EventFlags) {
        let Some(up) = self.streams.get(key).and_then(|stream| stream.up.as_ref()) else { return };
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            // Without an error it was an earlier call's failure, queued before this one began.
            if let Some(error) = sockopt::take_error(up.as_fd()).unwrap_or_else(Some) {
                self.dial_failed(key, Errno::from_io_error(&error).unwrap_or(Errno::IO));
            }
        } else if flags.contains(EventFlags::OUT) {
            self.open(key);
        }
    }

    /// Something happened to the client before the target answered. A reset ends it; an end of its stream
    /// does not: what it has sent is still to be delivered.
    pub(super) fn on_early_event(&mut self, key: Key, flags: EventFlags) {
        let Some(stream) = self.streams.get(key) else { return };
        if flags.contains(EventFlags::ERR) && stream.down.carrier == Carrier::Tcp {
            self.core.count(stream.device, field::RESET);
            self.close(key, End::Reset);
        }
    }

    /// The target is connected: header first, then whatever is there.
    pub(super) fn open(&mut self, key: Key) {
        self.cancel_stream_timer(key);
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.phase = Phase::Open;
        stream.since = matches!(stream.relay, Relay::Datagrams(_)).then_some(self.core.now);
        let (device_key, index) = (stream.device, stream.index);
        let took = self.core.now.saturating_duration_since(stream.called);
        if let Some(up) = &stream.up {
            up.hurry();
        }
        self.core.count_answered(device_key, took);
        self.trace_dialled(key, took);
        self.target_answered(device_key, index);
        self.note_began(key);
        if self.take_header(key) && self.send_header(key) {
            self.pump(key);
        } else {
            self.close(key, End::Reset);
        }
    }

    /// Sends the PROXY header, with the client's first bytes if there are any. False: one of the sides is gone.
    fn send_header(&mut self, key: Key) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let Some(device) = self.devices.get(stream.device) else { return false };
        let mut header = [0; proxy_protocol::MAX_BYTES];
        let length =
            header::write(device.plan.spec(), stream.down.as_fd(), stream.origin.as_deref(), &mut header);
        if length == 0 {
            return true;
        }
        let buffer = &mut self.core.buffer[..];
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), header.get(..length)) {
            to.copy_from_slice(from);
        }
        let mut first = 0;
        if stream.relay == Relay::Bytes {
            match lane::read(&mut stream.down, buffer.get_mut(length..).unwrap_or_default()) {
                Ok(0) => stream.lane_mut(Dir::Up).eof = true,
                Ok(count) => first = count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        let relay = stream.relay;
        let (up, lane) = stream.upward();
        let Some(up) = up else { return false };
        lane.count(first);
        let put = lane.put(up, buffer.get(..length + first).unwrap_or_default(), &mut self.core.pipes);
        // Where descriptors are passed nothing is kept on the way; a fresh socket takes a header whole.
        put.is_ok() && (relay == Relay::Bytes || lane.is_clear())
    }

    /// A call has failed.
    pub(super) fn dial_failed(&mut self, key: Key, errno: Errno) {
        self.cancel_stream_timer(key);
        let Some(stream) = self.streams.get_mut(key) else { return };
        if let (Some(up), true) = (stream.up.take(), stream.direct.is_some()) {
            // It may have been answered in this moment, which is not to look like an end of all that was said.
            up.reset_on_close();
        }
        stream.phase = Phase::Waiting;
        let (device_key, index, since) = (stream.device, stream.index, stream.patient_since);
        let Some(device) = self.devices.get(device_key) else { return };
        if device.plan.wire.brokered {
            return self.call_failed(key, errno);
        }
        let target = device.plan.target_index(index);
        if device.holds(target) {
            return self.wait_for_target(key, target, None);
        }
        let patience_ends = since + device.plan.spec().connect_timeout;
        if is_shortage(errno) && self.core.now < patience_ends {
            return self.wait_for_target(key, target, Some(patience_ends));
        }
        self.give_up(key, errno);
    }

    /// A client is told that its target cannot be reached, or kept for the next worker when the reason is
    /// that the instance dies.
    pub(super) fn give_up(&mut self, key: Key, errno: Errno) {
        let Some(stream) = self.streams.get(key) else { return };
        let (device, index) = (stream.device, stream.index);
        if self.is_dying() {
            return self.orphan(key);
        }
        self.core.count_failed(device, errno);
        self.fail(device, Failure { operation: Operation::Connect(index), errno });
        self.trace_why(key, kind(errno).name());
        self.close(key, End::Reset);
    }
}
