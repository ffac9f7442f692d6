//! Frames about sockets inside the instance: connections that the gateway asks for, and those that come to where it
//! listens.
//!
//! A connection is a channel too: [`Frame::Data`](super::Frame::Data), `Eof`, `Credit`, `Close` and `Closed` are about it as
//! about a program, with the stream `In` towards the socket and `Out` from it. Its number tells it from a program's:
//! those from [`SOCKETS`] on are the gateway's to choose, of connections it asks for and of listeners, those from
//! [`ACCEPTED`] on the guest's, of what comes to a listener.

use super::FrameError;
use super::fields::{Reader, Writer};
use super::lent::Lent;

/// First number of a connection or listener that the gateway asks for.
pub const SOCKETS: u32 = 1 << 30;

/// First number of a connection that has come to a listener.
pub const ACCEPTED: u32 = 1 << 31;

/// Longest name of a host, bytes: of the DNS 253 (RFC 1035, 2.3.4), and a zone.
pub const HOST_MAX_BYTES: usize = 300;

/// Longest path of a unix socket, bytes: `sun_path` without its NUL, unix(7).
pub const SOCKET_PATH_MAX_BYTES: usize = 107;

/// Longest address that is told, bytes: an IPv6 address with a zone and a port, and some more.
const ADDRESS_MAX_BYTES: usize = 100;

/// Where a socket leads, or listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A port of a host. To connect to, the empty name is the instance itself.
    Tcp {
        /// Its name or address, as it was said.
        host: Vec<u8>,
        /// The port.
        port: u16,
    },
    /// A unix socket, by its path.
    Unix(Vec<u8>),
}

/// What has become of something about a socket. Which side may say it stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// Gateway: connect.
    Connect {
        /// The number it gets, not in use.
        channel: u32,
        /// Where to.
        to: Place,
        /// What may come from there before more is granted.
        credit: u32,
    },
    /// Guest: it is connected.
    Connected {
        /// Its number.
        channel: u32,
        /// Address that it is connected to, for the log.
        peer: Vec<u8>,
        /// What may be sent there before more is granted.
        credit: u32,
    },
    /// Guest: there is no connection, or nothing listens, and the number is free again.
    Failed {
        /// Of what was asked for.
        channel: u32,
        /// What was in the way.
        why: Why,
        /// Error number of the system; 0 when it is not of the system.
        errno: u32,
    },
    /// Both: the connection has ended before its time. The guest says it before it says that it is closed.
    Reset {
        /// Its number.
        channel: u32,
    },
    /// Gateway: listen. `Close` ends it.
    Listen {
        /// The number it gets, not in use.
        listener: u32,
        /// Where.
        at: Place,
    },
    /// Gateway: listen for a program that will be started on a channel, and tell it where. It ends with the program, and
    /// with `Close`.
    Lend {
        /// The number the listener gets, not in use.
        listener: u32,
        /// Of the program.
        channel: u32,
        /// What it is for.
        lent: Lent,
    },
    /// Guest: it listens.
    Listening {
        /// Its number.
        listener: u32,
        /// Port, where it has one.
        port: u16,
    },
    /// Guest: somebody has come. Nothing is read of it before the gateway grants something.
    Accepted {
        /// Where to.
        listener: u32,
        /// The number it gets.
        channel: u32,
        /// Address it comes from; empty where there is none.
        source: Vec<u8>,
        /// Port it comes from.
        port: u16,
        /// What may be sent there before more is granted.
        credit: u32,
    },
}

/// What was in the way of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is not allowed.
    Forbidden,
    /// The name has no address.
    Name,
    /// The system.
    System,
    /// There are as many as there may be.
    Count,
}

const CONNECT: u8 = 32;
const CONNECTED: u8 = 33;
const FAILED: u8 = 34;
const RESET: u8 = 35;
const LISTEN: u8 = 36;
const LISTENING: u8 = 37;
const ACCEPT: u8 = 38;
const LEND: u8 = 64;

impl Socket {
    pub(super) fn read(kind: u8, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match kind {
            CONNECT => Self::Connect { channel: asked(from)?, to: Place::read(from)?, credit: from.u32()? },
            CONNECTED => Self::Connected { channel: asked(from)?, peer: address(from)?, credit: from.u32()? },
            FAILED => {
                let channel = asked(from)?;
                let why = match from.u8()? {
                    0 => Why::Forbidden,
                    1 => Why::Name,
                    2 => Why::System,
                    3 => Why::Count,
                    _ => return Err(from.wrong("reason")),
                };
                Self::Failed { channel, why, errno: from.u32()? }
            }
            RESET => Self::Reset { channel: from.u32()? },
            LISTEN => Self::Listen { listener: asked(from)?, at: Place::read(from)? },
            LEND => {
                let (listener, channel) = (asked(from)?, from.u32()?);
                if channel >= SOCKETS {
                    return Err(from.wrong("channel"));
                }
                Self::Lend { listener, channel, lent: Lent::read(from)? }
            }
            LISTENING => Self::Listening { listener: asked(from)?, port: from.u16()? },
            ACCEPT => {
                let (listener, channel) = (asked(from)?, from.u32()?);
                if channel < ACCEPTED {
                    return Err(from.wrong("channel"));
                }
                let (source, port) = (address(from)?, from.u16()?);
                Self::Accepted { listener, channel, source, port, credit: from.u32()? }
            }
            other => return Err(FrameError::Kind(other)),
        })
    }

    pub(super) fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Connect { channel, to: place, credit } => {
                to.u32(*channel);
                place.write(to);
                to.u32(*credit);
            }
            Self::Connected { channel, peer, credit } => {
                to.u32(*channel);
                to.bytes(peer);
                to.u32(*credit);
            }
            Self::Failed { channel, why, errno } => {
                to.u32(*channel);
                to.u8(match why {
                    Why::Forbidden => 0,
                    Why::Name => 1,
                    Why::System => 2,
                    Why::Count => 3,
                });
                to.u32(*errno);
            }
            Self::Reset { channel } => to.u32(*channel),
            Self::Listen { listener, at } => {
                to.u32(*listener);
                at.write(to);
            }
            Self::Lend { listener, channel, lent } => {
                to.u32(*listener);
                to.u32(*channel);
                lent.write(to);
            }
            Self::Listening { listener, port } => {
                to.u32(*listener);
                to.u16(*port);
            }
            Self::Accepted { listener, channel, source, port, credit } => {
                to.u32(*listener);
                to.u32(*channel);
                to.bytes(source);
                to.u16(*port);
                to.u32(*credit);
            }
        }
    }

    pub(super) const fn kind(&self) -> u8 {
        match self {
            Self::Connect { .. } => CONNECT,
            Self::Connected { .. } => CONNECTED,
            Self::Failed { .. } => FAILED,
            Self::Reset { .. } => RESET,
            Self::Listen { .. } => LISTEN,
            Self::Lend { .. } => LEND,
            Self::Listening { .. } => LISTENING,
            Self::Accepted { .. } => ACCEPT,
        }
    }
}

/// An address, for people: what nobody could have written into a log by it.
fn address(from: &mut Reader<'_>) -> Result<Vec<u8>, FrameError> {
    let text = from.text("address")?;
    let is_one = text.len() <= ADDRESS_MAX_BYTES && text.iter().all(u8::is_ascii_graphic);
    if is_one { Ok(text) } else { Err(from.wrong("address")) }
}

impl Place {
    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        match from.u8()? {
            0 => {
                let host = from.text("host")?;
                if host.len() > HOST_MAX_BYTES {
                    return Err(from.wrong("host"));
                }
                Ok(Self::Tcp { host, port: from.u16()? })
            }
            1 => {
                let path = from.text("path")?;
                if path.is_empty() || path.len() > SOCKET_PATH_MAX_BYTES {
                    return Err(from.wrong("path"));
                }
                Ok(Self::Unix(path))
            }
            _ => Err(from.wrong("place")),
        }
    }

    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Tcp { host, port } => {
                to.u8(0);
                to.bytes(host);
                to.u16(*port);
            }
            Self::Unix(path) => {
                to.u8(1);
                to.bytes(path);
            }
        }
    }
}

/// A number that the gateway has chosen for a socket.
fn asked(from: &mut Reader<'_>) -> Result<u32, FrameError> {
    let number = from.u32()?;
    if (SOCKETS..ACCEPTED).contains(&number) { Ok(number) } else { Err(from.wrong("number")) }
}

#[cfg(test)]
mod tests {
    use super::super::Frame;
    use super::*;

    fn round(socket: &Socket) -> Result<Socket, FrameError> {
        let mut bytes = Vec::new();
        Frame::Socket(socket.clone()).write(&mut bytes).expect("it is short");
        let Frame::Socket(read) = Frame::read(&bytes[4..])? else { panic!("another frame") };
        Ok(read)
    }

    #[test]
    fn what_is_written_is_read() {
        let (channel, listener) = (SOCKETS, SOCKETS + 7);
        let tcp = || Place::Tcp { host: b"db.internal".to_vec(), port: 5432 };
        for socket in [
            Socket::Connect { channel, to: tcp(), credit: 9 },
            Socket::Connect { channel, to: Place::Unix(b"/run/x".to_vec()), credit: 0 },
            Socket::Connected { channel, peer: b"[::1]:80".to_vec(), credit: 1 },
            Socket::Failed { channel, why: Why::Name, errno: 0 },
            Socket::Failed { channel, why: Why::Count, errno: 24 },
            Socket::Reset { channel },
            Socket::Listen { listener, at: tcp() },
            Socket::Lend { listener, channel: 7, lent: Lent::Agent },
            Socket::Lend { listener, channel: 7, lent: Lent::Display { screen: 1, cookie: [9; 16] } },
            Socket::Listening { listener, port: 40_000 },
            Socket::Accepted {
                listener,
                channel: ACCEPTED,
                source: b"10.0.0.1".to_vec(),
                port: 7,
                credit: 3,
            },
        ] {
            assert_eq!(round(&socket), Ok(socket));
        }
    }

    /// Fails when a number of a program's, or one that the other side chooses, is taken for a socket's, or a path for one
    /// that the system would cut, or more than an address for one.
    #[test]
    fn numbers_and_places_are_what_they_are() {
        let wrong = |socket, field| {
            assert!(
                matches!(round(&socket), Err(FrameError::Field { field: is, .. }) if is == field),
                "{field}"
            );
        };
        let unix = |path: &[u8]| Place::Unix(path.to_vec());
        wrong(Socket::Connect { channel: 7, to: unix(b"/x"), credit: 0 }, "number");
        wrong(Socket::Listen { listener: ACCEPTED, at: unix(b"/x") }, "number");
        wrong(Socket::Lend { listener: SOCKETS, channel: SOCKETS, lent: Lent::Agent }, "channel");
        let source = Vec::new();
        wrong(
            Socket::Accepted { listener: SOCKETS, channel: SOCKETS, source, port: 0, credit: 0 },
            "channel",
        );
        for path in [&b""[..], b"/a\0b", &[b'x'; SOCKET_PATH_MAX_BYTES + 1]] {
            wrong(Socket::Connect { channel: SOCKETS, to: unix(path), credit: 0 }, "path");
        }
        for peer in [vec![b'1'; ADDRESS_MAX_BYTES + 1], b"10.0.0.1\n".to_vec()] {
            wrong(Socket::Connected { channel: SOCKETS, peer, credit: 0 }, "address");
        }
        let host = vec![b'x'; HOST_MAX_BYTES + 1];
        wrong(Socket::Listen { listener: SOCKETS, at: Place::Tcp { host, port: 1 } }, "host");
    }
}
